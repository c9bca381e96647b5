"""Dagster's web interface: its guarded web server, its subprocesses, and staleness."""
