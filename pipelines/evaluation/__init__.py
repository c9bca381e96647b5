"""Measurements of a variant: traces, texts, tasks, retrieval and speed."""
