"""Storage of results: table schemas, the atomic Parquet store, the DuckDB catalogue, export.

No torch, no transformers, no Dagster.
"""
