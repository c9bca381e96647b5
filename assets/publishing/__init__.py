"""Results for readers: the explorer's documents, its web server, exports for papers; Dagster's interface."""
