"""Random numbers in place of parameters that are all zero, for proofs of a model's structure.

A sublayer of zeros adds nothing, so its output shows neither what it reads nor how it is added. Exported models with
dropped sublayers have such weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from prunescope.pipelines.models.weight_offload import data_of, swapped_data


@contextmanager
def zeros_replaced(model: nn.Module) -> Iterator[None]:
    """Temporarily replace all parameters that are zero by random numbers, if one of them is a matrix."""
    zeros = [parameter for parameter in model.parameters() if _is_zero(parameter)]
    # Biases of zeros are common, and alone they hide nothing.
    if not any(parameter.dim() >= 2 for parameter in zeros):
        yield
        return
    generator = torch.Generator().manual_seed(0)

    def random(parameter: nn.Parameter) -> Tensor:
        inputs = parameter.shape[-1] if parameter.dim() >= 2 else 4
        return torch.randn(parameter.shape, generator=generator).div(inputs**0.5).to(parameter.data)

    with swapped_data(zeros, random):
        yield


def _is_zero(parameter: nn.Parameter) -> bool:
    if not parameter.is_floating_point() or not parameter.numel():
        return False
    data = data_of(parameter)
    # For nearly all parameters the first number decides.
    return not bool(data.reshape(-1)[:1].any()) and not bool(data.any())
