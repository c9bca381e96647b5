"""Metrics of representation shifts, answer options and generated text."""
