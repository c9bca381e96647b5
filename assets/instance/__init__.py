"""Settings from the environment; Dagster's instance in a warehouse: storage, locks, and recovery of killed runs."""
