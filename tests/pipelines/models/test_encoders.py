"""Tests of embedding models: their structure is found, and the same recipes prune them."""

from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.decoder import Decoder, probe_tokens
from prunescope.pipelines.models.describe import model_row, structure_rows
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.meta_model import load_meta_model, shape_of
from prunescope.pipelines.models.sources import ModelIdentity
from prunescope.pipelines.models.weight_matrices import Products
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.calibration.statistics import CalibrationResult, calibrate, calibration_tokens
from prunescope.pipelines.pruning.checkpoints.export_checkpoint import export
from prunescope.pipelines.pruning.checkpoints.model_card import About
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import CalibrationSpec
from tests.tiny_encoders import EMBEDDERS, save_embedder
from tests.tiny_models import SHORT_TEXT

CALIBRATION = CalibrationSpec(source=SHORT_TEXT, sequences=3, length=24)
POST_NORM = ("bert", "roberta", "distilbert")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("embedders")
    return {name: save_embedder(root / name, name) for name in EMBEDDERS}


@pytest.fixture(scope="module")
def decoders(folders: dict[str, Path]) -> dict[str, Decoder]:
    return {name: load_decoder(folder, device="cpu") for name, folder in folders.items()}


@pytest.fixture(scope="module")
def bert(decoders: dict[str, Decoder]) -> Decoder:
    return decoders["bert"]


@pytest.fixture(scope="module")
def calibrated(decoders: dict[str, Decoder]) -> dict[str, CalibrationResult]:
    return {name: calibrate(decoders[name], CALIBRATION, "tiny") for name in ("bert", "modernbert", "mistral")}


def bert_by_hand(decoder: Decoder, tokens: Tensor, without: frozenset[str] = frozenset()) -> list[Tensor]:
    """Return BERT's streams in float64 from its published formulas: before the first layer, and after each sublayer."""
    weights = {name: parameter.double() for name, parameter in decoder.model.named_parameters()}

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        scaled = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-12).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    embedded = weights["embeddings.word_embeddings.weight"][tokens[0]]
    embedded = embedded + weights["embeddings.position_embeddings.weight"][: tokens.shape[1]]
    x = norm("embeddings.LayerNorm", embedded + weights["embeddings.token_type_embeddings.weight"][0])
    streams = [x]
    for layer in range(3):
        at = f"encoder.layer.{layer}"
        if f"attn.{layer}" not in without:
            query, key, value = (
                linear(f"{at}.attention.self.{name}", x).view(-1, 4, 12).transpose(0, 1)
                for name in ("query", "key", "value")
            )
            mixed = torch.softmax(query @ key.transpose(1, 2) / 12**0.5, -1) @ value
            added = linear(f"{at}.attention.output.dense", mixed.transpose(0, 1).reshape(-1, 48))
            x = norm(f"{at}.attention.output.LayerNorm", x + added)
        streams.append(x)
        if f"mlp.{layer}" not in without:
            inner = torch.nn.functional.gelu(linear(f"{at}.intermediate.dense", x))
            x = norm(f"{at}.output.LayerNorm", x + linear(f"{at}.output.dense", inner))
        streams.append(x)
    return streams


@pytest.mark.parametrize("name", EMBEDDERS)
def test_every_embedder_is_proved(decoders: dict[str, Decoder], name: str) -> None:
    decoder = decoders[name]
    assert decoder.output is None
    assert len(decoder.layers) == 3
    assert decoder.is_causal == (name == "mistral")
    assert decoder.can_pad
    assert all(part.is_post_norm == (name in POST_NORM) for each in decoder.sublayers for part in each.parts)
    linears = [each for each, module in decoder.model.named_modules() if isinstance(module, torch.nn.Linear)]
    assert set(decoder.matrices) == {each for each in linears if "pooler" not in each}
    with pytest.raises(InputError, match=r"has no LM head, so only `retrieval` can be measured"):
        _ = decoder.head


@pytest.mark.parametrize("name", EMBEDDERS)
def test_a_layer_without_its_sublayers_returns_its_input(decoders: dict[str, Decoder], name: str) -> None:
    decoder, given = decoders[name], {}
    tokens = probe_tokens(decoder, 9)
    whole = decoder.hidden(tokens)
    layer = decoder.layers[1]
    hook = layer.module.register_forward_hook(lambda _, args, output: given.update(state=args[0], output=output))
    with layer.attn.dropped(), layer.mlp.dropped():
        decoder.hidden(tokens)
    hook.remove()
    output = given["output"][0] if isinstance(given["output"], tuple) else given["output"]
    assert torch.equal(output, given["state"])
    assert torch.equal(decoder.hidden(tokens), whole)


@pytest.mark.parametrize("dropped", [(), ("attn.1",), ("mlp.0",), ("attn.2", "mlp.2"), ("attn.0", "mlp.1")])
def test_a_dropped_sublayer_of_bert_drops_its_norm(bert: Decoder, dropped: tuple[str, ...]) -> None:
    tokens = probe_tokens(bert, 11)
    truth = bert_by_hand(bert, tokens, frozenset(dropped))[-1]
    with apply_variant(bert, Variant(dropped=dropped)):
        found = bert.hidden(tokens)[0].double()
    assert (found - truth).norm() / truth.norm() < 1e-5


@pytest.mark.third(1)
@pytest.mark.parametrize("name", EMBEDDERS)
@pytest.mark.parametrize("dropped", [("attn.1",), ("mlp.0",), ("attn.2", "mlp.2"), ("attn.0", "mlp.1")])
def test_dropped_sublayers_of_embedders_do_not_run(
    decoders: dict[str, Decoder], name: str, dropped: tuple[str, ...]
) -> None:
    decoder, tokens, read = decoders[name], torch.randint(4, 300, (2, 9)), set[int]()
    tokens[1, 5:], lengths = decoder.padding, torch.tensor([9, 5])
    own = {each.address for part in decoder.sublayers if part.label in dropped for each in part.matrices.values()}
    with decoder.without(dropped, skips=False), Products(lambda _, operand: read.add(operand.data_ptr())):
        truth = decoder.padded(tokens, lengths)
    assert own <= read
    read.clear()
    with apply_variant(decoder, Variant(dropped=dropped)), Products(lambda _, operand: read.add(operand.data_ptr())):
        found = decoder.padded(tokens, lengths)
    assert torch.equal(found[0], truth[0])
    assert torch.equal(found[1, :5], truth[1, :5])
    assert read
    assert not read & own


def test_influence_is_the_rotation_by_a_sublayer_with_its_norm(
    bert: Decoder, calibrated: dict[str, CalibrationResult]
) -> None:
    seen = calibrated["bert"].block_influence
    found = {(row["unit"], row["layer"]): row["influence"] for row in seen.iter_rows(named=True)}
    pairs: dict[tuple[str, int], list[Tensor]] = {}
    for sequence in calibration_tokens(bert.tokenizer, CALIBRATION):
        streams = bert_by_hand(bert, sequence[None])
        for layer in range(3):
            before, middle, behind = streams[2 * layer : 2 * layer + 3]
            for unit, one, other in (("attn", before, middle), ("mlp", middle, behind), ("block", before, behind)):
                cosine = torch.nn.functional.cosine_similarity(one, other, dim=1)
                pairs.setdefault((unit, layer), []).append(1 - cosine)
    assert found == pytest.approx({key: float(torch.cat(each).mean()) for key, each in pairs.items()}, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        *(("bert", each) for each in ("magnitude-50", "wanda-2of4", "sparsegpt-50", "rtn-4bit", "neurons-25")),
        *(("bert", f"{unit}-drop-1") for unit in ("attn", "mlp", "block")),
        *((name, each) for name in ("modernbert", "mistral") for each in ("wanda-2of4", "block-drop-1")),
    ],
)
def test_embedders_are_pruned_by_the_same_recipes(
    decoders: dict[str, Decoder], calibrated: dict[str, CalibrationResult], name: str, recipe: str
) -> None:
    decoder, seen = decoders[name], calibrated[name]
    tokens = calibration_tokens(decoder.tokenizer, CALIBRATION)
    variant = prune(decoder, parse_recipe(recipe), seen.activation_stats, seen.block_influence, tokens)
    dense = decoder.hidden(tokens)
    with apply_variant(decoder, variant):
        pruned = decoder.hidden(tokens)
        kept = {each: float((matrix.weight != 0).float().mean()) for each, matrix in decoder.matrices.items()}
    assert not torch.equal(pruned, dense)
    assert torch.equal(decoder.hidden(tokens), dense)
    if recipe.endswith(("-50", "2of4")):
        assert kept == pytest.approx(dict.fromkeys(kept, 0.5), abs=0.01)


def test_wanda_on_bert_follows_its_formula(bert: Decoder) -> None:
    tokens = calibration_tokens(bert.tokenizer, CALIBRATION)
    variant = prune(bert, parse_recipe("{name: w, method: wanda, sparsity: 0.5, predecessors: dense}"), tokens=tokens)
    streams = [bert_by_hand(bert, sequence[None])[2] for sequence in tokens]
    norms = torch.cat(streams).square().sum(0).sqrt()
    name = "encoder.layer.1.attention.self.key"
    weight = bert.matrices[name].weight.double()
    scores = weight.abs() * norms
    wanted = scores >= scores.topk(24, dim=1).values[:, -1:]
    mask = variant.changes[name].mask
    assert mask is not None
    assert torch.equal(mask, wanted)


def test_greedy_drops_without_a_head_are_refused(bert: Decoder) -> None:
    tokens = calibration_tokens(bert.tokenizer, CALIBRATION)
    with pytest.raises(InputError, match="has no LM head"):
        prune(bert, parse_recipe("{name: g, method: block-drop, count: 1, by: greedy}"), tokens=tokens)


def test_a_model_without_a_head_is_described(folders: dict[str, Path], bert: Decoder) -> None:
    row = model_row(bert, "tiny", "here", ModelIdentity("w", "t", 1)).row(0, named=True)
    assert (row["vocabulary"], row["hidden_size"], row["is_head_tied"], row["final_norm"]) == (300, 48, False, "none")
    assert row["parameters_embedding"] == 300 * 48
    parts = structure_rows(bert)
    forms = dict(parts.filter(pl.col("part").is_in(["attn.0", "reads"])).select("part", "form").iter_rows())
    assert forms == {"attn.0": "stream normed by LayerNorm", "reads": "both ways"}
    shape = shape_of(load_meta_model(folders["bert"]))
    assert (shape.layers, shape.width, shape.vocabulary, shape.parameters) == (3, 48, 300, shape.body)


@pytest.mark.parametrize("name", ["bert", "mistral"])
def test_transformers_opens_an_exported_pruned_embedder(
    decoders: dict[str, Decoder], calibrated: dict[str, CalibrationResult], tmp_path: Path, name: str
) -> None:
    decoder = decoders[name]
    variant = prune(decoder, parse_recipe("wanda-2of4"), tokens=calibration_tokens(decoder.tokenizer, CALIBRATION))
    about = About("tiny", "here", "w", "wanda-2of4", "wanda", "{}")
    export(decoder, variant, tmp_path / "pruned", about)
    tokens = probe_tokens(decoder, 10)
    with apply_variant(decoder, variant):
        truth = decoder.hidden(tokens)
    again = AutoModel.from_pretrained(tmp_path / "pruned", use_safetensors=True).eval()
    with torch.inference_mode():
        assert torch.allclose(again(input_ids=tokens).last_hidden_state, truth, rtol=1e-4, atol=1e-5)
    assert "`AutoModel.from_pretrained` opens it without further code." in (tmp_path / "pruned/README.md").read_text()


def test_dropped_sublayers_with_norms_cannot_be_exported(bert: Decoder, tmp_path: Path) -> None:
    about = About("tiny", "here", "w", "attn-drop-1", "attn-drop", "{}")
    with pytest.raises(
        InputError, match=r"attn\.1: adds to the stream even without weights; its drop cannot be exported"
    ):
        export(bert, Variant(dropped=("attn.1",)), tmp_path / "dropped", about)
    assert not (tmp_path / "dropped").exists()
