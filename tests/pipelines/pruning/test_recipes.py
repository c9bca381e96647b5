"""Tests that recipe names are parsed, parameters are checked and documented, and a hash depends on them alone."""

from typing import get_args

import pytest

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.recipes import (
    FORMS,
    KINDS,
    DenseRecipe,
    ExternalRecipe,
    Magnitude,
    MixedRecipe,
    NoiseRecipe,
    PythonRecipe,
    Wanda,
    changes_matrices,
    parse_recipe,
    shares_passes,
)
from prunescope.pipelines.recipes.listing import recipe_forms, recipe_parameters


@pytest.mark.parametrize("form", [form for form, _ in FORMS])
def test_every_listed_form_is_a_recipe_of_that_name(form: str) -> None:
    assert parse_recipe(form).name == form


def drops(unit: str, count: int, by: str, seed: int = 0) -> dict[str, object]:
    needs = ("block_influence",) if by == "influence" else ()
    return {"unit": unit, "count": count, "by": by, "seed": seed, "needs": needs, "is_calibrated": by != "random"}


def units(share: float, score: str, ratios: str, *, compensate: bool) -> dict[str, object]:
    return {"share": share, "score": score, "ratios": ratios, "compensate": compensate, "needs": ("activation_stats",)}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("wanda-2of4", {"keep": 2, "block": 4, "sparsity": None}),
        ("magnitude-62.5", {"sparsity": 0.625}),
        ("rtn-8bit", {"bits": 8, "group": None, "is_calibrated": False}),
        ("awq-3bit-g128", {"bits": 3, "group": 128, "steps": 20, "clip": True, "reads": "gram"}),
        ("attn+mlp-drop-4", drops("attn+mlp", 4, "influence")),
        ("mlp-drop-12-iterative", drops("mlp", 12, "iterative")),
        ("block-drop-3-random11", drops("block", 3, "random", 11)),
        ("attn-drop-2-consecutive", drops("attn", 2, "consecutive")),
        ("neurons-20", units(0.2, "wanda", "uniform", compensate=False)),
        ("heads-12.5-flap", units(0.125, "flap", "uniform", compensate=True)),
        ("flap-20", units(0.2, "flap", "global", compensate=True)),
        ("neurons-20-magnitude", {"score": "magnitude", "is_calibrated": False}),
    ],
)
def test_names_carry_their_parameters(name: str, fields: dict[str, object]) -> None:
    recipe = parse_recipe(name)
    assert {key: getattr(recipe, key) for key in fields} == fields


def test_the_hash_follows_the_parameters_and_not_the_name() -> None:
    same = Wanda(name="mine", sparsity=0.5)
    assert same.hash == parse_recipe("wanda-50").hash
    assert same.hash != Wanda(name="mine", sparsity=0.51).hash
    assert Magnitude(name="m", sparsity=0.5).hash != Magnitude(name="m", sparsity=0.5, group="output").hash


@pytest.mark.parametrize(
    "text",
    [
        *("wanda", "wanda-0", "wanda-100", "wanda-4of4", "wanda-2of1000", "attn-drop-0", "", "dense-1", "../x"),
        *("Wanda-50", "gptq-1bit", "gptq-9bit", "gptq-4", "gptq-4bit-g1", "sparsegpt", "sparsegpt-2of2"),
        # A pattern is either a share or N of M.
        "{name: m, method: wanda}",
        "{name: m, method: wanda, sparsity: 0.5, keep: 2, block: 4}",
        "{name: m, method: wanda, keep: 2}",
        "{name: m, method: wanda, block: 4}",
        "{name: m, method: wanda, keep: 4, block: 4}",
        "{name: m, method: admm, sparsity: 0.5, keep: 2, block: 4}",
        "{name: m, method: admm, keep: 2}",
        "{name: m, method: admm, iterations: 5}",
        # Units are either listed or counted, and each choice has its own fields.
        "{name: m, method: mlp-drop}",
        "{name: m, method: mlp-drop, count: 2, by: given}",
        "{name: m, method: mlp-drop, count: 2, layers: [1]}",
        "{name: m, method: mlp-drop, layers: [1, 1]}",
        "{name: m, method: mlp-drop, sublayers: [mlp.1]}",
        "{name: m, method: attn+mlp-drop, layers: [1]}",
        "{name: m, method: mlp-drop, count: 2, by: greedy, seed: 3}",
        "{name: m, method: mlp-drop, by: greedy, layers: [1]}",
        "{name: m, method: flap, share: 0.0}",
        "{name: m, method: flap, share: 1.0}",
        "{name: m, method: flap, share: 0.2, score: wanda}",
    ],
)
def test_other_names_and_parameters_that_contradict_each_other_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="recipe"):
        parse_recipe(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wanda-0.5", "unknown recipe 'wanda-0.5'; did you mean wanda-50 .*Per cents are 1 to 99"),
        ("rtn-16bit", "did you mean rtn-4bit .*bits 2 to 8"),
        ("WANDA-50", "did you mean wanda-50"),
        ("wnda-50", "did you mean wanda-50.*`prunescope recipes`"),
        ("wanda-50+", "a `[+]` must be between two recipes"),
        ("external", "written `{name: mine, method: external"),
        ("{sparsity: 0.5}", "`method` is missing; for example `method: wanda`"),
        (
            "{name: x, method: wanda, sparsity: 0.5, modulez: [a]}",
            "`modulez`: is not a key here; did you mean `modules`",
        ),
        ("{name: x y, method: wanda, sparsity: 0.5}", "`name`: 'x y' is not a valid name: letters"),
        ("{name: x, method: lottery}", "`method` 'lottery' is none of 'dense'"),
        ("{name: x, method: wanda, sparsity: 1.5}", "`sparsity`: must be below 1"),
        ("wanda-3of2", "'wanda-3of2': `keep` must be below `block`"),
        ("{method: attn-drop, layers: 3}", "`layers`"),
        ("{method: wanda, 1: 2}", "`1`: must be another value"),
        ("{method: wanda, keep: 2, block: 4, group: threshold}", "leave `group` out"),
        ("{method: wanda, ratios: [0.5, 0.5], block: 4}", "leave `sparsity`, `keep` and `block` out"),
        ("{name: x, method: external}", "source"),
        ("{name: x, method: external, source: a, layers: [2, 1]}", "must be increasing numbers"),
        ("{name: x, method: external, source: a, head: mine}", "head"),
        ("{method: composed, parts: [magnitude-50, {method: external, source: c}]}", "can only come first"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_fix(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_recipe(text)


def test_parts_of_a_composition_are_names_or_mappings_without_one() -> None:
    spelled = parse_recipe("wanda-50+dsnot")
    written = parse_recipe("{name: mine, method: composed, parts: [wanda-50, {method: dsnot}]}")
    assert written.hash == spelled.hash


MIXED = "{name: mine, method: mixed, treatments: "


def test_a_mixture_has_the_same_hash_in_every_order_and_spelling() -> None:
    first = parse_recipe(MIXED + "{mlp.10: drop, attn.2: wanda-2of4, mlp.2: rtn-4bit}}")
    other = parse_recipe(
        "{name: other, method: mixed, predecessors: pruned, treatments: {attn.2: {method: wanda, keep: 2, block: 4}, "
        "mlp.2: {name: mine, method: rtn, bits: 4}, mlp.10: drop}}"
    )
    assert first.hash == other.hash
    assert [*first.treatments] == ["attn.2", "mlp.2", "mlp.10"]
    assert parse_recipe(first.model_dump_json()) == first
    dense = parse_recipe(MIXED + "{mlp.10: drop, attn.2: wanda-2of4, mlp.2: rtn-4bit}, predecessors: dense}")
    assert {each.predecessors for each in dense.matrix_recipes.values()} == {"dense"}
    assert dense.hash != first.hash
    # A treatment may also be a recipe, whose own predecessors are replaced.
    given = MixedRecipe(name="mine", predecessors="dense", treatments={"attn.2": Wanda(name="w", keep=2, block=4)})
    assert given.treatments["attn.2"].hash == dense.treatments["attn.2"].hash


def test_the_places_of_a_mixture_are_sublayers_and_matrices() -> None:
    recipe = parse_recipe(MIXED + "{mlp.10.up_proj: wanda-20, mlp.2: wanda-30, mlp.10.c_fc: rtn-4bit, attn.10: drop}}")
    assert [*recipe.treatments] == ["mlp.2", "attn.10", "mlp.10.c_fc", "mlp.10.up_proj"]
    assert recipe.sublayers == ("mlp.2", "attn.10", "mlp.10")
    assert [each.name for each in recipe.treatments_of("mlp.10")] == ["rtn-4bit", "wanda-20"]
    assert recipe.treatments_of("attn.10") == ()
    for label, matrix, name in (
        ("mlp.10", "model.layers.10.mlp.up_proj", "wanda-20"),
        ("mlp.10", "model.layers.10.mlp.experts.3.up_proj", "wanda-20"),
        ("mlp.10", "model.layers.10.mlp.experts.up_proj[3]", "wanda-20"),
        ("mlp.2", "model.layers.2.mlp.up_proj", "wanda-30"),
        ("mlp.10", "model.layers.10.mlp.gate_up_proj", None),
        ("attn.10", "model.layers.10.self_attn.q_proj", None),
        ("attn.3", "model.layers.3.self_attn.q_proj", None),
    ):
        treatment = recipe.treatment(label, matrix)
        assert (treatment and treatment.name) == name, matrix


def test_a_mixture_needs_what_its_treatments_need() -> None:
    for treatments, predecessors, reads, needs, shares in (
        ("{attn.0: drop, mlp.0: rtn-4bit}", "dense", "nothing", (), False),
        ("{attn.0: wanda-50, mlp.0: rtn-4bit}", "pruned", "moments", (), False),
        ("{attn.0: wanda-50, mlp.0: rtn-4bit}", "dense", "moments", ("activation_stats",), True),
        ("{attn.0: wanda-50, mlp.0: gptq-4bit}", "dense", "gram", ("activation_stats",), True),
        ("{attn.0: sparsegpt-50, mlp.0: gptq-4bit}", "dense", "gram", (), True),
    ):
        recipe = parse_recipe(f"{MIXED}{treatments}, predecessors: {predecessors}}}")
        assert (recipe.reads, recipe.needs, shares_passes(recipe)) == (reads, needs, shares), treatments
        assert recipe.is_calibrated == (reads != "nothing")
    assert not changes_matrices(parse_recipe(MIXED + "{attn.0: drop}}"))


@pytest.mark.parametrize(
    ("treatments", "message"),
    [
        ("{}", "`treatments`: must give sublayers their treatments"),
        ("[attn.0]", "`treatments`: must give sublayers their treatments"),
        ("{block.0: drop}", r"'block\.0' is not a sublayer; write attn\.N or mlp\.N"),
        ("{attn.01: drop}", r"'attn\.01' is not a sublayer"),
        ("{attn.0.: drop}", r"'attn\.0\.' is not a sublayer; .* or attn\.N\.MATRIX for one of its matrices"),
        ("{attn.0.q_proj: drop}", r"attn\.0\.q_proj: drop applies to a whole sublayer; write attn\.0: drop"),
        (
            "{attn.0.q_proj: wanda-20, attn.0: wanda-30}",
            r"attn\.0\.q_proj is part of attn\.0, which has a treatment too",
        ),
        ("{attn.0.q_proj: wnda-20}", r"attn\.0\.q_proj: 'wnda-20' is not a treatment"),
        ("{attn.0: wnda-50}", r"attn\.0: 'wnda-50' is not a treatment; did you mean wanda-50\?"),
        ("{attn.0: dsnot}", r"attn\.0: 'dsnot' is not a treatment"),
        ("{attn.0: heads-25}", r"attn\.0: 'heads-25' is not a treatment"),
        ("{attn.0: attn-drop-1}", r"attn\.0: 'attn-drop-1' is not a treatment"),
        ("{attn.0: wanda-50+dsnot}", r"attn\.0: 'wanda-50\+dsnot' is not a treatment"),
        ("{attn.0: {method: neurons, share: 0.5}}", r"attn\.0: `method` 'neurons' is none of 'magnitude'"),
        ("{attn.0: {sparsity: 0.5}}", r"attn\.0: .* is not a treatment; .* or its `method` and parameters"),
        ("{attn.0: }", r"attn\.0: None is not a treatment"),
        ("{attn.0: wanda-50-owl}", r"attn\.0: `ratios` are shares per layer"),
        ("{attn.0: admm}", r"attn\.0: admm has no earlier mask here"),
        ("{attn.0: {method: wanda, sparsity: 2}}", r"attn\.0: `sparsity`: must be below 1"),
        (
            "{attn.0: {method: wanda, sparsity: 0.5, modulez: [a]}}",
            r"attn\.0: `modulez`: is not a key here; did you mean",
        ),
        ("{attn.0: {method: wanda, sparsity: 0.5, modules: [mlp]}}", r"attn\.0: a treatment applies to the whole"),
        (
            "{attn.0: {method: wanda, sparsity: 0.5, calibration: {seed: 1}}}",
            r"attn\.0: `calibration` is the same for all treatments",
        ),
        (
            "{attn.0: {method: wanda, sparsity: 0.5, predecessors: dense}}",
            r"attn\.0: `predecessors` is the same for all treatments",
        ),
    ],
)
def test_a_wrong_treatment_is_refused_with_its_sublayer(treatments: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        parse_recipe(f"{MIXED}{treatments}}}")
    assert "\n" not in str(raised.value)


def test_a_mixture_has_no_short_name_and_is_no_part_of_a_composition() -> None:
    with pytest.raises(InputError, match=r"written `\{name: mine, method: mixed, treatments: \{attn\.3: wanda-50"):
        parse_recipe("mixed")
    with pytest.raises(InputError, match="mixed is already a mixture of recipes; it cannot be part"):
        parse_recipe("{name: c, method: composed, parts: [wanda-50, {method: mixed, treatments: {attn.0: drop}}]}")


@pytest.mark.parametrize(
    "name", ["gptq-3bit+sparsegpt-50", "rtn-4bit+admm-50", "awq-4bit+wanda-50+admm", "wanda-50+rtn-4bit+dsnot"]
)
def test_a_solver_after_a_quantizer_is_refused(name: str) -> None:
    codes = next(part for part in name.split("+") if "bit" in part)
    with pytest.raises(InputError, match=rf"would undo {codes}; prune first, then quantize"):
        parse_recipe(name)
    # The other way round there is nothing to undo, and a mask alone leaves codes as they are.
    for fine in ("sparsegpt-50+gptq-3bit", "wanda-50+admm+rtn-4bit", "gptq-3bit+wanda-50"):
        assert parse_recipe(fine).name == fine


@pytest.mark.parametrize("name", ["neurons-50+wanda-60+dsnot", "wanda-60+heads-50+dsnot", "flap-30+wanda-50+dsnot"])
def test_exchanges_must_precede_removed_units(name: str) -> None:
    with pytest.raises(InputError, match=r"dsnot would restore weights of units .* put it first"):
        parse_recipe(name)
    assert parse_recipe("wanda-60+dsnot+neurons-50").name == "wanda-60+dsnot+neurons-50"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_parameter_of_every_method_has_a_meaning(kind: type) -> None:
    for method in get_args(kind.model_fields["method"].annotation):
        for row in recipe_parameters(method):
            assert row["meaning"], (method, row["parameter"])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_recipe_names_its_source(kind: type) -> None:
    (source,) = {row["source"] for row in recipe_forms() if row["form"] in dict(kind.EXAMPLES)} or {""}
    assert bool(source) == (kind not in {DenseRecipe, NoiseRecipe, ExternalRecipe, MixedRecipe, PythonRecipe}), (
        "name it in the class"
    )


def test_every_form_is_listed_and_parses_to_its_own_method() -> None:
    rows = [row for row in recipe_forms() if row["method"] not in {"external", "mixed", "python"}]
    assert [row["form"] for row in rows] == [form for form, _ in FORMS]
    for row in rows:
        recipe = parse_recipe(row["form"])
        assert row["method"] in {recipe.method, getattr(recipe, "parts", (recipe,))[-1].method}


def test_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="no method 'lottery'; there are dense, magnitude, wanda"):
        recipe_parameters("lottery")
