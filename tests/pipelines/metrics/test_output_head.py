"""Final norms as formulas: against torch's own modules, on shifts from tiny to larger than the state."""

from dataclasses import replace
from decimal import Context, Decimal, localcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.nemotron.modeling_nemotron import NemotronLayerNorm1P
from transformers.models.olmo.modeling_olmo import OlmoLayerNorm

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.metrics.output_head import FinalNorm, OutputHead, find_final_norm
from tests.examples import examples
from tests.pipelines.metrics.reference import logits_reference, norm_reference

WIDTH = 48
KINDS = ("rms", "rms_plus_one", "layer", "layer_plus_one")


def module_of(kind: str) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(WIDTH, generator=generator)
    module: nn.Module = {
        "layer": nn.LayerNorm(WIDTH, eps=1e-5),
        "layer_plus_one": NemotronLayerNorm1P(WIDTH, eps=1e-5),
        "rms": LlamaRMSNorm(WIDTH, eps=1e-6),
        "rms_plus_one": GemmaRMSNorm(WIDTH, eps=1e-6),
    }[kind]
    if getattr(module, "bias", None) is not None:
        nn.init.normal_(module.bias, generator=generator)
    module.weight.data = weight
    return module


def states(seed: int, rows: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, WIDTH, generator=generator) + 0.3, torch.randn(rows, WIDTH, generator=generator)


def in_float64(norm: FinalNorm, h: Tensor) -> Tensor:
    return norm_reference(h, OutputHead(torch.eye(WIDTH), norm=norm))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("largest", [1.0, 30_000.0])
def test_a_norm_module_is_recognized_by_its_output(kind, largest, dtype):
    module = module_of(kind).to(dtype)
    module.weight.data[3] = largest
    norm = find_final_norm(module, WIDTH)
    assert norm.kind == kind
    h, _ = states(1)
    given_states = h.to(dtype)
    with torch.no_grad():
        truth = module(given_states).float()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(norm(given_states), truth, rtol=tolerance, atol=tolerance)


def test_the_reference_norms_are_torchs_own_in_float64():
    h, _ = states(2)
    for kind in ("rms", "layer"):
        module = module_of(kind).double()
        own = nn.functional.rms_norm(h.double(), (WIDTH,), module.weight, 1e-6) if kind == "rms" else module(h.double())
        norm = FinalNorm(kind, 1e-6 if kind == "rms" else 1e-5, module.weight, getattr(module, "bias", None))
        torch.testing.assert_close(in_float64(norm, h).detach(), own.detach(), rtol=1e-12, atol=1e-12)


class ScaledNorm(nn.Module):
    """A norm by the largest entry, which has no formula here."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(WIDTH)), 1e-5

    def forward(self, h: Tensor) -> Tensor:
        return self.weight * h / h.abs().amax(-1, keepdim=True)


@pytest.mark.parametrize("module", [ScaledNorm(), nn.Identity(), nn.Linear(WIDTH, WIDTH)])
def test_a_module_that_is_no_known_norm_is_refused_by_name(module):
    with pytest.raises(InputError, match=type(module).__name__):
        find_final_norm(module, WIDTH)


@settings(max_examples=examples(60))
@given(st.sampled_from(KINDS), st.integers(0, 2**31), st.sampled_from([1e-7, 1e-5, 1e-2, 1.0, 1e3]), st.booleans())
def test_a_tiny_shift_through_a_norm_keeps_its_digits(kind, seed, size, is_parallel):
    h, noise = states(seed)
    dh = size * (h if is_parallel else noise)
    norm = find_final_norm(module_of(kind), WIDTH)
    truth = in_float64(norm, h.double() + dh.double()) - in_float64(norm, h)
    error = (norm.shift(h, dh).double() - truth).norm(dim=-1)
    # The naive float32 difference would be off by 1e-7 of the norm itself; 1e-15 is the reference's own noise.
    assert (error <= 2e-7 * truth.norm(dim=-1) + 1e-14).all()


@pytest.mark.parametrize("kind", KINDS)
def test_negating_a_state_negates_its_norm(kind):
    h, _ = states(3)
    norm = find_final_norm(module_of(kind), WIDTH)
    centred = norm(h) if norm.bias is None else norm(h) - norm.bias.detach()
    torch.testing.assert_close(norm.shift(h, -2 * h), -2 * centred, rtol=1e-6, atol=1e-6)
    assert not norm.shift(h, torch.zeros_like(h)).any()


class L2Norm(nn.Module):
    """x / ‖x‖, as torch's normalize."""

    def forward(self, h: Tensor) -> Tensor:
        return nn.functional.normalize(h, dim=-1)


@pytest.mark.parametrize(
    ("module", "kind", "eps", "gain"),
    [
        (OlmoLayerNorm(WIDTH), "layer", 1e-5, None),
        (nn.LayerNorm(WIDTH, eps=1e-3, elementwise_affine=False), "layer", 1e-3, None),
        (nn.LayerNorm(WIDTH, bias=False), "layer", 1e-5, "own"),
        (nn.RMSNorm(WIDTH, elementwise_affine=False, eps=1e-8), "rms", 1e-8, None),
        (nn.RMSNorm(WIDTH), "rms", torch.finfo(torch.float32).eps, "own"),
        (L2Norm(), "rms", 0.0, WIDTH**-0.5),
    ],
)
def test_norms_without_gain_bias_or_named_eps_are_recognized(module, kind, eps, gain):
    norm = find_final_norm(module, WIDTH)
    assert norm.kind == kind
    assert norm.eps == pytest.approx(eps, rel=1e-5)
    assert norm.bias is None
    if gain == "own":
        assert norm.weight.data_ptr() == module.weight.data_ptr()
    else:
        assert (norm.weight if norm.weight is None else float(norm.weight)) == (gain and pytest.approx(gain, rel=1e-6))
    h, dh = states(11)
    truth = in_float64(norm, h.double() + 1e-3 * dh.double()) - in_float64(norm, h)
    torch.testing.assert_close(norm.shift(h, 1e-3 * dh).double(), truth, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(norm(h), module(h), rtol=1e-5, atol=1e-6)


def head_of(scale: float, cap: float | None, has_bias: bool = True) -> OutputHead:
    generator = torch.Generator().manual_seed(6)
    weight, bias = torch.randn(70, WIDTH, generator=generator), torch.randn(70, generator=generator)
    return OutputHead(weight, bias if has_bias else None, find_final_norm(module_of("rms"), WIDTH), scale, cap)


@pytest.mark.parametrize("scale", [1.0, 0.0625, -3.0])
@pytest.mark.parametrize("cap", [None, 30.0, 2.0])
@pytest.mark.parametrize("rows", [4, 40])
def test_norm_scale_bias_and_cap_reach_the_logits_and_their_shift(scale, cap, rows):
    head = head_of(scale, cap)
    h, dh = states(4, rows)
    truth = logits_reference(norm_reference(h, head), head)
    torch.testing.assert_close(head.logits(h).double(), truth, rtol=1e-5, atol=1e-5)
    x, dx = head.lens(h, dh, "normed")
    torch.testing.assert_close(head.logits_of_state(x), head.logits(h))
    moved = logits_reference(norm_reference(h + dh, head), head)
    torch.testing.assert_close(head.shift(x, dx).double(), moved - truth, rtol=1e-5, atol=4e-5)
    product = scale * (dx.double() @ head.weight.double().T)
    torch.testing.assert_close(head.linear(dx).double(), product, rtol=1e-5, atol=1e-4)
    assert head.linear(dx).dtype == head.shift(x, dx).dtype == head.capped(head.raw(x)).dtype == torch.float32


LOGITS = st.floats(-3e4, 3e4, width=32)
SHIFTS = st.floats(-3e4, 3e4, width=32) | st.sampled_from([0.0, 1e-30, -1e-12, 1e-7, -1e-3])


@settings(max_examples=examples(300))
@given(st.lists(st.tuples(LOGITS | st.floats(-90, 90, width=32), SHIFTS), min_size=1, max_size=8), st.booleans())
def test_a_shift_through_the_cap_keeps_its_digits_and_never_overflows(pairs, is_opposite):
    cap = 30.0
    head = OutputHead(torch.eye(len(pairs)), cap=cap)
    z = torch.tensor([pair[0] for pair in pairs])[None]
    dz = -2 * z if is_opposite else torch.tensor([pair[1] for pair in pairs])[None]
    found = head.capped_shift(z, dz)
    # An independent form in whole precision: sums and differences of exponentials with 80 digits.
    with localcontext(Context(prec=80, Emax=10**6, Emin=-(10**6))):
        truth = []
        for value, shift in zip(z[0].tolist(), dz[0].tolist(), strict=True):
            before, after = (v * 2 / Decimal(cap) for v in (Decimal(value), Decimal(value) + Decimal(shift)))
            # tanh(t) = 1 − 2/(e^(2t) + 1)
            move = Decimal(cap) * (2 / (before.exp() + 1) - 2 / (after.exp() + 1))
            truth.append(float(move))
    size = (z.abs() + dz.abs()).double()[0] / cap
    allowed = 4 * 6e-8 * (2 + size) * torch.tensor(truth).double().abs() + 1e-37
    assert ((found[0].double() - torch.tensor(truth).double()).abs() <= allowed).all()
    assert not found[dz == 0].any()
    kept = dz.clone()
    assert head.capped_shift(z, dz, out=dz) is dz
    assert torch.equal(dz, found)
    assert torch.equal(OutputHead(torch.eye(len(pairs))).capped_shift(z, kept), kept)


def test_the_raw_lens_and_every_lens_without_a_final_norm_return_the_stream_unchanged():
    h, dh = states(7)
    bare = OutputHead(torch.eye(WIDTH))
    normed = replace(bare, norm=find_final_norm(module_of("rms"), WIDTH))
    for head, lens in ((normed, "raw"), (bare, "raw"), (bare, "normed")):
        x, dx = head.lens(h, dh, lens)
        assert torch.equal(x, h)
        assert torch.equal(dx, dh)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("scale", "cap", "has_bias"), [(1.0, None, False), (0.0625, 30.0, False), (-3.0, None, True)])
def test_the_likeliest_token_of_a_half_precision_head_is_that_of_float32_also_among_near_ties(
    dtype, scale, cap, has_bias
):
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(9, WIDTH, generator=generator).to(dtype)
    half = torch.randn(500, WIDTH, generator=generator).to(dtype)
    half[100:200] = x[0] * 3  # a hundred equal logits: the lowest id wins
    half[300:400] = x[1] * 3  # a hundred that half precision cannot tell apart, although one is the largest
    half[350, 0] += torch.finfo(dtype).eps * half[350, 0]
    bias = torch.randn(500, generator=generator) if has_bias else None
    head = OutputHead(half.float(), bias, scale=scale, cap=cap, half=half)
    largest, tokens = head.likeliest(x)
    truth = head.exact_logits(x)
    torch.testing.assert_close(largest.double(), truth.amax(dim=-1), rtol=1e-5, atol=1e-5)
    assert tokens[2:].tolist() == truth[2:].argmax(dim=-1).tolist()
    if scale > 0 and cap is None:
        assert tokens[:2].tolist() == [100, 350]
    x[3, 2] = torch.nan
    assert head.likeliest(x)[0].isnan().tolist() == [row == 3 for row in range(9)]
