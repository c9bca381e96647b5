"""Every figure on usual, small, empty and hostile frames: it draws, and its numbers are the frame's.

How a chart looks is judged by eye, not here.
"""

import json
import unicodedata
from typing import Any

import polars as pl
import pytest

from pipelines.charts import theme, tokens
from pipelines.charts.registry import FIGURES, Figure
from tests.pipelines.charts import frames, variant_frames

PNG = b"\x89PNG\r\n\x1a\n"
EVERY = pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)
LARGEST_JSON = 2_000_000


def data_of(chart: Any) -> list[list[dict[str, Any]]]:
    """All data sets of a chart, as the browser reads them."""
    return list(json.loads(chart.to_json())["datasets"].values())


def rows_with(chart: Any, column: str) -> list[dict[str, Any]]:
    return [row for rows in data_of(chart) for row in rows if column in row]


def picture(chart: Any, tmp_path: Any) -> bytes:
    chart.save(tmp_path / "chart.png")
    return (tmp_path / "chart.png").read_bytes()


@EVERY
def test_a_figure_draws_the_answer_to_its_own_query(figure: Figure, tmp_path):
    for drawing in figure.draw_all(frames.ask(figure.query)):
        assert len(drawing.chart.to_json()) < LARGEST_JSON
        assert picture(drawing.chart, tmp_path).startswith(PNG)


@EVERY
def test_a_figure_draws_a_single_row(figure: Figure, tmp_path):
    frame = frames.ask(figure.query).head(1)
    assert picture(figure.draw(frame), tmp_path).startswith(PNG)


@EVERY
def test_an_empty_frame_gives_a_chart_that_says_so(figure: Figure, tmp_path):
    (drawing,) = figure.draw_all(frames.ask(figure.query).clear())
    assert "no data" in data_of(drawing.chart)[0][0]["message"]
    assert picture(drawing.chart, tmp_path).startswith(PNG)


@EVERY
def test_fifteen_recipes_and_long_runs_stay_small(figure: Figure):
    many = {
        "models": tuple(f"model-{index}" for index in range(2)),
        "recipes": tuple(
            f"{kind}-{size}" for kind in ("attn-drop", "mlp-drop", "wanda", "sparsegpt", "awq") for size in "234"
        ),
    }
    marts = {
        "layer_summary": frames.layer_summary(**many, layers=32),
        "decoding_curve": frames.decoding_curve(**many, prompts=("a",), steps=300),
        "token_trace": frames.token_trace(**many, prompts=tuple("abcdef"), steps=80),
        "option_shift": frames.option_shift(**many, questions=tuple("abcdefgh")),
        "variant_summary": frames.variant_summary(**many),
        **variant_frames.of(**many),
        "estimate_points": frames.estimate_points(many["models"], per_theorem=1000),
        "reference_temperature": frames.reference_temperature(**many),
    }
    drawing = next(figure.draw_all(frames.ask(figure.query, **marts)))
    assert len(drawing.chart.to_json()) < LARGEST_JSON


@EVERY
def test_the_query_gives_the_same_rows_whatever_order_the_mart_is_in(figure: Figure):
    shuffled = {mart.__name__: mart().sample(fraction=1, shuffle=True, seed=7) for mart in frames.MARTS}
    assert frames.ask(figure.query, **shuffled).equals(frames.ask(figure.query))


@EVERY
def test_hostile_names_give_apart_and_path_safe_chart_names(figure: Figure):
    models = ("../../etc/passwd", "..\\..\\etc\\passwd", *frames.HOSTILE)
    recipes = ("attn-drop-4", "wanda-50")
    marts = {
        "layer_summary": frames.layer_summary(models, recipes, layers=2),
        "estimate_points": frames.estimate_points(models, per_theorem=2),
        "decoding_curve": frames.decoding_curve(models, recipes, steps=2),
        "token_trace": frames.token_trace(models, recipes, prompts=("a",), steps=2),
        "option_shift": frames.option_shift(models, recipes),
        "variant_summary": frames.variant_summary(models, recipes),
        **variant_frames.of(models, recipes),
        "reference_temperature": frames.reference_temperature(models, recipes),
    }
    drawings = list(figure.draw_all(frames.ask(figure.query, **marts)))
    drawn = [drawing.name for drawing in drawings]
    assert len(set(drawn)) == len(drawn) >= len(models)
    assert all(name.startswith(f"{figure.name}-") and len(name) < 200 for name in drawn)
    assert not any(character in "/\\<>\"'\x00\u202e" for name in drawn for character in name)
    for drawing in drawings:
        title = drawing.chart.to_dict(validate=False)["title"]
        text = "".join([drawing.title, *title["subtitle"]])
        assert not any(unicodedata.category(character).startswith("C") for character in text)


def test_names_that_look_the_same_once_cut_stay_apart():
    long = ["x" * 50 + end for end in "abc"]
    labels = theme.distinct_labels([*long, *long])
    assert len(set(labels.values())) == 3


@pytest.mark.parametrize(("name", "mean"), [("hierarchy", "mean"), ("amplification", "one_minus_cos")])
def test_the_layer_charts_hold_the_numbers_of_the_frame(name, mean):
    frame = frames.ask(FIGURES[name].query).filter(pl.col("lens") == "raw")
    column = "cos_{}_mean" if name == "hierarchy" else "one_minus_cos_{}_mean"
    drawn = sorted(
        (row["layer"], row["panel"], row["space"][0], row[mean]) for row in rows_with(FIGURES[name].draw(frame), mean)
    )
    given = sorted(
        (row["layer"], f"{row['recipe']} · {theme.SUBLAYER_TITLES[row['sublayer']]}", space, row[column.format(space)])
        for row in frame.iter_rows(named=True)
        for space in "hzp"
    )
    assert drawn == given


def test_no_line_crosses_layers_that_the_recipe_left_alone():
    frame = frames.ask(FIGURES["hierarchy"].query).filter(pl.col("recipe") == "attn-drop-4", pl.col("lens") == "raw")
    runs: dict[int, list[int]] = {}
    for row in rows_with(FIGURES["hierarchy"].draw(frame), "mean"):
        if row["space"].startswith("h"):
            runs.setdefault(row["run"], []).append(row["layer"])
    assert sorted(runs.values()) == [[11, 12], [14], [20]]


def test_a_panel_without_a_changed_sublayer_is_not_drawn():
    frame = frames.ask(FIGURES["hierarchy"].query)
    panels = {row["panel"] for row in rows_with(FIGURES["hierarchy"].draw(frame), "panel")}
    assert "attn-drop-4 · attention" in panels
    assert "attn-drop-4 · MLP" not in panels


def test_amplification_says_how_many_zeros_its_axis_cannot_show():
    frame = frames.ask(FIGURES["amplification"].query).filter(pl.col("lens") == "raw")
    frame = frame.with_columns(
        pl.when(pl.int_range(pl.len()) < 3).then(0.0).otherwise("one_minus_cos_p_mean").alias("one_minus_cos_p_mean")
    )
    chart = FIGURES["amplification"].draw(frame)
    assert len(rows_with(chart, "one_minus_cos")) == 3 * frame.height - 3
    assert "without 3 values of exactly 0" in chart.to_dict()["title"]["subtitle"][1]


def test_estimates_are_a_fixed_sample_of_at_most_750_points_a_theorem_without_zeros():
    points = frames.estimate_points(per_theorem=2000)
    zeros = points.head(10).with_columns(pl.lit(0.0).alias("truth"))
    frame = frames.ask(FIGURES["estimates"].query, estimate_points=pl.concat([zeros, points]))
    assert frame.group_by("theorem").len()["len"].to_list() == [750] * 4
    drawn = sorted((row["estimate"], row["truth"]) for row in rows_with(FIGURES["estimates"].draw(frame), "variant"))
    assert drawn == sorted(frame.select("estimate", "truth").iter_rows())
    assert set(drawn) <= set(points.select("estimate", "truth").iter_rows())


def test_generation_holds_the_medians_over_prompts_and_shows_zeros():
    curve = frames.decoding_curve().with_columns(
        pl.when(pl.col("step") == 3).then(0.0).otherwise("kl_dense_pruned_nats").alias("kl_dense_pruned_nats")
    )
    chart = FIGURES["generation"].draw(frames.ask(FIGURES["generation"].query, decoding_curve=curve))
    medians = {
        (row["recipe"], row["trajectory"].replace("_", " "), row["step"]): row["kl_dense_pruned_nats"]
        for row in curve.group_by("recipe", "trajectory", "step")
        .agg(pl.col("kl_dense_pruned_nats").median())
        .to_dicts()
    }
    drawn = {
        (r["variant"], r["trajectory"], r["step"]): r["kl_median_nats"] for r in rows_with(chart, "kl_median_nats")
    }
    assert drawn == pytest.approx(medians, rel=1e-15)
    assert {value for key, value in drawn.items() if key[2] == 3} == {0.0}


def test_generation_marks_the_first_flips_and_the_ends_of_answers_once():
    curve = frames.decoding_curve()
    chart = FIGURES["generation"].draw(frames.ask(FIGURES["generation"].query))
    drawn = sorted((row["variant"], row["event"], row["step"], row["events"]) for row in rows_with(chart, "event"))
    prompts = curve.unique(["recipe", "prompt_id"])
    counted = [
        (row["recipe"], event, row[column], row["len"])
        for column, event in (("first_flip_step", "first flipped token"), ("answer_end_step", "answer complete"))
        for row in prompts.drop_nulls(column).group_by("recipe", column).len().to_dicts()
    ]
    assert drawn == sorted(counted)


def test_the_token_map_shows_each_token_in_reading_order_below_the_dense_text():
    trace = frames.token_trace(prompts=("a",))
    cells = rows_with(FIGURES["tokens"].draw(frames.ask(FIGURES["tokens"].query, token_trace=trace)), "token")
    assert [row["text"] for row in cells if row["variant"] == "dense"] == [
        text.replace(" ", "␣").replace("\n", "↵")
        for text in trace.filter(pl.col("recipe") == "wanda-50")["token_text_dense"]
    ]
    assert cells[0]["variant"] == "dense"
    assert all(cell["line"] + cell["cell"] == cell["step"] and cell["cell"] < tokens.CELLS for cell in cells)
    kl = {(row["variant"], row["step"]): row["kl_free_running_nats"] for row in cells if row["variant"] != "dense"}
    assert kl == {(row["recipe"], row["step"]): row["kl_free_running_nats"] for row in trace.to_dicts()}
    flips = {row["variant"]: row["step"] for row in cells if row["is_first_flip"]}
    assert flips == {row["recipe"]: row["first_flip_step"] for row in trace.drop_nulls("first_flip_step").to_dicts()}


@pytest.mark.parametrize(
    ("kl", "shown"),
    [(0.0, "below 0.01"), (0.01, "0.01 to 0.1"), (1.0, "1 to 5"), (19.9, "5 to 20"), (20.0, "20 and more")],
)
def test_a_token_falls_into_the_class_that_its_legend_names(kl, shown):
    frame = frames.ask(FIGURES["tokens"].query).head(1).with_columns(pl.lit(kl).alias("kl_free_running_nats"))
    (row,) = rows_with(FIGURES["tokens"].draw(frame), "kl_free_running_nats")
    assert row["class"] == shown


def test_hostile_tokens_stay_one_short_line_each():
    trace = frames.token_trace(prompts=("a",), words=frames.HOSTILE)
    for row in rows_with(FIGURES["tokens"].draw(frames.ask(FIGURES["tokens"].query, token_trace=trace)), "token"):
        assert len(row["token"]) <= 8
        assert len(row["text"]) <= 60
        assert not any(unicodedata.category(character).startswith("C") for character in row["token"] + row["text"])


def test_options_hold_both_sides_and_the_mass_of_all_options_together():
    frame = frames.ask(FIGURES["options"].query)
    chart = FIGURES["options"].draw(frame)
    drawn = sorted(
        (row["variant"], row["panel"], row["side"], row["probability"]) for row in rows_with(chart, "probability")
    )
    assert drawn == sorted(
        (row["recipe"], row["option"] + " (right answer)" * row["is_gold"], side, row[f"p_options_{side}"])
        for row in frame.to_dicts()
        for side in ("dense", "pruned")
    )
    masses = {(row["variant"], row["side"]): row["mass"] for row in rows_with(chart, "mass")}
    sums = frame.group_by("recipe").agg(pl.col("p_full_dense", "p_full_pruned").sum()).to_dicts()
    assert masses == pytest.approx(
        {(row["recipe"], side): row[f"p_full_{side}"] for row in sums for side in ("dense", "pruned")}
    )


def test_options_without_a_right_answer_and_without_any_mass_are_drawn(tmp_path):
    frame = frames.ask(FIGURES["options"].query).with_columns(
        pl.lit(None, pl.Boolean).alias("is_gold"), pl.lit(0.0).alias("p_full_pruned")
    )
    chart = FIGURES["options"].draw(frame)
    assert {row["panel"] for row in rows_with(chart, "panel")} == set("ABCD")
    assert "without 6 values of exactly 0" in chart.to_dict()["title"]["subtitle"][1]
    assert picture(chart, tmp_path).startswith(PNG)
