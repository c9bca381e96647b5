"""Computation of one task: partition context, model session and steps; and the engine on a Ray cluster."""
