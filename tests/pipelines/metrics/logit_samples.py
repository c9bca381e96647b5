"""Awkward logits and shifts, and the contract of every column: what tests of all kernels share."""

from functools import cache
from typing import Literal

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from prunescope.pipelines.metrics.divergence_columns import DenseSums, Numbers, ShiftSums, dense_columns, shift_columns
from prunescope.pipelines.metrics.output_head import OutputHead
from prunescope.warehouse.tables.columns import DIVERGENCE

COLUMN_NAMES = tuple(column.name for column in DIVERGENCE)

RANKING = {
    "is_top1_same",
    "topk5_overlap",
    "topk10_overlap",
    "rank_of_dense_top1",
    "rank_of_pruned_top1",
    "p_dense_top1_dense",
    "p_dense_top1_pruned",
    "p_pruned_top1_dense",
    "p_pruned_top1_pruned",
    "margin_dense",
    "margin_pruned",
}
# Columns that rounding may change: they depend on the order of two nearly equal tokens.
ORDER = {name for name in RANKING if not name.startswith("p_")}

WITHOUT_SHIFT_ZERO = {
    *(c for c in COLUMN_NAMES if c.startswith(("norm_d", "one_minus", "par_", "orth_", "t1_", "var_", "t2_", "t3_"))),
    "kl_dense_pruned_nats",
    "kl_pruned_dense_nats",
    "js_nats",
    "total_variation",
}

Dense = Literal["normal", "ties", "one_hot", "uniform", "huge", "zeros", "enormous"]
Shift = Literal["normal", "tiny", "parallel", "opposite", "constant", "zero", "huge", "one_token"]
DENSE = st.sampled_from(["normal", "ties", "one_hot", "uniform", "huge"])
SHIFT = st.sampled_from(["normal", "tiny", "parallel", "opposite", "constant", "zero", "huge", "one_token"])
SEEDS = st.integers(0, 2**31)
TEMPERATURES = st.sampled_from([0.3, 1.0, 1.7])


@cache
def identity_head(size: int, dtype: torch.dtype = torch.float32) -> OutputHead:
    """Return an identity head, so that a test sets logits exactly; float64 saves the reference a conversion."""
    return OutputHead(torch.eye(size, dtype=dtype))


def on_grid(values: Tensor) -> Tensor:
    """Round to multiples of 1/64, whose float32 sums are exact."""
    return (values * 64).round() / 64


def logits_and_shift(dense: Dense, shift: Shift, rows: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, size, generator=generator)
    other = torch.randn(rows, size, generator=generator)
    z = {
        "normal": 3 * noise,
        "ties": noise.round(),
        "one_hot": noise + 80 * torch.eye(size)[torch.arange(rows) % size],
        "uniform": torch.full((rows, size), 2.0),
        "huge": 300 * noise,
        "zeros": torch.zeros(rows, size),
        "enormous": 3000 * noise,  # up to 1e4
    }[dense]
    z = on_grid(z)
    z[:, 0] += 1 / 128  # half a step off the grid: neither z nor z + dz is a row of zeros, which has no direction
    dz = {
        "normal": on_grid(other),
        "tiny": 2e-4 * other,
        "parallel": z / 4,
        "opposite": -2 * z,
        "constant": torch.full((rows, size), 0.5),
        "zero": torch.zeros(rows, size),
        "huge": on_grid(200 * other),
        "one_token": 2.0 * torch.eye(size)[(torch.arange(rows) + 1) % size],
    }[shift]
    return z, dz


def assert_matches(
    measured: dict[str, np.ndarray], truth: dict[str, Tensor], temperature: float, *, skip: frozenset[str] = frozenset()
) -> None:
    for name in COLUMN_NAMES:
        if name in skip:
            continue
        ours, theirs = measured[name][0].astype(np.float64), truth[name].double().numpy()
        assert np.isfinite(ours).all(), name
        if name.startswith("entropy"):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-5 / temperature, err_msg=name)
            continue
        if name.startswith("par_"):
            # Signed, so it may cancel; rounding is measured by the whole shift in units of the dense vector.
            across = truth[name.replace("par", "orth")].numpy()
            assert (np.abs(ours - theirs) <= 1e-3 * np.abs(theirs) + 1e-6 * (1 + across)).all(), name
            continue
        if name == "identity_residual_nats":
            scale = truth["norm_z"].numpy() + truth["norm_dz"].numpy()
            assert (np.abs(ours) <= 2e-6 * (1 + scale) / temperature).all(), name
            continue
        if name.startswith("kappa"):
            # Signed: measured by the moments that it is made of.
            size = truth["t3_kl_nats"].numpy() ** (1.5 if name.startswith("kappa3") else 2)
            np.testing.assert_array_less(np.abs(ours - theirs), 1e-3 * np.abs(theirs) + 2e-3 * size + 1e-11, name)
            continue
        if name.startswith(("p_dense", "p_pruned")):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6, err_msg=name)
            continue
        assert (ours >= 0).all(), name
        # The contract: relative error 1e-3 down to 1e-8. Below it the reference itself is only good to 1e-15.
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-11, err_msg=name)


def sum_columns(dense: DenseSums, shift: ShiftSums) -> dict[str, Numbers]:
    """Return the columns of z and p from a kernel's sums, (temperatures, rows)."""
    columns = dense_columns(dense) | shift_columns(dense, shift)
    return {name: np.broadcast_to(values, dense.softmaxes["tail"].shape) for name, values in columns.items()}


def assert_same_columns(columns: dict[str, Numbers], compiled: dict[str, np.ndarray]) -> None:
    """Hold the columns from another kernel's sums against those of the compiled ones."""
    for name, values in columns.items():
        # Entropies and signed parts are sums with cancellation, so their tolerance is wider.
        atol = 1e-4 if name.startswith(("entropy", "par_", "kappa")) else 1e-6
        atol = 1e-3 if name.startswith("identity") else atol  # itself a rounding error, of shifts in the hundreds
        np.testing.assert_allclose(values, compiled[name], rtol=1e-3, atol=atol, err_msg=name)
