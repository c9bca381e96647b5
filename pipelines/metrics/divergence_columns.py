"""Divergence columns of a block of rows from the kernels' sums over the vocabulary, in float64."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Ids = NDArray[np.int64]
Sums = Mapping[str, Numbers]


@dataclass(frozen=True)
class DenseSums:
    """The dense side of n rows.

    `inverse` is 1/T, (T, 1), and `size` is V. `rows` has the sums of `fused_kernels.DENSE`, (n,), and `softmaxes` those
    of SOFTMAX, (T, n). `ids` are the most likely tokens in order, (n, k). `gaps` are z − max z at the first two of them
    (one if V = 1) and at the target, if there is one.
    """

    inverse: Numbers
    size: int
    rows: Sums
    softmaxes: Sums
    ids: Ids
    gaps: Numbers


@dataclass(frozen=True)
class ShiftSums:
    """One shift of n rows.

    `rows` has the sums of `fused_kernels.SHIFT`, (n,), and `moves` those of P_SPACE_SUMS, (T, n). `ids` are the pruned
    side's most likely tokens, (n, k), and `after` is z + Δz − max z at the first two of them. `dz` is Δz at the tokens
    of the dense side's `gaps`.
    """

    rows: Sums
    moves: Sums
    ids: Ids
    after: Numbers
    dz: Numbers

    @classmethod
    def zero(cls, dense: DenseSums) -> "ShiftSums":
        """Return the sums of a zero shift, without a pass over the vocabulary."""
        from prunescope.pipelines.metrics.fused_kernels import P_SPACE_SUMS, SHIFT

        rows = dict.fromkeys(SHIFT.names or (), np.zeros(len(dense.ids)))
        one = np.ones(len(dense.ids))
        moves = dict.fromkeys(P_SPACE_SUMS.names or (), np.zeros_like(dense.softmaxes["tail"]))
        return cls(
            rows | {"rank_of_dense": one, "rank_of_pruned": one},
            moves | {name: dense.softmaxes[name] for name in ("tail", "gap")},
            dense.ids,
            dense.gaps[:, : min(2, dense.size)],
            np.zeros_like(dense.gaps),
        )


def one_minus_cos(along: Numbers, across: Numbers) -> Numbers:
    """Return 1 − cos between v and v + Δ, in [0, 2]; NaN if v + Δ is 0, which has no direction.

    `along` is ⟨Δ, v⟩/‖v‖², `across` is ‖Δ⊥‖/‖v‖. With A = 1 + along and r = hypot(A, across), the cosine is A/r. For A
    > 0 the defect is across²/(r (r + A)), a quotient of sums of positive terms. For A ≤ 0 nothing cancels in 1 − A/r.
    """
    ahead = 1 + along
    length = np.hypot(ahead, across)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(ahead > 0, across / length * (across / (length + np.abs(ahead))), 1 - ahead / length)


def space(name: str, length: Numbers, shift_length: Numbers, along: Numbers, across: Numbers) -> dict[str, Numbers]:
    """Return the columns of one space from ‖v‖, ‖Δ‖, ⟨Δ, v⟩/‖v‖² and ‖Δ⊥‖/‖v‖; t1 is Theorem 1 of 2603.24652."""
    return {
        f"norm_{name}": length,
        f"norm_d{name}": shift_length,
        f"one_minus_cos_{name}": one_minus_cos(along, across),
        f"par_rel_{name}": along,
        f"orth_rel_{name}": across,
        f"t1_{name}": np.square(across) / 2,
    }


def dense_columns(dense: DenseSums) -> dict[str, Numbers]:
    """Return the columns of the dense side alone."""
    return {
        "norm_z": np.sqrt(dense.rows["z_squares"]),
        "norm_p": np.sqrt(dense.softmaxes["p_squares"]),
        "p_dense_top1_dense": 1 / (1 + dense.softmaxes["tail"]),
        "entropy_dense_nats": _entropy(dense, dense.softmaxes),
        "margin_dense": dense.gaps[:, 0] - dense.gaps[:, :2][:, -1],
    }


def shift_columns(dense: DenseSums, shift: ShiftSums) -> dict[str, Numbers]:
    """Return the columns of one shift: (n,), or (T, n) if they depend on the temperature.

    Let c = (Δz − mean)/T for any constant `mean`, G = log E_p exp(c) and s = c − G = log q/p:

    - KL(p‖q) = E_p[exp(s) − 1 − s], KL(q‖p) = E_p[s exp(s) − exp(s) + 1], 2 JS = E_p[s exp(s) − (1 + exp(s)) ·
      log((1 + exp(s))/2)] and TV = ½ E_p|exp(s) − 1|. No term is negative, so each sum has the relative error of its
      terms. s carries the rounding of Δz and about 1e-7 |c|. An error ε common to all s changes the first three by ε²
      only, because Σp = Σq = 1.
    - The moments of c are taken about a rounded mean and corrected by the remaining E_p c, as in κ₂ = E c² − (E c)².
      So an error in the mean cancels. The other weights have their own means and moments.
    """
    moves, rows = shift.moves, shift.rows
    squared = np.square(dense.inverse)
    p_variance = np.maximum(moves["c2"] - moves["c"] ** 2, 0)
    r_variance, q_variance, rq_variance = (
        np.maximum(moves[f"{name}2"] - moves[name] ** 2, 0) for name in ("r", "q", "rq")
    )
    third = moves["c3"] - 3 * moves["c"] * moves["c2"] + 2 * moves["c"] ** 3
    fourth = moves["c4"] - 4 * moves["c"] * moves["c3"] + 6 * moves["c"] ** 2 * moves["c2"] - 3 * moves["c"] ** 4
    p_squares = dense.softmaxes["p_squares"]
    length = np.sqrt(p_squares)
    along, across = moves["p_dp"] / p_squares, np.sqrt(moves["dp_across"] / p_squares)
    in_p = space("p", length, length * np.hypot(along, across), along, across)
    del in_p["t1_p"]
    z_squares = dense.rows["z_squares"]
    with np.errstate(divide="ignore", invalid="ignore"):
        across_z = np.sqrt(rows["across"] / z_squares)
    return {
        **space("z", np.sqrt(z_squares), np.sqrt(rows["dz_squares"]), rows["along"], across_z),
        **in_p,
        "var_uniform_dz": rows["variance"],
        "var_r_dz": r_variance / squared,
        "t2_p": r_variance / 2,
        "var_p_dz": p_variance / squared,
        "t3_kl_nats": p_variance / 2,
        "var_rq_dz": rq_variance / squared,
        "var_q_dz": q_variance / squared,
        "kappa3_term_nats": third / 6,
        "kappa4_term_nats": (fourth - 3 * p_variance**2) / 24,
        "kl_dense_pruned_nats": moves["kl_dense_pruned"],
        "kl_pruned_dense_nats": moves["kl_pruned_dense"],
        "js_nats": np.minimum(moves["js"], math.log(2)),
        "total_variation": np.minimum(moves["variation"], 1),
        # KL summed over tokens, minus KL from the two normalizers.
        "identity_residual_nats": moves["kl_dense_pruned"] - (moves["log_growth_direct"] - moves["c"]),
        "is_top1_same": dense.ids[:, 0] == shift.ids[:, 0],
        "topk5_overlap": _overlap(dense.ids, shift.ids, 5),
        "topk10_overlap": _overlap(dense.ids, shift.ids, 10),
        "rank_of_dense_top1": rows["rank_of_dense"],
        "rank_of_pruned_top1": rows["rank_of_pruned"],
        "p_dense_top1_pruned": np.exp(np.minimum(_log_q(dense, shift, 0), 0)),
        "p_pruned_top1_dense": np.exp(rows["top_gap"] * dense.inverse - np.log1p(dense.softmaxes["tail"])),
        "p_pruned_top1_pruned": 1 / (1 + moves["tail"]),
        "entropy_pruned_nats": _entropy(dense, moves),
        "margin_pruned": shift.after[:, 0] - shift.after[:, -1],
    }


def target_columns(dense: DenseSums, shift: ShiftSums) -> dict[str, Numbers]:
    """Return the log-probability of the target of every row on both sides, (T, n)."""
    return {
        "log_p_target_dense": np.minimum(_log_p(dense, -1), 0),
        "log_p_target_pruned": np.minimum(_log_q(dense, shift, -1), 0),
    }


def needs_float64(dense: DenseSums, shift: ShiftSums, product_noise: float, reach: float) -> NDArray[np.bool_]:
    """Return which rows have a column that the rounding of a float32 head product could change by more than about 3e-4.

    An error ε of single logits changes Σ p c² by at most 2ε Σ p|c|, KL(p‖q) by 2ε TV, KL(q‖p) by ε Σ q|s|, and p by the
    error of z. The sums of most rows are far above that. Exceptions are shifts that are nearly equal for all likely
    tokens, or nearly parallel to z. Values below 1e-9 are ignored, because accuracy is promised from 1e-8 on.

    `product_noise` is the error of a logit relative to the root mean square of its row. `reach` is the distance from
    the largest logit beyond which all tokens together have no weight: a row whose tokens within it were recomputed is
    exact.
    """
    tolerance = 3e-4
    # Variances are stored in logits², so at a high temperature even a smaller variance of Δz/T matters.
    floor = 1e-9 * np.minimum(1, dense.inverse**2)
    moves, rows = shift.moves, shift.rows
    is_exact = dense.rows["reach"] >= reach
    error = product_noise * np.sqrt(rows["dz_squares"] / dense.size)
    # In an exact row, likely tokens have only float32 rounding.
    scaled = np.where(is_exact, 6e-8 * np.abs(moves["mean"]), error) * dense.inverse
    noise_and_value = [
        (2 * scaled * moves["c_size"], moves["c2"]),
        (2 * scaled * moves["r_size"], moves["r2"]),
        (2 * scaled * moves["q_size"], moves["q2"]),
        (2 * scaled * moves["rq_size"], moves["rq2"]),
        (2 * scaled * moves["variation"], moves["kl_dense_pruned"]),
        (scaled * moves["s_size"], moves["kl_pruned_dense"]),
    ]
    is_lost = product_noise * np.sqrt(dense.rows["z_squares"] / dense.size) * dense.inverse > tolerance / 10
    is_lost &= ~is_exact & (np.maximum(moves["c2"], moves["kl_pruned_dense"]) > floor)
    for noise, value in noise_and_value:
        is_lost |= (noise > tolerance * value) & (value > floor)
    with np.errstate(divide="ignore", invalid="ignore"):
        across = rows["across"] / dense.rows["z_squares"]
    noise = error * math.sqrt(dense.size)
    is_lost_in_z = (2 * noise > tolerance * np.sqrt(rows["across"])) & (across > 1e-9)
    is_lost_in_z |= (2 * error > tolerance * np.sqrt(rows["variance"])) & (rows["variance"] > 1e-9)
    return np.asarray(is_lost.any(0) | is_lost_in_z)


def _entropy(dense: DenseSums, side: Sums) -> Numbers:
    """Return log Σ exp(gap/T) − E[gap]/T."""
    return np.maximum(np.log1p(side["tail"]) - side["gap"] * dense.inverse, 0)


def _log_p(dense: DenseSums, place: int) -> Numbers:
    """Return log p of the token of one column of `gaps`, (T, n)."""
    return dense.gaps[:, place] * dense.inverse - np.log1p(dense.softmaxes["tail"])


def _log_q(dense: DenseSums, shift: ShiftSums, place: int) -> Numbers:
    move = (shift.dz[:, place] - shift.moves["mean"]) * dense.inverse - shift.moves["log_growth"]
    return _log_p(dense, place) + move


def _overlap(left: Ids, right: Ids, count: int) -> Numbers:
    left, right = left[:, :count], right[:, :count]
    return np.asarray((left[:, :, None] == right[:, None, :]).any(-1).mean(-1))
