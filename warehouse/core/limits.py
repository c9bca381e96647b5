"""Limits that hold unless a caller gives others. Nothing is imported here: the command line shows them in its help."""

# What a locked connection may use.
GIBIBYTES = 2.0
SECONDS = 60.0
# Of a larger view an export writes the first rows, unless all are asked for: a mart may have a row a measurement.
MOST_ROWS = 1_000_000
