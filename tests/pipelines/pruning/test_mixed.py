"""Tests that a mixed recipe treats each sublayer as its treatment alone would."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning import layerwise
from prunescope.pipelines.pruning.apply import prune, prune_all
from prunescope.pipelines.pruning.calibration.statistics import calibrate, calibration_tokens
from prunescope.pipelines.pruning.pruning_inputs import Statistics, Unfinished
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_row import variant_row
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import MixedRecipe, Recipe, parse_recipe
from prunescope.pipelines.recipes.mixed import part_of
from prunescope.pipelines.studies import CalibrationSpec
from tests.tiny_models import SHORT_TEXT

# Enough tokens to reach every expert.
SPEC = CalibrationSpec(source=SHORT_TEXT, sequences=6, length=32)
# Grouped queries; sandwich norms; parallel sublayers that read the same norm; transposed matrices; experts.
ARCHITECTURES = ("llama", "gemma2", "phi", "gpt2", "mixtral")
MIXTURE = {
    "attn.0": "wanda-2of4",
    "mlp.0": "sparsegpt-30",
    "attn.1": "sparsegpt-30",
    "mlp.1": "drop",
    "attn.2": "rtn-4bit",
    "mlp.2": "gptq-4bit",
}


def mixed(treatments: Mapping[str, object], name: str = "mixture", **fields: object) -> MixedRecipe:
    return parse_recipe(json.dumps({"name": name, "method": "mixed", "treatments": dict(treatments)} | fields))


def composed(*parts: dict[str, object]) -> Recipe:
    return parse_recipe(json.dumps({"name": "composed", "method": "composed", "parts": parts}))


def with_dense(treatment: str) -> Recipe:
    fields = parse_recipe(treatment).model_dump(mode="json")
    return parse_recipe(json.dumps(fields | {"predecessors": "dense"}))


def everywhere(decoder: Decoder, treatment: object) -> dict[str, object]:
    return {sublayer.label: treatment for sublayer in decoder.sublayers}


def names_in(decoder: Decoder, labels: Iterable[str]) -> set[str]:
    return {name for sublayer in decoder.sublayers if sublayer.label in {*labels} for name in sublayer.matrices}


@pytest.fixture(scope="module")
def tokens(decoder: Decoder) -> Tensor:
    return calibration_tokens(decoder.tokenizer, SPEC)


@pytest.mark.third(0)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("treatment", ["sparsegpt-30", "wanda-50", "gptq-4bit", "rtn-4bit"])
def test_one_treatment_of_all_sublayers_is_that_recipe_bit_for_bit(
    architecture: str, treatment: str, tiny_decoder: Callable[[str], Decoder]
) -> None:
    decoder = tiny_decoder(architecture)
    tokens = calibration_tokens(decoder.tokenizer, SPEC)
    alone = prune(decoder, parse_recipe(treatment), tokens=tokens)
    found = prune(decoder, mixed(everywhere(decoder, treatment)), tokens=tokens)
    assert found.hash == alone.hash
    assert found.facts == alone.facts


@pytest.mark.third(1)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_matrix_is_that_of_its_own_treatment_alone_and_others_stay_dense(
    architecture: str, tiny_decoder: Callable[[str], Decoder]
) -> None:
    decoder = tiny_decoder(architecture)
    tokens = calibration_tokens(decoder.tokenizer, SPEC)
    own = ("wanda-50", "sparsegpt-30", "rtn-4bit", "wanda-2of4", None)
    treatments, expected = dict[str, object](), dict[str, WeightDelta]()
    alone = {each: prune(decoder, with_dense(each), tokens=tokens) for each in own if each}
    for sublayer in decoder.sublayers:
        parts = dict.fromkeys(part_of(name) for name in sublayer.matrices)
        for number, part in enumerate(parts, len(sublayer.kind)):
            if (treatment := own[(number + sublayer.layer) % len(own)]) is not None:
                treatments[f"{sublayer.label}.{part}"] = treatment
                names = [name for name in sublayer.matrices if part_of(name) == part]
                expected |= {name: alone[treatment].changes[name] for name in names}
    found = prune(decoder, mixed(treatments, predecessors="dense"), tokens=tokens)
    assert found.changes.keys() == expected.keys()
    assert 0 < len(expected) < sum(len(sublayer.matrices) for sublayer in decoder.sublayers)
    for sublayer in decoder.sublayers:
        for name in sublayer.matrices:
            if name in expected:
                weight = sublayer.matrices[name].weight
                assert torch.equal(found.changes[name].weight(weight), expected[name].weight(weight)), name


def test_a_matrix_that_the_model_lacks_or_a_treatment_that_changes_none_is_refused(decoder: Decoder) -> None:
    with pytest.raises(InputError, match=r"no attn\.0\.c_attn; attn\.0 has attn\.0\.q_proj, attn\.0\.k_proj, .*o_proj"):
        prune(decoder, mixed({"attn.0.c_attn": "magnitude-50"}))
    # Of 64 inputs half a per cent is less than half a weight.
    nothing = {"method": "magnitude", "sparsity": 0.005, "group": "output"}
    with pytest.raises(ComputationError, match=r"magnitude changes nothing in mlp\.1\.up_proj; leave it out"):
        prune(decoder, mixed({"mlp.0.up_proj": "magnitude-50", "mlp.1.up_proj": nothing}))
    # A matrix may stay as it is where another one of its sublayer does not.
    found = prune(decoder, mixed({"mlp.1.up_proj": nothing, "mlp.1.down_proj": "magnitude-50"}))
    alone = prune(decoder, mixed({"mlp.1.down_proj": "magnitude-50"}))
    weight = list(decoder.sublayers)[3].matrices["model.layers.1.mlp.down_proj"].weight
    assert torch.equal(
        found.changes["model.layers.1.mlp.down_proj"].weight(weight),
        alone.changes["model.layers.1.mlp.down_proj"].weight(weight),
    )


@pytest.mark.third(0)
@pytest.mark.parametrize(
    ("architecture", "has_table"),
    [
        pytest.param(
            each, has_table, marks=() if has_table is (each in {"llama", "mixtral"}) else pytest.mark.exhaustive
        )
        for each in ARCHITECTURES
        for has_table in (False, True)
    ],
)
def test_with_dense_predecessors_each_sublayer_is_that_of_its_treatment_alone(
    architecture: str, tiny_decoder: Callable[[str], Decoder], has_table: bool
) -> None:
    decoder = tiny_decoder(architecture)
    tokens = calibration_tokens(decoder.tokenizer, SPEC)
    # Wanda reads the moments of the table where there is one: these are of the channels in the opposite order.
    reversed_channels = pl.col("second_moment").list.reverse()
    stats = calibrate(decoder, SPEC, "tiny").activation_stats.with_columns(reversed_channels) if has_table else None
    alone = {
        treatment: prune(decoder, with_dense(treatment), stats, tokens=tokens)
        for treatment in set(MIXTURE.values()) - {"drop"}
    }
    changes = {
        name: alone[treatment].changes[name]
        for label, treatment in MIXTURE.items()
        if treatment != "drop"
        for name in names_in(decoder, [label])
    }
    assembled = Variant(changes, dropped=("mlp.1",))
    recipe = mixed(MIXTURE, predecessors="dense")
    found = prune(decoder, recipe, stats, tokens=tokens)
    assert found.hash == assembled.hash
    # The same from a pass that other recipes share.
    together = prune_all(decoder, [with_dense("sparsegpt-30"), recipe, with_dense("wanda-2of4")],
                         Statistics(stats, tokens=tokens))  # fmt: skip
    assert {name: variant.hash for name, variant in together.items() if isinstance(variant, Variant)} == {
        "sparsegpt-30": alone["sparsegpt-30"].hash,
        "mixture": found.hash,
        "wanda-2of4": alone["wanda-2of4"].hash,
    }
    assert prune(decoder, mixed(MIXTURE), tokens=tokens).hash != found.hash


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "gemma2", "mixtral"])
def test_with_pruned_predecessors_inputs_come_from_treated_layers_without_the_dropped_sublayers(
    architecture: str, tiny_decoder: Callable[[str], Decoder]
) -> None:
    decoder = tiny_decoder(architecture)
    tokens = calibration_tokens(decoder.tokenizer, SPEC)
    # No two recipes change matrices of one layer, so that a composition passes the same tokens through the same layers.
    last = sorted(names_in(decoder, ["attn.2", "mlp.2"]))
    escaped = [name.replace("[", "[[]") for name in last]
    first = [name.replace("[", "[[]") for name in names_in(decoder, ["mlp.0"])]
    reference = composed(
        {"method": "attn+mlp-drop", "sublayers": ["attn.0", "mlp.1"]},
        {"method": "sparsegpt", "sparsity": 0.3, "modules": first},
        {"method": "wanda", "sparsity": 0.5, "modules": escaped},
    )
    recipe = mixed(
        {"mlp.2": "wanda-50", "attn.0": "drop", "mlp.0": "sparsegpt-30", "mlp.1": "drop", "attn.2": "wanda-50"}
    )
    found = prune(decoder, recipe, tokens=tokens)
    assert set(found.changes) == names_in(decoder, ["mlp.0", "attn.2", "mlp.2"])
    assert found.hash == prune(decoder, reference, tokens=tokens).hash
    kept = prune(decoder, mixed({"attn.2": "wanda-50", "mlp.2": "wanda-50"}), tokens=tokens)
    assert any(not torch.equal(found.masks[name], kept.masks[name]) for name in last)


def test_only_drops_are_the_recipe_that_drops_them(decoder: Decoder) -> None:
    given = parse_recipe("{name: d, method: attn+mlp-drop, sublayers: [attn.1, mlp.2]}")
    for predecessors in ("pruned", "dense"):
        recipe = mixed({"mlp.2": "drop", "attn.1": "drop"}, predecessors=predecessors)
        assert not recipe.is_calibrated
        found = prune(decoder, recipe)
        assert found.hash == prune(decoder, given).hash
        assert found.facts["drop_order"] == ["attn.1", "mlp.2"]
    with pytest.raises(InputError, match="6 sublayers; drop fewer"):
        prune(decoder, mixed(everywhere(decoder, "drop")))


@pytest.mark.parametrize("predecessors", ["pruned", "dense"])
@pytest.mark.parametrize("treatment", ["drop", "wanda-50", "rtn-4bit"])
def test_a_sublayer_that_the_model_lacks_is_refused_by_its_name(
    decoder: Decoder, tokens: Tensor, treatment: str, predecessors: str
) -> None:
    recipe = mixed({"attn.0": "wanda-50", "mlp.3": treatment}, predecessors=predecessors)
    with pytest.raises(InputError, match=r"recipe mixture: the model has no mlp\.3, only attn\.0 to mlp\.2"):
        prune(decoder, recipe, tokens=tokens)


@pytest.mark.parametrize("predecessors", ["pruned", "dense"])
def test_a_treatment_that_changes_nothing_is_an_error(decoder: Decoder, tokens: Tensor, predecessors: str) -> None:
    # Of 64 inputs a row, 0.5 % is no weight.
    nothing = {"method": "wanda", "sparsity": 0.005, "name": "hardly"}
    with pytest.raises(ComputationError, match=r"recipe mixture: hardly changes nothing in attn\.1; leave it out"):
        prune(decoder, mixed({"mlp.0": "wanda-50", "attn.1": nothing}, predecessors=predecessors), tokens=tokens)
    found = prune_all(decoder, [mixed({"attn.1": nothing}, predecessors=predecessors), parse_recipe("magnitude-50")],
                      Statistics(tokens=tokens))  # fmt: skip
    assert isinstance(found["mixture"], ComputationError)
    assert isinstance(found["magnitude-50"], Variant)


def test_only_treatments_that_read_inputs_need_tokens(decoder: Decoder, tokens: Tensor) -> None:
    free = mixed({"attn.0": "rtn-4bit", "mlp.0": "drop", "attn.1": "magnitude-50"})
    assert not free.is_calibrated
    assert prune(decoder, free).hash == prune(decoder, free, tokens=tokens).hash
    with pytest.raises(InputError, match="recipe mixture needs calibration tokens"):
        prune(decoder, mixed({"attn.0": "rtn-4bit", "mlp.1": "gptq-4bit"}))


def test_gram_matrices_and_moments_are_those_of_matrices_that_need_them(
    decoder: Decoder, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: dict[str, bool] = {}
    measure = layerwise.Streams.measure

    def spying(*args: object, **settings: object) -> object:
        found = measure(*args, **settings)
        measured.update({name: inputs.gram is not None for name, inputs in found.items()})
        return found

    monkeypatch.setattr(layerwise.Streams, "measure", spying)
    treatments = {"attn.0": "wanda-50", "mlp.0": "sparsegpt-30", "attn.1": "rtn-4bit", "mlp.1": "wanda-50"}
    prune(decoder, mixed(treatments), tokens=tokens)
    assert {name for name, has_gram in measured.items() if has_gram} == names_in(decoder, ["mlp.0"])
    assert {name for name, has_gram in measured.items() if not has_gram} == names_in(decoder, ["attn.0", "mlp.1"])


def test_layers_behind_the_last_measured_one_are_not_run(
    decoder: Decoder, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    run = layerwise.Streams._run

    def counting(self: layerwise.Streams, index: int, batch: int) -> Tensor:
        ran.append(index)
        return run(self, index, batch)

    monkeypatch.setattr(layerwise.Streams, "_run", counting)
    for predecessors in ("pruned", "dense"):
        ran.clear()
        prune(decoder, mixed({"mlp.1": "wanda-50", "attn.2": "rtn-4bit"}, predecessors=predecessors), tokens=tokens)
        assert set(ran) == {0, 1}


@pytest.mark.parametrize("predecessors", ["pruned", "dense"])
def test_an_interrupted_mixture_resumes_at_its_layer(
    decoder: Decoder, tokens: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predecessors: str
) -> None:
    recipe, kept = mixed(MIXTURE, predecessors=predecessors), Unfinished(tmp_path, "weights")
    whole = prune(decoder, recipe, tokens=tokens)
    computed: list[int] = []
    change = layerwise.change_of

    def dying(given: object, recipe: object) -> object:
        computed.append(int(given.name.split(".")[2]))
        if len(computed) == 12:
            raise KeyboardInterrupt
        return change(given, recipe)

    monkeypatch.setattr(layerwise, "change_of", dying)
    with pytest.raises(KeyboardInterrupt):
        prune(decoder, recipe, tokens=tokens, unfinished=kept)
    assert computed[-1] == 2
    computed[:] = [99] * 20
    resumed = prune(decoder, recipe, tokens=tokens, unfinished=kept)
    assert {*computed} == {2, 99}
    assert resumed.hash == whole.hash
    assert resumed.facts == whole.facts
    # Another treatment is another run.
    computed.clear()
    computed[:] = [99] * 20
    other = mixed(MIXTURE | {"attn.2": "rtn-3bit"}, predecessors=predecessors)
    prune(decoder, other, tokens=tokens, unfinished=kept)
    assert {*computed} == {0, 1, 2, 99}


def test_facts_and_counts_of_a_variant_are_sums_over_its_treatments(decoder: Decoder, tokens: Tensor) -> None:
    dead = load_decoder(decoder.folder)
    for layer in dead.layers:  # the last matrix of each MLP reads a neuron that is always zero
        layer.mlp.mixers[0].up_proj.weight.data[5] = 0
    recipe = mixed(MIXTURE, predecessors="dense")
    row = variant_row(dead, "tiny", recipe, prune(dead, recipe, tokens=tokens), None, 1, 1.0).row(0, named=True)
    facts, masked = dict.fromkeys(("dead_channels", "damping_raised"), 0), 0
    for label, treatment in MIXTURE.items():
        if treatment == "drop":
            continue
        one = mixed({label: treatment}, predecessors="dense")
        part = variant_row(dead, "tiny", one, prune(dead, one, tokens=tokens), None, 1, 1.0).row(0, named=True)
        masked += part["weights_masked"]
        for key, count in json.loads(part["facts_json"]).items():
            facts[key] += count
    assert json.loads(row["facts_json"]) == facts
    assert facts["dead_channels"] == 2
    assert row["method"] == "mixed"
    assert row["weights_masked"] == masked > 0
    dropped = next(each.size for each in dead.sublayers if each.label == "mlp.1")
    assert row["parameters_removed"] == masked + dropped
    assert (row["sublayers_dropped"], row["drop_order"], row["sublayers_changed"]) == (["mlp.1"], ["mlp.1"], 6)
