"""Thresholds of verdicts, as in `sql/macros/verdict.sql`; tests compare them."""

# Independent answers, prompts or questions below which no verdict rests on them.
MIN_UNITS = 30
# Share that may be lost if a verdict says that something holds.
TOLERANCE = 0.1
