"""Results for readers: the explorer's data, its server, exports for papers."""
