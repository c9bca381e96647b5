"""Slow float64 reference of the divergence columns, for tests only."""

import torch
from jaxtyping import Float
from torch import Tensor

from prunescope.pipelines.metrics.output_head import OutputHead


def norm_reference(h: Float[Tensor, "n d"], head: OutputHead) -> Float[Tensor, "n d"]:
    """Return the final norm in float64, by its definition."""
    norm = head.norm
    h = h.double()
    if norm is None:
        return h
    gain = 1.0 if norm.weight is None else norm.weight.double()
    if norm.kind in ("rms_plus_one", "layer_plus_one"):
        gain = gain + 1
    if norm.kind in ("layer", "layer_plus_one"):
        h = h - h.mean(-1, keepdim=True)
    normed = h / torch.sqrt((h**2).mean(-1, keepdim=True) + norm.eps) * gain
    return normed if norm.bias is None else normed + norm.bias.double()


def logits_reference(x: Float[Tensor, "n d"], head: OutputHead) -> Float[Tensor, "n v"]:
    """Return logits in float64 from the head's input: scale, bias, then cap."""
    z = head.scale * (x.double() @ head.weight.double().T)
    z = z if head.bias is None else z + head.bias.double()
    return z if head.cap is None else head.cap * torch.tanh(z / head.cap)


def space_reference(v: Float[Tensor, "n m"], w: Float[Tensor, "n m"], space: str) -> dict[str, Tensor]:
    """Return the columns of one space for a dense vector v and a pruned vector w."""
    v, w = v.double(), w.double()
    norm, dv = v.norm(dim=-1), w - v
    along = (dv * v).sum(-1) / norm**2
    across = (dv - along[:, None] * v).norm(dim=-1) / norm
    return {
        f"norm_{space}": norm,
        f"norm_d{space}": dv.norm(dim=-1),
        f"one_minus_cos_{space}": 1 - (v * w).sum(-1) / (norm * w.norm(dim=-1)),
        f"par_rel_{space}": along,
        f"orth_rel_{space}": across,
        f"t1_{space}": across**2 / 2,
    }


def divergence_reference(
    x: Float[Tensor, "n d"], dx: Float[Tensor, "n d"], head: OutputHead, temperature: float
) -> dict[str, Tensor]:
    """Return every divergence column by its definition, from both sides' logits in float64.

    Close numbers are subtracted directly, so a cosine defect or a divergence has an absolute error of about 1e-15.
    """
    h, h_pruned = x.double(), x.double() + dx.double()
    z, z_pruned = logits_reference(x, head), logits_reference(h_pruned, head)
    dz = z_pruned - z
    log_p = torch.log_softmax(z / temperature, -1)
    log_q = torch.log_softmax(z_pruned / temperature, -1)
    p, q = log_p.exp(), log_q.exp()
    log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0, dtype=torch.float64))
    r = p**2 / (p**2).sum(-1, keepdim=True)

    def variance(weights: Tensor) -> Tensor:
        mean = (weights * dz).sum(-1, keepdim=True)
        return (weights * (dz - mean) ** 2).sum(-1)

    def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
        return (log_a.exp() * (log_a - log_b)).sum(-1)

    rows = torch.arange(len(z))
    order, order_pruned = _order(z), _order(z_pruned)
    top, top_pruned = order[:, 0], order_pruned[:, 0]

    def overlap(count: int) -> Tensor:
        count = min(count, z.shape[1])
        both = [set(a[:count].tolist()) & set(b[:count].tolist()) for a, b in zip(order, order_pruned, strict=True)]
        return torch.tensor([len(tokens) / count for tokens in both], dtype=torch.float64)

    def moment(power: int) -> Tensor:
        mean = (p * dz).sum(-1, keepdim=True)
        return (p * ((dz - mean) / temperature) ** power).sum(-1)

    in_p = space_reference(p, q, "p")
    del in_p["t1_p"]
    return {
        **space_reference(h, h_pruned, "h"),
        **space_reference(z, z_pruned, "z"),
        **in_p,
        "var_uniform_dz": variance(torch.full_like(p, 1 / p.shape[1])),
        "var_r_dz": variance(r),
        "t2_p": variance(r) / (2 * temperature**2),
        "var_p_dz": variance(p),
        "t3_kl_nats": variance(p) / (2 * temperature**2),
        "var_rq_dz": variance(q**2 / (q**2).sum(-1, keepdim=True)),
        "var_q_dz": variance(q),
        "kappa3_term_nats": moment(3) / 6,
        "kappa4_term_nats": (moment(4) - 3 * moment(2) ** 2) / 24,
        "kl_dense_pruned_nats": kl(log_p, log_q),
        "kl_pruned_dense_nats": kl(log_q, log_p),
        "js_nats": kl(log_p, log_m) / 2 + kl(log_q, log_m) / 2,
        "total_variation": (p - q).abs().sum(-1) / 2,
        "identity_residual_nats": torch.zeros(len(z), dtype=torch.float64),
        "is_top1_same": top == top_pruned,
        "topk5_overlap": overlap(5),
        "topk10_overlap": overlap(10),
        "rank_of_dense_top1": (order_pruned == top[:, None]).int().argmax(-1) + 1,
        "rank_of_pruned_top1": (order == top_pruned[:, None]).int().argmax(-1) + 1,
        "p_dense_top1_dense": p[rows, top],
        "p_dense_top1_pruned": q[rows, top],
        "p_pruned_top1_dense": p[rows, top_pruned],
        "p_pruned_top1_pruned": q[rows, top_pruned],
        "entropy_dense_nats": -(p * log_p).sum(-1),
        "entropy_pruned_nats": -(q * log_q).sum(-1),
        "margin_dense": z[rows, top] - z[rows, order[:, 1]],
        "margin_pruned": z_pruned[rows, top_pruned] - z_pruned[rows, order_pruned[:, 1]],
    }


def _order(logits: Tensor) -> Tensor:
    """Return token ids from the most likely down, equal logits by lowest id."""
    return logits.sort(dim=-1, descending=True, stable=True).indices
