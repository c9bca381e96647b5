"""Dagster's instance in a warehouse: storage, locks, recovery of killed runs, run launcher."""
