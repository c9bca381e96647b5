"""KL(dense ‖ pruned) at the output for many shifts of the same final streams; no other column is computed here.

`prunescope.pipelines.metrics.divergence` computes all columns of a table; a search needs one number a token of
hundreds of shifts.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from prunescope.pipelines.metrics.output_head import OutputHead

# Rows of one block of logits.
BLOCK_ROWS = 64
# Largest centred logit shift whose exponential stays finite in float32 when it is summed over a vocabulary.
_LARGEST = 60.0


class _Block(NamedTuple):
    """The dense side of some rows: head inputs, logits before the cap (None without one) and log-probabilities."""

    states: Tensor
    raw: Tensor | None
    log_p: Tensor
    p: Tensor


class DenseOutput:
    """The dense model's softmax at some positions, against which shifts of the final stream are measured.

    Args:
        streams: final residual streams, before the final norm.
        head: final norm and LM head.
    """

    def __init__(self, streams: Float[Tensor, "rows width"], head: OutputHead) -> None:
        self._streams, self._head = streams, head
        self.states = head.lens(streams, torch.zeros_like(streams), "normed")[0].float()
        self._blocks = [self._block(states) for states in self.states.split(BLOCK_ROWS)]

    def _block(self, states: Tensor) -> _Block:
        raw = self._head.raw(states)
        log_p = torch.log_softmax(self._head.capped(raw), dim=-1)
        return _Block(states, None if self._head.cap is None else raw, log_p, log_p.exp())

    @torch.inference_mode()
    def kl(self, shift: Float[Tensor, "rows width"]) -> tuple[Float64[Tensor, " rows"], Float[Tensor, "rows width"]]:
        """Return KL(dense ‖ pruned) in nats of every row for a shift of the streams, and the shift of the head's input.

        With d = Δz − E_p[Δz], KL = log E_p[e^Δz] − E_p[Δz] = log(1 + E_p[e^d − 1 − d]), whose terms are not negative
        (the exact form of Theorem 3 in 2603.24652). Logits and sums are float32. Rows whose shift is too large for
        this form take the log-softmax of both sides.
        """
        moves = self._head.lens(self._streams, shift, "normed")[1]
        parts = zip(self._blocks, moves.split(BLOCK_ROWS), strict=True)
        return torch.cat([self._block_kl(block, move) for block, move in parts]), moves

    def _block_kl(self, block: _Block, move: Tensor) -> Tensor:
        dz = self._head.linear(move)
        if block.raw is not None:
            dz = self._head.capped_shift(block.raw, dz, out=dz)
        dz -= (block.p * dz).sum(dim=-1, keepdim=True)
        excess = torch.expm1(dz).sub_(dz).mul_(block.p).sum(dim=-1, dtype=torch.float64)
        kl = excess.clamp_(min=0).log1p_()
        large = ~(dz.amax(dim=-1) < _LARGEST)  # NaN too
        if bool(large.any()):
            log_p = block.log_p[large]
            log_q = torch.log_softmax(log_p + dz[large], dim=-1)
            kl[large] = (block.p[large] * (log_p - log_q)).sum(dim=-1, dtype=torch.float64).clamp_(min=0)
        return kl
