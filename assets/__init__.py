"""The Dagster application: assets, jobs, sensors, runs, and the `prunescope` command line."""
