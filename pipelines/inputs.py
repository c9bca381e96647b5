"""What flows into the weight matrices while a model runs: moments and, where asked for, Gram matrices, in one pass.

Which tokens run, and what is made of the numbers, is the caller's business.
"""

from collections.abc import Hashable, Mapping
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from pipelines.errors import ComputationError
from pipelines.models.matrices import Matrix

Rows = Float[Tensor, "*tokens in"]


class Inputs:
    """Running sums over the inputs x of one matrix, or of several that read the same (q, k and v; gate and up).

    Attributes:
        tokens: how many x were seen.
        sums: Σ x per channel, float64 on the CPU.
        squares: Σ x² per channel, float64 on the CPU.
        fourth: Σ x⁴ over all channels.
        largest: largest |x|.
        gram: Σ x xᵀ, (in, in) in float32 on the model's device; None where nobody asked for it.
        derived: what methods made of the sums for all matrices that share them, such as factors of the Gram matrix.
    """

    def __init__(self, channels: int) -> None:
        self.tokens = 0
        self.sums = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)
        self.fourth = 0.0
        self.largest = 0.0
        self.gram: Tensor | None = None
        self.derived: dict[Hashable, object] = {}

    def see(self, rows: Rows, *, with_gram: bool = False) -> None:
        """Adds inputs of shape (…, in)."""
        x = rows.reshape(-1, rows.shape[-1]).float()
        squares = x.square()
        self.tokens += len(x)
        self.sums += x.sum(dim=0, dtype=torch.float64).cpu()
        self.squares += squares.sum(dim=0, dtype=torch.float64).cpu()
        self.fourth += float(squares.square().sum(dtype=torch.float64))
        self.largest = max(self.largest, float(squares.max().sqrt()))
        if with_gram:
            gram = x.T @ x
            self.gram = gram if self.gram is None else self.gram.add_(gram)

    @cached_property
    def mean(self) -> Float[Tensor, " in"]:
        """E[x] per channel, float64."""
        return self.sums / self.tokens

    @cached_property
    def second_moment(self) -> Float[Tensor, " in"]:
        """E[x²] per channel, float64."""
        return self.squares / self.tokens

    def require_finite(self, name: str) -> None:
        """Refuses NaN and infinite inputs; ComputationError names the matrix."""
        if not float(self.squares.sum()) < float("inf"):
            raise ComputationError(f"{name}: an input is NaN or infinite on the calibration tokens")


class Watch:
    """Collects the inputs of matrices, modules and experts alike, known by the products that read them.

    Args:
        matrices: those to watch, by name.
        with_gram: whether Gram matrices are wanted.
    """

    def __init__(self, matrices: Mapping[str, Matrix], *, with_gram: bool = False) -> None:
        self._by_address = {matrix.address: matrix for matrix in matrices.values()}
        self._with_gram = with_gram
        # Projections that read the same tensor (q, k and v; gate and up) share one pass over it.
        self._readers: dict[int, list[str]] = {}
        self._rows: dict[int, Tensor] = {}
        self._groups: dict[tuple[str, ...], Inputs] = {}

    def see(self, rows: Tensor, operand: Tensor) -> None:
        """Notes a product rows·operand, where the operand is one of the matrices, or a stack of them."""
        if operand.dim() == 3 and operand.data_ptr() in self._by_address:
            for each, matrix in zip(rows, operand, strict=True):
                self.see(each, matrix)
            return
        found = self._by_address.get(operand.data_ptr())
        if found is not None and operand.shape == found.weight.T.shape and rows.shape[-1] == operand.shape[0]:
            self._readers.setdefault(id(rows), []).append(found.name)
            self._rows[id(rows)] = rows

    def count(self) -> None:
        """Adds up what was seen since the last time."""
        for key, names in self._readers.items():
            rows = self._rows[key]
            if rows.numel():
                group = self._groups.setdefault(tuple(names), Inputs(rows.shape[-1]))
                group.see(rows, with_gram=self._with_gram)
        self._readers.clear()
        self._rows.clear()

    @property
    def inputs(self) -> dict[str, Inputs]:
        """By matrix name; those that read the same tensors share one object, those that read none have none.

        Raises:
            ComputationError: an input was NaN or infinite.
        """
        found: dict[str, Inputs] = {}
        for names, group in self._groups.items():
            group.require_finite(names[0])
            for name in names:
                if name in found:  # alone in one batch, with others in the next
                    raise ComputationError(f"{name}: reads other tensors in other batches")
                found[name] = group
        return found
