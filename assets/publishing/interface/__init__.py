"""Dagster's web interface: its guarded web server, its subprocesses, and what it marks as unsynced."""
