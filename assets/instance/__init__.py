"""Dagster's instance in a warehouse: storage, run launcher, deployment files."""
