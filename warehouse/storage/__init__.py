"""The Parquet store: partitions written atomically, provenance, checksums, snapshots; disk or object store."""
