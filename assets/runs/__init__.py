"""Runs of a study: their estimate, their progress and their execution."""
