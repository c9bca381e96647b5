"""The sums over the vocabulary that every divergence column follows from, one row at a time, compiled by numba.

What the sums mean and which columns they make belongs in `divergence`; the same sums in torch are in `eager`.

A row stays in the core's own cache while a few loops pass over it. Element-wise arithmetic is float32, totals are
float64 over chunks of 512. All kernels stand in one file because numba's cache does not see changes elsewhere.
"""

import math

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

# T-independent sums of a dense row and of its shift, and sums at one temperature; all float64.
DENSE = np.dtype([(name, np.float64) for name in ("z_squares", "highest", "is_exact")])
SOFTMAX = np.dtype([(name, np.float64) for name in ("tail", "p_squares", "gap")])
SHIFT = np.dtype(
    [
        (name, np.float64)
        for name in ("dz_squares", "along", "across", "variance", "top_gap", "rank_of_dense", "rank_of_pruned")
    ]
)
MOVE = np.dtype(
    [
        (name, np.float64)
        for name in (
            *("mean", "log_growth", "log_growth_direct"),
            *("c", "c2", "c3", "c4", "c_size", "r", "r2", "r_size"),
            *("kl_dense_pruned", "kl_pruned_dense", "js", "variation", "q_size", "p_dp", "dp_across", "tail", "gap"),
        )
    ]
)
TOP = 10
# exp(c) of a row's largest centred shift must leave room for products in float32.
LARGEST_CENTRED = 60.0
# log E_p exp(c) comes from E_p[exp(c) − 1] below it, which keeps a small one's digits; above it from the two
# normalisers, each good to 1e-7, because there the rounding of a large c would enter.
LARGEST_GROWTH = 0.1
MOST_EXACT = 4096

_CHUNK = 512
_SCAN = 64
_F = np.float32
_LOG2E = _F(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = _F(0.693359375), _F(-2.12194440e-4)  # ln 2 in two parts: k · high is exact
_LN2 = _F(math.log(2))
_SMALL = _F(0.5)  # below it, power series take the place of differences

# Element-wise formulas keep their order of operations; only sums may be split over vector lanes.
_element = njit(fastmath={"contract"}, error_model="numpy", forceinline=True)
_REGROUPED = {"contract", "reassoc", "nsz", "nnan"}
_sums = njit(fastmath=_REGROUPED, error_model="numpy", nogil=True, cache=True)
# What they call is inlined: a function of its own is compiled alone and again inside its caller, sums in another order
# there, and which of the two runs depends on whether the caller was compiled in this process or read from the cache.
_part = njit(fastmath=_REGROUPED, error_model="numpy", nogil=True, forceinline=True)


@intrinsic
def _as_float(typing_context, bits):  # noqa: ARG001 (numba's form)
    """The float32 that has these bits."""

    def generate(context, builder, signature, arguments):  # noqa: ARG001
        from llvmlite import ir

        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@_element
def _phi(x: _F) -> _F:
    """exp(x) − 1 − x for |x| ≤ ½, to float32 rounding: the next term of the series is below 4e-8 of the sum."""
    f = x * _F(1 / 40320) + _F(1 / 5040)
    f = f * x + _F(1 / 720)
    f = f * x + _F(1 / 120)
    f = f * x + _F(1 / 24)
    f = f * x + _F(1 / 6)
    return (f * x + _F(1 / 2)) * x * x


@_element
def _split(x: _F) -> tuple[_F, _F, _F]:
    """exp(x) = 2^k (1 + r + φ(r)): returns 2^k, r and φ(r), for |x| < 87; |r| ≤ ½ ln 2."""
    k = np.floor(x * _LOG2E + _F(0.5))
    r = x - k * _LN2_HIGH
    r = r - k * _LN2_LOW
    return _as_float((np.int32(k) + np.int32(127)) << np.int32(23)), r, _phi(r)


@_element
def _exp(x: _F) -> _F:
    """exp(x) for x < 87; 0 below −87."""
    scale, r, f = _split(x if x > _F(-87) else _F(-87))
    return _F(0) if x < _F(-87) else scale * (_F(1) + (r + f))


@_element
def _expm1(x: _F) -> _F:
    """exp(x) − 1 for x < 87."""
    scale, r, f = _split(x if x > _F(-87) else _F(-87))
    return scale * (r + f) + (scale - _F(1))


@_element
def _log1p(part: _F, whole: _F) -> _F:
    """log(1 + part/whole) for part ≤ whole, as 2 atanh(part/(2 whole + part)), with one division."""
    u = part / (_F(2) * whole + part)
    w = u * u
    f = w * _F(1 / 15) + _F(1 / 13)
    f = f * w + _F(1 / 11)
    f = f * w + _F(1 / 9)
    f = f * w + _F(1 / 7)
    f = f * w + _F(1 / 5)
    f = f * w + _F(1 / 3)
    return _F(2) * (u + u * w * f)


@_element
def _apart(move: _F, p: _F, q: _F) -> tuple[_F, _F, _F, _F, _F]:
    """What one token adds, from s = log q/p = `move`: q − p, and its parts of KL(p‖q), KL(q‖p), JS and Σ q|s|.

    With t = |s|, D = 1 − exp(−t), a = t − D, b = D − t exp(−t) = t D − a and the larger of p and q in front, the
    parts are q − p = ±D, p log p/q + q − p = a or b, q log q/p + p − q = b or a, and that of JS is
    ½(D t/2 − (1 + exp(−t)) log cosh(t/2)) = ½((1 + exp(−t)) (log 2 − log(1 + exp(−t))) − t exp(−t)). All are sums of
    positive terms, or differences that lose a factor of three at most, for any t: nothing overflows, and each keeps
    float32's relative accuracy.
    """
    # Both sides of every choice are computed before it is made: a choice between numbers stays in vector lanes.
    t = abs(move)
    e = _exp(-t)
    a_small, a_large, d_large = _phi(-t), t - _F(1) + e, _F(1) - e
    a = a_small if t < _SMALL else a_large
    d_small = t - a
    d = d_small if t < _SMALL else d_large
    b_small, b_large = t * d - a, d - t * e
    b = b_small if t < _F(1) else b_large
    # log cosh(t/2) from sinh² where it is small; beyond, its t/2 is taken off by hand.
    log1p = _log1p(d * d if t < _F(1) else e, _F(4) * e if t < _F(1) else _F(1))
    js_small = _F(0.5) * d * t - (_F(1) + e) * (_F(0.5) * log1p)
    js_large = (_F(1) + e) * (_LN2 - log1p) - t * e
    js = _F(0.5) * (js_small if t < _F(1) else js_large)
    larger = q if move > _F(0) else p
    sign = _F(1) if move > _F(0) else _F(-1)
    pq, qp = (b if move > _F(0) else a), (a if move > _F(0) else b)
    return sign * larger * d, larger * pq, larger * qp, larger * js, q * t


@_element
def _times(x: _F, factor: _F) -> _F:
    return x * factor


@_element
def _centred(x: _F, mean: _F, factor: _F) -> _F:
    """(x − mean) · factor, in this order: the difference is exact where x is near the mean."""
    return (x - mean) * factor


@_element
def _without(x: _F, share: _F, other: _F) -> _F:
    return x - share * other


@_element
def _top(values: _F, ids: int, best: _F) -> None:
    """Fills `ids` with the largest values' places, in order, ties by the lowest place; `best` is scratch of that size.

    Blocks whose maximum is not above the last place so far are skipped, so nearly all are.
    """
    count = len(ids)
    best[:] = -np.inf
    for start in range(0, len(values), _SCAN):
        block = values[start : start + _SCAN]
        if _largest(block) > best[count - 1]:
            for i in range(len(block)):
                value = block[i]
                if value > best[count - 1]:
                    place = count - 1
                    while place > 0 and value > best[place - 1]:
                        best[place] = best[place - 1]
                        ids[place] = ids[place - 1]
                        place -= 1
                    best[place] = value
                    ids[place] = start + i


@_part
def _largest(values: _F) -> _F:
    largest = values[0]
    for i in range(len(values)):
        value = values[i]
        largest = value if value > largest else largest
    return largest


@_part
def _rank(values: _F, token: int) -> int:
    """Place of a token: 1 + those above it + those equal to it with a lower id."""
    own = values[token]
    rank = np.int32(1)
    before, after = values[:token], values[token + 1 :]
    for i in range(len(before)):
        rank += np.int32(before[i] >= own)
    for i in range(len(after)):
        rank += np.int32(after[i] > own)
    return rank


@_part
def _exact(weight: _F, state: _F) -> float:
    """Inner product in float64."""
    total = 0.0
    for i in range(len(weight)):
        total += np.float64(weight[i]) * np.float64(state[i])
    return total


@_sums
def gaps(z, x, weight, bias, noise, reach, gap, rows) -> None:
    """Z − max z of a block of rows, with the likely tokens' logits done again in float64 where they are long.

    A float32 product leaves an error of about `noise` times the root mean square of its row in every logit, and a
    softmax turns that into a relative error of p. Only tokens within `reach` of the largest have a weight that it
    could matter for; there are few of them where logits are long, and all z − max z among them come out to float32
    rounding. A row with more than MOST_EXACT of them stays as it is.

    Args:
        z: logits, float32 (n, V); the exact ones are put in their place.
        x: what the head reads, float32 (n, d).
        weight: W, float32 (V, d).
        bias: float32 (V,); of length 0 where there is none.
        noise: relative error of a product that is too much, over the product's own; infinite never refines.
        reach: how far below the largest logit a token may lie.
        gap: out, z − max z, float32 (n, V).
        rows: out, DENSE (n,).
    """
    size = z.shape[1]
    chosen = np.empty(MOST_EXACT, np.int64)
    exact = np.empty(MOST_EXACT)
    for row in range(len(z)):
        squares = 0.0
        for start in range(0, size, _CHUNK):
            values = z[row, start : start + _CHUNK]
            s0 = 0.0
            for i in range(len(values)):
                s0 += np.float64(values[i]) * np.float64(values[i])
            squares += s0
        highest = np.float64(_largest(z[row]))
        count = 0
        if math.sqrt(squares / size) > noise:
            count = _within(z[row], _F(highest - reach), chosen)
        if 0 < count <= MOST_EXACT:
            highest = -np.inf
            for k in range(count):
                token = chosen[k]
                exact[k] = _exact(weight[token], x[row]) + (bias[token] if len(bias) else _F(0))
                highest = max(highest, exact[k])
        highest32 = _F(highest)
        for i in range(size):
            gap[row, i] = z[row, i] - highest32
        is_exact = 0 < count <= MOST_EXACT
        if is_exact:
            for k in range(count):
                z[row, chosen[k]] = exact[k]
                gap[row, chosen[k]] = exact[k] - highest
        rows[row].z_squares = squares
        rows[row].highest = highest
        rows[row].is_exact = is_exact


@_element
def _within(values: _F, lowest: _F, chosen: int) -> int:
    """Puts the places of all values above `lowest` into `chosen`; their number, or more than fit."""
    count = 0
    for start in range(0, len(values), _SCAN):
        block = values[start : start + _SCAN]
        if _largest(block) > lowest:
            for i in range(len(block)):
                if block[i] > lowest:
                    if count == len(chosen):
                        return count + 1
                    chosen[count] = start + i
                    count += 1
    return count


@_sums
def dense_rows(gap, inverse, weights, softmaxes, ids) -> None:
    """The dense softmax of a block of rows.

    Args:
        gap: z − max z, float32 (n, V), from `gaps`.
        inverse: 1/T of every temperature, float32 (T,).
        weights: out, exp((z − max z)/T), float32 (T, n, V).
        softmaxes: out, SOFTMAX (T, n): Σ of the weights without the top token's 1, which would hide a small rest;
            Σ p², and Σ p (z − max z).
        ids: out, the most likely tokens in order, int64 (n, k).
    """
    size = gap.shape[1]
    best = np.empty(ids.shape[1], np.float32)
    for row in range(len(gap)):
        _top(gap[row], ids[row], best)
        top = ids[row, 0]
        gap[row, top] = -np.inf
        for t in range(len(inverse)):
            factor = inverse[t]
            w = weights[t, row]
            tail = tail_squares = tail_gap = 0.0
            for start in range(0, size, _CHUNK):
                values, ws = gap[row, start : start + _CHUNK], w[start : start + _CHUNK]
                s0 = s1 = s2 = _F(0)
                for i in range(len(values)):
                    weight = _exp(_times(values[i], factor))
                    ws[i] = weight
                    s0 += weight
                    s1 += weight * weight
                    s2 += weight * max(values[i], _F(-1e30))
                tail += s0
                tail_squares += s1
                tail_gap += s2
            w[top] = 1
            softmaxes[t, row].tail = tail
            softmaxes[t, row].p_squares = (1 + tail_squares) / (1 + tail) ** 2
            softmaxes[t, row].gap = tail_gap / (1 + tail)
        gap[row, top] = 0


@_sums
def shift_rows(
    z,
    gap,
    weights,
    rows,
    softmaxes,
    ids,
    dz,
    inverse,
    states,
    head,
    reach,
    scratch,
    shifts,
    moves,
    moved_ids,
):
    """One shift of a block of rows, whose dense side `gaps` and `dense_rows` have filled.

    Args:
        z: dense logits, float32 (n, V).
        gap: z − max z.
        weights: exp((z − max z)/T).
        rows: DENSE (n,).
        softmaxes: SOFTMAX (T, n).
        ids: the dense side's most likely tokens (n, k).
        dz: Δz, float32 (n, V); likely tokens of rows that `gaps` did again are done again too.
        inverse: 1/T, float32 (T,).
        states: x and dx, float32 (n, d) each.
        head: W and bias, as in `gaps`.
        reach: as in `gaps`.
        scratch: float32 (2, V).
        shifts: out, SHIFT (n,): ‖Δz‖², ⟨Δz, z⟩/‖z‖², ‖Δz⊥‖², the plain variance,
            z − max z of the pruned side's first token, two ranks.
        moves: out, MOVE (T, n).
        moved_ids: out, the pruned side's most likely tokens (n, k).
    """
    chosen = np.empty(MOST_EXACT, np.int64)
    best = np.empty(ids.shape[1], np.float32)
    after, q = scratch[0], scratch[1]
    is_empty = np.empty(-(-len(after) // _CHUNK), np.bool_)
    for row in range(len(z)):
        for i in range(len(after)):
            after[i] = gap[row, i] + dz[row, i]
        if rows[row].is_exact:
            _refine(gap[row], dz[row], rows[row], states[0][row], states[1][row], head, reach, chosen, after)
        _linear(z[row], dz[row], rows[row], shifts[row])
        _top(after, moved_ids[row], best)
        top = moved_ids[row, 0]
        shifts[row].top_gap = np.float64(after[top]) - np.float64(dz[row, top])
        shifts[row].rank_of_dense = _rank(after, ids[row, 0])
        shifts[row].rank_of_pruned = _rank(gap[row], top)
        highest = after[top]
        for i in range(len(after)):
            after[i] -= highest
        for t in range(len(inverse)):
            if shifts[row].dz_squares == 0:
                _stay(softmaxes[t, row], moves[t, row])
            else:
                _move(
                    weights[t, row],
                    softmaxes[t, row],
                    dz[row],
                    inverse[t],
                    highest,
                    top,
                    after,
                    q,
                    is_empty,
                    moves[t, row],
                )


@_element
def _refine(gap, dz, dense, x, dx, head, reach, chosen, after) -> None:
    """Exact Δz of the tokens that are likely on the dense side, and exact z + Δz of those likely on the pruned side."""
    weight, bias = head
    for k in range(min(_within(gap, _F(-reach), chosen), MOST_EXACT)):
        token = chosen[k]
        dz[token] = _exact(weight[token], dx)
        after[token] = gap[token] + dz[token]
    for k in range(min(_within(after, _largest(after) - _F(reach), chosen), MOST_EXACT)):
        token = chosen[k]
        moved = _exact(weight[token], dx)
        before = _exact(weight[token], x) + (bias[token] if len(bias) else _F(0))
        dz[token] = moved
        after[token] = before - dense.highest + moved


@_part
def _stay(dense, out) -> None:
    """A row that does not move: the pruned side is the dense one, bit for bit."""
    out.mean = out.log_growth = out.log_growth_direct = 0
    out.c = out.c2 = out.c3 = out.c4 = out.c_size = out.r = out.r2 = out.r_size = 0
    out.kl_dense_pruned = out.kl_pruned_dense = out.js = out.variation = out.q_size = out.p_dp = out.dp_across = 0
    out.tail, out.gap = dense.tail, dense.gap


@_part
def _linear(z, dz, dense, out) -> None:
    """Geometry of z and the plain variance of Δz; the orthogonal part and the variance element by element."""
    size = len(z)
    total = squares = product = 0.0
    for start in range(0, size, _CHUNK):
        zs, moves = z[start : start + _CHUNK], dz[start : start + _CHUNK]
        s0 = s1 = _F(0)
        # In float64: where the pruned side is far shorter than the dense one, 1 + along is all that is left of it.
        s2 = 0.0
        for i in range(len(zs)):
            s0 += moves[i]
            s1 += moves[i] * moves[i]
            s2 += np.float64(zs[i]) * np.float64(moves[i])
        total += s0
        squares += s1
        product += s2
    mean = total / size
    along = product / dense.z_squares if dense.z_squares > 0 else np.nan
    mean32, along32 = _F(mean), _F(along)
    variance = across = 0.0
    for start in range(0, size, _CHUNK):
        zs, moves = z[start : start + _CHUNK], dz[start : start + _CHUNK]
        s0 = s1 = _F(0)
        for i in range(len(zs)):
            c = _centred(moves[i], mean32, _F(1))
            rest = _without(moves[i], along32, zs[i])
            s0 += c * c
            s1 += rest * rest
        variance += s0
        across += s1
    out.dz_squares = squares
    out.along = along
    # What the rounding of the share itself leaves along z is taken off again.
    out.across = max(across - (along - np.float64(along32)) ** 2 * dense.z_squares, 0.0)
    out.variance = max(variance / size - (mean - np.float64(mean32)) ** 2, 0.0)


@_part
def _move(w, dense, dz, factor, highest, top, after, q, is_empty, out) -> None:
    """One row's shift in p-space at one temperature; `after` is z + Δz − max(z + Δz), `highest` the shift of that max.

    `q` leaves with q − p, `is_empty` with the chunks in which neither side has any weight.
    """
    size = len(dz)
    whole = 1 + dense.tail
    # The weighted means, and q with its own normaliser.
    after[top] = -np.inf
    p_dz = r_dz = tail = q_gap = 0.0
    for start in range(0, size, _CHUNK):
        ws, moves = w[start : start + _CHUNK], dz[start : start + _CHUNK]
        gaps, qs = after[start : start + _CHUNK], q[start : start + _CHUNK]
        s0 = s1 = s2 = s3 = s4 = _F(0)
        for i in range(len(ws)):
            weight = ws[i]
            s0 += weight * moves[i]
            s1 += weight * weight * moves[i]
            after_weight = _exp(_times(gaps[i], factor))
            qs[i] = after_weight
            s2 += after_weight
            s3 += after_weight * max(gaps[i], _F(-1e30))
            s4 += weight
        p_dz += s0
        r_dz += s1
        tail += s2
        q_gap += s3
        # Where neither side has any weight, all sums below are zero.
        is_empty[start // _CHUNK] = s2 == 0 and s4 == 0
    is_empty[top // _CHUNK] = False
    after[top] = 0
    q[top] = 1
    mean, r_mean = p_dz / whole, r_dz / (whole * whole * dense.p_squares)
    mean32, r_mean32 = _F(mean), _F(r_mean)
    is_near = (np.float64(_largest(dz)) - mean) * factor <= LARGEST_CENTRED
    # Moments of c = (Δz − mean)/T under p and under r, and E_p[exp(c) − 1].
    c1 = c2 = c3 = c4 = size_c = r1 = r2 = size_r = growth = 0.0
    for start in range(0, size, _CHUNK):
        if is_empty[start // _CHUNK]:
            continue
        ws, moves = w[start : start + _CHUNK], dz[start : start + _CHUNK]
        s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = _F(0)
        for i in range(len(ws)):
            weight = ws[i]
            c = _centred(moves[i], mean32, factor)
            d = _centred(moves[i], r_mean32, factor)
            wc = weight * c
            wd = weight * weight * d
            s1 += wc
            s2 += wc * c
            s3 += wc * c * c
            s4 += wc * c * c * c
            s5 += abs(wc)
            s6 += wd
            s7 += wd * d
            s8 += abs(wd)
            s9 += weight * _expm1(min(c, _F(80)))
        c1 += s1
        c2 += s2
        c3 += s3
        c4 += s4
        size_c += s5
        r1 += s6
        r2 += s7
        size_r += s8
        growth += s9
    r_whole = whole * whole * dense.p_squares
    out.mean = mean32
    out.c, out.c2, out.c3, out.c4, out.c_size = c1 / whole, c2 / whole, c3 / whole, c4 / whole, size_c / whole
    out.r, out.r2, out.r_size = r1 / r_whole, r2 / r_whole, size_r / r_whole
    # log E_p exp(c): by the moments' own pass, and from the two normalisers (rougher, and never out of range).
    direct = math.log1p(tail) - math.log1p(dense.tail) + (np.float64(highest) - mean32) * factor
    log_growth = math.log1p(growth / whole) if is_near and growth / whole < LARGEST_GROWTH else direct
    out.log_growth, out.log_growth_direct = log_growth, direct
    # s = (Δz − centre)/T − rest with the centre near the Δz of the tokens that q consists of: their s are then exact.
    whole_centre = np.float64(mean32) + log_growth / factor
    centre = _F(whole_centre)
    rest = _F((whole_centre - np.float64(centre)) * factor)
    p_one, q_one = _F(1 / whole), _F(1 / (1 + tail))
    kl_pq = kl_qp = js = variation = size_q = p_dp = 0.0
    for start in range(0, size, _CHUNK):
        if is_empty[start // _CHUNK]:
            continue
        ws, moves, qs = w[start : start + _CHUNK], dz[start : start + _CHUNK], q[start : start + _CHUNK]
        s0 = s1 = s2 = s3 = s4 = s5 = _F(0)
        for i in range(len(ws)):
            p = ws[i] * p_one
            s = _centred(_centred(moves[i], centre, factor), rest, _F(1))
            step, pq, qp, both, size_one = _apart(s, p, qs[i] * q_one)
            qs[i] = step
            s0 += pq
            s1 += qp
            s2 += both
            s3 += abs(step)
            s4 += size_one
            s5 += p * step
        kl_pq += s0
        kl_qp += s1
        js += s2
        variation += s3
        size_q += s4
        p_dp += s5
    along = _F(p_dp / dense.p_squares)
    across = 0.0
    for start in range(0, size, _CHUNK):
        if is_empty[start // _CHUNK]:
            continue
        ws, qs = w[start : start + _CHUNK], q[start : start + _CHUNK]
        s0 = _F(0)
        for i in range(len(ws)):
            part = _without(qs[i], along, ws[i] * p_one)
            s0 += part * part
        across += s0
    out.kl_dense_pruned, out.kl_pruned_dense, out.js = kl_pq, kl_qp, js
    out.variation, out.q_size = variation / 2, size_q
    out.p_dp, out.dp_across = p_dp, across
    out.tail, out.gap = tail, q_gap / (1 + tail)


@_sums
def precise_product(weight, states, out) -> None:
    """Out = states · weightᵀ in float64: weight float32 (V, d), states float64 (n, d), out float64 (n, V)."""
    for token in range(len(weight)):
        for row in range(len(states)):
            own, state = weight[token], states[row]
            s0 = 0.0
            for i in range(len(own)):
                s0 += np.float64(own[i]) * state[i]
            out[row, token] = s0
