"""What flows into the weight matrices while a model runs: moments and, where asked for, Gram matrices, in one pass.

Which tokens run is `streams.py`'s, and what is made of the numbers the caller's business.
"""

from collections import Counter
from collections.abc import Hashable, Mapping
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.models.weight_matrices import Matrix

Rows = Float[Tensor, "*tokens in"]
# Inputs that are summed together in float32: so many stay in the processor's cache.
_BLOCK = 256


class ActivationMoments:
    """Running sums over the inputs x of one matrix, or of several that read the same (q, k and v; gate and up).

    Moments are sums of float32 sums over 256 x each, Gram matrices of float32 sums over a batch, both in float64.

    Attributes:
        tokens: how many x were seen.
        sums: Σ x per channel, float64 on the CPU.
        squares: Σ x² per channel, float64 on the CPU.
        fourth: Σ x⁴ over all channels, where tails were asked for.
        largest: largest |x|, where tails were asked for.
        derived: what methods made of the sums for all matrices that share them, such as factors of the Gram matrix.
    """

    def __init__(self, channels: int) -> None:
        self.tokens = 0
        self.sums = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)
        self.fourth = 0.0
        self.largest = 0.0
        self.derived: dict[Hashable, object] = {}
        self._products: Tensor | None = None

    @classmethod
    def measured_before(
        cls, tokens: int, mean: Float[Tensor, " in"], second_moment: Float[Tensor, " in"]
    ) -> "ActivationMoments":
        """From moments that a table keeps; without tails and Gram matrix."""
        inputs = cls(len(mean))
        inputs.tokens = tokens
        inputs.sums, inputs.squares = mean.double() * tokens, second_moment.double() * tokens
        return inputs

    def see(self, rows: Rows, *, with_gram: bool = False, with_tails: bool = False) -> None:
        """Adds inputs of shape (…, in)."""
        x = rows.reshape(-1, rows.shape[-1])
        self.tokens += len(x)
        for block in x.split(_BLOCK):
            own = block.float()
            squares = own.square()
            self.sums += own.sum(dim=0).cpu()
            self.squares += squares.sum(dim=0).cpu()
            if with_tails:
                self.fourth += float(squares.square().sum(dim=0).sum(dtype=torch.float64))
                self.largest = max(self.largest, float(squares.max().sqrt()))
        if with_gram:
            products = _products(x.float())
            if self._products is None:
                self._products = products.double()
            else:
                self._products += products

    @cached_property
    def mean(self) -> Float[Tensor, " in"]:
        """E[x] per channel, float64."""
        return self.sums / self.tokens

    @cached_property
    def second_moment(self) -> Float[Tensor, " in"]:
        """E[x²] per channel, float64."""
        return self.squares / self.tokens

    @cached_property
    def gram(self) -> Float[Tensor, "in in"] | None:
        """Σ x xᵀ in float32, rounded once from the total in float64, on the model's device; None if not asked for."""
        products, self._products = self._products, None
        return None if products is None else products.float()

    def require_finite(self, name: str) -> None:
        """Refuses NaN and infinite inputs; ComputationError names the matrix."""
        if not float(self.squares.sum()) < float("inf"):
            raise ComputationError(f"{name}: an input is NaN or infinite on the calibration tokens")


def _products(x: Float[Tensor, "tokens in"]) -> Float[Tensor, "in in"]:
    """Σ x xᵀ in float32: numpy sees that both sides are one matrix and computes only half of the product."""
    if x.device.type != "cpu":
        return x.T @ x
    own = x.contiguous().numpy()
    return torch.from_numpy(np.dot(own.T, own))


class StopForwardError(Exception):
    """Everything that is watched was seen in this batch; what would still be computed of the layer is not needed."""


class InputRecorder:
    """Collects the inputs of matrices, modules and experts alike, known by the products that read them.

    Args:
        matrices: those to watch, by name.
        with_gram: whether Gram matrices are wanted.
        with_tails: whether fourth moments and largest inputs are wanted.
        stops: whether `see` raises EnoughSeenError as soon as a batch has shown all inputs. All matrices must have
            been seen in the first batch, which shows how often each is; with experts that some batches pass by, every
            batch runs to its end.
    """

    def __init__(
        self,
        matrices: Mapping[str, Matrix],
        *,
        with_gram: bool = False,
        with_tails: bool = False,
        stops: bool = False,
    ) -> None:
        self._by_address = {matrix.address: matrix for matrix in matrices.values()}
        self._with_gram, self._with_tails, self._stops = with_gram, with_tails, stops
        # Projections that read the same tensor (q, k and v; gate and up) share one pass over it.
        self._readers: dict[int, list[str]] = {}
        self._rows: dict[int, Tensor] = {}
        self._groups: dict[tuple[str, ...], ActivationMoments] = {}
        self._expected: Counter[str] = Counter()
        self._missing: Counter[str] = Counter()

    def see(self, rows: Tensor, operand: Tensor) -> None:
        """Notes a product rows·operand, where the operand is one of the matrices, or a stack of them.

        Raises:
            EnoughSeenError: this was the last one of the batch.
        """
        if operand.dim() == 3 and operand.data_ptr() in self._by_address:
            for each, matrix in zip(rows, operand, strict=True):
                self.see(each, matrix)
            return
        found = self._by_address.get(operand.data_ptr())
        if found is not None and operand.shape == found.shape[::-1] and rows.shape[-1] == operand.shape[0]:
            self._readers.setdefault(id(rows), []).append(found.name)
            self._rows[id(rows)] = rows
            if self._missing:
                self._missing -= Counter((found.name,))
                if not self._missing:
                    raise StopForwardError

    def count(self) -> None:
        """Adds up what was seen since the last time."""
        for key, names in self._readers.items():
            rows = self._rows[key]
            if rows.numel():
                group = self._groups.setdefault(tuple(names), ActivationMoments(rows.shape[-1]))
                group.see(rows, with_gram=self._with_gram, with_tails=self._with_tails)
        if self._stops and not self._expected:
            self._expected = Counter(name for names in self._readers.values() for name in names)
            self._stops = len(self._expected) == len(self._by_address)
        self._missing = Counter(self._expected) if self._stops else Counter()
        self._readers.clear()
        self._rows.clear()

    @property
    def inputs(self) -> dict[str, ActivationMoments]:
        """By matrix name; those that read the same tensors share one object, those that read none have none.

        Raises:
            ComputationError: an input was NaN or infinite.
        """
        found: dict[str, ActivationMoments] = {}
        for names, group in self._groups.items():
            group.require_finite(names[0])
            for name in names:
                if name in found:  # alone in one batch, with others in the next
                    raise ComputationError(f"{name}: reads other tensors in other batches")
                found[name] = group
        return found
