"""The substitute that a repair adds to the stream for a dropped sublayer; how it is fitted is in `repair.py`."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prunescope.pipelines.models.module_calls import stream_of
from prunescope.pipelines.models.sublayer import SublayerCall


@dataclass(frozen=True)
class Substitute:
    """A constant, or a constant and a linear map of what the sublayer would read (after the norm, if one is there).

    Attributes:
        bias: the constant, (width,).
        reads: right factor of the map writes · reads, (rank, inputs); None without a map.
        writes: its left factor, (width, rank).
    """

    bias: Float[Tensor, " width"]
    reads: Float[Tensor, "rank inputs"] | None = None
    writes: Float[Tensor, "width rank"] | None = None

    def __call__(self, state: Float[Tensor, "*tokens inputs"]) -> Float[Tensor, "*tokens width"]:
        """Return the contribution for what the sublayer would read, in its dtype and on its device."""
        bias = self.bias.to(state)
        if self.reads is None or self.writes is None:
            return bias.expand(*state.shape[:-1], -1)
        return state @ self.reads.to(state).T @ self.writes.to(state).T + bias

    def added(self, calls: Iterable[SublayerCall]) -> Float[Tensor, "tokens width"]:
        """Return the contribution for recorded calls of the sublayer on one sequence."""
        parts = (self(stream_of(*call.parts[0])).reshape(*call.shape, -1) for call in calls)
        return torch.cat(list(parts), dim=1)[0]

    def to(self, *where: Any) -> "Substitute":  # noqa: ANN401 (as torch's own)
        """Return a copy with all tensors in a dtype or on a device."""
        return Substitute(**{key: tensor.to(*where) for key, tensor in self.tensors.items()})

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by the names of their fields."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: tensor for key, tensor in tensors.items() if tensor is not None}

    @property
    def size(self) -> int:
        """Return the number of parameters."""
        return sum(tensor.numel() for tensor in self.tensors.values())
