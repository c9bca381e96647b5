"""Pooling of a text's states into one vector."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Pooling = Literal["last", "mean"]


def pooled(
    states: Float[Tensor, "texts tokens width"], lengths: Int[Tensor, " texts"], pooling: Pooling
) -> Float[Tensor, "texts width"]:
    """Return one vector per text in float64: its last state, or the mean of its states.

    The texts are padded on the right; states of the padding do not count.
    """
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), lengths - 1].double()
    real = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
    # `where`, not a product with zero, because states of the padding may be infinite.
    whole = torch.where(real[..., None], states.double(), 0.0)
    return whole.sum(dim=1) / lengths[:, None]
