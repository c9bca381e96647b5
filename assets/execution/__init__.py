"""Computation of one task: partition context, model session and steps; and tasks on a Ray cluster."""
