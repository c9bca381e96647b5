"""Computation of one task: partition context, model session, steps, and the engines that call them."""
