"""Moments and Gram matrices of the inputs of weight matrices, collected while a model runs."""

from collections import Counter
from collections.abc import Collection, Hashable, Mapping
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.models.weight_matrices import Matrix

Rows = Float[Tensor, "*tokens in"]
# Inputs that are summed together in float32; this many fit into the processor's cache.
_BLOCK = 256


class ActivationMoments:
    """Running sums over the inputs x of one matrix, or of several that read the same tensor (q, k, v; gate, up).

    Moments are float64 sums of float32 sums over 256 inputs, Gram matrices float64 sums of float32 sums over a batch.

    Attributes:
        tokens: number of inputs.
        sums: Σ x per channel, float64, on the device of the inputs.
        squares: Σ x² per channel, as `sums`.
        fourth: Σ x⁴ over all channels, if tails were requested, and `largest` the largest |x|.
        derived: results that methods share between matrices with the same inputs, such as factors of the Gram matrix.
    """

    def __init__(self, channels: int) -> None:
        self.tokens = 0
        self.sums = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)
        self.fourth = torch.zeros((), dtype=torch.float64)
        self.largest = torch.zeros(())
        self.derived: dict[Hashable, object] = {}
        self._products: Tensor | None = None

    @classmethod
    def from_table(
        cls, tokens: int, mean: Float[Tensor, " in"], second_moment: Float[Tensor, " in"]
    ) -> "ActivationMoments":
        """Return an instance with the moments of a table row, without tails and Gram matrix."""
        inputs = cls(len(mean))
        inputs.tokens = tokens
        inputs.sums, inputs.squares = mean.double() * tokens, second_moment.double() * tokens
        return inputs

    def update(self, rows: Rows, *, with_gram: bool = False, with_tails: bool = False) -> None:
        """Add inputs of shape (…, in)."""
        x = rows.reshape(-1, rows.shape[-1])
        self.tokens += len(x)
        # Sums stay on the device, which then need not wait for the host at every batch.
        self.sums, self.squares = self.sums.to(x.device), self.squares.to(x.device)
        self.fourth, self.largest = self.fourth.to(x.device), self.largest.to(x.device)
        for block in x.split(_BLOCK):
            values = block.float()
            squares = values.square()
            self.sums += values.sum(dim=0)
            self.squares += squares.sum(dim=0)
            if with_tails:
                self.fourth += squares.square().sum(dim=0).sum(dtype=torch.float64)
                self.largest = torch.maximum(self.largest, squares.max().sqrt())
        if with_gram:
            values = x.float()
            if x.device.type == "cpu":  # numpy detects the symmetric product and computes only half of it
                array = values.contiguous().numpy()
                products = torch.from_numpy(np.dot(array.T, array))
            else:
                products = values.T @ values
            self._products = products.double() if self._products is None else self._products.add_(products)

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
        """Σ x xᵀ in float32 on the model's device, rounded once from a float64 total; None if not requested."""
        products, self._products = self._products, None
        return None if products is None else products.float()


class StopForwardError(Exception):
    """Signal that a batch has shown all recorded inputs, so the rest of the layer need not run."""


class InputRecorder:
    """Recorder of the inputs of matrices, identified by the matrix products that read them.

    `grams` are names of the matrices for whose inputs to compute Gram matrices. `with_tails` adds fourth moments and
    largest inputs. `stops` lets `observe` raise StopForwardError once a batch has shown all inputs. The first batch
    shows how often each matrix is used. If it does not use all of them (experts), every batch runs to its end.
    """

    def __init__(
        self,
        matrices: Mapping[str, Matrix],
        *,
        grams: Collection[str] = (),
        with_tails: bool = False,
        stops: bool = False,
    ) -> None:
        self._by_address = {matrix.address: matrix for matrix in matrices.values()}
        self._grams, self._with_tails, self._stops = {*grams}, with_tails, stops
        # Projections that read the same tensor (q, k and v; gate and up) share one pass over it.
        self._readers: dict[tuple[int, torch.Size], tuple[Tensor, list[str]]] = {}
        self._groups: dict[tuple[str, ...], ActivationMoments] = {}
        self._expected: Counter[str] = Counter()
        self._missing: Counter[str] = Counter()

    def observe(self, rows: Tensor, operand: Tensor) -> None:
        """Record a product rows·operand of the matrices or of a stack; StopForwardError after a batch's last one."""
        if operand.dim() == 3 and operand.data_ptr() in self._by_address:
            for expert_rows, expert in zip(rows, operand, strict=True):
                self.observe(expert_rows, expert)
            return
        matrix = self._by_address.get(operand.data_ptr())
        if matrix is not None and operand.shape == matrix.shape[::-1] and rows.shape[-1] == operand.shape[0]:
            key = rows.data_ptr(), rows.shape  # each product may read its own view
            self._readers.setdefault(key, (rows, []))[1].append(matrix.name)
            if self._missing:
                self._missing -= Counter((matrix.name,))
                if not self._missing:
                    raise StopForwardError

    def finish_batch(self) -> None:
        """Add the batch's inputs to the sums."""
        for rows, names in self._readers.values():
            if rows.numel():
                group = self._groups.setdefault(tuple(names), ActivationMoments(rows.shape[-1]))
                with_gram = not self._grams.isdisjoint(names)
                group.update(rows, with_gram=with_gram, with_tails=self._with_tails)
        if self._stops and not self._expected:
            self._expected = Counter(name for _, names in self._readers.values() for name in names)
            self._stops = len(self._expected) == len(self._by_address)
        self._missing = Counter(self._expected) if self._stops else Counter()
        self._readers.clear()

    @property
    def inputs(self) -> dict[str, ActivationMoments]:
        """Moments by matrix name; matrices that read the same tensors share one object, and unused ones are absent.

        Raises:
            ComputationError: an input is NaN or infinite.
        """
        inputs: dict[str, ActivationMoments] = {}
        for names, group in self._groups.items():
            if not float(group.squares.sum()) < float("inf"):
                raise ComputationError(f"{names[0]}: an input is NaN or infinite on the calibration tokens")
            for name in names:
                if name in inputs:  # it shared its input in one batch but not in another
                    raise ComputationError(f"{name}: reads other tensors in other batches")
                inputs[name] = group
        return inputs
