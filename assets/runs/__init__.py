"""Runs of a study: estimate, execution, scaling."""
