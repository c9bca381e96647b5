"""Formulas of the LM head and the final norm; `prunescope.pipelines.models` finds their modules."""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.metrics import rounding
from prunescope.pipelines.metrics.cpu_matmul import product, product64

_PROBE_ROWS = 5
# Sizes of states at which the usual eps (1e-12 to 1e-5) matters, and one far below any eps.
_EPS_ROOTS = (1e-2, 1e-4)
_TINY = 1e-10
_MAX_EPS = 0.1
# Tokens per state whose logits are recomputed in float32 after a half-precision product has ranked all tokens.
_CANDIDATES = 32

Lens: TypeAlias = Literal["raw", "normed"]
NormKind: TypeAlias = Literal["rms", "rms_plus_one", "layer", "layer_plus_one"]


@dataclass(frozen=True)
class FinalNorm:
    """A final norm with a formula for its response to a shift.

    Args:
        kind: `rms` is n = w·h/√v + b; `layer` (LayerNorm) is the same on h − mean(h); `_plus_one` replaces w by w + 1
            (Gemma, Nemotron).
        eps: Added to the mean square (or the variance) before the root.
        weight: Gain w of shape (d,), or one number for all; None is 1. An L2 norm is `rms` with w = 1/√d.
        bias: Offset b of shape (d,); it cancels in a shift.
    """

    kind: NormKind
    eps: float
    weight: Float[Tensor, " d"] | Float[Tensor, ""] | None = None
    bias: Float[Tensor, " d"] | None = None

    def __call__(self, h: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the norm in float32, computed in float64."""
        return self.exact(h).float()

    def exact(self, h: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Return the norm in float64."""
        state = self.centred(h)
        normed = state / self._root(state) * self._gain(state)
        return normed if self.bias is None else normed + self.bias.detach().double()

    def shift(self, h: Float[Tensor, "n d"], dh: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return norm(h + Δ) − norm(h) without subtracting the two.

        With v = mean(h²) + eps, v' the same for h + Δ, ρ = 1/√v and ρ' = 1/√v':
        v' − v = (2⟨h, Δ⟩ + ‖Δ‖²)/d, ρ' − ρ = (v − v')/(√v √v' (√v + √v')) and
        norm(h + Δ) − norm(h) = w·(Δ ρ' + h (ρ' − ρ)). LayerNorm is the same on centred h and Δ.

        Everything is float64 (u = 1.1e-16). By Cauchy and Schwarz |v − v'| is at most ‖Δ‖(√v + √v')/√d, so
        ‖h (ρ' − ρ)‖ ≤ ‖Δ‖ρ', and both terms are at most ‖Δ‖ρ' long. Each has a relative error of at most about d·u.
        The error of their sum is below 4·d·u·‖w‖∞‖Δ‖ρ' even for the smallest ‖Δ‖/‖h‖, because it does not depend on
        the size of norm(h). Rounding to float32 adds 6e-8 of each element.
        """
        state, move = self.centred(h), self.centred(dh)
        root, root_after = self._root(state), self._root(state + move)
        growth = (2 * (state * move).sum(-1, keepdim=True) + move.square().sum(-1, keepdim=True)) / state.shape[-1]
        change = -growth / (root * root_after * (root + root_after))
        return ((move / root_after + state * change) * self._gain(state)).float()

    def centred(self, h: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Return the states in float64, for LayerNorm minus their mean; the norm divides by their mean square."""
        state = h.double()
        return state - state.mean(-1, keepdim=True) if self.kind.startswith("layer") else state

    def _root(self, state: Tensor) -> Tensor:
        return (state.square().mean(-1, keepdim=True) + self.eps).sqrt()

    def _gain(self, state: Tensor) -> Tensor:
        if self.weight is None:
            return state.new_ones(())
        weight = self.weight.detach().double()
        return weight + 1 if self.kind.endswith("plus_one") else weight


def find_final_norm(module: nn.Module, width: int) -> FinalNorm:
    """Return the formula of a norm module, verified on random states from far below its eps to far above it.

    The module has a gain, a bias, both or neither; eps may be an attribute or a constant in its code. `width` is the
    width of the normed states.

    Raises:
        InputError: no known formula reproduces the module's output.
    """
    parameters: dict[str, Tensor] = dict(module.named_parameters())
    weight, bias = parameters.pop("weight", None), parameters.pop("bias", None)
    refusal = f"final norm {type(module).__name__} is neither RMSNorm nor LayerNorm (gain w, 1 + w or none); refused"
    if parameters or any(vector is not None and vector.shape != (width,) for vector in (weight, bias)):
        raise InputError(refusal)
    weight, bias = (None if vector is None else vector.detach() for vector in (weight, bias))
    any_tensor = next((vector for vector in (weight, bias) if vector is not None), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    # Two off-centre rows, two rows of a size near the usual eps, and one far below it.
    unit = torch.randn(_PROBE_ROWS, width, generator=generator) + 0.5
    scales = torch.tensor([1.0, 30.0, *_EPS_ROOTS, _TINY])[:, None]
    unit[-1] = unit[0]  # the gain cancels, because the tiny row has the direction of the first row
    probe = (unit * scales).to(any_tensor.device, any_tensor.dtype)
    with torch.no_grad():
        truth = module(probe[None])[0].double()
    attributes = [value for value in vars(module).values() if isinstance(value, float) and 0 <= value < _MAX_EPS]
    length = truth.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    size = (truth / length).norm(dim=0).clamp_min(1e-30)
    fitting: list[tuple[float, FinalNorm]] = []
    for kind in get_args(NormKind):
        bare = FinalNorm(kind, 0.0, weight, bias)
        measured = _measured_eps(bare, probe, truth)
        # An eps in code has few digits. The measured one has an error in its seventh digit, so it is also rounded.
        for eps in (*attributes, float(f"{measured:.4g}"), measured):
            norm = replace(bare, eps=eps)
            if weight is None:  # the gain may be one number: 1/√d for an L2 norm
                norm = replace(norm, weight=_measured_gain(norm, probe, truth))
            error = (norm(probe).double() - truth) / length
            if bool((error.norm(dim=-1) <= rounding.OF_NORM[probe.dtype]).all()):
                fitting.append((float((error.norm(dim=0) / size).norm()), norm))
                break
    # With few bits and a gain of 300 in one channel (Gemma 3), w and w + 1 agree on whole rows; other channels differ.
    if fitting:
        return min(fitting, key=lambda each: each[0])[1]
    raise InputError(refusal)


def _measured_gain(norm: FinalNorm, probe: Tensor, truth: Tensor) -> Tensor | None:
    """Return the ratio of the module's output to that of the formula, on the first row; None if it is 1."""
    formula, output = norm(probe[:1]).double(), truth[:1]
    if norm.bias is not None:
        formula, output = formula - norm.bias.double(), output - norm.bias.double()
    gain = (formula * output).sum() / formula.square().sum()
    return None if abs(float(gain) - 1) < rounding.OF_NORM[probe.dtype] else gain.float()


def _measured_eps(norm: FinalNorm, probe: Tensor, truth: Tensor) -> float:
    """Return the eps that fits the first row and the last, which has the same direction and a size far below eps.

    s = ‖n‖/‖h‖ = g/√(v + eps) on both rows, so s²(v + eps) = g² twice: eps = (s₁²v₁ − s₅²v₅) / (s₅² − s₁²).
    """
    state = norm.centred(probe)
    shift = 0 if norm.bias is None else norm.bias.double()
    slope = ((truth - shift).norm(dim=-1) / state.norm(dim=-1).clamp_min(1e-30)).square()
    mean = state.square().mean(dim=-1)
    eps = float((slope[0] * mean[0] - slope[-1] * mean[-1]) / (slope[-1] - slope[0]))
    return eps if 0 < eps < _MAX_EPS else 0.0


@dataclass(frozen=True)
class OutputHead:
    """The LM head z = scale·W x (+ bias), capped to cap·tanh(z/cap), with the final norm before it.

    Args:
        weight: W of shape (V, d).
        bias: Added to the logits, shape (V,).
        norm: The final norm; None if the model has none, in which case the lens `normed` equals `raw`.
        scale: Factor of W x (Cohere, Granite).
        cap: Bound of the logits' absolute value (Gemma's soft-capping), or None.
        half: W in the model's own bfloat16 or float16, equal to `weight`; None for a model in float32.
    """

    weight: Float[Tensor, "v d"]
    bias: Float[Tensor, " v"] | None = None
    norm: FinalNorm | None = None
    scale: float = 1.0
    cap: float | None = None
    half: Float[Tensor, "v d"] | None = None

    def lens(
        self, h: Float[Tensor, "n d"], dh: Float[Tensor, "n d"], lens: Lens
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Return the head's input for residual streams h, and its shift for a shift dh of h.

        The lens is `raw`, the stream itself (2603.24652 §3), or `normed`, after the final norm.
        """
        if lens == "raw" or self.norm is None:
            return h, dh
        return self.norm(h), self.norm.shift(h, dh)

    def logits(self, h: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        """Return the model's logits for residual streams."""
        return self.logits_of_state(h if self.norm is None else self.norm(h))

    def logits_of_state(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        """Return the model's logits in float32 for the head's input x: scale, bias and cap included."""
        return self.capped(self.raw(x))

    def likeliest(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
        """Return each row's largest logit in float32 and its token, the lower id on ties.

        A half-precision product reads half as much memory. Its float32 sums are rounded at the end, so it only chooses
        candidates, whose logits are then computed in float32. A row whose largest logit does not exceed the least
        candidate by two such roundings is recomputed for all tokens.
        """
        if self.half is None or x.dtype != self.half.dtype or self.bias is not None or self.cap or self.scale <= 0:
            largest, token = self.logits_of_state(x).max(dim=-1)
            return largest, token
        rough, candidates = nn.functional.linear(x, self.half).topk(min(_CANDIDATES, len(self.half)), dim=-1)
        candidates = candidates.sort(dim=-1).values
        logits = (self.weight[candidates] @ x.float()[:, :, None])[..., 0]
        largest, place = logits.max(dim=-1)
        token = candidates.gather(-1, place[:, None])[:, 0]
        margin = torch.finfo(x.dtype).eps * rough.float().abs().amax(dim=-1)
        unsure = largest < rough[:, -1] + margin
        if candidates.shape[1] < len(self.half) and bool(unsure.any()):
            largest[unsure], token[unsure] = self.linear(x[unsure]).div_(self.scale).max(dim=-1)
        return largest * self.scale, token

    def exact_logits(self, x: Float[Tensor, "n d"]) -> Float64[Tensor, "n v"]:
        """Return the model's logits in float64 for the head's input x, on a CPU."""
        z = product64(x, self.weight.detach()) * self.scale
        return self.capped(z if self.bias is None else z + self.bias.detach())

    def linear(self, x: Float[Tensor, "n d"], tokens: slice = slice(None)) -> Float[Tensor, "n v"]:
        """Return scale·W x of some tokens in float32: logits before bias and cap, or their shift before the cap."""
        z = product(x.float(), self.weight.detach()[tokens].float())
        return z if self.scale == 1 else z.mul_(self.scale)

    def raw(self, x: Float[Tensor, "n d"], tokens: slice = slice(None)) -> Float[Tensor, "n v"]:
        """Return logits of some tokens before the cap: scale·W x + bias, float32."""
        z = self.linear(x, tokens)
        return z if self.bias is None else z + self.bias.detach()[tokens].float()

    def capped(self, z: Float[Tensor, "n v"]) -> Float[Tensor, "n v"]:
        """Return cap·tanh(z/cap) for raw logits z, or z itself without a cap."""
        return z if self.cap is None else (z / self.cap).tanh_().mul_(self.cap)

    def capped_shift(
        self, z: Float[Tensor, "n v"], dz: Float[Tensor, "n v"], out: Tensor | None = None
    ) -> Float[Tensor, "n v"]:
        """Return capped(z + Δ) − capped(z) without subtracting the two, or Δ itself without a cap.

        With a = z/c and b = Δ/c, tanh(a + b) − tanh(a) = sinh(b) / (cosh(a)·cosh(a + b)). We write cosh(t) = e^|t| (1 +
        e^(−2|t|))/2 and sinh|t| = −e^|t| expm1(−2|t|)/2. Then all exponents are at most 0, because |b| ≤ |a| + |a + b|,
        and no term overflows:

            Δ_capped = c·sign(b)·2·(−expm1(−2|b|))·e^(|b| − |a| − |a + b|) / ((1 + e^(−2|a|))(1 + e^(−2|a + b|))).

        The exponent has an error of at most about 4·u·(|a| + |b|), u = 6e-8 in float32; every other factor has a
        relative error of a few u. So the relative error is below 4·u·(2 + |a| + |b|), also for tiny Δ and for z near
        the cap. The result is 0 only if both sides are beyond 50 caps: it is then below float32's smallest number.

        z are raw dense logits. `out` takes the result and may be `dz`; None allocates a tensor.
        """
        if self.cap is None:
            return dz if out is None else out.copy_(dz)
        a, b = z / self.cap, dz / self.cap
        after = (a + b).abs_()
        a.abs_()
        size = b.abs()
        grown = size.mul(-2).expm1_().mul_(-2 * self.cap).copysign_(b)
        grown.mul_(size.sub_(a).sub_(after).clamp_(max=0).exp_())
        grown.div_(a.mul_(-2).exp_().add_(1)).div_(after.mul_(-2).exp_().add_(1))
        return grown if out is None else out.copy_(grown)

    def shift(self, x: Float[Tensor, "n d"], dx: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        """Return the float32 shift of the model's logits for a shift dx of the head's input x.

        It is scale·W dx, in which the bias cancels, passed through `capped_shift` if there is a cap. It is never a
        difference of logits, and without a cap it does not depend on x.
        """
        dz = self.linear(dx)
        return dz if self.cap is None else self.capped_shift(self.raw(x), dz, out=dz)
