"""Embeddings of queries and documents, and how well they find one another in the dense and in the pruned model."""
