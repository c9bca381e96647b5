"""Diagnostics, verification and garbage collection of a warehouse."""
