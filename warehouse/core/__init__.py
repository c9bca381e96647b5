"""Errors, limits and formats that the whole warehouse uses."""
