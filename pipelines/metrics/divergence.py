"""The measure h → z → p: every divergence column of what the LM head reads, x, and of its shift dx.

What x is (lens, layer, position) belongs to the caller; the formulas of p-space belong in `probabilities`.
"""

from collections.abc import Sequence
from typing import overload

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from pipelines.errors import ComputationError
from pipelines.metrics.heads import Head
from pipelines.metrics.rows import BLOCK_ROWS, DenseRows, Workspace
from pipelines.metrics.spaces import in_space, space_metrics

Columns = dict[str, NDArray[np.generic]]

# In the order of the table contract; float32 unless _TYPES says otherwise.
_PARTS = ("norm_{}", "norm_d{}", "one_minus_cos_{}", "par_rel_{}", "orth_rel_{}")
COLUMN_NAMES: tuple[str, ...] = (
    *(part.format("h") for part in (*_PARTS, "t1_{}")),
    *(part.format("z") for part in (*_PARTS, "t1_{}")),
    *(part.format("p") for part in _PARTS),
    "var_uniform_dz",
    "var_r_dz",
    "t2_p",
    "var_p_dz",
    "t3_kl_nats",
    "kl_dense_pruned_nats",
    "kl_pruned_dense_nats",
    "js_nats",
    "total_variation",
    "is_top1_same",
    "topk5_overlap",
    "rank_of_dense_top1",
    "rank_of_pruned_top1",
    "p_dense_top1_dense",
    "p_dense_top1_pruned",
    "entropy_dense_nats",
    "entropy_pruned_nats",
    "margin_dense",
    "margin_pruned",
)
_TYPES = {"is_top1_same": torch.bool, "rank_of_dense_top1": torch.int32, "rank_of_pruned_top1": torch.int32}


class NumericalError(ComputationError):
    """A row has NaN or infinite numbers, or no direction to measure an angle from."""


@overload
def divergence(
    x: Float[Tensor, "n d"],
    dx: Float[Tensor, "n d"],
    head: Head,
    temperatures: Sequence[float],
    *,
    workspace: Workspace | None = None,
) -> Columns: ...


@overload
def divergence(
    x: Float[Tensor, "n d"],
    dx: Sequence[Float[Tensor, "n d"]],
    head: Head,
    temperatures: Sequence[float],
    *,
    workspace: Workspace | None = None,
) -> list[Columns]: ...


@torch.inference_mode()
def divergence(
    x: Float[Tensor, "n d"],
    dx: Float[Tensor, "n d"] | Sequence[Float[Tensor, "n d"]],
    head: Head,
    temperatures: Sequence[float],
    *,
    workspace: Workspace | None = None,
) -> Columns | list[Columns]:
    """How far each shift moves h, z and p.

    Δz is dx Wᵀ, never a difference of logits. Several shifts of the same x share the dense logits, softmax and
    ranking. Logits are float32 and held for one block of rows at most; sums over the vocabulary are float32 in
    chunks with float64 totals; h is measured in float64. Against float64 on the same logits, divergences and cosine
    defects have a relative error below 1e-3 wherever they are at least 1e-8, and are never negative. The logits
    themselves carry the rounding of a float32 product of length d, which moves p by about 5e-7 |z|/T of itself.

    Args:
        x: What the head reads of the dense model.
        dx: Its shift, or several shifts of it.
        head: The LM head.
        temperatures: Softmax temperatures, all above 0.
        workspace: Buffers to use again, of this head and number of temperatures; made for the call where None.

    Returns:
        Columns by the names of the table contract, each of shape (temperatures, n); what does not depend on the
        temperature is repeated. A list of these where `dx` is a sequence.

    Raises:
        NumericalError: A row is NaN or infinite, or has a zero vector on either side; the row is named.
        ValueError: A temperature is not above 0, or the shapes differ.
    """
    if isinstance(dx, Tensor):
        return _measure(x, [dx], head, temperatures, workspace)[0]
    return _measure(x, dx, head, temperatures, workspace)


@torch.inference_mode()
def dense_only(
    x: Float[Tensor, "n d"], head: Head, temperatures: Sequence[float], *, workspace: Workspace | None = None
) -> Columns:
    """The columns of a shift that is exactly zero, for the cost of the dense side; arguments as `divergence`."""
    return _measure(x, [None], head, temperatures, workspace)[0]


def _measure(
    x: Tensor,
    shifts: Sequence[Tensor | None],
    head: Head,
    temperatures: Sequence[float],
    workspace: Workspace | None,
) -> list[Columns]:
    """One set of columns a shift; None is a shift of zero."""
    moves = {index: shift for index, shift in enumerate(shifts) if shift is not None}
    _check_input(x, list(moves.values()), temperatures)
    names = (len(temperatures), x.shape[0])
    results = [
        {name: torch.empty(names, dtype=_TYPES.get(name, torch.float32)) for name in COLUMN_NAMES} for _ in shifts
    ]
    weight = head.weight.detach().float()
    sides = 1 + len(moves)
    if workspace is None or len(workspace.logits) < sides:
        workspace = Workspace.of(weight, len(temperatures), max(sides, min(BLOCK_ROWS, sides * x.shape[0])))
    block = len(workspace.logits) // sides
    for start in range(0, x.shape[0], block):
        states = [part[start : start + block].float() for part in (x, *moves.values())]
        rows = states[0].shape[0]
        out = workspace.logits[: rows * sides]
        z, *dzs = _product(torch.cat(states), weight, out).reshape(sides, rows, -1)
        if head.bias is not None:
            z += head.bias.detach().float()
        for index, result in enumerate(results):
            move = states[1 + list(moves).index(index)] if index in moves else torch.zeros_like(states[0])
            for name, values in in_space(space_metrics(states[0], move), "h").items():
                result[name][:, start : start + rows] = values
        for first in range(0, rows, workspace.rows):
            part = slice(first, min(first + workspace.rows, rows))
            place = slice(start + part.start, start + part.stop)
            dense = DenseRows.of(z[part], temperatures, workspace)
            moved = dict(zip(moves, (dense.moved(dz[part], workspace) for dz in dzs), strict=True))
            for index, result in enumerate(results):
                for name, values in (moved[index] if index in moved else dense.unmoved()).items():
                    result[name][:, place] = values
    return [_checked(result) for result in results]


def _product(states: Tensor, weight: Tensor, out: Tensor) -> Tensor:
    """Multiplies states by Wᵀ, in `out` or beside it.

    On a CPU through oneDNN where torch has it: measured on two Zen cores, 174 GFLOP/s against MKL's 151 at 225 rows.
    """
    if states.device.type == "cpu" and torch.backends.mkldnn.is_available():
        product: Tensor = torch.ops.mkldnn._linear_pointwise(states, weight, None, "none", [], "")
        return product
    return torch.mm(states, weight.T, out=out)


def _check_input(x: Tensor, moves: list[Tensor], temperatures: Sequence[float]) -> None:
    for temperature in temperatures:
        if not temperature > 0:
            raise ValueError(f"temperature {temperature}: a softmax needs T > 0; T = 0 is greedy decoding")
    for values, what in ((x, "state"), *((move, "shift") for move in moves)):
        if values.shape != x.shape:
            raise ValueError(f"shift of shape {tuple(values.shape)} beside states of shape {tuple(x.shape)}")
        is_bad = ~torch.isfinite(values).all(-1)
        if bool(is_bad.any()):
            raise NumericalError(f"row {int(is_bad.nonzero()[0])}: the {what} is NaN or infinite")


def _checked(result: dict[str, Tensor]) -> Columns:
    for name, values in result.items():
        is_bad = ~torch.isfinite(values).all(0)
        if bool(is_bad.any()):
            row = int(is_bad.nonzero()[0])
            raise NumericalError(f"row {row}: {name} is not a finite number (a zero vector, or logits beyond float32)")
    return {name: values.numpy() for name, values in result.items()}
