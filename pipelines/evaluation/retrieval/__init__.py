"""Retrieval with embeddings of queries and documents by the dense and the pruned model."""
