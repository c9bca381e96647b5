"""Computation of one task: partition context, model session, step functions, and the engines that call them."""
