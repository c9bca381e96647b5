"""Tests of checkpoints of other tools: differences are found, layers are matched, unfit checkpoints are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.calibration.statistics import calibrate, calibration_tokens
from prunescope.pipelines.pruning.checkpoints.export_checkpoint import export
from prunescope.pipelines.pruning.checkpoints.model_card import About
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.pruning.variant_row import variant_row
from prunescope.pipelines.recipes import ExternalRecipe, parse_recipe, steps
from prunescope.pipelines.studies import CalibrationSpec
from tests.pipelines.models.gguf_files import gguf_file
from tests.pipelines.models.reference_models import logits
from tests.tiny_models import SHORT_TEXT, save_tiny, tiny_tokenizer

ABOUT = About("tiny", "./tiny", "w" * 64, "mine", "magnitude", "{}")


@pytest.fixture(scope="module")
def deep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "deep", "llama", num_hidden_layers=6)


@pytest.fixture(scope="module")
def deep(deep_folder: Path) -> Decoder:
    return load_decoder(deep_folder)


def changed(source: Path, folder: Path, change: Callable[[Any], object]) -> Path:
    """Write a copy of a model after a change of it."""
    model = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        change(model)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def zeroed(name: str, *places: Any) -> Callable[[Any], None]:
    """Return a change that sets places of a model's weight to zero."""

    def change(model: Any) -> None:
        for place in places:
            model.get_parameter(name)[place] = 0

    return change


def read(decoder: Decoder, folder: Path, cache: Path, **fields: object) -> Variant:
    recipe = ExternalRecipe(name="theirs", source=str(folder), **fields)  # type: ignore[arg-type]
    return prune(decoder, recipe, cache=cache)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral", "gpt_oss"])
def test_a_pruned_checkpoint_gives_back_its_variant(
    architecture: str, tmp_path: Path, tiny_decoder: Callable[[str], Decoder]
) -> None:
    decoder = tiny_decoder(architecture)
    for recipe in ("magnitude-50", "magnitude-2of4"):
        variant = prune(decoder, parse_recipe(recipe))
        export(decoder, variant, tmp_path / recipe, ABOUT)
        again = read(decoder, tmp_path / recipe, tmp_path)
        assert again.hash == variant.hash
        assert again.facts["weights_changed"] == 0


def test_removed_layers_are_found_by_the_remaining_weights(deep: Decoder, tmp_path: Path) -> None:
    pruned = prune(deep, parse_recipe("magnitude-50"))
    gone = ("attn.1", "mlp.1", "attn.4", "mlp.4")
    kept = {name: change for name, change in pruned.changes.items() if ".1." not in name and ".4." not in name}
    export(deep, Variant(kept, dropped=gone), tmp_path / "short", ABOUT)
    found = read(deep, tmp_path / "short", tmp_path)
    assert found.dropped == gone
    assert found.facts["layers"] == [0, 2, 3, 5]
    assert min(found.facts["likeness"]) > 0.7
    assert found.hash == Variant(kept, dropped=gone).hash
    row = variant_row(deep, "tiny", ExternalRecipe(name="x", source="y"), found, None, 1, 1.0).row(0, named=True)
    assert row["sublayers_dropped"] == list(gone)
    assert read(deep, tmp_path / "short", tmp_path, layers=(0, 2, 3, 5)).hash == found.hash
    with pytest.raises(InputError, match=r"calls its layer 1 the dense model's 1 \(cosine -?0.0\d\), but it is like 2"):
        read(deep, tmp_path / "short", tmp_path, layers=(0, 1, 3, 5))


def test_a_layer_that_is_most_like_an_earlier_one_is_found_by_its_place(
    deep: Decoder, deep_folder: Path, tmp_path: Path
) -> None:
    def mix(model: Any) -> None:
        first, second, *_, fifth, sixth = model.model.layers
        for earlier, own in zip(first.parameters(), second.parameters(), strict=True):
            own.add_(1.02 * earlier)
        model.model.layers = torch.nn.ModuleList([first, second, fifth, sixth])
        model.config.num_hidden_layers, model.config.layer_types = 4, None

    found = read(deep, changed(deep_folder, tmp_path / "short", mix), tmp_path)
    assert found.facts["layers"] == [0, 1, 4, 5]


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "opt", "qwen2_moe", "gpt_oss"])
def test_sublayers_stored_as_zeros_are_dropped(
    architecture: str, tmp_path: Path, tiny_decoder: Callable[[str], Decoder]
) -> None:
    decoder = tiny_decoder(architecture)
    variant = Variant(dropped=("attn.1", "mlp.2"))
    export(decoder, variant, tmp_path / "out", ABOUT)
    again = read(decoder, tmp_path / "out", tmp_path)
    assert again.hash == variant.hash


def test_a_drop_stored_as_zeros_is_found_where_the_dense_matrix_has_a_zero(tiny_folder: Path, tmp_path: Path) -> None:
    hollow = zeroed("model.layers.1.self_attn.o_proj.weight", (0, 0))
    decoder = load_decoder(changed(tiny_folder, tmp_path / "hollow", hollow))
    variant = Variant(dropped=("attn.1",))
    export(decoder, variant, tmp_path / "out", ABOUT)
    assert read(decoder, tmp_path / "out", tmp_path).hash == variant.hash


def test_a_fine_tuned_model_keeps_its_values_norms_and_embeddings(
    decoder: Decoder, tiny_folder: Path, tmp_path: Path
) -> None:
    def tune(model: torch.nn.Module) -> None:
        torch.manual_seed(5)
        for name, parameter in model.named_parameters():
            if name not in {"lm_head.weight", "model.norm.weight"}:
                parameter.add_(torch.randn_like(parameter) * 0.01)

    folder = changed(tiny_folder, tmp_path / "tuned", tune)
    variant = read(decoder, folder, tmp_path)
    assert not variant.masks
    assert variant.facts["weights_changed"] == sum(matrix.stored.numel() for matrix in decoder.matrices.values())
    assert set(variant.parameters) == {
        "model.embed_tokens.weight",
        *(f"model.layers.{i}.{norm}_layernorm.weight" for i in range(3) for norm in ("input", "post_attention")),
    }
    with apply_variant(decoder, variant):
        patched = logits(decoder.model)
    assert torch.equal(patched, logits(AutoModelForCausalLM.from_pretrained(folder)))
    variant.save(tmp_path / "v.safetensors", ExternalRecipe(name="x", source="y"), "w")


UP = "model.layers.1.mlp.up_proj.weight"


def test_zeros_beside_other_values_are_a_mask_and_values(decoder: Decoder, tiny_folder: Path, tmp_path: Path) -> None:
    def edit(model: torch.nn.Module) -> None:
        zeroed(UP, np.s_[:, 10:20])(model)
        model.get_parameter(UP)[3, :10] *= 2

    ((name, change),) = read(decoder, changed(tiny_folder, tmp_path / "edited", edit), tmp_path).changes.items()
    assert name == "model.layers.1.mlp.up_proj"
    assert int((~change.mask).sum()) == 96 * 10
    assert change.values is not None


def test_weights_that_were_zero_before_count_as_kept(tiny_folder: Path, tmp_path: Path) -> None:
    dense = changed(tiny_folder, tmp_path / "hollow", zeroed(UP, np.s_[:, :10]))
    more = changed(dense, tmp_path / "more", zeroed(UP, np.s_[:, 10:12]))
    (change,) = read(load_decoder(dense), more, tmp_path).changes.values()
    assert int((~change.mask).sum()) == 96 * 2


def test_biases_of_one_side_are_kept(decoder: Decoder, tiny_folder: Path, tmp_path: Path) -> None:
    biases = {f"model.layers.{i}.mlp.down_proj.bias": torch.randn(64) for i in range(3)}
    variant = Variant(prune(decoder, parse_recipe("magnitude-50")).changes, biases)
    export(decoder, variant, tmp_path / "biased", ABOUT)
    assert read(decoder, tmp_path / "biased", tmp_path).hash == variant.hash
    other = load_decoder(tmp_path / "biased")
    back = read(other, tiny_folder, tmp_path)
    assert {name for name, value in back.parameters.items() if not value.any()} == set(biases)


def test_another_head_is_refused_or_replaced_by_the_dense_one(
    decoder: Decoder, tiny_folder: Path, tmp_path: Path
) -> None:
    def edit(model: torch.nn.Module) -> None:
        model.get_parameter("lm_head.weight").mul_(1.5)
        zeroed(UP, 0)(model)

    folder = changed(tiny_folder, tmp_path / "headed", edit)
    with pytest.raises(InputError, match=r"lm_head\.weight differs .* by 5\.0e-01 .*`head: dense`"):
        read(decoder, folder, tmp_path)
    variant = read(decoder, folder, tmp_path, head="dense")
    assert variant.facts["head_difference"] == {"lm_head.weight": pytest.approx(0.5)}
    assert list(variant.changes) == ["model.layers.1.mlp.up_proj"]
    assert not variant.parameters


def test_a_quantized_gguf_file_is_a_variant_of_its_base_model(
    decoder: Decoder, tiny_folder: Path, tmp_path: Path
) -> None:
    variant = read(decoder, gguf_file(tiny_folder, tmp_path / "tiny.gguf"), tmp_path / "cache")
    assert set(variant.changes) == set(decoder.matrices)
    assert not variant.parameters
    for name, matrix in decoder.matrices.items():
        error = (variant.changes[name].weight(matrix.weight) - matrix.weight).abs().max()
        assert 0 < error < 0.01 * matrix.weight.abs().max()


def test_the_dense_model_itself_is_no_variant(decoder: Decoder, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ComputationError, match="theirs leaves the forward pass unchanged"):
        read(decoder, tiny_folder, tmp_path)


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("mistral", {}, "is a MistralForCausalLM, the dense model a LlamaForCausalLM"),
        ("llama", {"hidden_size": 32}, "is 32 × 32, the dense model's is 64 × 64"),
        ("llama", {"intermediate_size": 64}, "gate_proj.weight is 64 × 64, the dense model's is 96 × 64"),
        ("llama", {"num_key_value_heads": 4}, "k_proj.weight is 64 × 64, the dense model's is 32 × 64"),
        ("llama", {"vocab_size": 320}, r"embed_tokens.weight is 320 × 64, the dense model's is 300 × 64"),
        ("llama", {"num_hidden_layers": 4}, "has 4 layers, the dense model 3"),
        ("llama", {"num_hidden_layers": 2}, "may be more than one of the dense model's; say which"),
        ("llama", {"num_hidden_layers": 2, "intermediate_size": 64}, "has another shape than the dense model's"),
        ("llama", {"tie_word_embeddings": True}, "differs from the dense model's"),
    ],
)
def test_unfit_checkpoints_are_refused_with_the_reason(
    decoder: Decoder, architecture: str, changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    folder = save_tiny(tmp_path / "other", architecture, seed=1, **changes)
    with pytest.raises(InputError, match=message):
        read(decoder, folder, tmp_path)


def test_other_settings_and_tokens_and_damaged_numbers_are_refused(
    decoder: Decoder, tiny_folder: Path, tmp_path: Path
) -> None:
    def edit(model: torch.nn.Module) -> None:
        zeroed(UP, 0)(model)
        model.config.rms_norm_eps = 0.5

    with pytest.raises(InputError, match="their configs differ in rms_norm_eps"):
        read(decoder, changed(tiny_folder, tmp_path / "set", edit), tmp_path)
    file = tmp_path / "set" / "tokenizer.json"
    file.write_text(file.read_text().replace("<|end|>", "<|fin|>"))
    with pytest.raises(InputError, match="its tokenizer differs"):
        read(decoder, tmp_path / "set", tmp_path)
    nan = changed(
        tiny_folder, tmp_path / "nan", lambda model: model.get_parameter("model.norm.weight").fill_(torch.nan)
    )
    with pytest.raises(InputError, match=r"model\.norm\.weight holds NaN"):
        read(decoder, nan, tmp_path)
    with pytest.raises(InputError, match="no such folder or file"):
        read(decoder, tmp_path / "nowhere", tmp_path)


def test_equal_layers_are_ambiguous_until_layer_numbers_are_given(deep_folder: Path, tmp_path: Path) -> None:
    def repeat(model: torch.nn.Module) -> None:
        for one, two in zip(model.model.layers[2].parameters(), model.model.layers[3].parameters(), strict=True):
            two.copy_(one)

    copied = load_decoder(changed(deep_folder, tmp_path / "copied", repeat))
    export(copied, Variant(dropped=("attn.3", "mlp.3")), tmp_path / "short", ABOUT)
    with pytest.raises(InputError, match=r"its layer 2 may be more than one .* `layers: \[0, 1"):
        read(copied, tmp_path / "short", tmp_path)
    assert read(copied, tmp_path / "short", tmp_path, layers=(0, 1, 2, 4, 5)).dropped == ("attn.3", "mlp.3")
    with pytest.raises(InputError, match="names 4, up to 5"):
        read(copied, tmp_path / "short", tmp_path, layers=(0, 1, 2, 5))


def test_a_following_recipe_prunes_the_remaining_weights(decoder: Decoder, tmp_path: Path) -> None:
    export(decoder, prune(decoder, parse_recipe("magnitude-25")), tmp_path / "first", ABOUT)
    text = (
        "{name: x, method: composed, parts: [{name: a, method: external, source: %s}, "
        "{name: b, method: magnitude, sparsity: 0.5}]}" % (tmp_path / "first")
    )
    both = prune(decoder, parse_recipe(text), cache=tmp_path)
    assert both.hash == prune(decoder, parse_recipe("magnitude-50")).hash


SPEC = CalibrationSpec(source=SHORT_TEXT, sequences=5, length=24)


def retouched(source: Path, folder: Path, is_touched: Callable[[str, nn.Parameter], bool], by: float) -> Path:
    """Return a copy of a model with noise on some parameters, except those that both sides are read through."""

    def touch(model: nn.Module) -> None:
        torch.manual_seed(7)
        for name, parameter in model.named_parameters():
            if is_touched(name, parameter) and name not in {"lm_head.weight", "model.norm.weight"}:
                parameter.add_(torch.randn_like(parameter) * by * parameter.std())

    return changed(source, folder, touch)


DENSE_PREDECESSORS = "{name: w, method: wanda, sparsity: 0.5, predecessors: dense}"


def behind(folder: Path, names: str) -> str:
    parts = [part.model_dump(mode="json") for part in steps(parse_recipe(names))]
    first = {"name": "theirs", "method": "external", "source": str(folder)}
    return json.dumps({"name": "c", "method": "composed", "parts": [first, *parts]})


def weights_of(decoder: Decoder, variant: Variant) -> dict[str, Tensor]:
    return {
        name: variant.changes[name].weight(matrix.weight) if name in variant.changes else matrix.weight
        for name, matrix in decoder.matrices.items()
    }


@pytest.mark.third(0)
@pytest.mark.parametrize(
    "names",
    [
        *("sparsegpt-50", "admm-50", "wanda-50+dsnot", "wanda-50", "gptq-4bit"),
        *(pytest.param(each, marks=pytest.mark.exhaustive) for each in ("wanda-50+admm", "magnitude-2of4+dsnot")),
    ],
)
def test_recipes_rebuild_the_checkpoint_and_not_its_base_model(tiny_folder: Path, tmp_path: Path, names: str) -> None:
    theirs = retouched(tiny_folder, tmp_path / "tuned", lambda name, _: name.endswith("proj.weight"), 0.5)
    dense, tuned = load_decoder(tiny_folder), load_decoder(theirs)
    tokens = calibration_tokens(dense.tokenizer, SPEC)
    composed = prune(dense, parse_recipe(behind(theirs, names)), tokens=tokens, cache=tmp_path)
    direct = prune(tuned, parse_recipe(names), tokens=tokens)
    found = weights_of(dense, composed)
    for name, expected in weights_of(tuned, direct).items():
        assert torch.equal(found[name], expected), name
        mask = composed.changes[name].mask
        assert mask is None or torch.equal(mask, direct.masks[name])
    # Against the dense model its own weights are not enough.
    assert all(change.values is not None or change.codes is not None for change in composed.changes.values())


def is_outside(name: str, parameter: nn.Parameter) -> bool:
    """Return True for gains and shifts of norms, embeddings and learned positions: nothing inside attention or MLP."""
    return (parameter.dim() == 1 and ("norm" in name or "ln_" in name)) or "embed" in name or "wpe" in name


@pytest.mark.third(2)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_inputs_come_through_the_checkpoints_gains_embeddings_and_positions(architecture: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "dense", architecture, tie_word_embeddings=False)
    final = {"model.decoder.final_layer_norm", "transformer.ln_f"}
    theirs = retouched(
        folder,
        tmp_path / "gains",
        lambda name, each: is_outside(name, each) and name.rpartition(".")[0] not in final,
        1,
    )
    dense, tuned = load_decoder(folder), load_decoder(theirs)
    tokens = calibration_tokens(dense.tokenizer, SPEC)
    before = {name: (each.data_ptr(), each.clone()) for name, each in dense.model.named_parameters()}
    calibrated = calibrate(tuned, SPEC, "tiny")
    for names in ("wanda-50", DENSE_PREDECESSORS, "heads-50", "neurons-25-flap"):
        composed = prune(dense, parse_recipe(behind(theirs, names)), tokens=tokens, cache=tmp_path)
        direct = prune(tuned, parse_recipe(names), calibrated.activation_stats, tokens=tokens)
        assert set(composed.changes) == set(direct.changes)
        assert all(torch.equal(mask, direct.masks[name]) for name, mask in composed.masks.items()), names
        for name, bias in direct.parameters.items():
            torch.testing.assert_close(composed.parameters[name], bias)
    for name, parameter in dense.model.named_parameters():
        assert parameter.data_ptr() == before[name][0]
        assert torch.equal(parameter, before[name][1])
    unlike = prune(dense, parse_recipe("wanda-50"), tokens=tokens)
    assert unlike.hash != prune(tuned, parse_recipe("wanda-50"), tokens=tokens).hash


def test_regrown_weights_are_dense_where_the_checkpoint_only_masked(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "dense")
    dense = load_decoder(folder)
    tokens = calibration_tokens(dense.tokenizer, SPEC)
    variant = prune(dense, parse_recipe("wanda-50+dsnot"), tokens=tokens)
    assert variant.facts["dsnot_exchanges"] > 0
    assert all(change.values is None for change in variant.changes.values()), "a mask alone says it"
