"""Limits that apply unless a caller sets others; no imports, because the command line's help shows them."""

# Memory and time of a query on a locked connection.
GIBIBYTES = 2.0
SECONDS = 60.0
# Size of an answer in Arrow's format.
RESULT_BYTES = 1 << 30
# Rows of a table in a terminal or text file; the other formats have every row.
TEXT_ROWS = 500
# Rows of a view that an export writes, unless all are asked for: a mart may have one row per measurement.
MAX_ROWS = 1_000_000
