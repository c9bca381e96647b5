"""Dagster definitions: assets, partitions, resources and metadata."""
