"""How logits come from a state: the LM head and the final norm in front of it, as formulas.

Which modules of a model these are is found in `pipelines.models`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipelines.errors import InputError

_PROBE_ROWS = 4
_FEW_ROWS = 16
# A norm in bfloat16 rounds its output to 8 bits; a wrong kind is off by far more.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@dataclass(frozen=True)
class FinalNorm:
    """A final norm whose response to a shift can be written down.

    Args:
        kind: `rms` n = w·h/√v, `rms_plus_one` the same with w + 1 (Gemma), `layer` LayerNorm.
        eps: Added to the mean square (or the variance) before the root.
        weight: Gain w of shape (d,); None is 1.
        bias: Offset of shape (d,), `layer` only; it cancels in a shift.
    """

    kind: Literal["rms", "rms_plus_one", "layer"]
    eps: float
    weight: Float[Tensor, " d"] | None = None
    bias: Float[Tensor, " d"] | None = None

    def __call__(self, h: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The norm itself: float64 inside, float32 out."""
        state = self._centred(h)
        normed = state / self._root(state) * self._gain(state)
        return (normed if self.bias is None else normed + self.bias.detach().double()).float()

    def shift(self, h: Float[Tensor, "n d"], dh: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """norm(h + Δ) − norm(h) without subtracting the two.

        With v = mean(h²) + eps, v' the same of h + Δ, ρ = 1/√v and ρ' = 1/√v':
        v' − v = (2⟨h, Δ⟩ + ‖Δ‖²)/d, ρ' − ρ = (v − v')/(√v √v' (√v + √v')) and
        norm(h + Δ) − norm(h) = w·(Δ ρ' + h (ρ' − ρ)). LayerNorm is the same on centred h and Δ.

        All of it is float64 (u = 1.1e-16) on the input as given. By Cauchy and Schwarz |v − v'| is at most
        ‖Δ‖(√v + √v')/√d, so ‖h (ρ' − ρ)‖ ≤ ‖Δ‖ρ' and both terms are at most ‖Δ‖ρ' long. Each carries a relative
        error of at most about d·u, so the error of their sum is below 4·d·u·‖w‖∞‖Δ‖ρ' however small ‖Δ‖/‖h‖ is:
        no digit of norm(h) enters. Rounding to float32 adds 6e-8 of each element.
        """
        state, move = self._centred(h), self._centred(dh)
        root, root_after = self._root(state), self._root(state + move)
        growth = (2 * (state * move).sum(-1, keepdim=True) + move.square().sum(-1, keepdim=True)) / state.shape[-1]
        change = -growth / (root * root_after * (root + root_after))
        return ((move / root_after + state * change) * self._gain(state)).float()

    def _centred(self, h: Tensor) -> Tensor:
        state = h.double()
        return state - state.mean(-1, keepdim=True) if self.kind == "layer" else state

    def _root(self, state: Tensor) -> Tensor:
        return (state.square().mean(-1, keepdim=True) + self.eps).sqrt()

    def _gain(self, state: Tensor) -> Tensor:
        weight = state.new_zeros(()) if self.weight is None else self.weight.detach().double()
        return weight + 1 if self.weight is None or self.kind == "rms_plus_one" else weight


def find_final_norm(module: nn.Module) -> FinalNorm:
    """The formula of a norm module, proved on random states.

    Raises:
        InputError: none of the known formulas gives what the module gives.
    """
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    eps = next(
        (getattr(module, name) for name in ("variance_epsilon", "eps", "epsilon") if hasattr(module, name)), None
    )
    refusal = (
        f"final norm {type(module).__name__} is neither RMSNorm (gain w or 1 + w) nor LayerNorm; it is not supported"
    )
    if not isinstance(weight, Tensor) or not isinstance(eps, float):
        raise InputError(refusal)
    # Views of their own: the formula stays as it is when a variant puts other weights into the module.
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    generator = torch.Generator().manual_seed(0)
    # Off-centre, and small enough for eps to show.
    probe = torch.randn(_PROBE_ROWS, weight.shape[0], generator=generator) + 0.5
    probe[0] *= eps**0.5
    probe = probe.to(weight.device, weight.dtype)
    with torch.no_grad():
        truth = module(probe[None])[0].double()
    kinds: tuple[Literal["rms", "rms_plus_one", "layer"], ...] = ("rms", "rms_plus_one", "layer")
    for kind in kinds:
        norm = FinalNorm(kind, eps, weight, bias if kind == "layer" else None)
        error = (norm(probe).double() - truth).norm(dim=-1) / truth.norm(dim=-1).clamp_min(1e-30)
        if bool((error <= _TOLERANCE.get(weight.dtype, 1e-5)).all()):
            return norm
    raise InputError(refusal)


@dataclass(frozen=True)
class Head:
    """The LM head: z = x Wᵀ (+ bias), with the norm that the model puts in front of it.

    Args:
        weight: W of shape (V, d).
        bias: Added to every dense and pruned logit, shape (V,); it cancels in Δz.
        norm: The final norm; None where the model has none, and `normed` is then `raw`.
    """

    weight: Float[Tensor, "v d"]
    bias: Float[Tensor, " v"] | None = None
    norm: FinalNorm | None = None

    def lens(
        self, h: Float[Tensor, "n d"], dh: Float[Tensor, "n d"], lens: str
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """What the head reads of residual streams h, and the shift of it that a shift dh of h makes.

        Args:
            h: Dense residual streams.
            dh: Their shifts.
            lens: `raw`, the stream as it is (2603.24652 §3), or `normed`, behind the final norm.

        Raises:
            ValueError: another lens.
        """
        if lens not in ("raw", "normed"):
            raise ValueError(f"lens {lens!r}: choose raw or normed")
        if lens == "raw" or self.norm is None:
            return h, dh
        return self.norm(h), self.norm.shift(h, dh)

    def logits(self, h: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        """The model's logits, from residual streams."""
        return self.logits_of_state(h if self.norm is None else self.norm(h))

    def logits_of_state(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        """Logits z = x Wᵀ (+ bias) in float32, from what the head reads."""
        z = self.shift(x)
        return z if self.bias is None else z + self.bias.detach().float()

    def shift(self, dx: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        """Shift of the logits, Δz = dx Wᵀ in float32; never a difference of logits."""
        weight, rows = self.weight.detach().float(), dx.float()
        # A tall matrix times a few columns runs at memory speed; MKL packs all of W for a few rows times Wᵀ.
        return (weight @ rows.T).T if len(rows) < _FEW_ROWS else rows @ weight.T
