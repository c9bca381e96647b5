"""Dagster definitions: assets, partitions, resources, conditions and their metadata."""
