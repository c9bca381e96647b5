"""Scores of variants on tasks, sample by sample."""
