"""Tests of methods in a user's own file: equal bits to built-in ones, exact counts, and errors that name the line."""

import json
from pathlib import Path

import pytest
import torch

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.apply import prune, prune_all
from prunescope.pipelines.pruning.calibration.statistics import calibrate, calibration_tokens
from prunescope.pipelines.pruning.methods import my_method
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.recipes import Recipe, parse_recipe
from prunescope.pipelines.studies import CalibrationSpec
from tests.tiny_models import SHORT_TEXT

SPEC = CalibrationSpec(source=SHORT_TEXT, sequences=6, length=24)
WANDA = Path(my_method.__file__).read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with Wanda as a method of one's own."""
    (tmp_path / "own.py").write_text(WANDA)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def statistics(decoder: Decoder) -> Statistics:
    seen = calibrate(decoder, SPEC, "tiny")
    return Statistics(seen.activation_stats, seen.block_influence, calibration_tokens(decoder.tokenizer, SPEC))


def own(code: str, **keys: object) -> Recipe:
    return parse_recipe(json.dumps({"name": "own", "method": "python", "code": code, "sparsity": 0.5} | keys))


def pruned(decoder: Decoder, recipe: Recipe, statistics: Statistics) -> Variant:
    result = prune_all(decoder, [recipe], statistics)[recipe.name]
    if not isinstance(result, Variant):
        raise result
    return result


@pytest.mark.parametrize(
    ("written", "builtin"),
    [
        ("own.py-2of4", "wanda-2of4"),
        ("own.py-50", "{name: w, method: wanda, sparsity: 0.5, group: matrix}"),
        ("own.py-50-owl", "{name: w, method: wanda, sparsity: 0.5, group: matrix, ratios: owl}"),
        ("attn-drop-1+own.py-2of4", "attn-drop-1+wanda-2of4"),
        ("own.py-2of4+rtn-4bit", "wanda-2of4+rtn-4bit"),
        ("own.py-2of4+dsnot", "wanda-2of4+dsnot"),
        ("{name: o, method: python, file: own.py, sparsity: 0.5, group: output}", "wanda-50"),
        (
            "{name: o, method: python, file: own.py, sparsity: 0.5, group: threshold, predecessors: dense}",
            "{name: w, method: wanda, sparsity: 0.5, group: threshold, predecessors: dense}",
        ),
        (
            "{name: o, method: mixed, treatments: {attn.1: own.py-2of4, mlp.2.up_proj: own.py-2of4, mlp.0: drop}}",
            "{name: w, method: mixed, treatments: {attn.1: wanda-2of4, mlp.2.up_proj: wanda-2of4, mlp.0: drop}}",
        ),
    ],
)
def test_wanda_in_a_file_gives_the_bits_of_wanda(
    folder: Path, decoder: Decoder, statistics: Statistics, written: str, builtin: str
) -> None:
    found = pruned(decoder, parse_recipe(written), statistics)
    expected = pruned(decoder, parse_recipe(builtin), statistics)
    assert found.hash == expected.hash
    assert found.changes


def test_the_text_of_the_file_is_the_recipe(folder: Path) -> None:
    by_name, moved = parse_recipe("own.py-50"), folder / "elsewhere.py"
    moved.write_text(WANDA)
    by_path = parse_recipe(f"{{name: other, method: python, file: {moved}, sparsity: 0.5}}")
    assert by_name.hash == by_path.hash
    assert str(folder) not in by_path.parameters_json
    (folder / "own.py").write_text(WANDA + "# slower\n")
    assert parse_recipe("own.py-50").hash != by_name.hash
    # What was read stays, without the file.
    stored = json.loads(by_path.model_dump_json())
    moved.unlink()
    assert parse_recipe(json.dumps(stored)).hash == by_path.hash


def test_reading_a_recipe_runs_nothing(folder: Path) -> None:
    (folder / "own.py").write_text(f"open('touched', 'w').close()\n{WANDA}")
    parse_recipe("own.py-50")
    assert not (folder / "touched").exists()


def test_equal_scores_give_exact_counts(decoder: Decoder, statistics: Statistics) -> None:
    flat = "import torch\ndef scores(weight, inputs, sparsity):\n    return torch.zeros_like(weight)"
    found = pruned(decoder, own(flat, sparsity=0.3, statistics="nothing"), statistics)
    assert {int((~mask).sum()) for mask in found.masks.values()} == {
        round(0.3 * mask.numel()) for mask in found.masks.values()
    }
    found = pruned(decoder, own(flat, sparsity=None, keep=1, block=4, statistics="nothing"), statistics)
    assert all(bool((mask.unflatten(1, (-1, 4)).sum(dim=2) == 1).all()) for mask in found.masks.values())


def test_new_weights_are_kept_and_their_zeros_are_a_mask(decoder: Decoder, statistics: Statistics) -> None:
    code = """
def weights(weight, inputs, sparsity):
    threshold = weight.abs().quantile(sparsity, dim=1, keepdim=True)
    return (weight * 1.5).masked_fill(weight.abs() < threshold, 0)
"""
    found = pruned(decoder, own(code, statistics="nothing", modules=["mlp"]), statistics)
    for name, change in found.changes.items():
        dense = next(own.matrices[name].weight for own in decoder.sublayers if name in own.matrices)
        threshold = dense.float().abs().quantile(0.5, dim=1, keepdim=True)
        expected = torch.where(dense.abs() < threshold, 0, dense.float() * 1.5)
        assert torch.equal(change.weight(dense), expected)
        assert torch.equal(change.mask, expected != 0)
    # A change of the weights alone needs no share; it keeps the zeros of an earlier recipe.
    halves = "def weights(weight, inputs, sparsity):\n    assert sparsity is None\n    return weight / 2 + 1"
    after = parse_recipe(
        json.dumps({"name": "c", "method": "composed", "parts": ["wanda-2of4", {"method": "python", "code": halves}]})
    )
    wanda, both = (pruned(decoder, recipe, statistics) for recipe in (parse_recipe("wanda-2of4"), after))
    first = next(iter(wanda.changes))
    assert torch.equal(both.masks[first], wanda.masks[first])


def test_a_function_may_use_the_gram_matrix_gradients_and_random_numbers(
    decoder: Decoder, statistics: Statistics
) -> None:
    code = """
import torch
def scores(weight, inputs, sparsity):
    assert inputs.tokens == 6 * 24
    assert torch.allclose(inputs.gram.diagonal().double() / inputs.tokens, inputs.second_moment, rtol=1e-4)
    change = torch.zeros_like(weight, requires_grad=True)
    (((weight + change) @ inputs.gram) * (weight + change)).sum().backward()
    inputs.gram.zero_()
    weight.mul_(2)
    return change.grad.abs() * torch.rand_like(weight)
"""
    recipe = own(code, statistics="gram")
    found = set()
    for seed in (1, 2):
        before = torch.manual_seed(seed).get_state()
        found.add(pruned(decoder, recipe, statistics).hash)
        assert torch.equal(before, torch.random.get_rng_state())
    assert len(found) == 1
    # A recipe in the same passes is not touched by it.
    gram = parse_recipe("{name: s, method: sparsegpt, sparsity: 0.5, predecessors: dense}")
    beside = prune_all(decoder, [own(code, statistics="gram", predecessors="dense"), gram], statistics)
    assert beside["s"].hash == prune(decoder, gram, tokens=statistics.tokens).hash


@pytest.mark.parametrize(
    ("body", "keys", "message"),
    [
        ("1 / 0", {}, r"recipe own, line 2: ZeroDivisionError"),
        ("weight[0]", {}, r"`scores` returned \(64,\) for a matrix of \(64, 64\)"),
        ("None", {}, r"`scores` returned NoneType for a matrix"),
        ("-weight.abs()", {}, r"`scores` returned -.*; scores are at least 0"),
        ("weight * float('nan')", {}, r"NaN"),
        ("weight / 0 * 0", {"weights": True}, r"`weights` returned NaN or infinite"),
        ("weight", {"weights": True, "sparsity": None, "keep": 2, "block": 4}, r"kept 4 of 4 weights"),
        ("weight", {"weights": True}, r"leaves the forward pass unchanged"),
        ("inputs.gram.sum() + weight.abs()", {}, r"line 2: AttributeError"),
    ],
)  # fmt: skip
def test_an_error_names_the_line_and_the_matrix(
    decoder: Decoder, statistics: Statistics, body: str, keys: dict[str, object], message: str
) -> None:
    name = "weights" if keys.pop("weights", False) else "scores"
    recipe = own(f"def {name}(weight, inputs, sparsity):\n    return {body}", **keys)
    with pytest.raises((InputError, ComputationError), match=message):
        pruned(decoder, recipe, statistics)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"def scores(weight, inputs, sparsity)\n", "own.py, line 1: not valid Python"),
        (b"def score(weight):\n    return weight\n", "must define one function"),
        (WANDA.encode() * 2 + b"def weights(w, i, s):\n    return w\n", "must define one function"),
        (b"# \xff\n", "line 1: not UTF-8"),
        (b"#" * 100_001, "over the 100,000"),
        (b"", "`file` is missing"),
        (b"x = '\0'\ndef scores(w, i, s):\n    return w\n", "not valid Python"),
        (None, "No such file"),
    ],
)
def test_a_wrong_file_is_refused_by_name(folder: Path, content: bytes | None, message: str) -> None:
    (folder / "own.py").unlink()
    if content is not None:
        (folder / "own.py").write_bytes(content)
    with pytest.raises(InputError, match=message):
        parse_recipe("own.py-50")
