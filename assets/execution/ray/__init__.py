"""The engine that computes on a Ray cluster."""
