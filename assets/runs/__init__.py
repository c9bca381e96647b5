"""Runs of a study: its estimate, its execution, and how it scales."""
