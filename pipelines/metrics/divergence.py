"""Divergence columns in h-, z- and p-space of the LM head's input x and its shift dx."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.metrics.logit_blocks import Block, Workspace, block_sizes
from prunescope.pipelines.metrics.output_head import OutputHead
from prunescope.pipelines.metrics.vector_metrics import space_metrics

Columns = dict[str, NDArray[np.generic]]
TARGET_NAMES = ("log_p_target_dense", "log_p_target_pruned")
# The other columns are float32.
_TYPES: dict[str, type] = {"is_top1_same": np.bool_, "rank_of_dense_top1": np.int32, "rank_of_pruned_top1": np.int32}


class NumericalError(ComputationError):
    """NaN or infinite numbers in a row, or a zero vector, which has no direction."""


def divergence(
    x: Float[Tensor, "n d"],
    dx: Float[Tensor, "n d"] | None,
    head: OutputHead,
    temperatures: Sequence[float],
    *,
    targets: Int[Tensor, " n"] | None = None,
    workspace: Workspace | None = None,
) -> Columns:
    """Measure how one shift moves h, z and p; see `divergences`."""
    return divergences(x, [dx], head, temperatures, targets=targets, workspace=workspace)[0]


@torch.inference_mode()
def divergences(
    x: Float[Tensor, "n d"],
    shifts: Sequence[Float[Tensor, "n d"] | None],
    head: OutputHead,
    temperatures: Sequence[float],
    *,
    targets: Int[Tensor, " n"] | None = None,
    workspace: Workspace | None = None,
) -> list[Columns]:
    """Measure how each of several shifts moves h, z and p.

    Δz is dx Wᵀ, never a difference of logits. Shifts of the same x share its logits and softmax, and their results are
    independent of each other. Logits are float32, computed for one block of rows at a time. Sums over the vocabulary
    are float32 in chunks with float64 totals, and h is measured in float64. Rows whose shift is too small relative to
    the rounding of the head product are recomputed in float64, logits included. In other rows only the logits of likely
    tokens are recomputed.

    Compared with float64 on the same x and dx, every column of at least 1e-8 has a relative error below 1e-3 (signed
    columns relative to the size of their terms, margins relative to their logits); on SmolLM2-135M's states it is at
    most 1.5e-4. Divergences and cosine defects are never negative. The states of a model in bfloat16 have a relative
    error of 2⁻⁹ themselves, which sets a far higher floor: in KL about 4e-4 nats at SmolLM2-135M's output, by the
    recipe `noise-bfloat16`.

    x is the dense head input. A shift of None is zero and costs no more than the dense side. `targets` has one token
    per row; its log-probability on both sides is added (TARGET_NAMES). A thread may reuse its `workspace`. The result
    has one dictionary of columns per shift. Keys are the names of the table contract, and values have the shape
    (temperatures, n); columns that do not depend on the temperature are repeated.

    Raises:
        NumericalError: A row is NaN or infinite, or has a zero vector on either side; the row is named.
        ValueError: A temperature is not above 0, or the shapes differ.
    """
    workspace = workspace or Workspace()
    _check_input(x, [shift for shift in shifts if shift is not None], temperatures)
    results: list[dict[str, NDArray[Any]]] = [{} for _ in shifts]
    start = 0
    for rows in block_sizes(x.shape[0]):
        part = slice(start, start + rows)
        start += rows
        states = x[part].float()
        block = Block(states, head, temperatures, workspace, None if targets is None else targets[part])
        for shift, columns in zip(shifts, results, strict=True):
            move = None if shift is None else shift[part].float()
            in_h = space_metrics(states, torch.zeros_like(states) if move is None else move)
            for name, values in (in_h | block.columns(move)).items():
                if name not in columns:
                    columns[name] = np.empty((len(temperatures), len(x)), _TYPES.get(name, np.float32))
                columns[name][:, part] = values
        del block  # frees its arrays before those of the next block are made
    for name, values in (item for columns in results for item in columns.items()):
        is_bad = ~np.isfinite(values).all(0)
        if np.any(is_bad):
            row = int(np.argmax(is_bad))
            raise NumericalError(f"row {row}: {name} is not a finite number (a zero vector, or logits beyond float32)")
    return [*results]


def _check_input(x: Tensor, moves: list[Tensor], temperatures: Sequence[float]) -> None:
    for temperature in temperatures:
        if not temperature > 0:
            raise ValueError(f"temperature {temperature}: a softmax needs T > 0; T = 0 is greedy decoding")
    for move in moves:
        if move.shape != x.shape:
            raise ValueError(f"shift of shape {tuple(move.shape)} for states of shape {tuple(x.shape)}")
    is_bad = ~torch.stack([torch.isfinite(values).all(-1) for values in (x, *moves)])
    if bool(is_bad.any()):
        which, row = is_bad.nonzero()[0].tolist()
        raise NumericalError(f"row {row}: the {'shift' if which else 'state'} is NaN or infinite")
