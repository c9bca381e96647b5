"""The engine that computes in a process of its own on this machine."""
