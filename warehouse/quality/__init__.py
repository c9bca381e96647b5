"""Checks of a partition: schema rules, plausibility, foreign keys."""
