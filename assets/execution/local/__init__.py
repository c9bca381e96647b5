"""The engine that computes in a separate process on this machine."""
