"""Computation of one task: partition context, model cache, step functions, and the engines that call them."""
