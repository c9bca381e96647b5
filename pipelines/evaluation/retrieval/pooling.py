"""Pooling of a text's states into one vector."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Pooling = Literal["last", "mean"]


def pooled(
    states: Float[Tensor, "texts tokens width"], lengths: Int[Tensor, " texts"], pooling: Pooling
) -> Float[Tensor, "texts width"]:
    """Return one vector per text, in float64: its last state, or the mean of its states, without padding.

    The texts are padded on the right.
    """
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), lengths - 1].double()
    real = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
    # `where` instead of a product with zero: states of padding may be infinite.
    whole = torch.where(real[..., None], states.double(), 0.0)
    return whole.sum(dim=1) / lengths[:, None]
