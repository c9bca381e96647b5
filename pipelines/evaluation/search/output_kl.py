"""KL(dense ‖ pruned) at the output for many shifts of the same final streams.

`prunescope.pipelines.metrics.divergence` computes all columns of a table. A search needs one number per token for
hundreds of shifts.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from prunescope.pipelines.metrics.output_head import OutputHead

# Logits per block, 1 MiB: they stay in the cores' caches from the product to the last sum.
BLOCK_LOGITS = 2**18
# Largest centred logit shift whose exponentials, summed over a vocabulary, stay finite in float32.
_LARGEST = 60.0


class DenseOutput:
    """Softmax of the dense model at some positions, against which shifts of the final stream are measured.

    `streams` are final residual streams, before the final norm. `keeps_softmax` keeps it for the next shift, rows × V ×
    4 bytes, twice as many with a cap; otherwise each shift computes it again, which is a second product with the head.
    """

    @torch.inference_mode()
    def __init__(self, streams: Float[Tensor, "rows width"], head: OutputHead, *, keeps_softmax: bool = False) -> None:
        self.streams, self._head = streams, head
        self.states = head.lens(streams, torch.zeros_like(streams), "normed")[0].float()
        raw = head.raw(self.states)
        logits = head.capped(raw)
        self._log_sum = logits.logsumexp(dim=-1, keepdim=True)
        p = (logits - self._log_sum).exp_()
        slopes = p if head.cap is None else (1 - (logits / head.cap).square_()).mul_(p)
        # E_p[w] of the rows w of W, with a cap times its slope; its product with a move is E_p[Δz] to first order.
        self._mean_weight = head.scale * (slopes @ head.weight.detach().float())
        self._kept = (p, None if head.cap is None else raw) if keeps_softmax else None

    @torch.inference_mode()
    def kl(self, shift: Float[Tensor, "rows width"]) -> tuple[Float64[Tensor, " rows"], Float[Tensor, "rows width"]]:
        """Return KL(dense ‖ pruned) in nats per row for a shift of the streams, and the shift of the head's input.

        With d = Δz − c, KL = log E_p[e^Δz] − E_p[Δz] = log(1 + E_p[e^d − 1 − d] + E_p[d]) − E_p[d] for any c; c =
        E_p[Δz] is the exact form of Theorem 3 in 2603.24652. A c close to E_p[Δz] is known before the logits are
        computed. With it, one pass over blocks of the vocabulary computes both sums, and the terms of the first are not
        negative. Blocks are summed in float32 and added in float64; an error of E_p[d] cancels to first order. Rows
        whose shift is too large for this form take the log-softmax of both sides.
        """
        moves = self._head.lens(self.streams, shift, "normed")[1].float()
        centre = (self._mean_weight * moves).sum(dim=-1, keepdim=True)
        excess, first = (torch.zeros(len(moves), dtype=torch.float64, device=moves.device) for _ in range(2))
        largest = torch.full_like(centre[:, 0], -torch.inf)
        size = max(1, BLOCK_LOGITS // len(moves))
        for start in range(0, len(self._head.weight), size):
            block = slice(start, start + size)
            p, raw = self._dense(block)
            d = self._head.linear(moves, block)
            if raw is not None:
                d = self._head.capped_shift(raw, d, out=d)
            d -= centre
            largest = torch.maximum(largest, d.amax(dim=-1))
            first += (p * d).sum(dim=-1)
            excess += torch.expm1(d).sub_(d).mul_(p).sum(dim=-1)
        kl = (excess + first).log1p_().sub_(first).clamp_(min=0)
        large = ~(largest < _LARGEST)  # NaN too
        if bool(large.any()):
            states = self.states[large]
            log_p = torch.log_softmax(self._head.logits_of_state(states), dim=-1)
            log_q = torch.log_softmax(log_p + self._head.shift(states, moves[large]), dim=-1)
            kl[large] = (log_p.exp() * (log_p - log_q)).sum(dim=-1, dtype=torch.float64).clamp_(min=0)
        return kl, moves

    def _dense(self, block: slice) -> tuple[Tensor, Tensor | None]:
        """Return p of a block of tokens, and with a cap the logits before it."""
        if self._kept is not None:
            p, raw = self._kept
            return p[:, block], None if raw is None else raw[:, block]
        raw = self._head.raw(self.states, block)
        p = (self._head.capped(raw) - self._log_sum).exp_()
        return p, None if self._head.cap is None else raw
