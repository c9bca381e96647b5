"""Dagster's web interface: guarded web server, its subprocesses, staleness."""
