"""Tasks: what a variant scores, sample by sample."""
