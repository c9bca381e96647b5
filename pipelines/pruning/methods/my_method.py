"""Wanda as a method of one's own: copy it, and `prunescope run STUDY --recipe my_method.py-50 --allow-python`."""

from torch import Tensor

from prunescope.pipelines.pruning.methods.own_method import Inputs


def scores(weight: Tensor, inputs: Inputs, sparsity: float | None) -> Tensor:
    """Return |W_ij|·‖X_j‖ (Sun et al., 2306.11695 §3); the lowest scores are removed."""
    return weight.abs() * inputs.second_moment.sqrt().float()
