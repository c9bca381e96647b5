"""Tests that zero neurons and heads give smaller matrices, and that a variant without a matching config is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.checkpoints.export_checkpoint import export
from prunescope.pipelines.pruning.checkpoints.materialized_weights import MaterializedWeights
from prunescope.pipelines.pruning.checkpoints.model_card import About, CheckpointResult
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import parse_recipe
from tests.pipelines.models.reference_models import logits
from tests.tiny_models import save_tiny

Make = Callable[..., Decoder]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def of(architecture: str, **changes: object) -> Decoder:
        return load_decoder(save_tiny(tmp_path / "dense", architecture, **changes))

    return of


def without_neurons(decoder: Decoder, gone: dict[int, list[int]], module: str = "mlp.down_proj") -> Variant:
    """Zero columns of the last matrix of an MLP, or of an attention."""
    changes = {}
    for name, matrix in decoder.matrices.items():
        layer = next((each for each in gone if f".{each}.{module}" in name), None)
        if layer is not None:
            mask = torch.ones(matrix.weight.shape, dtype=torch.bool)
            mask[:, gone[layer]] = False
            changes[name] = WeightDelta.masked(mask)
    return Variant(changes)


def heads(size: int, *numbers: int) -> list[int]:
    return [channel for number in numbers for channel in range(number * size, (number + 1) * size)]


def shrunk(decoder: Decoder, variant: Variant, folder: Path) -> tuple[CheckpointResult, torch.nn.Module]:
    """Export with smaller matrices, and compare the logits with the variant's."""
    about = About("tiny", "./tiny", "w" * 64, "mine", "magnitude", "{}")
    done = export(decoder, variant, folder, about, shrink=True)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with apply_variant(decoder, variant):
        truth = logits(decoder.model)
    assert (logits(plain) - truth).norm() <= 1e-5 * truth.norm()
    return done, plain


def test_the_layer_with_most_neurons_sets_the_size(make: Make, tmp_path: Path) -> None:
    decoder = make("llama")
    variant = without_neurons(decoder, {0: [*range(40)], 1: [*range(50, 96)], 2: [*range(0, 90, 3)]})
    done, plain = shrunk(decoder, variant, tmp_path / "out")
    assert plain.config.intermediate_size == 66
    assert plain.model.layers[1].mlp.up_proj.weight.shape == (66, 64)
    assert done.notes == ("MLPs have 66 neurons in place of 96 (intermediate_size=66).",)
    assert done.parameters == sum(parameter.numel() for parameter in plain.parameters())


def test_neurons_without_inputs_are_removed_too(make: Make, tmp_path: Path) -> None:
    decoder = make("llama")
    changes = {}
    for layer in range(3):
        name = f"model.layers.{layer}.mlp.{'gate' if layer else 'up'}_proj"
        mask = torch.ones(96, 64, dtype=torch.bool)
        mask[10:30] = False
        changes[name] = WeightDelta.masked(mask)
    _, plain = shrunk(decoder, Variant(changes), tmp_path / "out")
    assert plain.config.intermediate_size == 76


def test_a_size_missing_in_the_config_is_found(make: Make, tmp_path: Path) -> None:
    decoder = make("gpt2")
    assert decoder.model.config.n_inner is None
    variant = without_neurons(decoder, {layer: [*range(100)] for layer in range(3)}, "mlp.c_proj")
    _, plain = shrunk(decoder, variant, tmp_path / "out")
    assert plain.config.n_inner == 156
    assert plain.transformer.h[0].mlp.c_fc.bias.shape == (156,)


@pytest.mark.parametrize(
    ("architecture", "module"), [("phi3", "mlp.down_proj"), ("phi", "mlp.fc2"), ("gemma3_text", "mlp.down_proj")]
)
def test_fused_matrices_biases_and_norms_shrink_too(make: Make, tmp_path: Path, architecture: str, module: str) -> None:
    decoder = make(architecture)
    _, plain = shrunk(
        decoder, without_neurons(decoder, {layer: [3, 5, 95] for layer in range(3)}, module), tmp_path / "out"
    )
    assert plain.config.intermediate_size == 93


def test_heads_are_removed_in_whole_groups_or_equally_from_each(make: Make, tmp_path: Path) -> None:
    decoder = make("llama", hidden_size=96, num_attention_heads=8, num_key_value_heads=4)
    # Queries 2g and 2g + 1 share the keys of group g: group 1 is gone in all layers, and others in some.
    gone = {0: heads(12, 2, 3, 6, 7), 1: heads(12, 2, 3, 0), 2: heads(12, 2, 3)}
    _, plain = shrunk(decoder, without_neurons(decoder, gone, "self_attn.o_proj"), tmp_path / "groups")
    assert (plain.config.num_attention_heads, plain.config.num_key_value_heads, plain.config.head_dim) == (6, 3, 12)
    gone = {layer: heads(12, *(2 * group + (group + layer) % 2 for group in range(4))) for layer in range(3)}
    _, plain = shrunk(decoder, without_neurons(decoder, gone, "self_attn.o_proj"), tmp_path / "each")
    assert (plain.config.num_attention_heads, plain.config.num_key_value_heads) == (4, 4)


def test_the_next_valid_number_of_heads_is_used(make: Make, tmp_path: Path) -> None:
    # A Llama's width is a multiple of its number of heads: 64 of 8, not of 7.
    decoder = make("llama", num_attention_heads=16, num_key_value_heads=16)
    gone = {layer: heads(4, *range(layer, layer + 9)) for layer in range(3)}
    _, plain = shrunk(decoder, without_neurons(decoder, gone, "self_attn.o_proj"), tmp_path / "out")
    assert (plain.config.num_attention_heads, plain.config.num_key_value_heads) == (8, 8)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "phi3", "gpt_oss"])
def test_heads_are_removed_from_any_form_of_attention(make: Make, tmp_path: Path, architecture: str) -> None:
    decoder = make(architecture)  # 4 heads, 2 groups of keys
    gone = {layer: heads(16, 2, 3) for layer in range(3)}
    _, plain = shrunk(decoder, without_neurons(decoder, gone, "self_attn.o_proj"), tmp_path / "out")
    assert (plain.config.num_attention_heads, plain.config.num_key_value_heads) == (2, 1)


def test_a_block_and_neurons_are_removed_together(make: Make, tmp_path: Path) -> None:
    decoder = make("qwen3")
    variant = without_neurons(decoder, {0: [1], 1: [1, 2, 3], 2: [4]})
    dropped = Variant(
        {name: c for name, c in variant.changes.items() if ".0." not in name}, dropped=("attn.0", "mlp.0")
    )
    done, plain = shrunk(decoder, dropped, tmp_path / "out")
    assert (plain.config.num_hidden_layers, plain.config.intermediate_size) == (2, 95)
    assert len(done.notes) == 2


@pytest.mark.parametrize(
    ("architecture", "gone", "module", "message"),
    [
        ("gpt2", heads(16, 1), "attn.c_proj", "no config of GPT2LMHeadModel has such matrices"),
        ("bloom", [0, 1], "mlp.dense_4h_to_h", "no config of BloomForCausalLM has such matrices"),
        ("mixtral", heads(16, 1), "no_such", "no neuron or head is zero in every layer"),
    ],
)
def test_variants_without_a_matching_config_are_refused(
    make: Make, tmp_path: Path, architecture: str, gone: list[int], module: str, message: str
) -> None:
    decoder = make(architecture)
    variant = without_neurons(decoder, dict.fromkeys(range(3), gone), module)
    variant = variant if variant.changes else prune(decoder, parse_recipe("magnitude-50"))
    with pytest.raises(InputError, match=message):
        shrunk(decoder, variant, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_an_optional_bias_is_written_and_an_impossible_one_refused(
    make: Make, tmp_path: Path, tiny_decoder: Callable[[str], Decoder]
) -> None:
    decoder = make("llama")
    biases = {f"model.layers.{layer}.mlp.down_proj.bias": torch.randn(64) for layer in range(3)}
    variant = without_neurons(decoder, {layer: [*range(32)] for layer in range(3)})
    done, plain = shrunk(decoder, Variant(variant.changes, biases), tmp_path / "out")
    assert plain.config.mlp_bias
    assert not plain.model.layers[0].mlp.gate_proj.bias.any()
    assert "switched on by mlp_bias" in done.notes[0]
    other = {"model.layers.0.mlp.down_proj.bias": torch.randn(64)}
    (tmp_path / "qwen").mkdir()
    qwen = tiny_decoder("qwen3")
    about = About("tiny", "./tiny", "w" * 64, "mine", "magnitude", "{}")
    with pytest.raises(InputError, match=r"down_proj\.bias: Qwen3ForCausalLM has no such parameter"):
        export(qwen, Variant(parameters=other), tmp_path / "none", about)


def test_a_new_bias_is_on_the_models_device(make: Make) -> None:
    # A device that exists on every machine and differs from the bias's device.
    decoder = replace(make("llama"), device=torch.device("meta"))
    bias = "model.layers.0.mlp.up_proj.bias"
    materialized = MaterializedWeights(decoder, Variant(parameters={bias: torch.ones(96)}))
    assert materialized.tensor(bias).device.type == "meta"
