"""Pruning of a model: exact masks, weight changes, variants without copied weights, and their export."""
