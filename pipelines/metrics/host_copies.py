"""Copies of a block's results from an accelerator to the host, in one piece: every copy waits for all earlier work."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from prunescope.pipelines.metrics.divergence_columns import Numbers


def to_host(*parts: Shaped[Tensor, "n _"]) -> list[Numbers]:
    """Copy parts with the same rows and any dtypes to the host as float64, in which token ids are exact."""
    whole = torch.cat([part.double() for part in parts], 1).cpu().numpy()
    return np.split(whole, np.cumsum([part.shape[1] for part in parts])[:-1], axis=1)


def by_name(names: Iterable[str], columns: Numbers) -> dict[str, Numbers]:
    """Return the sums in columns (n, T · names) by name, each (T, n)."""
    keys = list(names)
    rows, width = columns.shape
    return dict(zip(keys, columns.reshape(rows, width // len(keys), len(keys)).transpose(2, 1, 0), strict=True))
