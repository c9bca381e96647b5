"""Thresholds of verdicts, as in `sql/macros/verdict.sql` and the view `variant_verdict`; tests compare them."""

# Independent answers, prompts or questions below which no verdict rests on them.
MIN_UNITS = 30
# Share of the dense model's skill that a safe variant may lose.
TOLERANCE = 0.1
