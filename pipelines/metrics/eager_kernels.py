"""The sums of `fused_kernels` in torch, for accelerators and for rows that need float64; tests compare the two."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from prunescope.pipelines.metrics.divergence_columns import DenseSums, ShiftSums
from prunescope.pipelines.metrics.fused_kernels import MAX_CENTRED, MAX_LOG_GROWTH, TOP
from prunescope.pipelines.metrics.host_copies import by_name, to_host
from prunescope.pipelines.metrics.ranking import ranks, top_ids

Sums = dict[str, Tensor]
_SMALL = 0.5


def total(values: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
    """Sum every row in float64."""
    return values.sum(-1, dtype=torch.float64)


def dense_sums(
    z: Float[Tensor, "n v"],
    temperatures: Sequence[float],
    targets: Int[Tensor, " n"] | None = None,
    top: int = TOP,
) -> tuple[DenseSums, Callable[[Float[Tensor, "n v"]], ShiftSums]]:
    """Compute the dense side's sums in z's dtype; return them and a function for the sums of a shift Δz."""
    size = z.shape[1]
    ids = top_ids(z, min(top, size))
    read = ids[:, :2] if targets is None else torch.cat([ids[:, :2], targets[:, None]], 1)
    gap = z - z.gather(1, ids[:, :1])
    weights = [(gap / temperature).exp() for temperature in temperatures]
    softmaxes = [_softmax(weight, gap, ids[:, :1]) for weight in weights]
    z_squares = total(z.double().square())
    lengths, columns, dense_ids, gaps = to_host(z_squares[:, None], _columns_of(softmaxes), ids, gap.gather(1, read))
    dense = DenseSums(
        np.array([1 / t for t in temperatures])[:, None],
        size,
        {"z_squares": lengths[:, 0], "reach": np.zeros(len(z))},
        by_name(softmaxes[0], columns),
        dense_ids.astype(np.int64),
        gaps,
    )

    def shift_sums(dz: Float[Tensor, "n v"]) -> ShiftSums:
        mean = total(dz) / size
        along = total(z.double() * dz.double()) / z_squares
        after = gap + dz
        pruned_ids = top_ids(after, ids.shape[1])
        pair = pruned_ids[:, :2]
        shift = {
            "dz_squares": total(dz.square()),
            "along": along,
            "across": total((dz - along.to(dz)[:, None] * z).square()),
            "variance": total((dz - mean.to(dz)[:, None]).square()) / size,
            "top_gap": gap.gather(1, pair[:, :1])[:, 0].double(),
            "rank_of_dense": ranks(after, ids[:, 0]).double(),
            "rank_of_pruned": ranks(z, pair[:, 0]).double(),
        }
        highest = after.gather(1, pair[:, :1])
        after = after - highest
        moves = [
            _move(weight, softmax, dz, temperature, highest[:, 0].double(), pair[:, :1], after)
            for weight, softmax, temperature in zip(weights, softmaxes, temperatures, strict=True)
        ]
        by_row, by_temperature, host_ids, of_pair, moved, of_read = to_host(
            *(_columns_of([shift]), _columns_of(moves), pruned_ids),
            *(gap.gather(1, pair), dz.gather(1, pair), dz.gather(1, read)),
        )
        return ShiftSums(
            {name: values[0] for name, values in by_name(shift, by_row).items()},
            by_name(moves[0], by_temperature),
            host_ids.astype(np.int64),
            of_pair + moved,
            of_read,
        )

    return dense, shift_sums


def _softmax(weight: Tensor, gap: Tensor, top: Tensor) -> Sums:
    """Compute `fused_kernels.SOFTMAX`."""
    # Without the top token's 1, whose rounding would hide a small tail.
    tail = total(weight.scatter(1, top, 0))
    return {
        "tail": tail,
        "p_squares": (1 + total(weight.square().scatter(1, top, 0))) / (1 + tail).square(),
        "gap": total(weight * gap) / (1 + tail),
    }


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


def _columns_of(sums: Sequence[Sums]) -> Tensor:
    """Return sums by temperature as (n, T · names)."""
    return torch.stack([values for at_one in sums for values in at_one.values()], 1)
