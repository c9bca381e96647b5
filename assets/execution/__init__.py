"""Computation of one task: partition context, models kept in memory, step functions, engines."""
