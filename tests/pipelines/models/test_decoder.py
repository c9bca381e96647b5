"""Tests that unproved parts are refused with module and reason, and that a decoder is restored after a variant."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import parse_recipe
from tests.pipelines.models.reference_models import save_massive
from tests.pipelines.models.test_decoders import logits
from tests.pipelines.models.test_planted_faults import again, planted
from tests.tiny_models import save_tiny


@pytest.fixture(scope="module")
def decoder(tiny_decoder: Callable[[str], Decoder]) -> Decoder:
    return tiny_decoder("llama")


def noisy(value: Tensor, *_: object) -> Tensor:
    return value + 0.01 * torch.randn_like(value)


def test_dense_weights_and_forwards_are_restored_even_after_a_failure(decoder: Decoder) -> None:
    before = logits(decoder)
    name, matrix = next(iter(decoder.layers[0].mlp.matrices.items()))
    mask = torch.zeros(matrix.weight.shape, dtype=torch.bool)
    variant = Variant({name: WeightDelta.masked(mask)}, dropped=("attn.1",))

    def interrupted() -> None:
        with apply_variant(decoder, variant):
            assert not torch.allclose(logits(decoder), before)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.equal(logits(decoder), before)
    assert not any("forward" in vars(module) for module in decoder.model.modules())


def test_a_changed_tied_embedding_does_not_affect_the_head(tmp_path: Path) -> None:
    decoder = load_decoder(save_tiny(tmp_path / "tied", "llama", tie_word_embeddings=True))
    embedding = decoder.model.get_input_embeddings().weight
    assert decoder.head.weight.data_ptr() == embedding.data_ptr(), "not a copy"
    states = torch.randn(2, 64)
    before = decoder.head.logits(states)
    embedding.data = torch.zeros_like(embedding)
    assert torch.equal(decoder.head.logits(states), before)


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        ("layers.1", noisy, r"model\.layers\.1: the stream plus constant multiples .* does not rebuild its output"),
        ("layers.1", lambda value, _: value * 2, r"model\.layers\.1: the stream plus constant multiples"),
        ("layers.1.mlp", noisy, r"model\.layers\.1\.mlp: called again on the same stream, it adds something else"),
        ("layers.2.self_attn", noisy, r"model\.layers\.2\.self_attn: called again"),
        ("embed_tokens", noisy, r"LlamaForCausalLM: two runs on the same tokens differ"),
        ("norm", noisy, r"final norm LlamaRMSNorm is neither RMSNorm nor LayerNorm"),
        ("norm", lambda value, _: value.clamp(max=1), r"final norm LlamaRMSNorm"),
    ],
)
def test_noise_and_unknown_forms_are_refused_with_the_module(
    decoder: Decoder, place: str, change: Callable[..., Tensor], message: str
) -> None:
    module = decoder.model.get_submodule(f"model.{place}")
    with planted(change, module), pytest.raises(InputError, match=message):
        again(decoder)


class Scaled(nn.Module):
    """A layer that scales what its MLP adds, or lets it go first, or overwrites its input."""

    def __init__(self, inner: nn.Module, how: str) -> None:
        super().__init__()
        self.self_attn, self.mlp, self.how = inner.self_attn, inner.mlp, how
        self.before, self.behind = inner.input_layernorm, inner.post_attention_layernorm

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        h = hidden_states
        if self.how == "mlp first":
            h = h + self.mlp(self.before(h))
            return h + self.self_attn(self.behind(h), **kwargs)[0]
        attn = self.self_attn(self.before(h), **kwargs)[0]
        if self.how == "in place":
            h += attn
            return h + self.mlp(self.behind(h))
        if self.how == "one number a token":
            steps = torch.arange(1, h.shape[1] + 1)[None, :, None] / h.shape[1]
            return h + attn + steps * self.mlp(self.behind(h + attn))
        if self.how == "one sublayer":
            return h + attn
        h = h + 0.3 * attn
        return h - 1.7 * self.mlp(self.behind(h))


@contextmanager
def scaled(decoder: Decoder, how: str) -> Iterator[None]:
    """Temporarily replace the layers of a model."""
    model: Any = decoder.model.model
    before, model.layers = model.layers, nn.ModuleList(Scaled(layer.module, how) for layer in decoder.layers)
    try:
        yield
    finally:
        model.layers = before


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("one number a token", r"model\.layers\.0: the stream plus constant multiples of what .*mlp return does not"),
        ("mlp first", r"model\.layers\.0\.self_attn: reads what model\.layers\.0\.mlp adds"),
        ("in place", r"model\.layers\.0: overwrites its input stream"),
        ("one sublayer", r"model\.layers\.0: has no MLP next to model\.layers\.0\.self_attn"),
    ],
)
def test_layers_of_another_order_or_form_are_refused(decoder: Decoder, how: str, message: str) -> None:
    with scaled(decoder, how), pytest.raises(InputError, match=message):
        again(decoder)


def test_multipliers_missing_in_the_config_are_measured(decoder: Decoder) -> None:
    with scaled(decoder, "multiplied"):
        found = again(decoder)
    for layer in found.layers:
        assert layer.attn.parts[0].multiplier == pytest.approx(0.3, rel=1e-6)
        assert layer.mlp.parts[0].multiplier == pytest.approx(-1.7, rel=1e-6)


def test_massive_activations_leave_multipliers_exact(tmp_path: Path) -> None:
    found = load_decoder(save_massive(tmp_path, "granite"), "bfloat16")
    assert {part.multiplier for each in found.sublayers for part in each.parts} == {0.22}


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("opt", {"do_layer_norm_before": False}, r"layers\.0\.final_layer_norm norms the stream itself \(post-norm\)"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, r"transformer\.h\.0: .* does not rebuild"),
        ("opt", {"word_embed_proj_dim": 32}, r"lm_head: there is more than one norm between .*layers\.2 and the head"),
    ],
)
def test_models_without_a_single_residual_stream_are_refused(
    tmp_path: Path, architecture: str, changes: dict[str, object], message: str
) -> None:
    folder = save_tiny(tmp_path / architecture, architecture, **changes)
    with pytest.raises(InputError, match=message):
        load_decoder(folder)


@pytest.mark.parametrize("change", [noisy, lambda value, _: value.sign() * value.abs().sqrt()])
def test_a_random_or_nonlinear_head_is_refused(decoder: Decoder, change: Callable[..., Tensor]) -> None:
    with planted(change, decoder.model.lm_head), pytest.raises(InputError, match=r"lm_head: logits are not cap·tanh"):
        again(decoder)


def test_a_weight_stack_without_products_can_be_dropped_but_not_masked(tmp_path: Path) -> None:
    decoder = load_decoder(save_tiny(tmp_path / "moe", "mixtral"))
    decoder.model.set_experts_implementation("grouped_mm")
    found = again(decoder)
    with pytest.raises(InputError, match=r"model\.layers\.0\.mlp\.experts\.gate_up_proj is not recognised as a matrix"):
        prune(found, parse_recipe("magnitude-50"))
    with apply_variant(found, Variant(dropped=("mlp.0",))):
        assert torch.isfinite(logits(found)).all()


def test_a_missing_weight_is_refused_by_name(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"mlp\.up_proj\.weight"):
        load_decoder(folder)


def test_damaged_weights_and_missing_devices_have_their_own_messages(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][3, 3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ComputationError, match=r"model\.layers\.1\.mlp\.down_proj: NaN or infinite"):
        load_decoder(folder)
    with pytest.raises(InputError, match="cuda:99"):
        load_decoder(folder, device="cuda:99")


@pytest.mark.third(0)
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("architecture", ["gemma2", "granite", "bloom", "falcon", "falcon_h1", "mixtral", "olmo2"])
def test_half_precision_gives_the_same_structure(tmp_path: Path, architecture: str, dtype: str) -> None:
    folder = save_tiny(tmp_path / architecture, architecture)
    half, full = load_decoder(folder, dtype), load_decoder(folder)
    for one, other in zip(half.layers, full.layers, strict=True):
        assert one.is_parallel == other.is_parallel
        for mine, theirs in zip(one.sublayers, other.sublayers, strict=True):
            assert (mine.name, list(mine.matrices)) == (theirs.name, list(theirs.matrices))
            for part, truth in zip(mine.parts, theirs.parts, strict=True):
                assert (part.multiplier, part.residual) == (truth.multiplier, truth.residual)
                assert len(part.chain) == len(truth.chain)
    assert (half.head.scale, half.head.cap) == (full.head.scale, full.head.cap)
    assert (half.head.norm.kind, half.head.norm.eps) == (full.head.norm.kind, full.head.norm.eps)
    assert half.cache_refusal is full.cache_refusal is None
