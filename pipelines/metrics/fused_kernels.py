"""Sums over the vocabulary for the divergence columns, one row at a time, compiled by numba.

`divergence_columns` computes the columns from them. `eager_kernels` computes the same sums in torch.

A row stays in the core's cache for several loops. The sums in p-space omit tokens without weight on both sides; `_cut`
bounds the error. Element-wise arithmetic is float32; totals are float64 over chunks of 512. All kernels are in one file
because numba's cache does not notice changes in other files.
"""

import math

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

# Sums of a dense row and of its shift that do not depend on T, and sums at one temperature; all float64.
DENSE = np.dtype([(name, np.float64) for name in ("z_squares", "highest", "reach")])
SOFTMAX = np.dtype([(name, np.float64) for name in ("tail", "p_squares", "gap")])
SHIFT = np.dtype(
    [
        (name, np.float64)
        for name in ("dz_squares", "along", "across", "variance", "top_gap", "rank_of_dense", "rank_of_pruned")
    ]
)
P_SPACE_SUMS = np.dtype(
    [
        (name, np.float64)
        for name in (
            *("mean", "log_growth", "log_growth_direct"),
            *("c", "c2", "c3", "c4", "c_size", "r", "r2", "r_size", "q", "q2", "q_size", "rq", "rq2", "rq_size"),
            *("kl_dense_pruned", "kl_pruned_dense", "js", "variation", "s_size", "p_dp", "dp_across", "tail", "gap"),
        )
    ]
)
TOP = 10
# Bound of a row's centred shift c, so that products with exp(c) do not overflow in float32.
MAX_CENTRED = 60.0
# Below this, log E_p exp(c) is computed from E_p[exp(c) − 1], which is accurate for small values. Above it the rounding
# of a large c would dominate, so it is computed from the two normalizers, each accurate to 1e-7.
MAX_LOG_GROWTH = 0.01
# Maximum number of tokens per row that are recomputed in float64: with large logits, and with very large ones.
FEW_EXACT, MAX_EXACT = 48, 4096
# Extra numbers at the end of a scratch row: one token is put first, and the last lanes are written whole.
SLACK = 32

_CHUNK = 512
_SCAN = 64
_LANES = 16
_NEGLIGIBLE = 1e-13  # bound of what all omitted tokens together add to a sum
_F = np.float32
_LOG2E = _F(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = _F(0.693359375), _F(-2.12194440e-4)  # ln 2 in two parts: k · high is exact
_LN2 = _F(math.log(2))
_SHIFTER = _F(1.5 * 2**23)  # a float32 of this size has no fractional digits, so adding it rounds
_MIN_EXPONENT = _F(-87)  # exp of a smaller whole number is subnormal
_SMALL = _F(0.5)  # below it, power series replace differences
_E_ONE = _F(math.exp(-1))

# Element-wise formulas keep their order of operations. Only sums may be split over vector lanes.
_element = njit(fastmath={"contract"}, error_model="numpy", forceinline=True)
_REGROUPED = {"contract", "reassoc", "nsz", "nnan"}
_sums = njit(fastmath=_REGROUPED, error_model="numpy", nogil=True, cache=True)
# Functions called by `_sums` functions are inlined. Otherwise numba compiles them twice, alone and inside the caller,
# with different orders of sums, and the version that runs depends on whether the caller was read from the cache.
_part = njit(fastmath=_REGROUPED, error_model="numpy", nogil=True, forceinline=True)


@intrinsic
def _power_of_two(typing_context, shifted):  # noqa: ARG001 (numba's form)
    """Return 2^k from k + _SHIFTER, whose lowest bits are those of k, for −127 < k < 128."""

    def generate(context, builder, signature, arguments):  # noqa: ARG001
        from llvmlite import ir

        integer = ir.IntType(32)
        exponent = builder.shl(builder.bitcast(arguments[0], integer), ir.Constant(integer, 23))
        return builder.bitcast(builder.add(exponent, ir.Constant(integer, 127 << 23)), ir.FloatType())

    return types.float32(types.float32), generate


@intrinsic
def _wide(typing_context):  # noqa: ARG001
    """Let the compiler use 512-bit vectors in the calling function, if the processor has them.

    LLVM prefers 256 bits on Intel processors because wide vectors used to lower their clock.
    """

    def generate(context, builder, signature, arguments):  # noqa: ARG001
        # llvmlite checks attribute names against a list that lacks this one.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _larger(typing_context, a, b):  # noqa: ARG001
    """Return the larger of two float32, marked so that LLVM turns a loop of it into a vector maximum."""

    def generate(context, builder, signature, arguments):  # noqa: ARG001
        is_larger = builder.fcmp_ordered(">", *arguments, flags=("nnan", "nsz"))
        return builder.select(is_larger, *arguments, flags=("nnan", "nsz"))

    return types.float32(types.float32, types.float32), generate


@intrinsic
def _pack_lanes(typing_context, sources, highest, lowest, targets):  # noqa: ARG001
    """Copy those of _LANES tokens whose g or a − highest is above `lowest`, in order; return their number.

    `sources` and `targets` are addresses of g, a and dz. Each target needs room for _LANES numbers, all of which are
    written. It may equal its source or lie before it.
    """

    def generate(context, builder, signature, arguments):  # noqa: ARG001
        from llvmlite import ir

        vector, bits = ir.VectorType(ir.FloatType(), _LANES), ir.VectorType(ir.IntType(1), _LANES)
        compress = builder.module.declare_intrinsic(
            f"llvm.experimental.vector.compress.v{_LANES}f32", (), ir.FunctionType(vector, [vector, bits, vector])
        )
        undefined = ir.Constant(vector, ir.Undefined)

        def repeated(number):
            first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
            return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), _LANES), None))

        def pointers(addresses):
            return [
                builder.inttoptr(builder.extract_value(addresses, index), vector.as_pointer()) for index in range(3)
            ]

        sources, highest, lowest, targets = arguments
        g, a, dz = (builder.load(pointer, align=4) for pointer in pointers(sources))
        a = builder.fsub(a, repeated(highest))
        lowest = repeated(lowest)
        selected = builder.or_(builder.fcmp_ordered(">", g, lowest), builder.fcmp_ordered(">", a, lowest))
        for values, pointer in zip((g, a, dz), pointers(targets), strict=True):
            builder.store(builder.call(compress, [values, selected, undefined]), pointer, align=4)
        mask = builder.bitcast(selected, ir.IntType(_LANES))
        return builder.zext(builder.ctpop(mask), ir.IntType(64))

    addresses = types.UniTuple(types.int64, 3)
    return types.int64(addresses, types.float32, types.float32, addresses), generate


@_element
def _phi(x: _F) -> _F:
    """Return exp(x) − 1 − x for |x| ≤ ½, by its Chebyshev series over x²; relative error 3e-8."""
    f = x * _F(1.99621861e-4) + _F(1.39821969e-3)
    f = f * x + _F(8.33318204e-3)
    f = f * x + _F(4.16657910e-2)
    f = f * x + _F(1.66666671e-1)
    return (f * x + _F(0.5)) * x * x


@_element
def _exp(x: _F) -> _F:
    """Return exp(x) for x < 87, and exp(−87) below −87, so that no result is subnormal.

    With x = k ln 2 + r and |r| ≤ ½ ln 2, exp(x) = 2^k exp(r); the series of exp(r) has an error of 1e-8.
    """
    x = x if x > _MIN_EXPONENT else _MIN_EXPONENT
    shifted = x * _LOG2E + _SHIFTER
    k = shifted - _SHIFTER
    r = x - k * _LN2_HIGH
    r = r - k * _LN2_LOW
    f = r * _F(1.39336452e-3) + _F(8.36317667e-3)
    f = f * r + _F(4.16664650e-2)
    f = f * r + _F(1.66665770e-1)
    f = (f * r + _F(0.5)) * r * r
    return _power_of_two(shifted) * (_F(1) + (r + f))


@_element
def _log1p(x: _F) -> _F:
    """Return log(1 + x) for 0 ≤ x ≤ exp(−1), by its Chebyshev series over x; relative error 6e-8."""
    f = x * _F(0.052692138866) + _F(-0.130281270601)
    f = f * x + _F(0.191860338219)
    f = f * x + _F(-0.249020515416)
    f = f * x + _F(0.333275877414)
    f = f * x + _F(-0.499998719321)
    return (f * x + _F(0.999999995301)) * x


@_element
def _log_cosh(w: _F) -> _F:
    """Return log cosh(t/2) from w = t² ≤ 1, by its Chebyshev series over w; relative error 1e-7."""
    f = w * _F(1.74239573e-6) + _F(-2.60233631e-5)
    f = f * w + _F(3.47107691e-4)
    f = f * w + _F(-5.20831922e-3)
    return (f * w + _F(0.125)) * w


@_element
def _divergence_terms(move: _F, p: _F, q: _F) -> tuple[_F, _F, _F, _F, _F]:
    """Return one token's q − p and its terms of KL(p‖q), KL(q‖p), JS and Σ q|s|, from s = log q/p = `move`.

    Let t = |s|, e = exp(−t), D = 1 − e, a = t − D and b = D − t e = t D − a. The terms have the larger of p and q as a
    factor:

    - q − p is ±D; p log p/q + q − p is a or b; q log q/p + p − q is b or a;
    - JS is ½(D t/2 − (1 + e) log cosh(t/2)) = ½((1 + e) (log 2 − log(1 + e)) − t e).

    All are sums of positive terms, or differences that lose at most a factor of three, for any t. So nothing overflows,
    and each term has the relative accuracy of float32.
    """
    # Both branches are computed before the choice, because a choice between numbers can be vectorized.
    t = abs(move)
    e = _exp(-t)
    a_small, d_large = _phi(-t), _F(1) - e
    a = a_small if t < _SMALL else t - d_large
    d = t - a_small if t < _SMALL else d_large
    b = t * d - a if t < _F(1) else d - t * e
    # The series of log cosh(t/2) serves small t; for large t the formula subtracts t/2.
    t_near, e_far = min(t, _F(1)), min(e, _E_ONE)
    js_small = _F(0.5) * d * t - (_F(1) + e) * _log_cosh(t_near * t_near)
    js_large = (_F(1) + e) * (_LN2 - _log1p(e_far)) - t * e
    js = _F(0.5) * (js_small if t < _F(1) else js_large)
    is_more = move > _F(0)
    larger = q if is_more else p
    step = larger * d
    return (
        (step if is_more else -step),
        larger * (b if is_more else a),
        larger * (a if is_more else b),
        larger * js,
        q * t,
    )


@_element
def _times(x: _F, factor: _F) -> _F:
    return x * factor


@_element
def _centred(x: _F, mean: _F, factor: _F) -> _F:
    """Return (x − mean) · factor, in this order: the difference is exact if x is near the mean."""
    return (x - mean) * factor


@_element
def _without(x: _F, share: _F, other: _F) -> _F:
    return x - share * other


@_element
def _top(values: _F, ids: int, best: _F) -> None:
    """Write the indices of the largest values into `ids`, in order, ties by lowest index; `best` is scratch.

    Nearly all blocks are skipped, because their maximum is not above the lowest of the best values so far.
    """
    count = len(ids)
    best[:] = -np.inf
    for start in range(0, len(values), _SCAN):
        block = values[start : start + _SCAN]
        if _largest(block) > best[count - 1]:
            for i in range(len(block)):
                value = block[i]
                if value > best[count - 1]:
                    rank = count - 1
                    while rank > 0 and value > best[rank - 1]:
                        best[rank] = best[rank - 1]
                        ids[rank] = ids[rank - 1]
                        rank -= 1
                    best[rank] = value
                    ids[rank] = start + i


@_part
def _largest(values: _F) -> _F:
    _wide()
    largest = values[0]
    for i in range(len(values)):
        largest = _larger(values[i], largest)
    return largest


@_part
def _rank(values: _F, token: int) -> int:
    """Return a token's rank: 1 + the number of larger values + the number of equal values with a lower id."""
    _wide()
    value = values[token]
    rank = np.int32(1)
    before, after = values[:token], values[token + 1 :]
    for i in range(len(before)):
        rank += np.int32(before[i] >= value)
    for i in range(len(after)):
        rank += np.int32(after[i] > value)
    return rank


@_part
def _exact(weight: _F, state: _F) -> float:
    """Return the inner product, summed in float64."""
    _wide()
    total = 0.0
    for i in range(len(weight)):
        total += np.float64(weight[i]) * np.float64(state[i])
    return total


@_sums
def gaps(z, x, weight, bias, sizes, reaches, gap, rows) -> None:
    """Compute z − max z of a block of rows, and recompute the logits of likely tokens in float64.

    Each logit of a float32 product has an error proportional to the root mean square of its row, which a softmax turns
    into a relative error of p. This matters only for tokens near the largest logit. If logits are large there are few
    such tokens, and recomputing makes their z − max z exact to float32 rounding. Each row uses the widest of `reaches`
    that holds few enough tokens.

    Arrays:
        z: logits, float32 (n, V); recomputed ones are written back.
        x, weight, bias: the head's input (n, d), W (V, d), and b (V,), or of length 0 without a bias; float32.
        sizes: root mean squares of a row. Above the first, up to FEW_EXACT tokens are recomputed; above the second, up
            to MAX_EXACT. Infinite means never.
        reaches: distances from the largest logit within which tokens are recomputed, the widest first.
        gap, rows: out, z − max z, float32 (n, V), and DENSE (n,).
    """
    _wide()
    size = z.shape[1]
    chosen = np.empty(MAX_EXACT, np.int64)
    exact = np.empty(MAX_EXACT)
    for row in range(len(z)):
        squares = 0.0
        for start in range(0, size, _CHUNK):
            values = z[row, start : start + _CHUNK]
            s0 = 0.0
            for i in range(len(values)):
                s0 += np.float64(values[i]) * np.float64(values[i])
            squares += s0
        highest = np.float64(_largest(z[row]))
        count, within = 0, 0.0
        length = math.sqrt(squares / size)
        limit = MAX_EXACT if length > sizes[1] else FEW_EXACT if length > sizes[0] else 0
        for reach in reaches:
            if limit and not within:
                count = _within(z[row], _F(highest - reach), chosen[:limit])
                within = reach if count <= limit else 0.0
        if within:
            highest = -np.inf
            for k in range(count):
                token = chosen[k]
                exact[k] = _exact(weight[token], x[row]) + (bias[token] if len(bias) else _F(0))
                highest = max(highest, exact[k])
        highest32 = _F(highest)
        for i in range(size):
            gap[row, i] = z[row, i] - highest32
        if within:
            for k in range(count):
                z[row, chosen[k]] = exact[k]
                gap[row, chosen[k]] = exact[k] - highest
        rows[row].z_squares = squares
        rows[row].highest = highest
        rows[row].reach = within


@_element
def _within(values: _F, lowest: _F, chosen: int) -> int:
    """Write the indices of all values above `lowest` into `chosen`; return their number, or more than its length."""
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


@_element
def _cut(size: int, reach: float) -> float:
    """Return the cutoff: a token is omitted if on both sides its logit/T is more than this below the side's maximum.

    A token whose weights on both sides are at most exp(−cut) adds at most exp(−cut) · max(1, |c|)⁴ to a sum in
    p-space. Here |c| = |Δz − mean|/T is at most `reach`, the range of Δz/T. All such tokens together add less than
    _NEGLIGIBLE. There are two exceptions. Σ p (z − max z), in entropies, may lack 87 times as much. Third and fourth
    moments may lack more if the range is beyond 10⁴, but then they are of the order of its powers.
    """
    return min(math.log(size / _NEGLIGIBLE) + 4 * math.log(max(1.0, reach)), 87.0)


@_element
def _pack(sources, first: int, highest: _F, lowest: _F, targets, start: int) -> int:
    """Copy g, a − highest and dz of the tokens with g or a − highest above `lowest`, in order; return the next index.

    Sources are float32 (n,) each, read from `first` on. Targets, at least n + _LANES long, are written from `start` on,
    and may be the sources if `start` is at most `first`.
    """
    _wide()
    g, a, dz = sources
    to_g, to_a, to_dz = targets
    whole = first + (len(g) - first) // _LANES * _LANES
    for i in range(first, whole, _LANES):
        start += _pack_lanes(
            (g[i:].ctypes.data, a[i:].ctypes.data, dz[i:].ctypes.data),
            highest,
            lowest,
            (to_g[start:].ctypes.data, to_a[start:].ctypes.data, to_dz[start:].ctypes.data),
        )
    for i in range(whole, len(g)):
        after = a[i] - highest
        if g[i] > lowest or after > lowest:
            to_g[start], to_a[start], to_dz[start] = g[i], after, dz[i]
            start += 1
    return start


@_sums
def dense_rows(gap, inverse, order, scratch, softmaxes, ids) -> None:
    """Compute the sums of the dense softmax of a block of rows.

    Args:
        gap: z − max z, float32 (n, V), from `gaps`.
        inverse: 1/T of every temperature, float32 (T,).
        order: indices of the temperatures from the highest to the lowest, int64 (T,).
        scratch: float32 (6, V + SLACK); three of its rows are used.
        softmaxes: out, SOFTMAX (T, n): Σ exp((z − max z)/T) without the top token's 1, whose rounding would hide a
            small tail; Σ p²; and Σ p (z − max z).
        ids: out, the most likely tokens in order, int64 (n, k).
    """
    _wide()
    best = np.empty(ids.shape[1], np.float32)
    packed = scratch[0], scratch[1], scratch[2]
    for row in range(len(gap)):
        _top(gap[row], ids[row], best)
        top = ids[row, 0]
        gap[row, top] = -np.inf
        count = 0
        for k in range(len(order)):
            factor = inverse[order[k]]
            lowest = _F(-_cut(gap.shape[1], 1.0) / factor)
            source = gap[row] if k == 0 else packed[0][:count]
            count = _pack((source, source, source), 0, _F(0), lowest, packed, 0)
            _softmax(packed[0][:count], factor, softmaxes[order[k], row])
        gap[row, top] = 0


@_part
def _softmax(gap, factor, out) -> None:
    """Compute the sums of one softmax without its top token."""
    _wide()
    tail = squares = gaps = 0.0
    for start in range(0, len(gap), _CHUNK):
        values = gap[start : start + _CHUNK]
        s0 = s1 = s2 = _F(0)
        for i in range(len(values)):
            weight = _exp(_times(values[i], factor))
            s0 += weight
            s1 += weight * weight
            s2 += weight * values[i]
        tail += s0
        squares += s1
        gaps += s2
    out.tail = tail
    out.p_squares = (1 + squares) / (1 + tail) ** 2
    out.gap = gaps / (1 + tail)


@_sums
def shift_rows(z, gap, rows, softmaxes, ids, dz, inverse, order, states, head, scratch, shifts, moves, moved_ids):
    """Compute the sums of one shift of a block of rows; `gaps` and `dense_rows` must have run.

    Arrays:
        z, gap, rows, softmaxes, ids: the dense side: logits (n, V), z − max z, DENSE (n,), SOFTMAX (T, n), top tokens.
        dz: Δz, float32 (n, V). Likely tokens of the rows that `gaps` recomputed are recomputed here in float64.
        inverse, order: as in `dense_rows`.
        states: x and dx, float32 (n, d) each.
        head: W and bias, as in `gaps`.
        scratch: float32 (6, V + SLACK).
        shifts: out, SHIFT (n,): ‖Δz‖², ⟨Δz, z⟩/‖z‖², ‖Δz⊥‖², the unweighted variance, z − max z of the pruned side's
            top token, and two ranks.
        moves, moved_ids: out, P_SPACE_SUMS (T, n) that are 0 before, and the pruned side's most likely tokens (n, k).
    """
    _wide()
    size = z.shape[1]
    chosen = np.empty(MAX_EXACT, np.int64)
    best = np.empty(ids.shape[1], np.float32)
    after, packed = scratch[0][:size], (scratch[1], scratch[2], scratch[3])
    for row in range(len(z)):
        for i in range(size):
            after[i] = gap[row, i] + dz[row, i]
        if rows[row].reach > 0:
            _refine(gap[row], dz[row], rows[row], states[0][row], states[1][row], head, chosen, after)
        farthest, nearest = _logit_shift_sums(z[row], dz[row], rows[row], shifts[row])
        _top(after, moved_ids[row], best)
        top = moved_ids[row, 0]
        highest = after[top]
        shifts[row].top_gap = np.float64(highest) - np.float64(dz[row, top])
        is_same = top == ids[row, 0]
        shifts[row].rank_of_dense = 1 if is_same else _rank(after, ids[row, 0])
        shifts[row].rank_of_pruned = 1 if is_same else _rank(gap[row], top)
        if shifts[row].dz_squares == 0:
            for t in range(len(inverse)):
                # Both sides are equal bit for bit.
                moves[t, row].tail, moves[t, row].gap = softmaxes[t, row].tail, softmaxes[t, row].gap
            continue
        spread = np.float64(farthest) - np.float64(nearest)
        # The pruned side's top token is written first; −inf then excludes it from the copy of the others.
        packed[0][0], packed[2][0] = gap[row, top], dz[row, top]
        gap[row, top] = after[top] = -np.inf
        count = 0
        for k in range(len(order)):
            t = order[k]
            lowest = _F(-_cut(size, spread * inverse[t]) / inverse[t])
            if k == 0:
                count = _pack((gap[row], after, dz[row]), 0, highest, lowest, packed, 1)
            else:
                kept = packed[0][:count], packed[1][:count], packed[2][:count]
                count = _pack(kept, 1, _F(0), lowest, packed, 1)
            tokens = packed[0][:count], packed[1][:count], packed[2][:count], scratch[4][:count], scratch[5][:count]
            _p_space_sums(softmaxes[t, row], tokens, inverse[t], highest, farthest, moves[t, row])
        gap[row, top] = packed[0][0]


@_element
def _refine(gap, dz, dense, x, dx, head, chosen, after) -> None:
    """Recompute Δz of the tokens likely on the dense side, and z + Δz of those likely on the pruned side."""
    weight, bias = head
    reach = _F(dense.reach)
    for k in range(min(_within(gap, -reach, chosen), MAX_EXACT)):
        token = chosen[k]
        dz[token] = _exact(weight[token], dx)
        after[token] = gap[token] + dz[token]
    for k in range(min(_within(after, _largest(after) - reach, chosen), MAX_EXACT)):
        token = chosen[k]
        if gap[token] > -reach:  # done above
            continue
        moved = _exact(weight[token], dx)
        before = _exact(weight[token], x) + (bias[token] if len(bias) else _F(0))
        dz[token] = moved
        after[token] = before - dense.highest + moved


@_part
def _logit_shift_sums(z, dz, dense, out) -> tuple[_F, _F]:
    """Compute the sums of z-space and the unweighted variance of Δz; return the largest and the smallest Δz."""
    _wide()
    size = len(z)
    total = squares = product = 0.0
    for start in range(0, size, _CHUNK):
        zs, moves = z[start : start + _CHUNK], dz[start : start + _CHUNK]
        s0 = s1 = _F(0)
        # In float64: if the pruned z is far shorter than the dense one, its length is about 1 + along.
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
    largest, negated = dz[0], -dz[0]
    for start in range(0, size, _CHUNK):
        zs, moves = z[start : start + _CHUNK], dz[start : start + _CHUNK]
        s0 = s1 = _F(0)
        for i in range(len(zs)):
            c = _centred(moves[i], mean32, _F(1))
            rest = _without(moves[i], along32, zs[i])
            s0 += c * c
            s1 += rest * rest
            largest = _larger(moves[i], largest)
            negated = _larger(-moves[i], negated)
        variance += s0
        across += s1
    out.dz_squares = squares
    out.along = along
    # Subtract the part along z that remains because `along` was rounded to float32.
    out.across = max(across - (along - np.float64(along32)) ** 2 * dense.z_squares, 0.0)
    out.variance = max(variance / size - (mean - np.float64(mean32)) ** 2, 0.0)
    return largest, -negated


@_part
def _p_space_sums(dense, tokens, factor, highest, farthest, out) -> None:
    """Compute the sums of one row's shift in p-space at one temperature.

    Args:
        dense: SOFTMAX of the dense side.
        tokens: g = z − max z, a = z + Δz − max(z + Δz) and Δz of the kept tokens, and two scratch arrays of the same
            size. The pruned side's top token comes first; its a is not read.
        factor: 1/T.
        highest: max(z + Δz) − max z.
        farthest: max Δz.
        out: P_SPACE_SUMS.
    """
    _wide()
    g, a, dz, p, q = tokens
    whole = 1 + dense.tail
    # Weights, and means of Δz under them. The top token's 1 is added to the sums under q later.
    a[0] = _F(-1e20)
    p_dz = r_dz = tail = q_gap = q_squares = q_dz = rq_dz = 0.0
    for start in range(0, len(g), _CHUNK):
        end = min(start + _CHUNK, len(g))
        gs, own, moves, ps, qs = g[start:end], a[start:end], dz[start:end], p[start:end], q[start:end]
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = _F(0)
        for i in range(len(gs)):
            weight = _exp(_times(gs[i], factor))
            ps[i] = weight
            part = weight * moves[i]
            s0 += part
            s1 += weight * part
            weight = _exp(_times(own[i], factor))
            qs[i] = weight
            s2 += weight
            s3 += weight * own[i]
            s4 += weight * weight
            part = weight * moves[i]
            s5 += part
            s6 += weight * part
        p_dz += s0
        r_dz += s1
        tail += s2
        q_gap += s3
        q_squares += s4
        q_dz += s5
        rq_dz += s6
    q[0] = 1
    q_whole, rq_whole = 1 + tail, 1 + q_squares
    mean, r_mean = p_dz / whole, r_dz / (whole * whole * dense.p_squares)
    mean32, r_mean32 = _F(mean), _F(r_mean)
    q_mean32, rq_mean32 = _F((q_dz + dz[0]) / q_whole), _F((rq_dz + dz[0]) / rq_whole)
    # log E_p exp(c) from the two normalizers. Below the bound it is later replaced by a sum of exp(c) − 1.
    direct = math.log1p(tail) - math.log1p(dense.tail) + (np.float64(highest) - mean32) * factor
    is_small = direct < MAX_LOG_GROWTH and (np.float64(farthest) - mean) * factor <= MAX_CENTRED
    # exp(c) of a token is `grown` times its unnormalized q/p.
    grown = _F(math.exp((np.float64(highest) - mean32) * factor)) if is_small else _F(0)
    # Moments of c = (Δz − mean)/T under p, E_p[exp(c) − 1], and moments of Δz − mean under r, q and r of q.
    c1 = c2 = c3 = c4 = size_c = r1 = r2 = size_r = growth = 0.0
    q1 = q2 = size_q = rq1 = rq2 = size_rq = 0.0
    for start in range(0, len(g), _CHUNK):
        end = min(start + _CHUNK, len(g))
        moves, ps, qs = dz[start:end], p[start:end], q[start:end]
        s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = _F(0)
        t1 = t2 = t3 = t4 = t5 = t6 = _F(0)
        for i in range(len(ps)):
            weight = ps[i]
            c = _centred(moves[i], mean32, factor)
            d = moves[i] - r_mean32
            wc = weight * c
            wd = weight * weight * d
            cc = c * c
            s1 += wc
            s2 += wc * c
            s3 += wc * cc
            s4 += wc * c * cc
            s5 += abs(wc)
            s6 += wd
            s7 += wd * d
            s8 += abs(wd)
            if is_small:
                s9 += weight * (c + _phi(c)) if abs(c) < _SMALL else qs[i] * grown - weight
            weight = qs[i]
            c = moves[i] - q_mean32
            d = moves[i] - rq_mean32
            wc = weight * c
            wd = weight * weight * d
            t1 += wc
            t2 += wc * c
            t3 += abs(wc)
            t4 += wd
            t5 += wd * d
            t6 += abs(wd)
        c1 += s1
        c2 += s2
        c3 += s3
        c4 += s4
        size_c += s5
        r1 += s6
        r2 += s7
        size_r += s8
        growth += s9
        q1 += t1
        q2 += t2
        size_q += t3
        rq1 += t4
        rq2 += t5
        size_rq += t6
    r_whole = whole * whole * dense.p_squares
    out.mean = mean32
    out.c, out.c2, out.c3, out.c4, out.c_size = c1 / whole, c2 / whole, c3 / whole, c4 / whole, size_c / whole
    scale = np.float64(factor)
    out.r, out.r2, out.r_size = r1 * scale / r_whole, r2 * scale**2 / r_whole, size_r * scale / r_whole
    out.q, out.q2, out.q_size = q1 * scale / q_whole, q2 * scale**2 / q_whole, size_q * scale / q_whole
    out.rq, out.rq2, out.rq_size = rq1 * scale / rq_whole, rq2 * scale**2 / rq_whole, size_rq * scale / rq_whole
    log_growth = math.log1p(growth / whole) if is_small else direct
    out.log_growth, out.log_growth_direct = log_growth, direct
    # s = (Δz − centre)/T − rest. The centre is near the Δz of the tokens with most of q, whose s are then exact.
    whole_centre = np.float64(mean32) + log_growth / factor
    centre = _F(whole_centre)
    rest = _F((whole_centre - np.float64(centre)) * factor)
    p_one, q_one = _F(1 / whole), _F(1 / q_whole)
    kl_pq = kl_qp = js = variation = size_s = p_dp = 0.0
    for start in range(0, len(g), _CHUNK):
        end = min(start + _CHUNK, len(g))
        moves, ps, qs = dz[start:end], p[start:end], q[start:end]
        s0 = s1 = s2 = s3 = s4 = s5 = _F(0)
        for i in range(len(ps)):
            own = ps[i] * p_one
            s = _centred(_centred(moves[i], centre, factor), rest, _F(1))
            step, pq, qp, both, size_one = _divergence_terms(s, own, qs[i] * q_one)
            qs[i] = step
            s0 += pq
            s1 += qp
            s2 += both
            s3 += abs(step)
            s4 += size_one
            s5 += own * step
        kl_pq += s0
        kl_qp += s1
        js += s2
        variation += s3
        size_s += s4
        p_dp += s5
    along = _F(p_dp / dense.p_squares)
    across = 0.0
    for start in range(0, len(g), _CHUNK):
        end = min(start + _CHUNK, len(g))
        ps, qs = p[start:end], q[start:end]
        s0 = _F(0)
        for i in range(len(ps)):
            part = _without(qs[i], along, ps[i] * p_one)
            s0 += part * part
        across += s0
    out.kl_dense_pruned, out.kl_pruned_dense, out.js = kl_pq, kl_qp, js
    out.variation, out.s_size = variation / 2, size_s
    out.p_dp, out.dp_across = p_dp, across
    out.tail, out.gap = tail, q_gap / q_whole


@_sums
def precise_product(weight, states, out) -> None:
    """Compute out = states · weightᵀ in float64: weight float32 (V, d), states float64 (n, d), out float64 (n, V)."""
    for token in range(len(weight)):
        for row in range(len(states)):
            column, state = weight[token], states[row]
            s0 = 0.0
            for i in range(len(column)):
                s0 += np.float64(column[i]) * state[i]
            out[row, token] = s0
