"""Dagster definitions: assets, partitions, resources, automation conditions and metadata."""
