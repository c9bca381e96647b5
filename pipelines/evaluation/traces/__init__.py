"""Shifts of a variant's representations from the dense model's, layer by layer and token by token."""
