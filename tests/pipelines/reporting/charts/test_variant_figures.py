"""Tests that figures comparing whole variants hold the numbers of the SQL, and omit only what their captions name.

`test_figures` draws every figure on usual, empty and hostile frames.
"""

import math
from typing import Any, get_args

import duckdb
import numpy as np
import polars as pl
import pytest
import vl_convert

from prunescope.pipelines import recipes
from prunescope.pipelines.reporting.charts import layer_map, method_encoding, quantization, sequence, theme
from prunescope.pipelines.reporting.charts.pareto import labels
from prunescope.pipelines.reporting.charts.publication_size import MIN_TYPE, fitted
from prunescope.pipelines.reporting.charts.registry import FIGURES
from tests.pipelines.reporting.charts import frames, variant_frames
from tests.pipelines.reporting.charts.test_figures import asked, chart_of, drawn, rows_with
from tests.sql import reference_intervals


def wilson(share: float, error: float) -> tuple[float, float]:
    """Return Wilson's interval of a share, for as many trials as have this standard error."""
    trials = share * (1 - share) / error**2
    return reference_intervals.wilson(share * trials, trials)


@pytest.mark.parametrize(
    ("panel", "kind"), [("tasks answered by writing", "generative"), ("tasks answered by choosing", "non_generative")]
)
def test_drops_hold_the_scores_and_start_every_curve_at_the_dense_model(panel, kind):
    parts = [f"{kind}_score{end}" for end in ("", "_low", "_high")]
    frame = variant_frames.paper_drops().select("method", "dropped", *parts)
    expected = {row[:2]: row[2:] for row in frame.iter_rows()}
    measured = {
        (row["method"], row["dropped"]): (row["score"], row["low"], row["high"])
        for row in rows_with(drawn("drops"), "score")
        if row["series"] == "measured" and row["panel"] == panel
    }
    dense = expected.pop(("dense", 0))
    assert measured == expected | {("attn-drop", 0): dense, ("mlp-drop", 0): dense}


def test_published_curves_need_three_drops_and_can_be_hidden():
    chart = drawn("drops")
    rows = [row for row in rows_with(chart, "score") if row["series"] != "measured"]
    assert {row["series"] for row in rows} == {"published-7b, published"}
    mlp = {row["dropped"]: row["score"] for row in rows if row["method"] == "mlp-drop"}
    assert mlp == pytest.approx({0: 0.9, 1: 0.85, 2: 0.8, 4: 0.7})
    assert not any("low" in row for row in rows)
    (parameter,) = chart.to_dict()["params"]
    assert (parameter["name"], parameter["value"], parameter["bind"]["input"]) == ("published", True, "checkbox")


def test_drops_without_a_standard_error_draw_no_bar():
    none = pl.lit(None, pl.Float64)
    names = [f"{kind}_score_{end}" for kind in ("generative", "non_generative") for end in ("low", "high")]
    chart = drawn(
        "drops",
        paper_drops=variant_frames.paper_drops().with_columns(none.alias(name) for name in names),
        stg_retrieval_scores=variant_frames.stg_retrieval_scores().with_columns(standard_error=none),
    )
    assert rows_with(chart, "score")
    assert not rows_with(chart, "low")


def test_drops_average_a_retrieval_score_over_its_data_sets():
    rows = rows_with(drawn("drops"), "score")
    of = {row["dropped"]: row for row in rows if row["panel"].startswith("retrieval") and row["method"] == "mlp-drop"}
    assert of[0]["score"] == pytest.approx(0.45)
    # 97.5 % quantile of Student's t with 49 degrees of freedom.
    assert of[0]["high"] - of[0]["low"] == pytest.approx(2 * 2.009575 * 0.02 * math.sqrt(2) / 2, rel=1e-5)


def test_a_layer_map_holds_the_medians_over_prompts():
    chart = drawn("layer_map").to_dict()
    for part, column, scope in zip(
        chart["hconcat"], ("var_p_dz", "kl_dense_pruned_nats"), ("local", "propagated"), strict=True
    ):
        medians = {
            tuple(key): median
            for *key, median in variant_frames.stg_layer_transitions()
            .filter(lens="normed", scope=scope)
            .group_by("recipe", "layer", "sublayer", "step")
            .agg(pl.col(column).median())
            .iter_rows()
        }
        cells = {
            (row["variant"], row["layer"], row["sublayer"], step): value
            for row in chart["datasets"][part["data"]["name"]]
            for step, value in zip(row["step"], row["value"], strict=True)
        }
        # Three digits are more than a colour shows.
        assert cells == pytest.approx(medians, rel=5e-3)
        # The row of a layer's attention is below that of its MLP.
        rows = {(row["layer"], row["sublayer"]): row["row"] for row in chart["datasets"][part["data"]["name"]]}
        assert all(row == 2 * layer + (sublayer == "mlp") for (layer, sublayer), row in rows.items())


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), None])
def test_a_nan_cell_of_a_layer_map_stays_blank(broken):
    frame = asked("layer_map").filter(recipe="wanda-50")
    first = pl.int_range(pl.len()) == frame["kl_nats"].is_not_null().arg_max()
    holed = frame.with_columns(kl_nats=pl.when(first).then(pl.lit(broken)).otherwise("kl_nats"))
    whole, rest = (sum(len(row["value"]) for row in rows_with(drawn("layer_map", rows), "value"))
                   for rows in (frame, holed))  # fmt: skip
    assert whole - rest == 1


def test_a_layer_map_of_a_long_text_has_at_most_24_columns():
    shifts = variant_frames.stg_layer_transitions()
    long = pl.concat(shifts.with_columns(pl.col("step") + 10 * block) for block in range(10))
    rows = rows_with(drawn("layer_map", transitions_at_reference=long), "row")
    assert {step for row in rows for step in row["step"]} == set(range(0, 100, 5))


def test_a_layer_map_shows_at_most_twelve_recipes():
    recipes = tuple(f"method{method}-{share}" for method in range(7) for share in (10, 20, 30))
    summary = frames.variant_summary(recipes=recipes)
    marts = {"variant_summary": summary, "reference_temperature": frames.reference_temperature(recipes=recipes)}
    chart = drawn("layer_map", **marts, **variant_frames.of((frames.MODEL,), recipes))
    kl = dict(summary.select("recipe", "kl_teacher_forced_mean_nats").iter_rows())
    of = [sorted((kl[recipe], recipe) for recipe in recipes if recipe.startswith(f"method{m}-")) for m in range(7)]
    ends = [mildest for mildest, _, _ in of] + sorted(harshest for _, _, harshest in of)[:5]
    assert {row["variant"] for row in rows_with(chart, "row")} == {recipe for _, recipe in ends}


def test_a_layer_map_of_local_shifts_alone_has_one_map_and_states_its_prompts():
    shifts = variant_frames.stg_layer_transitions().filter(scope="local")
    for rows, prompts in ((shifts, "3 prompts"), (shifts.filter(prompt_id=variant_frames.PROMPTS[0]), "1 prompt ")):
        chart = drawn("layer_map", transitions_at_reference=rows).to_dict()
        assert [part["title"]["text"] for part in chart["hconcat"]] == [layer_map.QUANTITIES["var_p_dz"][0]]
        assert prompts in chart["title"]["subtitle"][0]


def test_roc_curves_show_the_best_sublayers_and_pass_ties_at_once():
    # Few different variances, so that most thresholds are ties.
    shifts = variant_frames.stg_layer_transitions().with_columns(pl.col("var_p_dz").round(1))
    frame = asked("spikes", stg_layer_transitions=shifts).filter(lens="raw")
    areas = frame.drop_nulls("auc")
    best = areas.sort("auc", descending=True).group_by("recipe", "sublayer", maintain_order=True).first()
    place = ("recipe", "sublayer", "layer")
    assert set(areas.filter("is_best").select(place).iter_rows()) == set(best.select(place).iter_rows())
    outputs = variant_frames.decoding_at_reference().with_columns(
        is_spike=pl.col("kl_dense_pruned_nats") > pl.col("kl_dense_pruned_nats").quantile(0.9, "linear").over("recipe")
    )
    curve = {"recipe": "wanda-50", "sublayer": "mlp"}
    layer = best.filter(**curve)["layer"].item()
    cells = shifts.filter(**curve, layer=layer, lens="raw", scope="local").join(
        outputs, on=["recipe", "prompt_id", "position"]
    )
    spikes, variances = cells["is_spike"].to_numpy(), cells["var_p_dz"].to_numpy()
    expected = {
        ((~spikes[variances >= each]).sum() / (~spikes).sum(), spikes[variances >= each].sum() / spikes.sum())
        for each in set(variances)
    }
    points = frame.drop_nulls("true_positive_rate").filter(**curve)
    rates = ["false_positive_rate", "true_positive_rate"]
    assert sorted(points.select(rates).iter_rows()) == [pytest.approx(one, rel=0, abs=1e-9) for one in sorted(expected)]
    rows = [row for row in rows_with(drawn("spikes", frame), "curve") if row["variant"] == "wanda-50"]
    line = sorted(tuple(row[rate] for rate in rates) for row in rows if row["curve"] == f"MLP {layer}")
    assert line == [(0, 0), *sorted(points.select(rates).iter_rows())]


def test_variants_with_too_few_spikes_are_named_where_they_are_left_out():
    answers = variant_frames.q01_spike_predictors()
    few = pl.col("recipe").is_in(["wanda-50", "magnitude-50"])
    without = [pl.when(~few).then(name).alias(name) for name in ("auc", "auc_low", "auc_high")]
    for rows, said in [(answers, []), (answers.with_columns(without), ["magnitude-50, wanda-50"])]:
        subtitle = drawn("spikes", q01_spike_predictors=rows).to_dict()["title"]["subtitle"]
        assert [line.partition(": ")[2] for line in subtitle if line.startswith("left out")] == said


def test_a_long_roc_curve_is_drawn_through_sixty_points_and_its_end():
    steps = variant_frames.decoding_at_reference().filter(recipe="wanda-50")
    shifts = variant_frames.stg_layer_transitions().filter(recipe="wanda-50", lens="raw", scope="local")
    later = [pl.col("position") + 100 * block for block in range(40)]
    frame = asked(
        "spikes",
        decoding_at_reference=pl.concat(map(steps.with_columns, later)),
        stg_layer_transitions=pl.concat(
            shifts.with_columns(position, pl.col("var_p_dz") + block / 1e6) for block, position in enumerate(later)
        ),
    )
    rates = frame.drop_nulls("true_positive_rate").group_by("sublayer").agg("true_positive_rate")["true_positive_rate"]
    assert [(len(curve) <= 61, max(curve)) for curve in rates] == 2 * [(True, 1.0)]


def test_flips_split_the_changed_answers_with_one_interval_a_bar():
    chart, answers = drawn("flips"), variant_frames.q20_answers_flipped()
    split = {(row["variant"], row["panel"], row["place"]): row["samples"] for row in rows_with(chart, "samples")}
    assert split == {
        (row["recipe"], f"{row['task']}\n{row['metric']}, 50 samples", place): count
        for row in answers.to_dicts()
        for place, count in enumerate((row["lost"], row["gained"], row["flipped"] - row["lost"] - row["gained"]))
    }
    assert all(row["share"] == row["samples"] / 50 for row in rows_with(chart, "samples"))
    lows = sorted(row["flip_share_low"] for row in rows_with(chart, "flip_share_low"))
    assert lows == pytest.approx(sorted(answers["flip_share_low"]))


def test_an_answer_changed_under_the_same_letter_gives_no_negative_bar():
    # Lost and gained can exceed flipped: a text with the same answer may be judged anew.
    answers = variant_frames.q20_answers_flipped().with_columns(flipped=pl.lit(0))
    assert min(row["samples"] for row in rows_with(drawn("flips", q20_answers_flipped=answers), "samples")) >= 0


def test_the_flip_matrix_holds_every_pair_both_ways_marks_those_that_differ_and_sorts_by_right_answers():
    turns, chart = variant_frames.pairwise_flips().filter(metric="accuracy"), drawn("flip_matrix")
    cells = {tuple(row[side].rsplit("  ", 1)[0] for side in ("with", "without")): row
             for row in rows_with(drawn("flip_matrix", pairwise_flips=turns), "with")}  # fmt: skip
    assert len(cells) == 7 * 6
    for row in turns.to_dicts():
        cell = cells[row["recipe"], row["other_recipe"]]
        assert (cell["lost"], cell["gained"], cell["n_samples"]) == (row["lost"], row["gained"], 60)
        assert cell["differs"] == (row["holm_p"] < 0.05)
        assert cell["with"].endswith(f"  {100 * row['n_right'] / 60:.0f} %")
    assert 0 < sum(cell["differs"] for cell in cells.values()) < len(cells)
    (x, y) = (chart.to_dict()["layer"][0]["encoding"][axis]["scale"]["domain"] for axis in "xy")
    shares = [int(name.split()[-2]) for name in x[1:]]
    assert (x, shares) == (y, sorted(shares, reverse=True))
    assert x[0].startswith("dense  ")


def test_a_flip_matrix_of_34_variants_fits_one_column():
    recipes = tuple(f"{kind}-drop-{k}" for kind in ("attn", "attn+mlp", "block") for k in range(1, 12))[:31]
    turns = variant_frames.pairwise_flips(recipes=(*recipes, "a  b  c", "</svg><script>"))
    frame = asked("flip_matrix", pairwise_flips=turns.with_columns(n_samples=60 - pl.col("lost")))
    chart = chart_of(next(FIGURES["flip_matrix"].draw_all(frame)))
    found = fitted(chart.to_dict(), 1)
    assert found.type_points >= MIN_TYPE
    assert ">a  b  c<" in found.svg
    assert "<script>" not in found.svg
    least, most = (60 - turns.filter(metric="accuracy")["lost"].max(), 60 - turns["lost"].min())
    assert f"{least} to {most} shared samples of 2 tasks" in str(chart.to_dict()["title"])


def looks(specification: Any) -> set[tuple[str, str]]:
    """Return the method with its colour or shape, for every scale of methods in a chart."""
    if isinstance(specification, list):
        return set().union(*map(looks, specification))
    if not isinstance(specification, dict):
        return set()
    is_of_methods = specification.get("field") == "method" and "scale" in specification
    own = zip(*specification["scale"].values(), strict=True) if is_of_methods else ()
    return set(own).union(*map(looks, specification.values()))


@pytest.mark.parametrize("name", ["drops", "pareto", "speed"])
def test_a_methods_colour_and_shape_do_not_depend_on_the_others(name):
    few, many = (
        looks(drawn(name, variant_summary=frames.variant_summary(recipes=recipes),
                    **variant_frames.of((variant_frames.MODEL,), recipes)).to_dict())
        for recipes in (("mlp-drop-1", "mlp-drop-2"), ("attn-drop-2", "block-drop-1", "mlp-drop-1", "mlp-drop-2"))
    )  # fmt: skip
    assert {("mlp-drop", theme.VERMILLION), ("mlp-drop", "square")} <= few
    assert few < many


def test_known_methods_are_those_of_the_recipes_and_all_look_different():
    never_alone = {"distill", "dsnot", "noise", "repair"}
    spelled = {each for kind in (*recipes.KINDS, recipes.ComposedRecipe)
               for each in get_args(kind.model_fields["method"].annotation)}  # fmt: skip
    known = method_encoding.KNOWN
    missing = (spelled | {"mixed"}) - never_alone - set(known)
    assert not missing, "append them to KNOWN in pipelines/reporting/charts/method_encoding.py"
    assert set(known) <= spelled | {"mixed"}
    assert [method_encoding.slots([name])[name] for name in known] == list(range(len(known)))
    colours, shapes = (method_encoding.encodings(known)[kind]["scale"]["range"] for kind in ("color", "shape"))
    assert len(set(zip(colours, shapes, strict=True))) == len(known)
    assert len(set(colours[:8])) == 8


def test_an_unknown_method_keeps_its_own_colour_and_shape():
    own = method_encoding.slots(["slicegpt"])["slicegpt"]
    assert own >= len(method_encoding.KNOWN)
    assert method_encoding.slots(["wanda", "slicegpt", "dense"])["slicegpt"] == own
    # As many as there are places, whatever their checksums: all differ. One more shares one, and is drawn.
    names = [*method_encoding.KNOWN, *(f"foreign {number}" for number in range(56 - len(method_encoding.KNOWN)))]
    assert sorted(method_encoding.slots(names).values()) == list(range(56))
    assert len(method_encoding.slots([*names, "one more"])) == 57


def test_the_frontier_is_what_no_other_variant_dominates():
    rows = [("a", 0.1, 0.9), ("b", 0.1, 0.8), ("c", 0.4, 0.5), ("d", 0.4, 0.5), ("e", 0.3, 0.5), ("f", 0.2, 0.95)]
    # Another measure, in which nothing is dominated, changes nothing.
    of = {"top1": rows, "generative": [("dense", 0.0, 1.0)]}
    frame = pl.DataFrame(
        [(measure, *row) for measure, own in of.items() for row in own],
        ["measure", "recipe", "parameters_removed_share", "score"],
        orient="row",
    ).with_columns(model=pl.lit("m"), method=pl.lit("wanda"), score_low=None, score_high=None, n_tasks=1)
    # `frames` has the view `variant_scores`, which would come first.
    with duckdb.connect() as connection:
        connection.register("variant_summary", frame.select("model", "recipe", "method", "parameters_removed_share"))
        connection.register("variant_scores", frame.drop("method", "parameters_removed_share"))
        answer = connection.sql(FIGURES["pareto"].query).pl()
    best = answer.filter("is_best").select("measure", "recipe")
    assert set(best.rows()) == {("top1", "c"), ("top1", "d"), ("generative", "dense"), ("top1", "f")}


def test_pareto_and_speed_hold_the_mean_scores_with_their_intervals():
    means = variant_frames.stg_task_scores().filter(kind="generative").group_by("recipe").agg(pl.col("value").mean())
    scores = dict(means.iter_rows())
    for name in ("pareto", "speed"):
        rows = [row for row in rows_with(drawn(name), "low") if row["panel"] == "mean score, answered by writing"]
        assert {row["variant"]: row["score"] for row in rows} == pytest.approx(scores)
        for row in rows:
            low, high = wilson(row["score"], 0.05)
            assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))


def test_a_mean_over_tasks_needs_the_error_of_every_task():
    scores = variant_frames.stg_task_scores()
    second = scores.with_columns(task_group=pl.lit("second"), standard_error=pl.lit(None, pl.Float64))
    rows = rows_with(drawn("pareto", stg_task_scores=pl.concat([scores, second])), "score")
    written = [row for row in rows if row["panel"].endswith("writing") and "variant" in row]
    assert {row["n_tasks"] for row in written} == {2}
    assert not any("low" in row for row in written)
    assert all("low" in row for row in rows if row["panel"].startswith("same top token") and "variant" in row)


def losses_drawn(**marts: pl.DataFrame) -> list[Any]:
    return [chart_of(drawing) for drawing in FIGURES["losses"].draw_all(asked("losses", **marts))]


def test_losses_hold_both_kinds_with_their_intervals_and_the_smallest_model_comes_first():
    losses, sizes = (of(models=("b", "a")) for of in (variant_frames.task_losses, variant_frames.stg_models))
    variants = losses.select("model", "recipe", method="recipe").unique()
    charts = losses_drawn(task_losses=losses, stg_models=sizes, stg_variants=variants)
    for measure, chart in zip(("score", "agreement"), charts, strict=True):
        rows = rows_with(chart, "writing")
        for kind, name in (("non_generative", "choosing"), ("generative", "writing")):
            wanted = losses.filter(measure=measure, kind=kind)
            shown = [(row["model"], row["variant"], row[name], row[f"{name}_low"], row[f"{name}_high"]) for row in rows]
            assert sorted(shown) == sorted(wanted.select("model", "recipe", "loss", "loss_low", "loss_high").rows())
        assert chart.to_dict()["facet"]["sort"] == ["b", "a"]


def test_names_of_points_that_lie_close_together_are_left_out():
    for chart in losses_drawn(task_losses=variant_frames.task_losses().with_columns(loss=0.5)):
        rows = rows_with(chart, "writing")
        assert sum(bool(row["label"]) for row in rows) == 1 < len(rows)


def test_pareto_labels_do_not_overlap():
    scores = variant_frames.stg_task_scores().with_columns(value=0.25)
    rows = rows_with(drawn("pareto", stg_task_scores=scores), "label")
    shown = [row["label"] for row in rows if row["panel"] == "mean score, answered by writing"]
    assert shown == ["magnitude-50 +2"]
    points = [*((f"v{k}", k / 100, 1 - k / 1000) for k in range(20)), ("far", 0.9, 0.1)]
    crowd = pl.DataFrame(points, ["variant", "parameters_removed_share", "score"], orient="row")
    none = pl.lit(None, pl.Float64)
    crowd = crowd.with_columns(panel=pl.lit("p"), is_best=True, low=none, high=none)
    assert labels(crowd)["label"].to_list() == ["far", "v19"]
    # Two points are close to each other in a panel that is high enough for their intervals.
    three = crowd.filter(pl.col("variant").is_in(["v0", "v1", "far"])).with_columns(pl.col("score").clip(0.999))
    assert [len(labels(one)) for one in (three, three.with_columns(low=0.5, high=1.0))] == [3, 2]


def test_pareto_omits_pruned_variants_that_remove_nothing():
    summary = frames.variant_summary()
    only = pl.when(recipe="wanda-50").then(0.4).otherwise(0.0)
    frame = asked("pareto", variant_summary=summary.with_columns(parameters_removed_share=only))
    assert set(frame["recipe"]) == {"dense", "wanda-50"}
    assert asked("pareto", variant_summary=summary.with_columns(parameters_removed_share=0.0)).is_empty()


def test_speed_is_taken_at_the_smallest_batch_and_longest_prompt():
    times = variant_frames.speed_summary()
    chosen = pl.when(batch=1, length=256)
    chart = drawn("speed", speed_summary=times.with_columns(decode_speedup=chosen.then("decode_speedup").otherwise(99)))
    expected = dict(times.filter(batch=1, length=256).select("recipe", "decode_speedup").iter_rows())
    assert {row["variant"]: row["speedup"] for row in rows_with(chart, "speedup") if row["work"] == "writing"} == {
        recipe: expected[recipe] for recipe in ("dense", *frames.RECIPES)
    }
    assert "batch 1 · 256 prompt tokens" in chart.to_dict()["title"]["subtitle"][0]


def test_a_dense_model_alone_gives_no_speed_figure_and_without_its_times_the_band_has_no_width():
    times = variant_frames.speed_summary()
    assert asked("speed", speed_summary=times.filter(recipe="dense")).is_empty()
    for sides, ends in ((None, (1, 1)), (0.03, (0.97, 1.03))):
        rows = times.with_columns(equal_sides=pl.lit(sides, pl.Float64))
        found = rows_with(drawn("speed", speed_summary=rows), "equal_low")
        assert {(row["equal_low"], row["equal_high"]) for row in found} == {ends}


def with_quantized(**marts: pl.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each panel of the figure, with two quantized variants."""
    recipes = (*frames.RECIPES, "rtn-3bit", "rtn-4bit")
    chart = drawn("quantization", variant_summary=frames.variant_summary(recipes=recipes), **marts).to_dict()
    return {panel["title"]["text"]: chart["datasets"][panel["data"]["name"]] for panel in chart["concat"]}


def test_quantization_steps_holds_the_medians_of_one_variant_of_each_kind_on_texts_that_both_read():
    steps = variant_frames.decoding_at_reference()
    free = steps.with_columns(trajectory=pl.lit("free_running"), one_minus_cos_h=0.9)
    rows = rows_with(drawn("quantization_steps", decoding_at_reference=pl.concat([steps, free])), "median")
    texts = {"teacher_forced": "on the dense text", "own_text": "on the variant's text"}
    wanted = {
        (recipe, texts[trajectory], step): median
        for recipe, trajectory, step, median in steps.group_by("recipe", "trajectory", "step")
        .agg(pl.col("one_minus_cos_p").median())
        .iter_rows()
        if recipe in {"awq-4bit", "attn-drop-4", "wanda-4of8"}
    }
    found = {
        (row["variant"], row["trajectory"], row["step"]): row["median"]
        for row in rows
        if row["quantity"].startswith("probabilities")
    }
    assert len(rows) == 3 * len(found) == 3 * 2 * 3 * variant_frames.STEPS
    assert found == pytest.approx(wanted)


def test_quantization_steps_takes_the_variants_nearest_to_the_papers():
    names = ("attn-drop-4", "attn-drop-9", "rtn-4bit", "awq-3bit", "awq-4bit", "wanda-50", "magnitude-4of8", "dense")
    blocks = {"magnitude-4of8": '{"block": 8}', "awq-3bit": '{"bits": 3}', "awq-4bit": '{"bits": 4}'}
    variants = pl.DataFrame(
        {"model": "m", "recipe": name, "method": name.rpartition("-")[0] or name,
         "sublayers_dropped_count": int(name[-1]) if "drop" in name else 0, "parameters_json": blocks.get(name, "{}")}
        for name in names
    )  # fmt: skip
    steps = variant_frames.decoding_at_reference(("m",), names)

    def chosen(variants: pl.DataFrame, steps: pl.DataFrame = steps) -> set[str]:
        query = FIGURES["quantization_steps"].query
        return {*frames.ask(query, stg_variants=variants, decoding_at_reference=steps)["recipe"]}

    assert chosen(variants) == {"awq-4bit", "attn-drop-9", "magnitude-4of8"}
    assert chosen(variants.filter(pl.col("method") != "awq")) == {"rtn-4bit", "attn-drop-9", "magnitude-4of8"}
    # Neither without quantization nor alone, nor from texts that only their own model reads.
    assert chosen(variants.filter(~pl.col("method").is_in(["awq", "rtn"]))) == set()
    assert chosen(variants.filter(pl.col("method").is_in(["awq", "rtn"]))) == set()
    assert chosen(variants, steps.with_columns(trajectory=pl.lit("free_running"))) == set()


def test_quantization_holds_both_values_and_the_quantized_variants_on_their_line():
    rows = with_quantized()["steps with another top token"]
    answers = variant_frames.q27_pruning_against_quantization().filter(measure="top1_change")
    columns = ("value_pruned", "value_quantized", "difference", "difference_low", "difference_high")
    pruned = {row["variant"]: [row.get(name) for name in columns] for row in rows if "value_pruned" in row}
    assert pruned == {row["recipe"]: [row[name] for name in columns] for row in answers.to_dicts()}
    damage = {row["recipe"]: row for row in variant_frames.variant_damage().filter(measure="top1_change").to_dicts()}
    quantized = {row["variant"]: row["value_quantized"] for row in rows if "value_pruned" not in row}
    assert quantized == {recipe: damage[recipe]["amount"] for recipe in ("rtn-3bit", "rtn-4bit")}
    assert {row["variant"]: (row["low"], row["high"]) for row in rows} == {
        recipe: (row["amount_low"], row["amount_high"]) for recipe, row in damage.items()
    }


def test_the_quantized_variants_are_drawn_in_every_measure_that_q27_has():
    answers, damage = (
        pl.concat(
            of().filter(measure="top1_change").with_columns(measure=pl.lit(each)) for each in quantization.MEASURES
        )
        for of in (variant_frames.q27_pruning_against_quantization, variant_frames.variant_damage)
    )
    panels = with_quantized(q27_pruning_against_quantization=answers, variant_damage=damage)
    assert list(panels) == list(quantization.MEASURES.values())
    for rows in panels.values():
        assert {row["variant"] for row in rows if "value_pruned" not in row} == {"rtn-3bit", "rtn-4bit"}


@pytest.mark.parametrize(("low", "high", "dashed"), [(0.01, 0.2, 0), (-0.2, -0.01, 0), (-0.1, 0.2, 1), (None, None, 1)])
def test_the_line_of_a_difference_is_solid_only_if_its_interval_excludes_zero(low, high, dashed):
    ends = {"difference_low": pl.lit(low, pl.Float64), "difference_high": pl.lit(high, pl.Float64)}
    answers = variant_frames.q27_pruning_against_quantization(recipes=("attn-drop-4",)).head(1).with_columns(**ends)
    chart = drawn("quantization", q27_pruning_against_quantization=answers)
    assert vl_convert.vegalite_to_svg(chart.to_dict()).count('stroke-dasharray="2,2"') == dashed


def test_calibration_holds_each_measured_pair():
    pairs = variant_frames.q28_sensitivity_to_calibration().with_columns(
        kl_difference_nats=pl.when(recipe="wanda-50").then("kl_difference_nats"),
        jaccard_removed=pl.when(pl.col("recipe") != "attn-drop-4").then("jaccard_removed"),
    )
    chart = drawn("calibration", q28_sensitivity_to_calibration=pairs)
    assert "attn-drop-4" not in asked("calibration", q28_sensitivity_to_calibration=pairs)["recipe"]
    (row,) = rows_with(chart, "kl_difference_nats")
    assert row["pair"] == "wanda-50 → wanda-50-c4 (calibration)"
    masks = [row["overlap"] for row in rows_with(chart, "overlap") if row["masks"] == "these two masks"]
    assert sorted(masks) == sorted(pairs["jaccard_removed"].drop_nulls())


def test_calibration_draws_the_uncertainty_of_overlaps():
    pairs = variant_frames.q28_sensitivity_to_calibration()
    overlap = variant_frames.mask_overlap().with_columns(other_recipe=pl.col("recipe") + "-c4", jaccard_removed_se=0.04)
    overlap = overlap.unique(["recipe", "layer"], maintain_order=True)
    chart = drawn("calibration", q28_sensitivity_to_calibration=pairs, mask_overlap=overlap)
    assert not rows_with(drawn("calibration", q28_sensitivity_to_calibration=pairs), "jaccard_low")
    bars = rows_with(chart, "jaccard_low")
    assert len(bars) == 6
    for row in bars:
        of = pl.col("recipe") == row["pair"].split(" → ")[0]
        either = overlap.filter(of).select(pl.col("weights") / (1 + pl.col("jaccard_removed")))["weights"].to_numpy()
        error = 0.04 * np.sqrt((either**2).sum()) / either.sum()
        low, high = wilson(row["overlap"], error)
        assert 0.01 < high - low < 0.16
        assert (row["jaccard_low"], row["jaccard_high"]) == (pytest.approx(low), pytest.approx(high))


def test_masks_sum_unions_and_intersections_over_matrices():
    # 100 weights of which both remove the same 50, and 300 of which they remove 30 each, none in common.
    overlap = pl.DataFrame(
        {"model": "m", "recipe": "a", "other_recipe": "b", "weights": weights, "removed_share": share,
         "other_removed_share": share, "jaccard_removed": overlap, "jaccard_removed_se": 0.1}
        for weights, share, overlap in ((100, 0.5, 1.0), (300, 0.1, 0.0), (500, 0.0, None))
    )  # fmt: skip
    (row,) = rows_with(drawn("masks", mask_overlap=overlap), "jaccard_removed")
    share, error = 50 / (50 + 60), math.hypot(0.1 * 50, 0.1 * 60) / 110
    assert row["jaccard_removed"] == pytest.approx(share)
    low, high = wilson(share, error)
    assert row["margin"] == pytest.approx((high - low) / 2)
    assert row["jaccard_removed_expected"] == pytest.approx((25 + 3) / (75 + 57))
    assert row["matrices"] == 3


def test_a_variant_without_a_removed_weight_is_in_no_pair():
    overlap = variant_frames.mask_overlap().with_columns(
        other_removed_share=pl.when(other_recipe="zero").then(0.0).otherwise("other_removed_share")
    )
    frame = asked("masks", mask_overlap=overlap)
    assert frame.height == 15
    assert "zero" not in frame["other_recipe"]


@pytest.mark.parametrize(
    ("error", "count", "said"),
    [
        (0.01, 21, "95 % interval by sampling: ± 0.015 at most"),
        (0.001, 0, "95 % interval by sampling: ± 0.0015 at most"),
        (0.0, 0, "every weight was looked at"),
    ],
)
def test_masks_print_an_uncertainty_that_affects_the_printed_digits(error, count, said):
    overlap = variant_frames.mask_overlap().with_columns(jaccard_removed_se=error)
    specification = drawn("masks", mask_overlap=overlap).to_dict()
    svg = vl_convert.vegalite_to_svg(specification)
    assert (svg.count(">± 0.01<"), svg.count(">±")) == (count, count)
    assert specification["title"]["subtitle"][-1] == said


@pytest.mark.parametrize("name", ["masks", "flip_matrix"])
def test_a_matrix_shows_at_most_fifty_variants_and_the_dense_model(name):
    recipes = tuple(f"variant-{number:02d}" for number in range(60))
    # The later in the alphabet, the more right answers; dense has none.
    place = {recipe: at for at, recipe in enumerate(("dense", *recipes))}
    turns = variant_frames.pairwise_flips(recipes=recipes).filter(metric="accuracy")
    turns = turns.with_columns(
        n_right=pl.col("recipe").replace_strict(place), other_n_right=pl.col("other_recipe").replace_strict(place)
    )
    frame = asked(name, mask_overlap=variant_frames.mask_overlap(recipes=recipes), pairwise_flips=turns)
    shown = {"dense", *recipes[10:]} if name == "flip_matrix" else set(recipes[:50])
    assert set(frame["recipe"]) | set(frame["other_recipe"]) == shown
    assert frame.height == (len(shown) * (len(shown) - 1) if name == "flip_matrix" else 50 * 49 // 2)


def survival_rows(**marts: pl.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each curve of one variant's survival."""
    rows = rows_with(drawn("survival", **marts), "share")
    assert len({row["variant"] for row in rows}) == 1
    return {curve: [row for row in rows if row["curve"] == curve] for curve in {row["curve"] for row in rows}}


def test_survival_draws_sampled_curves_with_their_intervals_until_no_text_is_equal():
    own = frames.sampling_survival(recipes=(frames.RECIPES[0],)).with_columns(
        equal_share_expected=pl.when(pl.col("step") < 8).then("equal_share_expected"),
        equal_share_low=pl.when(pl.col("step") > 0).then("equal_share_low"),
    )
    curves = survival_rows(sampling_survival=own, greedy_survival=frames.greedy_survival().clear())
    own, measured = own.filter(recipe=frames.RECIPES[0]), curves.pop("sampled")
    [expected] = curves.values()
    assert [row["share"] for row in measured] == own["equal_share"].to_list()
    assert [row["share"] for row in expected] == own["equal_share_expected"].drop_nulls().to_list()
    assert [row.get("share_low") for row in measured] == own["equal_share_low"].to_list()
    assert expected[0]["share_high"] == own["equal_share_expected_high"][0]


def test_survival_of_long_texts_draws_few_steps_and_the_last_and_no_rounding_noise():
    frame = asked(
        "survival",
        sampling_survival=frames.sampling_survival(recipes=("wanda-50", "noise-batch"), steps=300),
        greedy_survival=frames.greedy_survival(recipes=("wanda-50",), steps=20),
        noise_variants=frames.noise_variants(),
    )
    assert set(frame["recipe"]) == {"wanda-50"}
    assert frame["step"].to_list() == [*range(0, 300, 5), 299]
    assert frame["greedy_share"].drop_nulls().len() == 4


def test_survival_draws_greedy_texts_beside_the_lowest_curve_of_rounding():
    names = ("noise-batch", "noise-bfloat16")
    own = frames.greedy_survival(recipes=("wanda-50",), noise=names).filter(
        (pl.col("recipe") != "wanda-50") | (pl.col("step") < 5)
    )
    noise = pl.DataFrame({"model": [frames.MODEL] * 2, "recipe": names})
    marts = {"sampling_survival": frames.sampling_survival().clear(), "greedy_survival": own, "noise_variants": noise}
    curves = survival_rows(**marts)
    assert set(curves) == {"greedy", "greedy, rounding alone"}
    greedy, rounding = curves["greedy"], curves["greedy, rounding alone"]
    for part in ("", "_low", "_high"):
        assert [row[f"share{part}"] for row in greedy] == own.filter(recipe="wanda-50")[f"equal_share{part}"].to_list()
    assert [row["share"] for row in rounding] == own.filter(recipe="noise-bfloat16")["equal_share"].to_list()
    assert all(row.get("share_low") is None for row in rounding)
    assert drawn("survival", **marts).to_dict()["title"]["subtitle"][-1].endswith("40 greedy texts")


def test_sequence_draws_both_directions_of_every_variant_and_its_null_and_leaves_zeros_out():
    kl = frames.sequence_kl()
    columns = ["sequence_kl_nats", "sequence_kl_low_nats", "sequence_kl_high_nats", "kl_per_token_nats"]
    assert {
        (row["variant"], row["direction"], *(row.get(name) for name in columns))
        for row in rows_with(drawn("sequence"), "sequence_kl_nats")
    } == {
        (recipe, sequence.DIRECTIONS[trajectory], *values)
        for recipe, trajectory, *values in kl.select("recipe", "trajectory", *columns).iter_rows()
        if recipe != "dense"
    }
    only_zeros = drawn("sequence", sequence_kl=kl.with_columns(sequence_kl_nats=0.0))
    assert theme.missing(only_zeros.to_dict()) == "every distance is 0"
