"""How far a softmax moves when its logits shift: weighted variances and divergences without cancellation.

Works on a few rows of dense logits z and shifts Δz at a time; where those come from belongs in `divergence`.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from pipelines.metrics.spaces import Rows, in_space, space_columns

_CHUNK = 4096

# Beyond these the float32 sums lose more than 1e-4 of a divergence (or overflow) and the row is done in float64:
_LARGEST_CENTRED = 30.0  # e^c, its square and p·e^c stay inside float32, and a p that underflows has no weight in q
_SMALLEST_KL = 2e-3  # in units of E_p|c|, the size of the terms that KL is formed from and that float32 rounds
_SMALLEST_SHARE = 1e-3  # KL(q‖p) and JS are differences of positive numbers; this bounds what cancels
# Above these a row beyond `_LARGEST_CENTRED` keeps its digits in plain float32 differences:
_SMALLEST_FAR = 0.05
_SMALLEST_FAR_DEFECT = 1e-5


def _chunked(values: Tensor) -> tuple[Tensor, Tensor]:
    """Views of every row: (n, chunks, 4,096), and (n, rest)."""
    rows, size = values.shape
    whole = size // _CHUNK
    chunks = values.as_strided((rows, whole, _CHUNK), (values.stride(0), _CHUNK, 1), values.storage_offset())
    return chunks, values[:, whole * _CHUNK :]


def total(values: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
    """Sum of every row: float32 in chunks of 4,096, the chunks in float64."""
    chunks, tail = _chunked(values)
    return chunks.sum(-1).sum(-1, dtype=torch.float64) + tail.sum(-1).double()


def squares(values: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
    """Squared length of every row, accumulated as in `total`."""
    chunks, tail = _chunked(values)
    tail_length: Tensor = torch.linalg.vector_norm(tail, dim=-1).double()
    length: Tensor = torch.linalg.vector_norm(chunks, dim=-1).double()
    return length.square().sum(-1) + tail_length.square()


def dot(left: Float[Tensor, "n v"], right: Float[Tensor, "n v"], buffer: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
    """Inner product of every row, accumulated as in `total`; the products go to `buffer`."""
    return total(torch.mul(left, right, out=buffer))


@dataclass(frozen=True)
class DenseSoftmax:
    """What every shift of the same dense rows shares at one temperature; sums are float64 of shape (n,).

    Args:
        temperature: T > 0.
        p: softmax(z / T), float32 (n, V).
        log_normalizer: log Σ exp((z − max z)/T).
        p_squares: ‖p‖².
        p_gap: Σ p (z − max z).
        p_top: p of the dense top token.
    """

    temperature: float
    p: Float[Tensor, "n v"]
    log_normalizer: Float[Tensor, " n"]
    p_squares: Float[Tensor, " n"]
    p_gap: Float[Tensor, " n"]
    p_top: Float[Tensor, " n"]

    @classmethod
    def of(
        cls,
        gap: Float[Tensor, "n v"],
        top: Int[Tensor, " n"],
        temperature: float,
        out: Float[Tensor, "n v"],
        buffer: Float[Tensor, "n v"],
    ) -> "DenseSoftmax":
        """Softmax of gap = z − max z, written to `out`."""
        p = torch.softmax(gap if temperature == 1 else torch.div(gap, temperature, out=buffer), -1, out=out)
        p_top = p.gather(1, top[:, None])[:, 0].double()  # exp(0)/normalizer
        return cls(temperature, p, -p_top.log(), squares(p), dot(p, gap, buffer), p_top)

    def rows(self, index: Int[Tensor, " m"]) -> "DenseSoftmax":
        """The dense side of some rows."""
        p, top = self.p[index], self.p_top[index]
        return DenseSoftmax(
            self.temperature, p, self.log_normalizer[index], self.p_squares[index], self.p_gap[index], top
        )

    def columns(self) -> dict[str, Rows]:
        """The columns of the dense side alone."""
        entropy = self.log_normalizer - self.p_gap / self.temperature
        return {
            "norm_p": self.p_squares.sqrt(),
            "p_dense_top1_dense": self.p_top,
            "entropy_dense_nats": entropy.clamp(min=0),
        }


def shift_columns(
    dense: DenseSoftmax,
    gap: Float[Tensor, "n v"],
    dz: Float[Tensor, "n v"],
    dz_max: Rows,
    is_still: Bool[Tensor, " n"],
    top: Int[Tensor, " n"],
    buffers: Float[Tensor, "3 n v"],
) -> dict[str, Rows]:
    """Every column of p-space that a shift has, float64, one value a row.

    Each row goes to the cheapest form that carries it: `_near_columns` in float32 without cancellation,
    `_far_columns` in float32 where q/p leaves its range and nothing cancels, `exact_shift_columns` in float64.

    Args:
        dense: The dense side.
        gap: z − max z.
        dz: Δz.
        dz_max: Largest Δz of every row.
        is_still: Whether Δz is 0 throughout; float32 carries that exactly.
        top: Dense top token of every row.
        buffers: Scratch.
    """
    mean = dot(dense.p, dz, buffers[0])
    is_near = (dz_max - mean) / dense.temperature <= _LARGEST_CENTRED
    if bool(is_near.all()):
        columns, is_carried = _near_columns(dense, gap, dz, mean, top, buffers)
    else:
        columns, is_carried = {}, torch.empty_like(is_near)
        for chosen, form in ((is_near, _near_columns), (~is_near, _far_columns)):
            index = chosen.nonzero()[:, 0]
            if not len(index):
                continue
            part, is_carried[index] = form(
                dense.rows(index), gap[index], dz[index], mean[index], top[index], buffers[:, : len(index)]
            )
            for name, values in part.items():
                columns.setdefault(name, torch.empty_like(mean))[index] = values
    for row in (~(is_carried | is_still)).nonzero():  # one at a time: float64 rows are large
        for name, values in exact_shift_columns(gap[row], dz[row], top[row], dense.temperature).items():
            columns[name][row] = values
    return columns


def _near_columns(
    dense: DenseSoftmax, gap: Tensor, dz: Tensor, mean: Rows, top: Tensor, buffers: Tensor
) -> tuple[dict[str, Rows], Bool[Tensor, " n"]]:
    """The columns of rows whose q/p stays in float32, and whether each kept its digits.

    With δ = Δz/T, c = δ − E_p δ, e = expm1(c), E = E_p e and t = p (e − E):
    q − p = t/(1 + E), log q/p = c − log1p(E), KL(p‖q) = log1p(E) − E_p c,
    KL(q‖p) = E_p[c e]/(1 + E) − KL(p‖q), TV = ½Σ|t|/(1 + E), and with m = (p + q)/2 and
    v = m/p − 1 = (e − E)/(2(1 + E)): JS = ½KL(q‖p) − KL(m‖p), KL(m‖p) = E_p[(1 + v) log1p(v) − v].
    E_p c is zero but for rounding and is carried along, so that an error in the mean does no harm.
    Accumulation: float32 in chunks, float64 totals.
    """
    p, temperature = dense.p, dense.temperature
    scratch, first, second = buffers
    p_c, p_variance, r_variance = _centre(dense, dz, mean, buffers)
    c = first
    e = torch.expm1(c, out=second)
    p_ce = dot(c.mul_(e), p, scratch)

    t = torch.mul(p, e, out=first)
    p_e = total(t)
    mean_e = p_e.float()[:, None]
    t.addcmul_(p, mean_e, value=-1)
    t_sum, t_size = total(t), total(torch.abs(t, out=scratch))
    p_t, gap_t = dot(p, t, scratch), dot(gap, t, scratch)
    half = 0.5 / (1 + mean_e)
    log_mixture = torch.addcmul(-half * mean_e, e, half, out=second).log1p_()
    mixture_log = dot(torch.addcmul(p, t, half, out=scratch), log_mixture, second)
    along = p_t / dense.p_squares
    t_across = squares(t.addcmul_(p, along.float()[:, None], value=-1))

    scale = 1 + p_e
    kl_pq = torch.log1p(p_e) - p_c
    kl_qp = (p_ce - p_c * p_e) / scale - kl_pq
    js = kl_qp / 2 - (mixture_log - half[:, 0].double() * t_sum)
    cross_entropy = dense.log_normalizer - (dense.p_gap + gap_t / scale) / temperature
    top_c = (dz.gather(1, top[:, None])[:, 0] - mean.float()).double() / temperature
    columns = {
        **_p_space(dense.p_squares.sqrt(), along / scale, (t_across / dense.p_squares).sqrt() / scale),
        **_variances(r_variance, p_variance, temperature),
        "kl_dense_pruned_nats": kl_pq,
        "kl_pruned_dense_nats": kl_qp,
        "js_nats": js,
        "total_variation": (t_size / scale / 2).clamp(max=1),
        "p_dense_top1_pruned": dense.p_top * top_c.exp() / scale,
        "entropy_pruned_nats": (cross_entropy - kl_qp).clamp(min=0),
    }
    is_carried = (
        (kl_pq >= _SMALLEST_KL * (t_size / scale + p_c.abs()))
        & (kl_qp >= _SMALLEST_SHARE * kl_pq)
        & (js >= _SMALLEST_SHARE * kl_qp)
    )
    return columns, is_carried


def _far_columns(
    dense: DenseSoftmax, gap: Tensor, dz: Tensor, mean: Rows, top: Tensor, buffers: Tensor
) -> tuple[dict[str, Rows], Bool[Tensor, " n"]]:
    """The columns of rows whose q/p leaves float32, and whether nothing in them cancelled.

    q is a softmax of its own, ℓ = log q − log p, KL(p‖q) = −E_p ℓ, KL(q‖p) = E_q ℓ and, with s = softplus(−|ℓ|),
    JS = log 2 − ½(E_p[max(ℓ, 0) + s] + E_q[max(−ℓ, 0) + s]). Where p or q has weight, ℓ carries about 1e-7 |ℓ|,
    which a divergence over 0.05 does not notice. Accumulation: float32 in chunks, float64 totals.
    """
    temperature, p = dense.temperature, dense.p
    scratch, first, second = buffers
    _, p_variance, r_variance = _centre(dense, dz, mean, buffers)
    after = torch.add(gap, dz, out=first).div_(temperature)
    after.sub_(after.amax(-1, keepdim=True))
    q = torch.exp(after, out=second)
    normalizer = total(q)
    log_normalizer = normalizer.log()
    top_q = (after.gather(1, top[:, None])[:, 0].double() - log_normalizer).exp()
    q.div_(normalizer.float()[:, None])
    entropy = log_normalizer - dot(q, after, scratch)
    shared = (log_normalizer - dense.log_normalizer).float()[:, None]
    ratio = after.sub_(shared).sub_(gap if temperature == 1 else gap / temperature)
    kl_pq, kl_qp = -dot(p, ratio, scratch), dot(q, ratio, scratch)
    mixed = dot(p, ratio.clamp(min=0), scratch) - dot(q, ratio.clamp(max=0), scratch)
    mixed += dot(p + q, softplus(ratio.abs_().neg_()), scratch)
    js = (math.log(2) - mixed / 2).clamp(min=0)
    t = torch.sub(q, p, out=first)
    along, variation = dot(p, t, scratch) / dense.p_squares, total(torch.abs(t, out=scratch)) / 2
    across = squares(t.addcmul_(p, along.float()[:, None], value=-1)) / dense.p_squares
    columns = {
        **_p_space(dense.p_squares.sqrt(), along, across.sqrt()),
        **_variances(r_variance, p_variance, temperature),
        "kl_dense_pruned_nats": kl_pq,
        "kl_pruned_dense_nats": kl_qp,
        "js_nats": js,
        "total_variation": variation.clamp(max=1),
        "p_dense_top1_pruned": top_q,
        "entropy_pruned_nats": entropy.clamp(min=0),
    }
    least = torch.stack([kl_pq, kl_qp, js]).amin(0)
    return columns, (least >= _SMALLEST_FAR) & (columns["one_minus_cos_p"] >= _SMALLEST_FAR_DEFECT)


def _centre(dense: DenseSoftmax, dz: Tensor, mean: Rows, buffers: Tensor) -> tuple[Rows, Rows, Rows]:
    """Leaves c = (Δz − mean)/T in the second buffer; E_p c, Var_p(c) and Var_r(c)."""
    scratch, c, weighted = buffers
    torch.sub(dz, mean.float()[:, None], out=c)
    if dense.temperature != 1:
        c.div_(dense.temperature)
    torch.mul(dense.p, c, out=weighted)
    p_c, p_cc, pp_c = total(weighted), dot(weighted, c, scratch), dot(weighted, dense.p, scratch)
    r_spread = squares(weighted.addcmul_(dense.p, (pp_c / dense.p_squares).float()[:, None], value=-1))
    return p_c, p_cc - p_c.square(), r_spread / dense.p_squares


def _p_space(length: Rows, along: Rows, across: Rows) -> dict[str, Rows]:
    columns = space_columns(length, length * torch.hypot(along, across), along, across)
    return {name: rows for name, rows in in_space(columns, "p").items() if name != "t1_p"}


def _variances(r_variance: Rows, p_variance: Rows, temperature: float) -> dict[str, Rows]:
    """Variance columns and the estimates T2 and T3, from the variances of δ = Δz/T."""
    r_variance, p_variance = r_variance.clamp(min=0), p_variance.clamp(min=0)
    return {
        "var_r_dz": r_variance * temperature**2,
        "t2_p": r_variance / 2,
        "var_p_dz": p_variance * temperature**2,
        "t3_kl_nats": p_variance / 2,
    }


def exact_shift_columns(
    z: Float[Tensor, "n v"], dz: Float[Tensor, "n v"], top: Int[Tensor, " n"], temperature: float
) -> dict[str, Rows]:
    """The columns of `shift_columns` in float64 and in logarithms, for shifts of any size.

    ℓ = log q/p = δ − log E_p e^δ, and L = log m/p = log((1 + e^ℓ)/2) with m = (p + q)/2. Where ℓ < 1,
    q − p = p expm1(ℓ) and L = log1p(expm1(ℓ)/2); elsewhere nothing cancels. JS = ½(Σ q ℓ − Σ (p + q) L).
    """
    log_p = torch.log_softmax(z.double() / temperature, -1)
    p = log_p.exp()
    delta = dz.double() / temperature
    c = delta - (p * delta).sum(-1, keepdim=True)
    # log Σp is 0 but for rounding; taking it off too makes a shift of zero exactly zero.
    ratio = c - (torch.logsumexp(log_p + c, -1, keepdim=True) - torch.logsumexp(log_p, -1, keepdim=True))
    log_q = log_p + ratio
    q = log_q.exp()
    is_near = ratio < 1
    growth = torch.expm1(ratio.clamp(max=1))
    dp = torch.where(is_near, p * growth, q - p)
    mixture = torch.where(is_near, torch.log1p(growth / 2), softplus(ratio) - math.log(2))
    q_ratio = q * ratio
    length = torch.linalg.vector_norm(p, dim=-1)
    r = (p / length[:, None]).square()
    along = (p * dp).sum(-1) / length.square()
    across = torch.linalg.vector_norm(dp - along[:, None] * p, dim=-1) / length
    r_variance = (r * (c - (r * c).sum(-1, keepdim=True)).square()).sum(-1)
    return {
        **_p_space(length, along, across),
        **_variances(r_variance, (p * c.square()).sum(-1), temperature),
        "kl_dense_pruned_nats": (dp - p * ratio).sum(-1).clamp(min=0),
        "kl_pruned_dense_nats": (q_ratio - dp).sum(-1).clamp(min=0),
        "js_nats": ((q_ratio - (p + q) * mixture).sum(-1) / 2).clamp(min=0),
        "total_variation": (dp.abs().sum(-1) / 2).clamp(max=1),
        "p_dense_top1_pruned": q.gather(1, top[:, None])[:, 0],
        "entropy_pruned_nats": -(q * log_q).sum(-1).clamp(max=0),
    }
