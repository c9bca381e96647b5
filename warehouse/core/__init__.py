"""Errors, limits, SQL quoting and number formats that the whole warehouse uses."""
