"""Blocks of rows: logits by one matrix product, sums over the vocabulary by a kernel, and columns from the sums."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from prunescope.pipelines.metrics import eager_kernels, fused_kernels
from prunescope.pipelines.metrics.cpu_matmul import product
from prunescope.pipelines.metrics.divergence_columns import (
    DenseSums,
    Ids,
    Numbers,
    ShiftSums,
    Sums,
    dense_columns,
    needs_float64,
    shift_columns,
    target_columns,
)
from prunescope.pipelines.metrics.output_head import OutputHead

# Rows per matrix product: enough for full speed on a CPU, while their logits need little memory compared to a model.
BLOCK_ROWS = 144
# Error of a float32 product of length d, per √d, relative to the root mean square of its row; at d = 576, residual
# streams and their shifts have errors of 1e-7 to 2.3e-7.
_PRODUCT_NOISE = 1e-8
# Shares of T. If that error exceeds the first, a few logits are recomputed; if it exceeds the second, many. Both are
# small because the error of likely tokens can be ten times larger.
_MAX_ERRORS = (1e-6, 1e-5)
# Distances from the largest logit in units of T. Tokens beyond 15, each below exp(−15) of the top one, have little
# weight together. But if p is nearly one-hot they hold all weight besides the top token, so wider reaches come first.
_REACHES = (30.0, 20.0, 15.0, 10.0)
_REACH = 15.0


@contextmanager
def subnormals_flushed() -> Iterator[None]:
    """Flush subnormal numbers to 0 in the calling thread, and restore its mode afterwards.

    Squares of small probabilities are often subnormal, and Intel's cores take a hundred times as long for them. The
    error is below 1e-37, far below the 1e-13 that the sums omit anyway. Run only the compiled kernels inside: threads
    that a matrix product starts would keep the mode.
    """
    # torch can set the mode but not read it; a product reveals it.
    was_flushed = bool(np.float32(1e-30) * np.float32(1e-10) == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_flushed)


class Workspace:
    """Buffers of one thread, reused by every block to save page faults; up to (rows + 6) × V float32 numbers."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[np.float32]] = {}

    def buffer(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Return an uninitialized float32 array of this shape."""
        size = int(np.prod(shape))
        if name not in self._buffers or self._buffers[name].size < size:
            self._buffers[name] = np.empty(size, np.float32)
        return self._buffers[name][:size].reshape(shape)


def block_sizes(rows: int) -> list[int]:
    """Split rows into the fewest blocks of at most BLOCK_ROWS, of nearly equal size."""
    count = max(1, -(-rows // BLOCK_ROWS))
    return [rows // count + (index < rows % count) for index in range(count)]


def kernels_for(device: torch.device) -> Literal["numba", "triton", "torch"]:
    """Choose what computes the sums: numba on a CPU; elsewhere Triton if it runs, else torch's operations.

    `torch.compile` is not a third choice: on the GPUs that a study can name it generates Triton, too.
    """
    if device.type == "cpu":
        return "numba"
    # Triton is part of torch's CUDA and ROCm builds on Linux. It needs compute capability 7 on NVIDIA's GPUs; all AMD
    # GPUs that torch supports report 9 or more.
    has_triton = device.type == "cuda" and find_spec("triton") is not None
    return "triton" if has_triton and torch.cuda.get_device_capability(device)[0] >= 7 else "torch"


@dataclass
class Block:
    """The dense side of a block of rows; `columns` compares it with one shift at a time.

    `x` is the dense head input, float32. The workspace serves one block at a time. `targets` are tokens for the
    log-probability columns, or None.
    """

    x: Float[Tensor, "n d"]
    head: OutputHead
    temperatures: Sequence[float]
    workspace: Workspace
    targets: Int[Tensor, " n"] | None = None

    def __post_init__(self) -> None:
        """Compute logits and sums of the dense side."""
        self._read = self._scaled(self.x)
        raw = product(self._read, self.head.weight)
        if self.head.bias is not None:
            raw = raw + self.head.bias.float()
        self._raw, z = raw, self.head.capped(raw)
        targets = None if self.targets is None else self.targets.to(self.x.device)
        self._noise = _PRODUCT_NOISE * self.x.shape[1] ** 0.5
        inverse = np.array([1 / t for t in self.temperatures])
        # The kernels use 1/T in float32; later arithmetic must match their sums to the last digit.
        self._inverse32 = inverse.astype(np.float32)
        self._shift_sums: Callable[[Tensor], ShiftSums] | None = None
        match kernels_for(self.x.device):
            case "numba":
                self._fused_dense(z.numpy(), targets)
            case "triton":
                from prunescope.pipelines.metrics import triton_kernels

                self._dense, self._shift_sums = triton_kernels.dense_sums(z, self.temperatures, targets)
            case "torch":
                self._dense, self._shift_sums = eager_kernels.dense_sums(z, self.temperatures, targets)

    def columns(self, dx: Float[Tensor, "n d"] | None) -> dict[str, Numbers]:
        """Return the columns of z- and p-space for one shift of x; None is a shift of zero."""
        if dx is None:
            return self._columns(self._dense, ShiftSums.zero(self._dense))
        move = self._scaled(dx)
        dz = product(move, self.head.weight)
        if self.head.cap is not None:
            dz = self.head.capped_shift(self._raw, dz, out=dz)
        shift = self._shift_sums(dz) if self._shift_sums else self._fused_shift(move, dz.numpy())
        columns = self._columns(self._dense, shift)
        for row in needs_float64(self._dense, shift, self._noise, _REACH * max(self.temperatures)).nonzero()[0]:
            for name, values in self._in_float64(int(row), dx).items():
                columns[name][..., row] = values[..., 0]
        return columns

    def _scaled(self, states: Tensor) -> Tensor:
        """Apply the head's scale to the states instead of the logits, which is as exact and cheaper."""
        return states.contiguous() if self.head.scale == 1 else states * self.head.scale

    def _columns(self, dense: DenseSums, shift: ShiftSums) -> dict[str, Numbers]:
        columns = dense_columns(dense) | shift_columns(dense, shift)
        return columns if self.targets is None else columns | target_columns(dense, shift)

    def _fused_dense(self, z: NDArray[np.float32], targets: Int[Tensor, " n"] | None) -> None:
        rows, size = z.shape
        count = len(self.temperatures)
        bias = self.head.bias
        self._z = z
        self._weight = self.head.weight.numpy(), np.empty(0, np.float32) if bias is None else bias.float().numpy()
        self._gap = self.workspace.buffer("gap", rows, size)
        self._rows = np.empty(rows, fused_kernels.DENSE)
        self._softmaxes = np.empty((count, rows), fused_kernels.SOFTMAX)
        self._ids = np.empty((rows, min(fused_kernels.TOP, size)), np.int64)
        # With a cap, all logits are small enough.
        shares = np.array(_MAX_ERRORS if self.head.cap is None else (np.inf, np.inf))
        sizes, reaches = shares * min(self.temperatures) / self._noise, np.array(_REACHES) * max(self.temperatures)
        # From the highest temperature to the lowest, because a token without weight at one has none at a lower one.
        self._order = np.argsort(self._inverse32, kind="stable")
        scratch = self.workspace.buffer("scratch", 6, size + fused_kernels.SLACK)
        with subnormals_flushed():
            fused_kernels.gaps(z, self._read.numpy(), *self._weight, sizes, reaches, self._gap, self._rows)
            fused_kernels.dense_rows(self._gap, self._inverse32, self._order, scratch, self._softmaxes, self._ids)
        first = self._ids[:, :2]
        self._tokens = first if targets is None else np.column_stack([first, targets.numpy()])
        self._dense = DenseSums(
            self._inverse32.astype(np.float64)[:, None],
            size,
            _fields(self._rows),
            _fields(self._softmaxes),
            self._ids,
            _at(self._gap, self._tokens),
        )

    def _fused_shift(self, dx: Tensor, dz: NDArray[np.float32]) -> ShiftSums:
        rows, size = dz.shape
        shifts, moves = np.empty(rows, fused_kernels.SHIFT), np.zeros(self._softmaxes.shape, fused_kernels.P_SPACE_SUMS)
        ids = np.empty_like(self._ids)
        with subnormals_flushed():
            fused_kernels.shift_rows(
                self._z,
                self._gap,
                self._rows,
                self._softmaxes,
                self._ids,
                dz,
                self._inverse32,
                self._order,
                (self._read.numpy(), dx.numpy()),
                self._weight,
                self.workspace.buffer("scratch", 6, size + fused_kernels.SLACK),
                shifts,
                moves,
                ids,
            )
        after = _at(self._gap, ids[:, :2]) + _at(dz, ids[:, :2])
        return ShiftSums(_fields(shifts), _fields(moves), ids, after, _at(dz, self._tokens))

    def _in_float64(self, row: int, dx: Tensor) -> dict[str, Numbers]:
        """Recompute one row in float64, logits included."""
        only = slice(row, row + 1)
        both = torch.cat([self.x[only], dx[only]]).double() * self.head.scale
        raw, dz = precise_product(both, self.head.weight).split(1)
        if self.head.bias is not None:
            raw = raw + self.head.bias.double()
        z, dz = self.head.capped(raw), self.head.capped_shift(raw, dz)
        targets = None if self.targets is None else self.targets[only].to(self.x.device)
        dense, shift_sums = eager_kernels.dense_sums(z, self.temperatures, targets)
        return self._columns(dense, shift_sums(dz))


def precise_product(states: Float[Tensor, "n d"], weight: Float[Tensor, "v d"]) -> Float[Tensor, "n v"]:
    """Return states · Wᵀ in float64, without a float64 copy of W."""
    if states.device.type == "cpu":
        result = np.empty((len(states), len(weight)))
        fused_kernels.precise_product(weight.numpy(), states.double().numpy(), result)
        return torch.from_numpy(result)
    return torch.cat([states.double() @ part.double().T for part in weight.split(4096)], 1)


def _fields(sums: NDArray[Any]) -> Sums:
    return {name: sums[name] for name in sums.dtype.names or ()}


def _at(values: NDArray[np.float32], tokens: Ids) -> Numbers:
    return np.take_along_axis(values, tokens, 1).astype(np.float64)
