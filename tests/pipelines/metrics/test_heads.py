"""Final norms as formulas: against torch's own modules, on shifts from tiny to larger than the state."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from pipelines.errors import InputError
from pipelines.metrics.heads import FinalNorm, Head, find_final_norm
from pipelines.metrics.reference import logits_reference, norm_reference

WIDTH = 48


def module_of(kind: str) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(WIDTH, generator=generator)
    if kind == "layer":
        module: nn.Module = nn.LayerNorm(WIDTH, eps=1e-5)
        nn.init.normal_(module.bias, generator=generator)
    elif kind == "rms":
        module = LlamaRMSNorm(WIDTH, eps=1e-6)
    else:
        module = GemmaRMSNorm(WIDTH, eps=1e-6)
    module.weight.data = weight
    return module


def states(seed: int, rows: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, WIDTH, generator=generator) + 0.3, torch.randn(rows, WIDTH, generator=generator)


def in_float64(norm: FinalNorm, h: Tensor) -> Tensor:
    return norm_reference(h, Head(torch.eye(WIDTH), norm=norm))


@pytest.mark.parametrize("kind", ["rms", "rms_plus_one", "layer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_module_is_recognized_by_what_it_computes(kind, dtype):
    module = module_of(kind).to(dtype)
    norm = find_final_norm(module)
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
    """Divides by the longest entry: no norm that has a formula here."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(WIDTH)), 1e-5

    def forward(self, h: Tensor) -> Tensor:
        return self.weight * h / h.abs().amax(-1, keepdim=True)


@pytest.mark.parametrize("module", [ScaledNorm(), nn.Identity(), nn.Linear(WIDTH, WIDTH)])
def test_a_module_that_is_no_known_norm_is_refused_by_name(module):
    with pytest.raises(InputError, match=type(module).__name__):
        find_final_norm(module)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["rms", "rms_plus_one", "layer"]),
    st.integers(0, 2**31),
    st.sampled_from([1e-7, 1e-5, 1e-2, 1.0, 1e3]),
    st.booleans(),
)
def test_a_shift_through_a_norm_loses_nothing_however_small_it_is(kind, seed, size, is_parallel):
    h, noise = states(seed)
    dh = size * (h if is_parallel else noise)
    norm = find_final_norm(module_of(kind))
    truth = in_float64(norm, h.double() + dh.double()) - in_float64(norm, h)
    error = (norm.shift(h, dh).double() - truth).norm(dim=-1)
    # The naive float32 difference would be off by 1e-7 of the norm itself; 1e-15 is the reference's own noise.
    assert (error <= 2e-7 * truth.norm(dim=-1) + 1e-14).all()


@pytest.mark.parametrize("kind", ["rms", "rms_plus_one", "layer"])
def test_turning_a_state_round_turns_its_norm_round(kind):
    h, _ = states(3)
    norm = find_final_norm(module_of(kind))
    centred = norm(h) if norm.bias is None else norm(h) - norm.bias.detach()
    torch.testing.assert_close(norm.shift(h, -2 * h), -2 * centred, rtol=1e-6, atol=1e-6)
    assert not norm.shift(h, torch.zeros_like(h)).any()


def test_a_bias_and_a_norm_reach_the_logits_but_not_their_shift():
    h, dh = states(4)
    generator = torch.Generator().manual_seed(6)
    weight, bias = torch.randn(70, WIDTH, generator=generator), torch.randn(70, generator=generator)
    head = Head(weight, bias, find_final_norm(module_of("rms")))
    truth = logits_reference(norm_reference(h, head), head)
    torch.testing.assert_close(head.logits(h).double(), truth, rtol=1e-5, atol=1e-5)
    x, dx = head.lens(h, dh, "normed")
    torch.testing.assert_close(head.logits_of_state(x), head.logits(h))
    moved = logits_reference(norm_reference(h + dh, head), head)
    torch.testing.assert_close(head.shift(dx).double(), moved - truth, rtol=1e-5, atol=2e-5)


def test_the_raw_lens_returns_the_stream_as_it_is():
    h, dh = states(7)
    for head in (Head(torch.eye(WIDTH), norm=find_final_norm(module_of("rms"))), Head(torch.eye(WIDTH))):
        x, dx = head.lens(h, dh, "raw")
        assert torch.equal(x, h)
        assert torch.equal(dx, dh)


def test_a_model_without_a_final_norm_has_one_lens_under_both_names():
    h, dh = states(8)
    x, dx = Head(torch.eye(WIDTH)).lens(h, dh, "normed")
    assert torch.equal(x, h)
    assert torch.equal(dx, dh)


def test_an_unknown_lens_is_refused():
    with pytest.raises(ValueError, match="raw or normed"):
        Head(torch.eye(WIDTH)).lens(*states(9), "logit")
