"""The sums of `fused_kernels` in torch, for accelerators and for rows that need float64; tests compare the two."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prunescope.pipelines.metrics.fused_kernels import MAX_CENTRED, MAX_LOG_GROWTH
from prunescope.pipelines.metrics.ranking import ranks, top_ids

Sums = dict[str, Tensor]
_SMALL = 0.5


def total(values: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
    """Sum every row in float64."""
    return values.sum(-1, dtype=torch.float64)


@dataclass(frozen=True)
class DenseRows:
    """The dense side of a block of rows: logits z, gap = z − max z, and weights exp(gap/T) by temperature.

    `ids` are the most likely tokens, in order. `rows` and `softmaxes` are the sums of `fused_kernels`.
    """

    z: Float[Tensor, "n v"]
    gap: Float[Tensor, "n v"]
    weights: list[Float[Tensor, "n v"]]
    ids: Int[Tensor, "n k"]
    rows: Sums
    softmaxes: list[Sums]


def dense_rows(z: Float[Tensor, "n v"], temperatures: Sequence[float], top: int) -> DenseRows:
    """Compute the sums of the dense side and its `top` most likely tokens."""
    ids = top_ids(z, min(top, z.shape[1]))
    gap = z - z.gather(1, ids[:, :1])
    weights, softmaxes = [], []
    for temperature in temperatures:
        weight = (gap / temperature).exp()
        # Without the top token's 1, whose rounding would hide a small tail.
        tail = total(weight.scatter(1, ids[:, :1], 0))
        softmaxes.append(
            {
                "tail": tail,
                "p_squares": (1 + total(weight.square().scatter(1, ids[:, :1], 0))) / (1 + tail).square(),
                "gap": total(weight * gap) / (1 + tail),
            }
        )
        weights.append(weight)
    return DenseRows(
        z,
        gap,
        weights,
        ids,
        {"z_squares": total(z.double().square()), "reach": z.new_zeros(len(z), dtype=torch.float64)},
        softmaxes,
    )


def shift_rows(
    dense: DenseRows, dz: Float[Tensor, "n v"], temperatures: Sequence[float]
) -> tuple[Sums, list[Sums], Int[Tensor, "n k"]]:
    """Compute `fused_kernels.SHIFT`, `P_SPACE_SUMS` per temperature, and the pruned side's top tokens."""
    size = dz.shape[1]
    mean = total(dz) / size
    along = total(dense.z.double() * dz.double()) / dense.rows["z_squares"]
    after = dense.gap + dz
    ids = top_ids(after, dense.ids.shape[1])
    shift = {
        "dz_squares": total(dz.square()),
        "along": along,
        "across": total((dz - along.to(dz)[:, None] * dense.z).square()),
        "variance": total((dz - mean.to(dz)[:, None]).square()) / size,
        "top_gap": dense.gap.gather(1, ids[:, :1])[:, 0].double(),
        "rank_of_dense": ranks(after, dense.ids[:, 0]).double(),
        "rank_of_pruned": ranks(dense.z, ids[:, 0]).double(),
    }
    highest = after.gather(1, ids[:, :1])
    after = after - highest
    moves = [
        _move(weight, softmax, dz, temperature, highest[:, 0].double(), ids[:, :1], after)
        for weight, softmax, temperature in zip(dense.weights, dense.softmaxes, temperatures, strict=True)
    ]
    return shift, moves, ids


def _move(
    weight: Tensor, softmax: Sums, dz: Tensor, temperature: float, highest: Tensor, top: Tensor, after: Tensor
) -> Sums:
    normalizer = 1 + softmax["tail"]
    q = (after / temperature).exp()
    tail = total(q.scatter(1, top, 0))
    q_gap = total(q * after) / (1 + tail)
    mean, c, of_p = _moments(weight, normalizer, dz, temperature)
    of_r = _moments(weight.square(), normalizer.square() * softmax["p_squares"], dz, temperature)[2]
    of_q = _moments(q, 1 + tail, dz, temperature)[2]
    of_rq = _moments(q.square(), 1 + total(q.square().scatter(1, top, 0)), dz, temperature)[2]
    growth = total(weight * c.clamp(max=80).expm1()) / normalizer
    direct = tail.log1p() - softmax["tail"].log1p() + (highest - mean.double()) / temperature
    is_small = (direct < MAX_LOG_GROWTH) & ((dz.amax(-1) - mean) / temperature <= MAX_CENTRED)
    log_growth = torch.where(is_small, growth.log1p(), direct)
    p, q = weight / normalizer.to(dz)[:, None], q / (1 + tail).to(dz)[:, None]
    exact_centre = mean.double() + log_growth * temperature
    centre = exact_centre.to(dz)
    rounding = ((exact_centre - centre.double()) / temperature).to(dz)
    move = (dz - centre[:, None]) / temperature - rounding[:, None]
    t = move.abs()
    e = (-t).exp()
    a = torch.where(t < _SMALL, _phi(-t), t - 1 + e)
    step = torch.where(t < _SMALL, t - a, 1 - e)
    b = torch.where(t < 1, t * step - a, step - t * e)
    near = t * step / 2 - (1 + e) * torch.where(t < 1, step.square() / (4 * e), 0).log1p() / 2
    js = torch.where(t < 1, near, (1 + e) * (math.log(2) - e.log1p()) - t * e)
    grows = move > 0
    larger = torch.where(grows, q, p)
    dp = torch.where(grows, larger, -larger) * step
    p_dp = total(p * dp)
    dp_along = (p_dp / softmax["p_squares"]).to(dz)
    return {
        "mean": mean.double(),
        "log_growth": log_growth,
        "log_growth_direct": direct,
        "c3": total(weight * c * c.square()) / normalizer,
        "c4": total(weight * c * c.square() * c) / normalizer,
        **{
            f"{name}{kind}": value
            for name, moments in (("c", of_p), ("r", of_r), ("q", of_q), ("rq", of_rq))
            for kind, value in moments.items()
        },
        "kl_dense_pruned": total(larger * torch.where(grows, b, a)),
        "kl_pruned_dense": total(larger * torch.where(grows, a, b)),
        "js": total(larger * js) / 2,
        "variation": total(dp.abs()) / 2,
        "s_size": total(q * t),
        "p_dp": p_dp,
        "dp_across": total((dp - dp_along[:, None] * p).square()),
        "tail": tail,
        "gap": q_gap,
    }


def _moments(weight: Tensor, normalizer: Tensor, dz: Tensor, temperature: float) -> tuple[Tensor, Tensor, Sums]:
    """Return a weighted mean of Δz, c = (Δz − mean)/T, and the weighted means of c, c² and |c|."""
    mean = (total(weight * dz) / normalizer).to(dz)
    c = (dz - mean[:, None]) / temperature
    wc = weight * c
    return mean, c, {"": total(wc) / normalizer, "2": total(wc * c) / normalizer, "_size": total(wc.abs()) / normalizer}


def _phi(x: Tensor) -> Tensor:
    """Return exp(x) − 1 − x for |x| ≤ ½, by its series to x⁸; relative error below 4e-8."""
    f = x / 40320 + 1 / 5040
    for divisor in (720, 120, 24, 6, 2):
        f = f * x + 1 / divisor
    return f * x.square()
