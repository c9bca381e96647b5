"""Tests of exports: complete or absent, in the model's own type and shards, and only if they compute the same."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.forward_probe import distance
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.module_calls import hooks
from prunescope.pipelines.models.sources import identify
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.checkpoints import export_checkpoint as module
from prunescope.pipelines.pruning.checkpoints.export_checkpoint import export
from prunescope.pipelines.pruning.checkpoints.model_card import About, public_source
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import parse_recipe
from tests.pipelines.models.reference_models import logits
from tests.tiny_models import save_tiny

ABOUT = About("tiny", "org/tiny@main", "w" * 64, "mine", "magnitude", '{"sparsity": 0.5}', {"length": 7}, [("KL", "1")])


@pytest.fixture(scope="module")
def variant(decoder: Decoder) -> Variant:
    return prune(decoder, parse_recipe("magnitude-50"))


def test_large_models_are_written_in_shards_with_an_index(
    decoder: Decoder, variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SHARD_BYTES", 100_000)
    done = export(decoder, variant, tmp_path / "out", ABOUT)
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert [shard.name for shard in shards][:1] == [f"model-00001-of-{len(shards):05d}.safetensors"]
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == done.bytes == 4 * done.parameters
    assert set(index["weight_map"].values()) == {shard.name for shard in shards}
    with apply_variant(decoder, variant):
        assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), logits(decoder.model))


@pytest.mark.parametrize("architecture", ["gemma3_text", "gpt2", "bloom"])
def test_a_tied_embedding_stays_tied(architecture: str, tmp_path: Path, tiny_decoder: Callable[[str], Decoder]) -> None:
    decoder = tiny_decoder(architecture)
    done = export(decoder, prune(decoder, parse_recipe("magnitude-50")), tmp_path / "out", ABOUT)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert plain.get_input_embeddings().weight is plain.get_output_embeddings().weight
    assert done.parameters == sum(parameter.numel() for parameter in decoder.model.parameters())
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < 4 * done.parameters + 30_000


@pytest.fixture(scope="module")
def half(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the tiny Llama in bfloat16, but for one norm: some checkpoints keep some parameters in 32 bits."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path_factory.mktemp("models") / "half"))
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    model.model.norm.float()
    with torch.no_grad():
        model.model.norm.weight.add_(1e-4)
    model.save_pretrained(folder)
    return folder


def test_values_are_rounded_to_the_stored_type(half: Path, tmp_path: Path) -> None:
    decoder = load_decoder(half)
    generator = torch.Generator().manual_seed(0)
    changes = {
        name: WeightDelta.valued(matrix.weight + 0.01 * torch.rand(matrix.weight.shape, generator=generator))
        for name, matrix in decoder.matrices.items()
    }
    done = export(decoder, Variant(changes), tmp_path / "out", ABOUT)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    # The card states both: that the folder computes as the rounded variant, and how far that is from the measured one.
    with apply_variant(decoder, Variant(changes)):
        measured = distance(logits(plain), logits(decoder.model))
    assert measured > 1e-3
    assert done.rounded == ("bfloat16", pytest.approx(measured, rel=0.5))
    assert done.distance < 1e-6
    card = (tmp_path / "out" / "README.md").read_text()
    assert done.proof in card
    assert f"by {done.rounded[1]:.1e} of their length away from the unrounded variant's" in done.proof
    assert "The measures above are the unrounded variant's." in card
    for name, matrix in decoder.matrices.items():
        expected = changes[name].weight(matrix.weight).bfloat16().float()
        assert torch.equal(plain.get_parameter(f"{name}.weight"), expected)
    assert torch.equal(plain.model.norm.weight, decoder.model.model.norm.weight)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_zeros_alone_are_not_reported_as_rounding(half: Path, variant: Variant, tmp_path: Path) -> None:
    assert export(load_decoder(half), variant, tmp_path / "out", ABOUT).rounded is None


@pytest.mark.third(1)
@pytest.mark.parametrize("architecture", ["llama", "mixtral", "gpt2"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_unchanged_weights_stay_exact_when_the_model_runs_in_a_smaller_type(
    architecture: str, dtype: str, tmp_path: Path
) -> None:
    decoder = load_decoder(save_tiny(tmp_path / "dense", architecture), dtype)
    name = next(iter(decoder.matrices))
    changed = prune(decoder, parse_recipe("magnitude-50")).changes[name]
    done = export(decoder, Variant({name: changed}), tmp_path / "out", ABOUT)
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("dense", "out"))
    assert before.keys() == after.keys()
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    different = [key for key in before if not torch.equal(before[key], after[key])]
    assert len(different) == 1
    values = after[different[0]]
    assert torch.equal(values, values.to(decoder.dtype).float())
    assert not torch.equal(before[different[0]], before[different[0]].to(decoder.dtype).float())
    (note,) = done.notes
    assert f"pruned in {dtype} and is stored in float32" in note
    assert note in (tmp_path / "out" / "README.md").read_text()


def test_float32_weights_of_a_16_bit_checkpoint_stay_exact(half: Path, tmp_path: Path) -> None:
    decoder = load_decoder(half, "bfloat16")
    export(decoder, prune(decoder, parse_recipe("magnitude-50")), tmp_path / "out", ABOUT)
    given, written = (load_file(folder / "model.safetensors") for folder in (half, tmp_path / "out"))
    assert given["model.norm.weight"].dtype == torch.float32
    assert torch.equal(written["model.norm.weight"], given["model.norm.weight"])
    assert written["model.embed_tokens.weight"].dtype == torch.bfloat16


def test_the_tokenizer_is_the_dense_models_byte_by_byte(decoder: Decoder, variant: Variant, tmp_path: Path) -> None:
    export(decoder, variant, tmp_path / "out", ABOUT)
    found, dense = identify(tmp_path / "out", tmp_path / "cache"), identify(decoder.folder, tmp_path / "cache")
    assert found.tokenizer_hash == dense.tokenizer_hash
    assert found.weight_hash != dense.weight_hash


def test_the_card_has_base_licence_recipe_calibration_and_scores(
    tiny_folder: Path, variant: Variant, tmp_path: Path
) -> None:
    licensed = Path(shutil.copytree(tiny_folder, tmp_path / "licensed"))
    (licensed / "README.md").write_text("---\nlicense: mit\nwidget: [1]\n---\n# Tiny\n")
    export(load_decoder(licensed), Variant(variant.changes, dropped=("mlp.2",)), tmp_path / "out", ABOUT)
    _, front, text = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["pruned"],
        "base_model": "org/tiny",
        "license": "mit",
    }
    for shown in (
        "`mine` (magnitude)",
        "(50.00%)",
        "mlp.2",
        '"sparsity": 0.5',
        "| Calibration: length | 7 |",
        "| KL | 1 |",
    ):
        assert shown in text


def test_an_existing_path_is_no_hub_id(
    decoder: Decoder, variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    export(decoder, variant, tmp_path / "out", replace(ABOUT, source="models/mine"))
    _, front, text = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    assert "base_model" not in yaml.safe_load(front)
    assert "models/mine" not in text


def test_the_card_hides_the_path_of_an_external_checkpoint(decoder: Decoder, variant: Variant, tmp_path: Path) -> None:
    for place, (source, shown) in enumerate(
        (("/home/somebody/theirs", "theirs"), ("~/a/b.gguf", "b.gguf"), ("org/theirs@main", "org/theirs@main"))
    ):
        own = {"method": "composed", "parts": [{"method": "external", "source": source, "layers": None}]}
        out = tmp_path / str(place)
        export(decoder, variant, out, replace(ABOUT, parameters_json=json.dumps(own)))
        text = (out / "README.md").read_text()
        assert f'"source": "{shown}"' in text
        assert "/home/somebody" not in text


def test_public_sources_are_kept(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for source, shown in (
        ("wikitext2", "wikitext2"),
        ("hf:allenai/c4:en:train", "hf:allenai/c4:en:train"),
        ("hf:imdb:train", "hf:imdb:train"),
        (f"hf:{tmp_path}/data:train", "hf:data:train"),
        (str(tmp_path / "mine.txt"), "mine.txt"),
    ):
        assert public_source(source) == shown


def test_a_folder_with_different_outputs_is_not_kept(decoder: Decoder, variant: Variant, tmp_path: Path) -> None:
    # A model whose numbers do not follow from its weights and config alone.
    hook = decoder.layers[1].module.register_forward_hook(lambda module, args, output: output * 1.01)
    with hooks(hook), pytest.raises(ComputationError, match="other logits .* nothing was kept"):
        export(decoder, variant, tmp_path / "out", ABOUT)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(
    decoder: Decoder, variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(InputError, match="free some space or choose another place"):
        export(decoder, variant, tmp_path / "out", ABOUT)
    assert not list(tmp_path.iterdir())


# Their layers' kinds follow from a period, which no removal of one layer keeps.
KEEPS_LAYERS = {"JambaForCausalLM", "RecurrentGemmaForCausalLM"}


# test_zero_weights.py loads exports of dropped sublayers of every decoder.
@pytest.mark.third(2)
@pytest.mark.parametrize(
    "recipe", ["magnitude-50", pytest.param("attn-drop-1", marks=pytest.mark.exhaustive), "block-drop-1"]
)
def test_plain_transformers_gives_the_variants_logits(each_decoder: Decoder, recipe: str, tmp_path: Path) -> None:
    dropped = {"attn-drop-1": ("attn.1",), "block-drop-1": ("attn.1", "mlp.1")}
    variant = prune(each_decoder, parse_recipe(recipe)) if recipe not in dropped else Variant(dropped=dropped[recipe])
    done = export(each_decoder, variant, tmp_path / "out", ABOUT)
    if recipe == "block-drop-1":
        assert ("are removed" in done.notes[0]) == (type(each_decoder.model).__name__ not in KEEPS_LAYERS)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with apply_variant(each_decoder, variant):
        truth = logits(each_decoder.model)
    assert (logits(plain) - truth).norm() <= 1e-5 * truth.norm()
    assert not torch.equal(logits(each_decoder.model), truth)
