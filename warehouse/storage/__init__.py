"""The Parquet store on a disk or an object store: atomic partitions, provenance, checksums and snapshots."""
