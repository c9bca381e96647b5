"""Errors, progress, files, devices and threads for all packages of `pipelines`."""
