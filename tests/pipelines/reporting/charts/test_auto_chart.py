"""Tests of the chart of any query: every row once, omissions named, unrelated points not joined by a line."""

import polars as pl
import pytest

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.reporting.charts import method_encoding, theme
from prunescope.pipelines.reporting.charts.auto_chart import MAX_MARKS, draw, draw_rows

KEY = ("model", "recipe", "layer")


def frame(**changes):
    columns = {
        "model": ["m"] * 4,
        "recipe": ["a", "a", "a", "b"],
        "layer": [0, 1, 5, 0],
        "n": [9, 9, 9, 9],
        "spearman": [0.1, 0.2, 0.3, 0.4],
        "auc": [0.5, 0.6, None, 0.8],
        "auc_low": [0.4, 0.5, None, 0.7],
        "auc_high": [0.6, 0.7, None, 0.9],
    }
    return pl.DataFrame({**columns, **changes})


def drawn(rows, key=KEY, name="q00", asks="Which one?"):
    return draw(name, rows, key, asks).to_dict()


def data(spec):
    return spec["datasets"][spec["data"]["name"]]


def marks(spec):
    return [layer["mark"]["type"] for layer in spec.get("spec", spec)["layer"]]


def test_every_row_with_a_value_is_one_mark_with_its_interval():
    spec = drawn(frame())
    assert sorted((row["recipe"], row["layer"], row["auc"]) for row in data(spec)) == [
        ("a", 0, 0.5),
        ("a", 1, 0.6),
        ("b", 0, 0.8),
    ]
    assert marks(spec) == ["rule", "line", "point"]
    rule = spec["layer"][0]["encoding"]
    assert (rule["y"]["field"], rule["y2"]["field"]) == ("auc_low", "auc_high")
    assert spec["title"]["text"] == ["Which one?"]
    assert spec["title"]["subtitle"] == [
        "auc, with auc_low to auc_high",
        "model m",
        "without 1 rows in which it is NULL",
    ]


def test_methods_have_the_colours_of_all_figures():
    rows = pl.DataFrame({"layer": [0, 1, 0], "method": ["wanda", "wanda", "flap"], "auc": [0.1, 0.2, 0.3]})
    scale = drawn(rows, key=("layer", "method"))["layer"][0]["encoding"]["color"]["scale"]
    slots = method_encoding.slots(["wanda", "flap"])
    assert scale == {"domain": list(slots), "range": [theme.CATEGORIES[slot % 8] for slot in slots.values()]}


def test_a_missing_interval_is_not_claimed_and_its_reason_is_given():
    bare = {"auc_low": [None] * 4, "auc_high": [None] * 4}
    for prompts, reason in ((1, ", because one prompt carries none (two would)"), (3, "")):
        spec = drawn(frame(**bare, n_prompts=[prompts] * 4).cast({"auc_low": pl.Float64, "auc_high": pl.Float64}))
        assert marks(spec) == ["line", "point"]
        assert spec["title"]["subtitle"][:2] == [
            "auc",
            f"no interval: auc_low and auc_high are NULL in every row{reason}",
        ]


def test_first_flips_are_sized_by_the_dense_margin():
    rows = pl.DataFrame({"recipe": ["a", "b"], "prompt_id": ["p", "p"], "first_flip_step": [3, 0],
                         "margin_dense": [0.25, 2.0]})  # fmt: skip
    spec = drawn(rows, ("recipe", "prompt_id"), "q11_first_flip")
    assert spec["layer"][-1]["encoding"]["size"]["field"] == "margin_dense"
    assert sorted(row["margin_dense"] for row in data(spec)) == [0.25, 2.0]
    assert "larger points: larger margin_dense" in spec["title"]["subtitle"][0]


def test_no_line_crosses_a_gap():
    rows = frame(auc=[0.5, 0.6, 0.7, 0.8], auc_low=[0.4] * 4, auc_high=[0.9] * 4)
    runs = {(row["recipe"], row["layer"]): row["run"] for row in data(drawn(rows))}
    assert runs["a", 0] == runs["a", 1] != runs["a", 5]
    assert runs["b", 0] not in {runs["a", 5], runs["a", 0]}


def test_indistinguishable_points_are_not_joined_and_noted():
    rows = pl.DataFrame(
        {
            "recipe": [f"r{number:02}" for number in range(60)],
            "prompt_id": [f"p{number:02}" for number in range(60)],
            "layer": list(range(60)),
            "kl": [1.0] * 60,
        }
    )
    spec = drawn(rows, ("recipe", "prompt_id", "layer"))
    assert len(data(spec)) == 60
    assert marks(spec) == ["point"]
    assert "points of one place differ in recipe, prompt_id" in spec["title"]["subtitle"]


def test_values_over_two_powers_of_ten_get_a_logarithmic_axis_unless_one_is_zero():
    def scale(values):
        rows = pl.DataFrame({"layer": [0, 1], "kl": values})
        return drawn(rows, ("layer",))["layer"][-1]["encoding"]["y"]["scale"]

    assert scale([1e-3, 1.0])["type"] == "log"
    assert "type" not in scale([0.0, 1.0])
    assert "type" not in scale([0.5, 1.0])


def test_panels_show_keys_without_axis_or_colour():
    rows = pl.DataFrame(
        {
            "recipe": ["a", "b"] * 4,
            "lens": ["raw", "raw", "normed", "normed"] * 2,
            "layer": [0] * 4 + [1] * 4,
            "kl": [float(number) for number in range(8)],
        }
    )
    spec = drawn(rows, ("recipe", "lens", "layer"))
    assert spec["facet"]["header"]["title"] == "lens"
    assert {row["panel"] for row in data(spec)} == {"raw", "normed"}
    assert len(data(spec)) == 8


def test_one_row_is_drawn_over_its_key_also_without_a_recipe():
    rows = pl.DataFrame({"theorem": ["T1 h"], "ratio_median": [0.9]})
    assert drawn(rows, ("theorem",))["layer"][-1]["encoding"]["x"]["field"] == "theorem"


def test_an_answer_without_rows_or_values_says_so():
    assert "no data: the answer has no rows" in str(drawn(frame().clear()))
    empty = pl.DataFrame({"layer": [0, 1], "kl": [None, None]}, schema={"layer": pl.Int64, "kl": pl.Float64})
    assert "no data: kl is NULL in every row" in str(drawn(empty, ("layer",)))


def test_too_many_rows_are_refused_and_not_sampled():
    rows = pl.DataFrame({"layer": range(MAX_MARKS + 1), "kl": [1.0] * (MAX_MARKS + 1)})
    with pytest.raises(InputError, match=r"5,001 rows are more than a picture shows \(5,000\); ask for less"):
        draw("q00", rows, ("layer",), "?")


def test_an_answer_without_numbers_is_refused():
    with pytest.raises(InputError, match="q00 has no column of numbers to draw"):
        draw("q00", pl.DataFrame({"recipe": ["a"], "kind": ["x"]}), ("recipe",), "?")


@pytest.mark.parametrize("name", ["max(kl)", "kl.nats", "kl[0]", "count()", "share of 'x'"])
def test_a_column_of_any_name_is_drawn_under_it(name):
    rows = pl.DataFrame({"recipe": ["a", "b"], name: [0.5, 0.25]})
    spec = draw_rows(rows).to_dict()
    encoding = spec["layer"][-1]["encoding"]["y"]
    assert encoding["title"] == name
    assert "aggregate" not in encoding
    assert [row[encoding["field"]] for row in data(spec)] == [0.5, 0.25]
    shown = {tip["title"] for tip in spec["layer"][-1]["encoding"]["tooltip"]}
    assert shown == {"recipe", name}
