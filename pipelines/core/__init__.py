"""Errors, progress, files and threads that every package of `pipelines` uses; no model and no recipe."""
