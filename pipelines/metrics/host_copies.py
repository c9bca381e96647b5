"""Copies of a block's results from an accelerator to the host, all at once because each copy waits for earlier work."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from prunescope.pipelines.metrics.divergence_columns import At, Ids, Numbers


def to_host(*parts: Shaped[Tensor, "n _"]) -> list[Numbers]:
    """Copy parts with the same rows and any dtypes to the host as float64, in which token ids are exact."""
    whole = torch.cat([part.double() for part in parts], 1).cpu().numpy()
    return np.split(whole, np.cumsum([part.shape[1] for part in parts])[:-1], axis=1)


def looked_up(tokens: Ids, values: Numbers) -> At:
    """Return a function that maps ids (n, k), each among its row's tokens (n, m), to their values."""

    def at(ids: Ids) -> Numbers:
        return np.take_along_axis(values, (tokens[:, None] == ids[:, :, None]).argmax(-1), 1)

    return at


def named(names: Iterable[str], columns: Numbers) -> dict[str, Numbers]:
    """Return each sum of columns (n, T · names) as (T, n)."""
    own = list(names)
    return dict(zip(own, columns.reshape(len(columns), -1, len(own)).transpose(2, 1, 0), strict=True))
