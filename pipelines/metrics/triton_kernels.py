"""The sums of `fused_kernels` in Triton, for GPUs: one program per row and temperature.

`kernels_for` in `logit_blocks` chooses it. No token is omitted, no logit recomputed, and no column formed here.
Numbers are float32. Each lane sums every _STEP-th token; the lanes are joined to 32 parts, which are added in float64.
Loops use no float64, because consumer GPUs are 64 times slower in it, and no sums across threads, because those take
more instructions than the terms.

Float32 arrays of length V read + written per row and temperature, counted in the code:
- numba, in cache, if no token is omitted: dense side 6 + 4, shift 23 + 7;
- torch, by a dispatch mode: 18 + 11 in 34 launches, 231 + 128 in 264;
- Triton: 2 + 0 and 6 + 0, in one launch each.

Estimated, not measured: at an H100's 3.35 TB/s and V = 49,152, 32,000 and 128,256, both sides take 23, 15 and 60 µs in
torch, and 0.47, 0.31 and 1.2 µs here. The instructions, about 340 per token, take about as long, at one per clock and
scheduler: 0.56, 0.36 and 1.5 µs. Further temperatures read the same logits again, partly from the L2 cache.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from prunescope.pipelines.metrics.divergence_columns import DenseSums, Numbers, ShiftSums
from prunescope.pipelines.metrics.fused_kernels import MAX_CENTRED, MAX_LOG_GROWTH, P_SPACE_SUMS, TOP
from prunescope.pipelines.metrics.host_copies import by_name, to_host
from prunescope.pipelines.metrics.ranking import CHUNK, top_of_chunks

_STEP = 1024  # tokens of one step of a loop, and lanes of a sum
# Without fusion, products are rounded as in the interpreter that runs the tests.
OPTIONS = {"num_warps": 16, "enable_fp_fusion": False}
# The sums of each kernel in writing order, and the scalars that `_shift` computes between its passes.
_DENSE_SUMS = ("z_squares", "tail", "squares", "gap")
_SHIFT_SUMS = (
    *("dz", "dz_squares", "product", "kept", "p_dz", "r_dz"),
    *("uniform", "uniform_squares", "along_rest"),
    *("c", "c2", "c3", "c4", "c_size", "r", "r2", "r_size", "growth"),
    *("tail", "q_squares", "gap", "q_dz", "rq_dz", "pq"),
    *("q", "q2", "q_size", "rq", "rq2", "rq_size"),
    *("kl_dense_pruned", "kl_pruned_dense", "js", "variation", "s_size", "p_residual", "residual", "across", "along"),
)
_SHIFT_SCALARS = ("top_gap", "rank_of_dense", "rank_of_pruned", "mean", "log_growth_direct", "log_growth", "near")
_CHUNK, _PARTS = tl.constexpr(CHUNK), tl.constexpr(32)
_MAX_CENTRED, _MAX_LOG_GROWTH = tl.constexpr(MAX_CENTRED), tl.constexpr(MAX_LOG_GROWTH)
_SMALL = tl.constexpr(0.5)  # below it, power series replace differences
_LN2 = tl.constexpr(0.6931471805599453)
Named = dict[str, Numbers]


def dense_sums(
    z: Float[Tensor, "n v"], temperatures: Sequence[float], targets: Int[Tensor, " n"] | None = None
) -> tuple[DenseSums, Callable[[Float[Tensor, "n v"]], ShiftSums]]:
    """Compute the dense side's sums from float32 logits; return them and a function for the sums of a shift Δz."""
    (rows, size), count, device = z.shape, len(temperatures), z.device
    inverse = torch.tensor([1 / t for t in temperatures], dtype=torch.float32)
    scale, inverse = inverse[:, None].double().numpy(), inverse.to(device)
    step = min(_STEP, max(CHUNK, triton.next_power_of_2(size)))
    shape = {"size": size, "temperatures": count, "STEP": step} | OPTIONS

    def outputs(sums: int) -> tuple[Tensor, Tensor]:
        maxima = torch.empty(rows, -(-size // CHUNK), device=device)
        return maxima, torch.empty(rows, count, sums, _PARTS.value, device=device)

    maxima, parts = outputs(len(_DENSE_SUMS))
    with torch.cuda.device_of(z):  # Triton launches on the current device
        _dense[(rows * count,)](z, inverse, maxima, parts, **shape)
    totals = parts.sum(-1, dtype=torch.float64)
    ids = top_of_chunks(maxima, lambda tokens: z.gather(1, tokens), size, min(TOP, size))
    tops = ids[:, 0].contiguous()
    highest = z.gather(1, tops[:, None])
    read = ids[:, :2] if targets is None else torch.cat([ids[:, :2], targets[:, None]], 1)

    def gap(tokens: Tensor) -> Tensor:
        return z.gather(1, tokens) - highest

    columns, dense_ids, gaps = to_host(totals.flatten(1), ids, gap(read))
    dense = by_name(_DENSE_SUMS, columns)

    def shift_sums(dz: Float[Tensor, "n v"]) -> ShiftSums:
        maxima, parts = outputs(len(_SHIFT_SUMS))
        scalars = torch.empty(rows, count, len(_SHIFT_SCALARS), dtype=torch.float64, device=device)
        with torch.cuda.device_of(z):
            _shift[(rows * count,)](z, inverse, dz, tops, totals, maxima, parts, scalars, **shape)
        top = top_of_chunks(maxima, lambda tokens: gap(tokens) + dz.gather(1, tokens), size, ids.shape[1])
        numbers = torch.cat([parts.sum(-1, dtype=torch.float64), scalars], -1).flatten(1)
        pair = top[:, :2]
        columns, top_ids, gaps, moved, of_read = to_host(
            numbers, top, gap(pair), dz.gather(1, pair), dz.gather(1, read)
        )
        sums = by_name(_SHIFT_SUMS + _SHIFT_SCALARS, columns)
        return ShiftSums(
            _shift_rows(sums, dense, size),
            _moves(sums, dense, scale),
            top_ids.astype(np.int64),
            gaps + moved,
            of_read,
        )

    whole = 1 + dense["tail"]
    softmaxes = {"tail": dense["tail"], "p_squares": (1 + dense["squares"]) / whole**2, "gap": dense["gap"] / whole}
    by_row = {"z_squares": dense["z_squares"][0], "reach": np.zeros(rows)}
    return DenseSums(scale, size, by_row, softmaxes, dense_ids.astype(np.int64), gaps), shift_sums


def _shift_rows(sums: Named, dense: Named, size: int) -> Named:
    """Return SHIFT, corrected for the error of the inexact centres."""
    first = {name: values[0] for name, values in (dense | sums).items()}
    squares = first["z_squares"]
    with np.errstate(divide="ignore", invalid="ignore"):
        along, ahead = first["product"] / squares, first["kept"] / squares
        across = first["across"] - first["along"] ** 2 / squares
    return {
        "dz_squares": first["dz_squares"],
        # If the pruned z is far shorter than the dense one, its length is about 1 + along and needs a sum of its own.
        "along": np.where(np.abs(ahead) < 0.5, ahead - 1, along),
        "across": np.maximum(across, 0),
        "variance": np.maximum(first["uniform_squares"] - first["uniform"] ** 2 / size, 0) / size,
        **{name: first[name] for name in ("top_gap", "rank_of_dense", "rank_of_pruned")},
    }


def _moves(sums: Named, dense: Named, scale: Numbers) -> Named:
    """Return P_SPACE_SUMS; without a shift the two sides are equal bit for bit."""
    whole, r_whole = 1 + dense["tail"], 1 + dense["squares"]
    p_squares = r_whole / whole**2
    moves = sums | {name: sums[name] / whole for name in ("c", "c2", "c3", "c4", "c_size")}
    for name, total in (("r", r_whole), ("q", 1 + sums["tail"]), ("rq", 1 + sums["q_squares"])):
        moves |= {f"{name}{kind}": sums[f"{name}{kind}"] * scale / total for kind in ("", "_size")}
        moves[f"{name}2"] = sums[f"{name}2"] * scale**2 / total
    moves |= {name: sums[name] / 2 for name in ("js", "variation")}
    moves["gap"] = sums["gap"] / (1 + sums["tail"])
    moves["p_dp"] = sums["near"] * p_squares + sums["p_residual"]
    moves["dp_across"] = np.maximum(sums["residual"] - sums["p_residual"] ** 2 / p_squares, 0)
    unmoved = {"tail": dense["tail"], "gap": dense["gap"] / whole, "log_growth_direct": 0}
    moves |= {name: np.where(sums["dz_squares"] == 0, value, moves[name]) for name, value in unmoved.items()}
    return {name: moves[name] for name in P_SPACE_SUMS.names or ()}


@triton.jit
def _none(count: tl.constexpr, lanes: tl.constexpr):
    """Return sums of 0 in every lane."""
    return (tl.zeros([lanes], tl.float32),) * count


@triton.jit
def _add(sums, values):
    added = ()
    for k in tl.static_range(len(values)):
        added += (sums[k] + values[k],)
    return added


@triton.jit
def _totals(sums):
    """Return the sums over all lanes in float32, precise enough for centres and normalizers."""
    totals = ()
    for k in tl.static_range(len(sums)):
        totals += (tl.sum(sums[k], 0),)
    return totals


@triton.jit
def _write(at, program, sums):
    """Write _PARTS parts of each sum; the caller adds them in float64."""
    at += program * len(sums) * _PARTS
    for k in tl.static_range(len(sums)):
        parts = tl.sum(tl.reshape(sums[k], [_PARTS, sums[k].shape[0] // _PARTS]), 1)
        tl.store(at + k * _PARTS + tl.arange(0, _PARTS), parts)


@triton.jit
def _exact_log1p(x):
    """Return log(1 + x) in float64; dividing by the increment of the rounded 1 + x keeps the digits of a small x."""
    y = 1 + x
    return tl.where(y == 1, x, tl.log(y) * (x / tl.where(y == 1, 1.0, y - 1)))


@triton.jit
def _small_log1p(x):
    """Return log(1 + x) for |x| < 0.011, by its series to x⁶; relative error below 1e-12."""
    f = x * (-1 / 6) + 1 / 5
    f = f * x - 1 / 4
    f = f * x + 1 / 3
    f = f * x - 1 / 2
    return f * x * x + x


@triton.jit
def _phi(x):
    """Return exp(x) − 1 − x for |x| ≤ ½, by the series of `fused_kernels._phi`."""
    f = x * 1.99621861e-4 + 1.39821969e-3
    f = f * x + 8.33318204e-3
    f = f * x + 4.16657910e-2
    f = f * x + 1.66666671e-1
    return (f * x + 0.5) * x * x


@triton.jit
def _expm1(x):
    return tl.where(tl.abs(x) < _SMALL, x + _phi(x), tl.exp(x) - 1)


@triton.jit
def _log_cosh(w):
    """Return log cosh(t/2) from w = t² ≤ 1, by the series of `fused_kernels._log_cosh`."""
    f = w * 1.74239573e-6 - 2.60233631e-5
    f = f * w + 3.47107691e-4
    f = f * w - 5.20831922e-3
    return (f * w + 0.125) * w


@triton.jit
def _divergence_terms(move, p, q):
    """Return q − p and the terms of KL(p‖q), KL(q‖p), 2 JS and Σ q|s|, derived in `fused_kernels._divergence_terms`."""
    t = tl.abs(move)
    e = tl.exp(-t)
    a = tl.where(t < _SMALL, _phi(-t), t - (1 - e))
    d = tl.where(t < _SMALL, t - a, 1 - e)
    b = tl.where(t < 1, t * d - a, d - t * e)
    near = 0.5 * d * t - (1 + e) * _log_cosh(t * t)
    js = tl.where(t < 1, near, (1 + e) * (_LN2 - tl.log(1 + e)) - t * e)
    is_more = move > 0
    larger = tl.where(is_more, q, p)
    dp = tl.where(is_more, larger, -larger) * d
    return dp, larger * tl.where(is_more, b, a), larger * tl.where(is_more, a, b), larger * js, q * t


@triton.jit
def _first_largest(values, tokens, size):
    """Return the largest value of all lanes and its lowest token."""
    largest = tl.max(values, 0)
    return largest, tl.min(tl.where(values == largest, tokens, size), 0)


@triton.jit
def _write_maxima(at, row, values, start, size, STEP: tl.constexpr):
    at += row * tl.cdiv(size, _CHUNK)
    chunk = start // _CHUNK + tl.arange(0, STEP // _CHUNK)
    tl.store(at + chunk, tl.max(tl.reshape(values, [STEP // _CHUNK, _CHUNK]), 1), mask=chunk * _CHUNK < size)


@triton.jit
def _dense(z_at, inverse_at, maxima_at, sums_at, size, temperatures, STEP: tl.constexpr):
    """Compute one row's _DENSE_SUMS at one temperature, and the maxima of its chunks.

    Args:
        z_at: logits (n, V), float32.
        inverse_at: 1/T (T,), float32.
        maxima_at: out, the largest logit of every chunk (n, ⌈V/CHUNK⌉), float32.
        sums_at: out, (n, T, 4, _PARTS), float32.
        size: V.
        temperatures: T.
        STEP: tokens per iteration.
    """
    program = tl.program_id(0).to(tl.int64)
    row, temperature = program // temperatures, program % temperatures
    z_at += row * size
    inverse = tl.load(inverse_at + temperature)
    steps = tl.arange(0, STEP)
    best, first = tl.full([STEP], float("-inf"), tl.float32), tl.zeros([STEP], tl.int32)
    lengths, sums = _none(1, STEP), _none(3, STEP)
    for start in range(0, size, STEP):
        z = tl.load(z_at + start + steps, mask=start + steps < size, other=float("-inf"))
        if temperature == 0:
            _write_maxima(maxima_at, row, z, start, size, STEP)
        first = tl.where(z > best, start + steps, first)
        best = tl.maximum(best, z)
        lengths = _add(lengths, (tl.where(start + steps < size, z * z, 0),))
    highest, top = _first_largest(best, first, size)
    for start in range(0, size, STEP):
        tokens = start + steps
        gap = tl.load(z_at + tokens, mask=tokens < size, other=0) - highest
        # Without the top token's 1, whose rounding would hide a small tail.
        weight = tl.where((tokens < size) & (tokens != top), tl.exp(gap * inverse), 0)
        sums = _add(sums, (weight, weight * weight, weight * gap))
    _write(sums_at, program, lengths + sums)


@triton.jit
def _shift(
    z_at, inverse_at, dz_at, tops_at, dense_at, maxima_at, sums_at, scalars_at, size, temperatures, STEP: tl.constexpr
):
    """Compute _SHIFT_SUMS and _SHIFT_SCALARS at one temperature, and the maxima of chunks of z + Δz − max z.

    Args that `_dense` does not have:
        dz_at: Δz (n, V), float32.
        tops_at: the dense side's most likely tokens (n,), int64.
        dense_at: totals of _DENSE_SUMS (n, T, 4), float64.
        sums_at: out, (n, T, 39, _PARTS), float32.
        scalars_at: out, (n, T, 7), float64.
    """
    program = tl.program_id(0).to(tl.int64)
    row, temperature = program // temperatures, program % temperatures
    z_at += row * size
    dz_at += row * size
    dense_at += program * 4
    inverse = tl.load(inverse_at + temperature)
    steps = tl.arange(0, STEP)
    dense_top, dense_tail = tl.load(tops_at + row), tl.load(dense_at + 1)
    highest = tl.load(z_at + dense_top)
    whole, r_whole = (1 + dense_tail).to(tl.float32), (1 + tl.load(dense_at + 2)).to(tl.float32)

    # First pass: the means of Δz, and the pruned side's top token.
    best, first = tl.full([STEP], float("-inf"), tl.float32), tl.zeros([STEP], tl.int32)
    farthest = tl.full([STEP], float("-inf"), tl.float32)
    means = _none(6, STEP)
    for start in range(0, size, STEP):
        is_token = start + steps < size
        z = tl.load(z_at + start + steps, mask=is_token, other=0)
        dz = tl.load(dz_at + start + steps, mask=is_token, other=0)
        gap = z - highest
        after = tl.where(is_token, gap + dz, float("-inf"))
        if temperature == 0:
            _write_maxima(maxima_at, row, after, start, size, STEP)
        first = tl.where(after > best, start + steps, first)
        best = tl.maximum(best, after)
        farthest = tl.maximum(farthest, tl.where(is_token, dz, float("-inf")))
        p = tl.where(is_token, tl.exp(gap * inverse), 0)
        means = _add(means, (dz, dz * dz, z * dz, z * (z + dz), p * dz, p * p * dz))
    peak, top = _first_largest(best, first, size)
    dz_sum, _, product, _, p_dz, r_dz = _totals(means)
    # Any centre near the mean will do, because its error is subtracted at the end.
    z_squares = tl.load(dense_at).to(tl.float32)
    uniform, along = dz_sum / size, tl.where(z_squares > 0, product / z_squares, 0)
    mean, r_mean = p_dz / whole, r_dz / r_whole

    # Second pass: moments under p and r about these means, the pruned side's normalizers and means, and both ranks.
    own_dense, own_pruned = tl.load(dz_at + dense_top), tl.load(z_at + top)
    above_dense, above_pruned = tl.zeros([STEP], tl.int32), tl.zeros([STEP], tl.int32)
    sums, moments, pruned = _none(3, STEP), _none(9, STEP), _none(6, STEP)
    for start in range(0, size, STEP):
        tokens = start + steps
        is_token = tokens < size
        z = tl.load(z_at + tokens, mask=is_token, other=0)
        dz = tl.load(dz_at + tokens, mask=is_token, other=0)
        gap = z - highest
        after = gap + dz
        is_before = (after > own_dense) | ((after == own_dense) & (tokens < dense_top))
        above_dense += (is_token & is_before).to(tl.int32)
        is_before = (z > own_pruned) | ((z == own_pruned) & (tokens < top))
        above_pruned += (is_token & is_before).to(tl.int32)
        centred = tl.where(is_token, dz - uniform, 0)
        sums = _add(sums, (centred, centred * centred, z * tl.fma(z, -along, dz)))
        p = tl.where(is_token, tl.exp(gap * inverse), 0)
        c = (dz - mean) * inverse
        pc, cc = p * c, c * c
        d = dz - r_mean
        rd = p * p * d
        growth = p * _expm1(tl.minimum(c, _MAX_CENTRED))
        moments = _add(moments, (pc, pc * c, pc * cc, pc * c * cc, tl.abs(pc), rd, rd * d, tl.abs(rd), growth))
        own = tl.where(is_token, after - peak, 0)
        q = tl.where(is_token, tl.exp(own * inverse), 0)
        other = tl.where(tokens == top, 0, q)
        pruned = _add(pruned, (other, other * other, q * own, q * dz, q * q * dz, p * q))
    # Refine `along` to float32 accuracy: a Δz parallel to z must have no orthogonal part.
    along += tl.where(z_squares > 0, _totals(sums)[2] / z_squares, 0)
    _, _, _, _, _, r_rest, _, _, growth = _totals(moments)
    tail, q_squares, _, q_dz, rq_dz, pq = _totals(pruned)
    q_whole = 1 + tail
    q_mean, rq_mean = q_dz / q_whole, rq_dz / (1 + q_squares)
    # In float64, because in float32 a common shift of hundreds would leave an error in log q/p.
    scale, exact_mean = inverse.to(tl.float64), mean.to(tl.float64)
    grown = (tail - dense_tail) / (1 + dense_tail)
    direct = _exact_log1p(grown) + (peak - exact_mean) * scale
    is_small = (direct < _MAX_LOG_GROWTH) & ((tl.max(farthest, 0) - exact_mean) * scale <= _MAX_CENTRED)
    log_growth = tl.where(is_small, _small_log1p((growth / whole).to(tl.float64)), direct)
    # s = (Δz − centre)/T − rest is exact for tokens whose Δz is near the centre.
    exact_centre = exact_mean + log_growth / scale
    centre = exact_centre.to(tl.float32)
    rest = ((exact_centre - centre) * scale).to(tl.float32)
    # `near` is about the part of q − p along p, in units of p. For small shifts it is q/p − 1 at the mean of s under
    # p²/Σp².
    s_mean = ((r_mean - exact_centre + r_rest / r_whole) * scale).to(tl.float32)
    near = tl.where(is_small, _expm1(s_mean), pq * whole / (q_whole * r_whole) - 1)
    p_one, q_one = 1 / whole, 1 / q_whole

    # Third pass: divergences, q − p, and moments under q and its square.
    pruned_moments, terms = _none(6, STEP), _none(9, STEP)
    for start in range(0, size, STEP):
        tokens = start + steps
        is_token = tokens < size
        z = tl.load(z_at + tokens, mask=is_token, other=0)
        dz = tl.load(dz_at + tokens, mask=is_token, other=0)
        gap = z - highest
        own = tl.where(is_token, gap + dz - peak, 0)
        p = tl.where(is_token, tl.exp(gap * inverse), 0) * p_one
        q = tl.where(is_token, tl.exp(own * inverse), 0)
        c, d = dz - q_mean, dz - rq_mean
        qc, rd = q * c, q * q * d
        pruned_moments = _add(pruned_moments, (qc, qc * c, tl.abs(qc), rd, rd * d, tl.abs(rd)))
        s = (dz - centre) * inverse - rest
        dp, pq_term, qp_term, js_term, size_term = _divergence_terms(s, p, q * q_one)
        residual, across = dp - near * p, tl.fma(z, -along, dz)
        lengths = (p * residual, residual * residual, across * across, across * z)
        terms = _add(terms, (pq_term, qp_term, js_term, tl.abs(dp), size_term) + lengths)
    _write(sums_at, program, means + sums + moments + pruned + pruned_moments + terms)
    ranks = (1 + tl.sum(above_dense, 0), 1 + tl.sum(above_pruned, 0))
    scalars = (own_pruned - highest,) + ranks + (mean, direct, log_growth, near)
    for k in tl.static_range(len(scalars)):
        tl.store(scalars_at + program * len(scalars) + k, scalars[k].to(tl.float64))
