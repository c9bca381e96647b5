"""Tests of every figure on usual, small, empty and hostile frames: it draws, and its numbers are the frame's.

The look of a chart is tested in `test_pictures`.
"""

import inspect
import json
import math
import operator
import re
import unicodedata
from dataclasses import replace
from functools import cache
from typing import Any

import altair as alt
import polars as pl
import pytest
import vl_convert

from prunescope.pipelines.reporting.charts import generation, theme, tokens
from prunescope.pipelines.reporting.charts.publication_size import fitted
from prunescope.pipelines.reporting.charts.registry import FIGURES, MAX_BYTES, Drawing, Figure
from tests.pipelines.reporting.charts import frames, variant_frames

SEVERAL = {"hierarchy", "generation", "tokens", "top_tokens", "options", "pareto", "allocation"}


EVERY = pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)
# Two paths that become equal once escaped, markup, a right-to-left override, a long name, controls and line separators.
HOSTILE_MODELS = (
    "../../etc/passwd",
    "..\\..\\etc\\passwd",
    *(frames.HOSTILE[index] for index in (0, 2, 3, 4, 7)),
)


def asked(name: str, **marts: pl.DataFrame) -> pl.DataFrame:
    return frames.ask(FIGURES[name].query, **marts)


def drawn(name: str, frame: pl.DataFrame | None = None, **marts: pl.DataFrame) -> Any:
    """Return the chart of a figure's rows, or of other rows."""
    return FIGURES[name].draw(asked(name, **marts) if frame is None else frame)


def chart_of(drawing: Drawing) -> alt.Chart:
    """Return the chart of a drawing, checked against the schema of Vega-Lite."""
    return alt.Chart.from_dict(drawing.specification)


def rows_with(chart: Any, column: str) -> list[dict[str, Any]]:
    """Return the rows of all data sets of a chart, as the browser reads them, that have a column."""
    return [row for rows in json.loads(chart.to_json())["datasets"].values() for row in rows if column in row]


@EVERY
def test_an_empty_frame_gives_a_chart_with_a_message(figure: Figure):
    (drawing,) = figure.draw_all(frames.ask(figure.query).clear())
    assert "no data" in rows_with(chart_of(drawing), "message")[0]["message"]


@cache
def shuffled_marts() -> dict[str, pl.DataFrame]:
    return {mart.__name__: mart().sample(fraction=1, shuffle=True, seed=7) for mart in frames.MARTS}


@pytest.mark.third(0)
@EVERY
def test_the_query_does_not_depend_on_the_order_of_the_mart(figure: Figure):
    assert frames.ask(figure.query, **shuffled_marts()).equals(frames.ask(figure.query))


@cache
def hostile_marts() -> dict[str, pl.DataFrame]:
    models, recipes = HOSTILE_MODELS, ("attn-drop-4", "wanda-50")
    small = {"layers": 2, "steps": 2, "per_theorem": 2}
    own = {"token_trace": {"prompts": ("a",)}, "stg_top_tokens": {"words": frames.HOSTILE}}
    made = {}
    for mart in frames.MARTS[: -len(variant_frames.MARTS)]:
        known = inspect.signature(mart).parameters
        given = {"models": models, "recipes": recipes, **small, **own.get(mart.__name__, {})}
        made[mart.__name__] = mart(**{name: value for name, value in given.items() if name in known})
    return made | variant_frames.of(models, recipes)


# Names are made in one place; these figures take titles and texts from different columns.
@pytest.mark.parametrize(
    "figure",
    [
        pytest.param(figure, id=name, marks=() if name in SEVERAL else pytest.mark.exhaustive)
        for name, figure in FIGURES.items()
    ],
)
def test_hostile_names_give_distinct_path_safe_chart_names(figure: Figure):
    drawings = list(figure.draw_all(frames.ask(figure.query, **hostile_marts())))
    drawn = [drawing.name for drawing in drawings]
    assert len(set(drawn)) == len(drawn)
    if "model" in figure.per:
        assert len(drawn) >= len(HOSTILE_MODELS)
    else:  # a figure across models has all of them in each drawing
        assert all(set(drawing.rows["model"]) == set(HOSTILE_MODELS) for drawing in drawings)
    assert all(name.startswith(f"{figure.name}-") and len(name) < 200 for name in drawn)
    assert not any(character in "/\\<>\"'\x00\u202e" for name in drawn for character in name)
    for drawing in drawings:
        title = drawing.specification["title"]
        text = "".join([drawing.title, *title["subtitle"]])
        assert not any(unicodedata.category(character).startswith("C") for character in text)


def test_names_equal_after_cutting_stay_distinct():
    long = ["x" * 50 + end for end in "abc"]
    labels = theme.distinct_labels([*long, *long])
    assert len(set(labels.values())) == 3


def test_the_hierarchy_holds_means_and_spread_of_the_frame():
    frame = asked("hierarchy").filter(pl.col("lens") == "raw")
    parts = ("mean", "p10", "p90")
    assert sorted(
        (row["layer"], row["quantity"], row["variant"], row["curve"][0], *(row[part] for part in parts))
        for row in rows_with(drawn("hierarchy", frame), "mean")
    ) == sorted(
        (row["layer"], theme.SUBLAYER_TITLES[row["sublayer"]], row["recipe"], space,
         *(row[f"cos_{space}_{part}"] for part in parts))
        for row in frame.iter_rows(named=True) for space in "hzp"
    )  # fmt: skip


def test_no_line_crosses_unchanged_layers():
    runs: dict[int, list[int]] = {}
    for row in rows_with(drawn("hierarchy", asked("hierarchy").filter(recipe="attn-drop-4", lens="raw")), "mean"):
        if row["curve"].startswith("h"):
            runs.setdefault(row["run"], []).append(row["layer"])
    assert sorted(runs.values()) == [[11, 12], [14], [20]]


def test_a_panel_without_a_changed_sublayer_says_so_beside_the_other_sublayer():
    said = [(row["variant"], row["quantity"]) for row in rows_with(drawn("hierarchy"), "text")]
    assert sorted(said) == [("attn-drop-4", "MLP"), ("mlp-drop-4", "attention")]
    assert rows_with(drawn("hierarchy", asked("hierarchy").filter(recipe="attn-drop-4")), "text") == []


def test_amplification_is_the_median_factor_between_neighbouring_spaces_without_noise():
    shown = {
        (row["layer"], row["quantity"], row["variant"], row["curve"][:6]): row["median"]
        for row in rows_with(drawn("amplification", asked("amplification").filter(lens="raw")), "median")
    }
    given = {
        (row["layer"], theme.SUBLAYER_TITLES[row["sublayer"]], row["recipe"], curve): row[column]
        for row in frames.q07_amplification().filter(scope="local", lens="raw", is_noise=False).iter_rows(named=True)
        for curve, column in (("z over", "h_to_z_median"), ("p over", "z_to_p_median"))
    }
    assert shown == pytest.approx(given, rel=1e-12)


def test_amplification_counts_zeros_outside_its_axis():
    frame = asked("amplification").filter(lens="raw")
    place = pl.int_range(pl.len())
    chart = drawn(
        "amplification",
        frame.with_columns(
            z_to_p_median=pl.when(place < 3).then(0.0).otherwise("z_to_p_median"),
            h_to_z_median=pl.when(place == 5).then(0.0).otherwise("h_to_z_median"),
        ),
    )
    assert len(rows_with(chart, "median")) == 2 * frame.height - 4
    assert "without 4 factors of shifts that are exactly 0" in chart.to_dict()["title"]["subtitle"][1]
    still = frame.with_columns(h_to_z_median=0.0, z_to_p_median=0.0)
    assert theme.missing(drawn("amplification", still).to_dict()) == "every shift is exactly zero"


def test_a_logarithmic_axis_writes_all_its_ticks_as_powers_of_ten():
    scale, axis = theme.decades(3e-9, 40.0)
    chart = theme.Chart(theme.inline([{"v": 3e-9}])).mark_point().encode(x=alt.X("v:Q", scale=scale, axis=axis))
    svg = vl_convert.vegalite_to_svg(theme.themed(chart).to_dict())
    assert re.findall(r">(10[^<]*|[\d.e−-]+)</text>", svg) == ["10⁻⁹", "10⁻⁶", "10⁻³", "10⁰"]
    zero = theme.powers_of_ten([0, 0.1])
    assert zero == '["0", "10⁻¹"][indexof([0, 0.1], datum.value)]'


def test_estimates_are_a_fixed_sample_of_at_most_500_nonzero_points():
    points = frames.estimate_points(per_theorem=1500)
    zeros = points.head(10).with_columns(truth=0.0)
    frame = asked("estimates", estimate_points=pl.concat([zeros, points]))
    sample = frame.filter(pl.col("decile").is_null())
    assert sample.group_by("theorem", "lens").len()["len"].to_list() == [500] * 8
    shown = sorted(
        (row["estimate"], row["truth"]) for row in rows_with(drawn("estimates", frame.filter(lens="raw")), "variant")
    )
    assert shown == sorted(sample.filter(lens="raw").select("estimate", "truth").iter_rows())
    assert set(shown) <= set(points.select("estimate", "truth").iter_rows())


def test_estimates_hold_the_bias_of_every_decile_at_its_middle():
    chart = drawn("estimates", asked("estimates").filter(lens="normed"))
    parts = ("ratio_p10", "ratio_median", "ratio_p90")
    shown = [(row["scope"][:5], row["decile"], row["truth"], *(row[part] for part in parts))
             for row in rows_with(chart, "decile")]  # fmt: skip
    given = [
        (row["scope"][:5], row["decile"], pytest.approx(math.sqrt(row["truth_min"] * row["truth_max"]), rel=1e-12),
         *(row[part] for part in parts))
        for row in frames.q05_bias_by_deviation().filter(pl.col("scope") != "isolated", lens="normed").to_dicts()
    ]  # fmt: skip
    key = operator.itemgetter(0, 1, 4)
    assert sorted(shown, key=key) == sorted(given, key=key)


def test_generation_holds_the_medians_over_prompts_in_every_space_and_shows_zeros():
    zero = pl.when(pl.col("step") == 3).then(0.0).otherwise("kl_dense_pruned_nats")
    curve = frames.decoding_curve().with_columns(kl_dense_pruned_nats=zero)
    curve = curve.with_columns(one_minus_cos_h=pl.col("step") / 100 + pl.col("kl_dense_pruned_nats") / 1000)
    shown = {
        (row["variant"], row["trajectory"], row["step"], row["quantity"]): row["median"]
        for row in rows_with(drawn("generation", decoding_curve=curve), "median")
    }
    stored = ("one_minus_cos_h", "one_minus_cos_z", "one_minus_cos_p", "kl_dense_pruned_nats")
    medians = {
        (row["recipe"], generation.TRAJECTORIES[row["trajectory"]], row["step"], quantity): row[column]
        for row in curve.group_by("recipe", "trajectory", "step").agg(pl.col(stored).median()).to_dicts()
        for column, quantity in zip(stored, generation.QUANTITIES.values(), strict=True)
    }
    assert shown == pytest.approx(medians, rel=1e-12)


def test_neighbouring_steps_of_a_long_generation_share_a_point():
    curve = frames.decoding_curve(recipes=("wanda-50",), steps=130)
    frame = asked("generation", decoding_curve=curve).filter(trajectory="teacher_forced")
    assert frame["step"].to_list() == list(range(0, 130, 3))
    first = curve.filter(pl.col("step") < 3, trajectory="teacher_forced")["kl_dense_pruned_nats"]
    assert frame["kl_median"][0] == pytest.approx(first.median(), rel=1e-12)
    assert frame["prompts"].unique().to_list() == [3]
    assert "3 steps per point" in drawn("generation", frame).to_dict()["title"]["subtitle"][0]


def test_generation_marks_the_first_flips_and_the_ends_of_answers_once():
    marked = [
        (row["variant"], row["event"], row["step"], row["events"])
        for row in rows_with(drawn("generation"), "event")
        if row["quantity"] == generation.QUANTITIES["kl"]
    ]
    prompts = frames.decoding_curve().unique(["recipe", "prompt_id"])
    assert sorted(marked) == sorted(
        (recipe, event, step, count)
        for column, event in (("first_flip_step", "first flipped token"), ("answer_end_step", "answer complete"))
        for recipe, step, count in prompts.drop_nulls(column).group_by("recipe", column).len().iter_rows()
    )


def token_cells(**changes: Any) -> list[dict[str, Any]]:
    trace = frames.token_trace(prompts=("a",), words=changes.pop("words", None)).with_columns(**changes)
    return rows_with(drawn("tokens", token_trace=trace), "cell")


def test_the_token_map_shows_each_token_in_reading_order_below_the_dense_text():
    trace, cells = frames.token_trace(prompts=("a",)), token_cells()
    assert [row["text"] for row in cells if row["variant"] == "dense"] == [
        text.replace(" ", "␣").replace("\n", "↵") for text in trace.filter(recipe="wanda-50")["token_text_dense"]
    ]
    assert cells[0]["variant"] == "dense"
    assert all(cell["line"] + cell["cell"] == cell["step"] and cell["cell"] < tokens.CELLS for cell in cells)
    kl = {(row["variant"], row["step"], row["kl_own_text_nats"]) for row in cells if row["variant"] != "dense"}
    assert kl == set(trace.select("recipe", "step", "kl_own_text_nats").iter_rows())
    flips = {(row["variant"], row["step"]) for row in cells if row["is_first_flip"]}
    assert flips == set(trace.select("recipe", "first_flip_step").drop_nulls().iter_rows())


def test_the_token_map_shows_nothing_after_the_end_of_a_text():
    cells = token_cells(token_text_dense=pl.when(pl.col("step") < 2).then("token_text_dense"))
    assert [row["step"] for row in cells if row["variant"] == "dense"] == [0, 1]
    assert all("token" in row for row in cells)


@pytest.mark.parametrize(
    ("kl", "shown"),
    [(0.0, "below 0.01"), (0.01, "0.01 to 0.1"), (1.0, "1 to 5"), (19.9, "5 to 20"), (20.0, "20 and more")],
)
def test_a_token_has_the_class_of_its_legend(kl, shown):
    frame = asked("tokens").head(1).with_columns(kl_own_text_nats=kl)
    (row,) = rows_with(drawn("tokens", frame), "kl_own_text_nats")
    assert row["class"] == shown


def test_hostile_tokens_stay_one_short_line_each():
    for row in token_cells(words=frames.HOSTILE):
        assert len(row["token"]) <= 8
        assert len(row["text"]) <= 60
        assert not any(unicodedata.category(character).startswith("C") for character in row["token"] + row["text"])


def test_options_hold_both_sides_and_the_mass_of_all_options_together():
    frame, chart = asked("options"), drawn("options")
    shown = [(row["variant"], row["panel"], row["side"], row["probability"]) for row in rows_with(chart, "probability")]
    assert sorted(shown) == sorted(
        (row["recipe"], row["option"] + " (right answer)" * row["is_gold"], side, row[f"p_options_{side}"])
        for row in frame.to_dicts()
        for side in ("dense", "pruned")
    )
    masses = {(row["variant"], row["side"]): row["mass"] for row in rows_with(chart, "mass")}
    sums = frame.group_by("recipe").agg(pl.col("p_full_dense", "p_full_pruned").sum()).to_dicts()
    assert masses == pytest.approx(
        {(row["recipe"], side): row[f"p_full_{side}"] for row in sums for side in ("dense", "pruned")}
    )


def test_options_without_right_answer_or_mass_are_drawn():
    chart = drawn("options", asked("options").with_columns(is_gold=pl.lit(None, pl.Boolean), p_full_pruned=0.0))
    assert {row["panel"] for row in rows_with(chart, "panel")} == set("ABCD")
    assert "without 6 values of exactly 0" in chart.to_dict()["title"]["subtitle"][1]


def test_spaces_hold_median_spread_and_first_token_of_each_space_sorted_by_p():
    curve = frames.decoding_curve(prompts=("a",)).with_columns(one_minus_cos_p=pl.col("kl_dense_pruned_nats") / 100)
    rows = rows_with(drawn("spaces", decoding_curve=curve), "median")
    of_p = {row["variant"]: row for row in rows if row["space"].startswith("p")}
    forced = curve.filter(trajectory="teacher_forced")
    for (recipe,), own in forced.partition_by("recipe", as_dict=True).items():
        p, row = own["one_minus_cos_p"], of_p[recipe]
        bounds = [p.quantile(share, "linear") for share in (0.1, 0.5, 0.9)]
        assert [row["p10"], row["median"], row["p90"]] == pytest.approx(bounds, rel=1e-9)
        assert row["first"] == own.filter(step=0)["one_minus_cos_p"].item()
    assert [row["median"] for row in of_p.values()] == sorted(row["median"] for row in of_p.values())


def test_temperatures_are_curves_and_a_single_temperature_is_dots():
    one = frames.decoding_curve()
    several = pl.concat(
        one.with_columns(temperature=t, kl_dense_pruned_nats=pl.col("kl_dense_pruned_nats") / t)
        for t in (0.5, 1.0, 1.3)
    )
    curves, dots = (drawn("temperature", decoding_curve=curve) for curve in (several, one))
    kl = {
        (row["variant"], row["trajectory"], row["temperature"]): row["median"]
        for row in rows_with(curves, "median")
        if row["quantity"].startswith("KL")
    }
    medians = {
        (recipe, generation.TRAJECTORIES[trajectory], temperature): median
        for recipe, trajectory, temperature, median in several.group_by("recipe", "trajectory", "temperature")
        .agg(pl.col("kl_dense_pruned_nats").median())
        .iter_rows()
        if trajectory in {"teacher_forced", "own_text"}
    }
    assert kl == pytest.approx(medians, rel=1e-12)
    assert "one temperature" not in str(curves.to_dict()["title"])
    # Narrow panels have fewer ticks, and an axis rounds its labels by them.
    narrow = fitted(curves.to_dict(), 1).svg
    assert all(f">{t}<" in narrow for t in (0.5, 1, 1.3))
    assert "one temperature was measured: T = 1" in str(dots.to_dict()["title"])
    assert len(rows_with(dots, "median")) == len(kl) * 2 // 3


def test_top_tokens_are_those_of_both_sides_at_the_first_flip():
    tokens_of, flips = frames.stg_top_tokens(prompts=("a",)), frames.stg_generations(prompts=("a",))
    frame = asked("top_tokens", stg_top_tokens=tokens_of, stg_generations=flips)
    for recipe in frames.RECIPES:
        flip = flips.filter(recipe=recipe)["first_flip_step"].item()
        kept = tokens_of.filter(pl.col("rank") <= 6, recipe=recipe, trajectory="teacher_forced", step=flip or 0)
        shown = rows_with(drawn("top_tokens", frame.filter(recipe=recipe)), "place")
        for side in ("dense", "pruned"):
            given = dict(kept.select("token_id", f"probability_{side}").iter_rows())
            assert {row["token_id"]: row[side] for row in shown} == given
        assert {row["panel"] for row in shown} == {f"step {flip or 0}{'' if flip else ', no flip'} · {recipe}"}


def test_tokens_of_equal_appearance_keep_separate_rows():
    words = ("same" * 10 + "a", "same" * 10 + "b", *"cdefghijkl")
    frame = asked("top_tokens", stg_top_tokens=frames.stg_top_tokens(words=words))
    part = frame.filter(recipe="wanda-50", prompt_id=frames.PROMPTS[0])
    assert {row["place"] for row in rows_with(drawn("top_tokens", part), "place")} == set(range(part.height))


def test_a_study_of_many_recipes_gets_pages_of_about_equal_length():
    recipes = tuple(f"recipe-{number:02d}" for number in range(25))
    frame = asked(
        "generation",
        decoding_curve=frames.decoding_curve(recipes=recipes, prompts=("a",), steps=2),
        reference_temperature=frames.reference_temperature(recipes=recipes),
    )
    drawings = list(FIGURES["generation"].draw_all(frame))
    pages = [sorted({row["variant"] for row in rows_with(chart_of(drawing), "median")}) for drawing in drawings]
    assert [len(page) for page in pages] == [9, 9, 7]
    assert tuple(name for page in pages for name in page) == recipes
    assert [drawing.name for drawing in drawings] == ["generation-01", "generation-02", "generation-03"]
    assert drawings[1].title.endswith(": recipe-09 to recipe-17")


def test_flips_of_a_whole_benchmark_are_split_into_small_pages():
    one = variant_frames.q20_answers_flipped(recipes=tuple(f"wanda-{share}" for share in range(10, 56)))
    one = one.filter(task="boolq")
    tasks = [f"mmlu_subject_{number:02d}" for number in range(57)]
    metrics = ("accuracy", "accuracy_per_byte", "accuracy_letter")
    many = pl.concat(one.with_columns(task=pl.lit(task), metric=pl.lit(metric)) for task in tasks for metric in metrics)
    drawings = list(FIGURES["flips"].draw_all(asked("flips", q20_answers_flipped=many)))
    assert len(drawings) == 7
    assert max(len(theme.vega_lite(drawing.specification)) for drawing in drawings) < MAX_BYTES
    chart_of(drawings[-1])  # is valid; Altair takes seconds for a full page
    assert drawings[0].title.endswith("mmlu_subject_00 to mmlu_subject_08")


@cache
def largest_marts() -> dict[str, pl.DataFrame]:
    """Return the marts of 34 variants with long names, 128 steps at 5 temperatures, 57 tasks and 80 layers."""
    recipes = tuple(f"sparsegpt-{share}-on-a-calibration-of-日本語" for share in range(17)) + tuple(
        f"{kind}-drop-{k}" for kind in ("attn", "mlp") for k in range(1, 9)
    )
    recipes = (*recipes, "rtn-3bit")
    curve = frames.decoding_curve(recipes=recipes, prompts=("a",), steps=128)
    flips = variant_frames.q20_answers_flipped(recipes=recipes).filter(task="boolq")
    shifts = variant_frames.stg_layer_transitions(recipes=recipes[-9:], layers=80, prompts=("a",))
    return {
        **variant_frames.of((frames.MODEL,), recipes),
        "layer_summary": frames.layer_summary(recipes=recipes, layers=80),
        "q07_amplification": frames.q07_amplification(recipes=recipes, layers=80),
        "decoding_curve": pl.concat(curve.with_columns(temperature=pl.lit(t)) for t in (0.5, 0.7, 1.0, 1.5, 2.0)),
        "token_trace": frames.token_trace(recipes=recipes, prompts=("a",), steps=128),
        "option_shift": frames.option_shift(recipes=recipes),
        "variant_summary": frames.variant_summary(recipes=recipes),
        "reference_temperature": frames.reference_temperature(recipes=recipes),
        "q20_answers_flipped": pl.concat(flips.with_columns(task=pl.lit(f"mmlu_subject_{n:02d}")) for n in range(57)),
        "estimate_points": frames.estimate_points(per_theorem=5000).with_columns(
            prompt_id=pl.lit("x" * 5000) + pl.col("prompt_id")
        ),
        "q01_spike_predictors": variant_frames.q01_spike_predictors(recipes=recipes, layers=80),
        **dict.fromkeys(("stg_layer_transitions", "transitions_at_reference"), shifts),
        "stg_generations": frames.stg_generations(recipes=recipes, prompts=("a",)),
        "stg_top_tokens": frames.stg_top_tokens(recipes=recipes, prompts=("a",)),
    }


# A figure with `page_by` is split below any limit: `test_a_drawing_above_the_limit_is_split_into_complete_pages`.
@pytest.mark.third(1)
@pytest.mark.parametrize(
    "figure",
    [
        pytest.param(figure, id=name, marks=pytest.mark.exhaustive if figure.page_by and name not in SEVERAL else ())
        for name, figure in FIGURES.items()
    ],
)
def test_no_drawing_of_a_large_study_is_larger_than_2_mb(figure: Figure):
    drawings = figure.draw_all(frames.ask(figure.query, **largest_marts()))
    assert 3_000 < max(len(theme.vega_lite(drawing.specification)) for drawing in drawings) <= MAX_BYTES


@EVERY
def test_a_figure_states_its_size_rule(figure: Figure):
    assert ("below 2 MB" in figure.caption) == (figure.page_by is not None)
    assert figure.page_by or any(
        number in figure.caption for number in ("at most 500 points", "more than 50", "more than 64")
    )


@pytest.mark.third(2)
@pytest.mark.parametrize("name", [name for name, figure in FIGURES.items() if figure.page_by])
def test_a_drawing_above_the_limit_is_split_into_complete_pages(name):
    figure = FIGURES[name]
    of = ("q42_depth_of_predictors",)
    if name == "losses":
        of = ("task_losses", "stg_models", "stg_variants")
    several = {mart: getattr(variant_frames, mart)(models=("a", "b", "c")) for mart in of}
    frame = next(iter(frames.ask(figure.query, **several).partition_by(figure.per, maintain_order=True)))
    whole = len(theme.vega_lite(figure.draw(frame).to_dict(validate=False)))
    drawn: list[pl.DataFrame] = []

    def draw(part: pl.DataFrame) -> theme.AnyChart:
        drawn.append(part)
        return figure.draw(part)

    small = replace(figure, draw=draw, max_bytes=whole - 1)
    drawings = list(small.draw_all(frame))
    pages = [part for part in drawn if part.height < frame.height]
    assert len(drawings) == len(pages) > 1
    assert pl.concat(pages).sort(pl.all()).equals(frame.sort(pl.all()))
    assert all(len(theme.vega_lite(drawing.specification)) < whole for drawing in drawings)
    assert len({drawing.title for drawing in drawings}) == len({drawing.name for drawing in drawings}) == len(drawings)
    assert drawings[0].name.startswith(f"{name}-01")


def test_an_indivisible_drawing_above_the_limit_becomes_a_message():
    for name in ("estimates", "flips"):
        figure = replace(FIGURES[name], max_bytes=2_900)
        for drawing in figure.draw_all(frames.ask(figure.query)):
            assert theme.missing(drawing.specification) == "this part alone takes more than 0.0029 MB"
            assert len(theme.vega_lite(chart_of(drawing).to_dict())) < 2_900
