"""The tables of a paper: columns, and numbers by hand and against numpy."""

import math
import re
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from prunescope.warehouse.catalogue.database import view_sql
from prunescope.warehouse.export.latex_table import to_latex
from prunescope.warehouse.export.paper_tables import PAPER_TABLES
from prunescope.warehouse.export.table_cells import printed
from prunescope.warehouse.export.table_spec import uncertainty
from tests.sql import reference_intervals
from tests.sql.built_tasks import imported_score, paper_reference, retrieval_score, task_sample, task_score
from tests.sql.built_texts import text_token
from tests.sql.reference_intervals import clustered
from tests.sql.warehouse_builder import Ask, Handmade, Row, rows_of


def by(rows: list[Row], *columns: str) -> dict[object, Row]:
    found = {tuple(row[column] for column in columns) if len(columns) > 1 else row[columns[0]]: row for row in rows}
    assert len(found) == len(rows)
    return found


_SCORES = {"kl_teacher_forced_mean_nats_se", "kl_own_text_mean_nats_se", "top1_agreement_se"}
# The uncertainties that each table prints.
UNCERTAIN = {
    "paper_variants": _SCORES,
    "paper_texts": {"ppl_pruned_se", "ln_ppl_ratio_se", "kl_mean_nats_se", "delta_p_rms_se", "top1_agreement_se"},
    "paper_patterns": {"unstructured_se", "pattern_4of8_se", "pattern_2of4_se"},
    "paper_drops": {*_SCORES, "non_generative_score_se", "generative_score_se"},
    "paper_fits": {"pearson_se", "pearson_log10_se", "ratio_median_low", "ratio_median_high"},
    "paper_claims": {"amount_low", "amount_high"},
    "paper_published": {"value_ours_se"},
}


def test_every_paper_view_has_a_layout_whose_columns_it_has(whole: duckdb.DuckDBPyConnection) -> None:
    assert set(PAPER_TABLES) == {name for name in view_sql() if name.startswith("paper_")}
    for name, layout in PAPER_TABLES.items():
        rows = whole.sql(f"from {name}").to_arrow_table()
        needed = {column for shown in layout.columns for column in (shown.name, shown.of) if column} | {*layout.within}
        assert needed <= set(rows.column_names), name
        uncertain = {column for shown in layout.columns for column in uncertainty(shown.name, rows.schema)}
        assert uncertain == UNCERTAIN[name], "as every view of a paper's table has them, and all are printed"
        assert {column for column in rows.column_names if column.endswith("_se")} <= uncertain
        key = view_sql()[name].key
        text = to_latex(printed(name, rows, layout, key))
        bodies = re.findall(r"\\midrule\n(.*?)\\bottomrule", text, re.DOTALL)
        assert bodies
        # Every part of the columns has all rows, spread over pages.
        assert sum(body.count("\\\\\n") for body in bodies) % rows.num_rows == 0


def test_variants_have_errors_over_prompts_of_any_length(ask: Ask) -> None:
    chance, lengths = np.random.default_rng(2), [3, 1, 5, 2]
    prompt = np.repeat(np.arange(len(lengths)), lengths)
    kl = chance.lognormal(size=len(prompt)).astype(np.float32).astype(float)
    flips = chance.random(len(prompt)) < 0.4
    warehouse = Handmade().model().variant("dense").variant("a", sparsity=0.5)
    for at, (number, value) in enumerate(zip(prompt, kl, strict=True)):
        step = int(at - np.flatnonzero(prompt == number)[0])
        warehouse.step("a", f"p{number}", step, value, flips=bool(flips[at]))
    row = by(ask(warehouse, "paper_variants"), "recipe")["a"]

    assert (row["steps"], row["sparsity"]) == (len(prompt), 0.5)
    assert row["kl_teacher_forced_mean_nats"] == pytest.approx(kl.mean(), rel=1e-6)
    assert row["kl_teacher_forced_mean_nats_se"] == pytest.approx(clustered(kl, prompt), rel=1e-6)
    assert row["top1_agreement"] == pytest.approx(1 - flips.mean())
    assert row["top1_agreement_se"] == pytest.approx(clustered(flips.astype(float), prompt))
    assert row["kl_own_text_mean_nats"] is None


def test_patterns_stand_side_by_side_with_their_own_errors(ask: Ask) -> None:
    warehouse = Handmade().model().variant("dense")
    for recipe, method, pattern in (
        *(("w", "wanda", None), ("w24", "wanda", (2, 4)), ("w48", "wanda", (4, 8)), ("w24b", "wanda", (2, 4))),
        *(("m", "magnitude", None), ("n", "neurons", "share"), ("c", "composed", None), ("x", "mixed", None)),
    ):
        given = (
            {"share": 0.5} if pattern == "share" else dict(zip(("keep", "block"), pattern or (None, None), strict=True))
        )
        warehouse.variant(recipe, method=method, sparsity=0.5, **given)
    for recipe, kl in (
        ("dense", 0),
        ("w", 1),
        ("w24", 4),
        ("w24b", 3),
        ("w48", 2),
        ("m", 5),
        ("n", 9),
        ("c", 9),
        ("x", 9),
    ):
        for prompt, factor in (("p", 0.5), ("q", 1.5)):
            warehouse.step(recipe, prompt, 0, kl * factor)
    found = by(ask(warehouse, "paper_patterns"), "method")

    assert set(found) == {"wanda", "magnitude"}
    wanda = found["wanda"]
    assert (wanda["measured_on"], wanda["measure"], wanda["sparsity_percent"]) == ("prompts", "KL, nats", 50)
    assert [wanda[name] for name in ("dense", "unstructured", "pattern_4of8", "pattern_2of4")] == [0, 1, 2, 3]
    # Two prompts at 0.5 and 1.5 times the mean.
    assert wanda["pattern_2of4_se"] == pytest.approx(1.5)
    assert (found["magnitude"]["unstructured"], found["magnitude"]["pattern_2of4"]) == (5, None)


def test_patterns_have_perplexities_text_by_text(ask: Ask) -> None:
    warehouse = Handmade().model().variant("dense").variant("w", sparsity=0.5)
    for recipe, p in (("dense", 1 / 4), ("w", 1 / 16)):
        for window in range(2):
            text_token(warehouse, recipe, window + 1, float(recipe == "w"), window=window, p_dense=1 / 4, p_pruned=p)
    found = by(ask(warehouse, "paper_patterns"), "measured_on", "measure")
    row = found["wiki", "perplexity"]
    assert (row["dense"], row["unstructured"]) == (pytest.approx(4), pytest.approx(16))
    assert found["wiki", "KL, nats"]["unstructured"] == 1


def test_the_best_perplexity_is_that_of_one_context(ask: Ask) -> None:
    warehouse = Handmade().model().variant("dense")
    for recipe, context, p in (("a", 8, 1 / 2), ("b", 4, 1 / 4), ("c", 8, 1 / 16), ("d", 4, 1 / 8)):
        text_token(warehouse.variant(recipe), recipe, 1, 0.5, p_pruned=p)
        warehouse.rows["text_tokens"][-1]["context"] = context
    rows = ask(warehouse, "paper_texts")
    table = printed("paper_texts", pa.Table.from_pylist(rows), PAPER_TABLES["paper_texts"])
    perplexity = [column.heading for column in table.columns].index("perplexity")
    assert [(row["recipe"], cells[perplexity].mark.name) for row, cells in zip(rows, table.rows, strict=True)] == [
        *(("b", "BEST"), ("d", "SECOND"), ("a", "BEST"), ("c", "SECOND"))
    ]
    assert table.breaks == {2}


def test_drops_count_blocks_and_average_tasks_not_metrics(ask: Ask) -> None:
    warehouse = Handmade().model().variant("dense").variant("w", sparsity=0.5)
    warehouse.variant("b", method="block-drop", removed=0.2, dropped=["attn.1", "mlp.1"])
    warehouse.variant("a", method="attn-drop", removed=0.1, dropped=["attn.0", "attn.1"])
    task_score(warehouse, "a", "one", 0.6, standard_error=0.03)
    task_score(warehouse, "a", "one", 0.8, metric="accuracy_per_byte", standard_error=0.05)
    task_score(warehouse, "a", "two", 0.1, standard_error=0.03)
    task_score(warehouse, "a", "three", 0.5, kind="generative", standard_error=None)
    # Agreement with the dense model is not a score.
    task_score(warehouse, "a", "one", 0.95, metric="agreement")
    task_score(warehouse, "a", "three", 0.95, metric="agreement", kind="generative")
    # LAMBADA's: one metric is no share and better when lower, another none and better when higher, the last is a share.
    task_score(warehouse, "a", "two", 4500.0, metric="lm_eval/perplexity")
    warehouse.rows["task_scores"][-1]["is_higher_better"] = False
    task_score(warehouse, "a", "two", 31.0, metric="lm_eval/bleu")
    task_score(warehouse, "a", "two", 0.1, metric="lm_eval/acc", standard_error=0.03)
    rows = ask(warehouse, "paper_drops")
    assert [row["recipe"] for row in rows] == ["dense", "a", "b"]
    found = by(rows, "recipe")
    assert [found[recipe]["dropped"] for recipe in ("dense", "a", "b")] == [0, 2, 1]
    assert found["a"]["non_generative_score"] == pytest.approx(0.4)
    assert found["a"]["non_generative_score_se"] == pytest.approx(math.hypot(0.04, 0.03) / 2)
    assert (found["a"]["generative_score"], found["a"]["generative_score_se"]) == (0.5, None)
    assert found["b"]["non_generative_score"] is None
    means = {row["measure"]: row for row in ask(warehouse, "score_means")}
    assert {measure: row["n_tasks"] for measure, row in means.items()} == {
        "non_generative": 2,
        "generative": 1,
        "agreement": 1,
    }
    assert (means["agreement"]["score"], means["agreement"]["score_se"]) == (pytest.approx(0.95), pytest.approx(0.05))


def test_a_score_of_nothing_has_the_error_that_wilsons_interval_ends_at(ask: Ask) -> None:
    warehouse = Handmade().variant("dense").variant("a")
    for recipe, value in (("dense", 1.0), ("a", 0.0)):
        for metric in ("exact_match", "agreement"):
            task_score(warehouse, recipe, "sums", value, metric=metric, kind="generative", n=8, standard_error=0.0)
    errors = {(row["recipe"], row["measure"]): row["score_se"] for row in ask(warehouse, "score_means")}

    assert 1.96 * errors["a", "generative"] == pytest.approx(reference_intervals.wilson(0, 8)[1], rel=1e-4)
    assert errors["dense", "generative"] == errors["a", "agreement"] == pytest.approx(errors["a", "generative"])
    assert errors["dense", "agreement"] == 0


def test_a_group_of_tasks_is_one_task_and_joins_its_published_number(ask: Ask) -> None:
    letter = {"metric": "accuracy_letter", "group": "mmlu"}
    warehouse = Handmade().model().variant("dense").variant("a", method="attn-drop", removed=0.1, dropped=["attn.0"])
    for recipe, x, y in (("dense", 0.8, 0.4), ("a", 0.5, 0.4)):
        task_score(warehouse, recipe, "mmlu_x", x, n=300, standard_error=0.03, **letter)
        task_score(warehouse, recipe, "mmlu_y", y, n=100, standard_error=0.05, **letter)
        task_score(warehouse, recipe, "other", 0.6, standard_error=0.02)
        for task, words, nats in (("t_x", 10, 2.0), ("t_y", 30, 4.0)):
            given = {"metric": "word_perplexity", "kind": "perplexity", "group": "texts", "standard_error": None}
            task_score(warehouse, recipe, task, math.exp(nats), n=words, **given)
    for task in ("mmlu_x", "mmlu_y"):
        for target in range(4):
            options = {"scoring": "letter", "log_likelihoods": [-1.0, -2.0, -3.0, -4.0], "target": target}
            task_sample(warehouse, "dense", task, f"s{target}", **options)
    paper_reference(warehouse, "attn-drop", "mmlu", 0.5, dropped=1, metric="accuracy_letter")
    groups = by(ask(warehouse, "task_group_scores"), "recipe", "task_group")
    mean = {row["recipe"]: row for row in ask(warehouse, "score_means")}

    error = math.hypot(0.75 * 0.03, 0.25 * 0.05)
    mmlu, texts = groups["dense", "mmlu"], groups["dense", "texts"]
    assert (mmlu["n_tasks"], mmlu["n"], mmlu["score"]) == (2, 400, pytest.approx(0.7))
    assert mmlu["score_se"] == pytest.approx(error)
    assert (texts["score"], texts["score_se"]) == (pytest.approx(math.exp(3.5)), None)
    assert (groups["a", "other"]["score"], groups["a", "other"]["n_tasks"]) == (0.6, 1)
    assert (mean["dense"]["n_tasks"], mean["dense"]["score"]) == (2, pytest.approx((0.7 + 0.6) / 2))
    assert mean["dense"]["score_se"] == pytest.approx(math.hypot(error, 0.02) / 2)
    # A guess at four letters is right once in four; the guessing level of the other task is unknown.
    (loss,) = ask(warehouse, "task_losses")
    assert (loss["n_tasks"], loss["loss"]) == (1, pytest.approx((0.7 - 0.475) / (0.7 - 0.25)))
    (gap,) = ask(warehouse, "q22_generative_gap")
    assert (gap["n_non_generative"], gap["loss_non_generative"]) == (2, pytest.approx((1 - 0.475 / 0.7) / 2))
    (published,) = (row for row in ask(warehouse, "paper_published") if row["value_ours"] is not None)
    assert (published["task"], published["measured_on"], published["n"]) == ("mmlu", "task mmlu", 400)
    assert published["difference"] == pytest.approx(0.475 - 0.5)


def test_published_numbers_join_the_same_drop_or_the_recipe_of_that_name(ask: Ask) -> None:
    warehouse = Handmade().model().variant("dense").variant("wanda-50", sparsity=0.5)
    warehouse.variant("mine", method="block-drop", removed=0.2, dropped=["attn.1", "mlp.1"])
    for recipe, value in (("dense", 0.8), ("wanda-50", 0.6), ("mine", 0.5)):
        task_score(warehouse, recipe, "maths", value)
    for method, dropped, value in (
        ("dense", 0, 0.9),
        ("wanda-50", 0, 0.5),
        ("block-drop", 1, 0.6),
        ("block-drop", 2, 0),
    ):
        paper_reference(warehouse, method, "maths", value, dropped=dropped, metric="accuracy")
    paper_reference(warehouse, "dense", "unseen", 0.5, metric="accuracy")
    paper_reference(warehouse, "mlp-drop", "layerwise", 0.9, dropped=1, metric="cosine_h", layer=0)
    paper_reference(warehouse, "dense", "maths", 0.5, model="theirs")
    paper_reference(warehouse, "wanda-50", "maths", 0.1, model="theirs")
    paper_reference(warehouse, "wanda-50", "news", 0.6, metric="ndcg_at_10", model="theirs")
    paper_reference(warehouse, "wanda-50", "wiki", 12.0, metric="token_perplexity", model="theirs")
    retrieval_score(warehouse, "wanda-50", "news", 0.4)
    text_token(warehouse, "wanda-50", 1, 1.0, p_dense=0.5, p_pruned=0.25)
    task_score(warehouse, "wanda-50", "wiki", 9.0, metric="token_perplexity", kind="perplexity")
    rows = [row for row in ask(warehouse, "paper_published") if row["measured_on"] != "nothing"]
    found = by([row for row in rows if row["is_same_model"]], "recipe")
    assert {recipe: (row["value_published"], row["value_ours"]) for recipe, row in found.items()} == {
        "dense": (0.9, 0.8),
        "wanda-50": (0.5, 0.6),
        "mine": (0.6, 0.5),
    }
    assert found["mine"]["difference"] == pytest.approx(-0.1)
    assert found["mine"]["value_ours_se"] == 0.05
    assert found["mine"]["kept_published"] == pytest.approx(0.6 / 0.9)
    assert found["mine"]["kept_ours"] == pytest.approx(0.5 / 0.8)
    # Beside another model's numbers, the kept share is compared.
    others = by([row for row in rows if not row["is_same_model"] and row["recipe"] == "wanda-50"], "measured_on")
    assert {row["model_published"] for row in others.values()} == {"theirs"}
    maths = others["task maths"]
    assert (maths["kept_published"], maths["kept_ours"]) == (pytest.approx(0.2), pytest.approx(0.75))
    assert others["retrieval news"]["difference"] == pytest.approx(-0.2)
    both = [row for row in rows if row["metric"] == "token_perplexity"]
    assert {row["measured_on"]: row["value_ours"] for row in both} == {
        "text wiki": pytest.approx(4.0),
        "task wiki": 9.0,
    }
    perplexity = next(row for row in both if row["measured_on"] == "text wiki")
    assert (perplexity["value_ours"], perplexity["n"], perplexity["kept_published"]) == (pytest.approx(4.0), 1, None)


def test_fits_pool_a_methods_variants_with_a_jackknife_over_prompts(ask: Ask) -> None:
    chance, warehouse, points = np.random.default_rng(4), Handmade().model().variant("dense"), []
    warehouse.variant("w1").variant("w2")
    for recipe in ("w1", "w2"):
        for prompt in range(4):
            warehouse.step(recipe, f"p{prompt}", 0, 1.0)
            for step in range(3 + prompt):
                kl = float(np.float32(chance.lognormal(-2, 1)))
                estimate = float(np.float32(kl * chance.lognormal(0.1, 0.2)))
                warehouse.transition(recipe, f"p{prompt}", step, kl, t3_kl_nats=estimate, var_p_dz=2 * estimate)
                warehouse.transition(recipe, f"p{prompt}", step, 9.0, scope="propagated", sublayer="mlp")
                points.append((prompt, math.log10(estimate), math.log10(kl)))
    row = by(ask(warehouse, "paper_fits"), "theorem", "method")["T3 KL", "wanda"]

    prompt, x, y = (np.array(column) for column in zip(*points, strict=True))
    assert (row["n"], row["prompts"]) == (len(points), 4)
    assert row["pearson_log10"] == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-6)
    rests = [np.corrcoef(x[prompt != one], y[prompt != one])[0, 1] for one in range(4)]
    assert row["pearson_log10_se"] == pytest.approx(math.sqrt(3 * np.var(rests)), rel=1e-5)
    ratio = 10 ** (x - y)
    assert [row[f"ratio_median{end}"] for end in ("_low", "", "_high")] == pytest.approx(
        list(np.percentile(ratio, [10, 50, 90])), rel=1e-5
    )
    assert row["share_within_10_percent"] == pytest.approx((abs(ratio - 1) <= 0.1).mean())


def test_fits_without_enough_points_or_prompts_have_no_correlation_and_no_error(ask: Ask) -> None:
    warehouse = Handmade().model().variant("dense").variant("w").variant("v", method="magnitude")
    for recipe, steps in (("w", 3), ("v", 12)):
        warehouse.step(recipe, "p", 0, 1.0)
        for step in range(steps):
            warehouse.transition(recipe, "p", step, 0.1 + step)
    found = by(ask(warehouse, "paper_fits"), "theorem", "method")
    assert (found["T3 KL", "wanda"]["pearson_log10"], found["T3 KL", "wanda"]["pearson_log10_se"]) == (None, None)
    assert found["T3 KL", "magnitude"]["pearson_log10"] == pytest.approx(1)
    assert found["T3 KL", "magnitude"]["pearson_log10_se"] is None, "one prompt"


def test_a_fit_whose_truth_varies_in_one_prompt_only_has_no_error(ask: Ask) -> None:
    warehouse = Handmade().model().variant("dense").variant("w")
    for prompt in range(3):
        warehouse.step("w", f"p{prompt}", 0, 1.0)
        for step in range(4):
            # Without the last prompt the truth is the same everywhere, and its squares sum to less than 0 by rounding.
            kl, estimate = (0.3 if prompt < 2 else (step + 1) / 2), (1 + step + prompt) / 10
            warehouse.transition("w", f"p{prompt}", step, kl, t3_kl_nats=estimate, var_p_dz=2 * estimate)
    row = by(ask(warehouse, "paper_fits"), "theorem")["T3 KL"]
    assert row["pearson_log10"] == pytest.approx(0.5574, abs=1e-4)
    assert row["pearson_log10_se"] is None


def test_rows_are_ordered_dense_first_and_then_by_name(whole: duckdb.DuckDBPyConnection) -> None:
    recipes = [row["recipe"] for row in rows_of(whole, "paper_variants")]
    assert recipes == ["dense", *sorted(set(recipes) - {"dense"})]
    assert "noise-bfloat16" not in recipes


def test_a_narrowed_catalogue_answers_as_if_it_held_nothing_else(tmp_path: Path) -> None:
    from prunescope.warehouse.catalogue.scope import is_whole, narrow

    warehouse = Handmade().model().model("other's").variant("dense").variant("a").variant("a", model="other's")
    for recipe in ("dense", "a"):
        warehouse.step(recipe, "p", 0, 0.0)
    with warehouse.connect(tmp_path) as connection:
        assert is_whole(connection, ["tiny", "other's", "third"], ["dense", "a", "o'x"])
        for models, recipes in (
            (["tiny"], ["dense", "a"]),
            (["tiny", "other's"], ["dense"]),
            ([], ["dense"]),
            (["tiny"], []),
        ):
            assert not is_whole(connection, models, recipes)
        narrow(connection, ["tiny"], ["a", "o'x"])
        assert [row["recipe"] for row in rows_of(connection, "paper_variants")] == ["a"]
        assert [row["model"] for row in rows_of(connection, "models")] == ["tiny"]
        assert {row["model"] for row in rows_of(connection, "provenance")} == {"tiny"}
    with warehouse.connect(tmp_path) as connection:
        narrow(connection, [], [])
        assert rows_of(connection, "models") == []


def test_imported_scores_stand_beside_ours_of_the_same_metric_with_the_kl(ask: Ask) -> None:
    warehouse = Handmade().model().variant("dense").variant("a", sparsity=0.5)
    warehouse.step("a", "p", 0, 0.25)
    task_score(warehouse, "a", "boolq", 0.5, standard_error=0.05)
    task_score(warehouse, "a", "text", 12.0, metric="word_perplexity", standard_error=1.0, kind="perplexity")
    for task, value, n in (("mmlu_law", 0.2, 10), ("mmlu_maths", 0.5, 20)):
        task_score(warehouse, "a", task, value, standard_error=0.0, n=n, group="mmlu")
    # A group of two kinds of tasks has two scores of ours, neither of which is the harness's.
    for task, kind in (("asked", "generative"), ("chosen", "non_generative")):
        task_score(warehouse, "a", task, 0.5, metric="exact_match", kind=kind, group="both")
    imported_score(warehouse, "a", "both", 0.4, metric="exact_match", is_group=True)
    imported_score(warehouse, "a", "boolq", 0.6, standard_error=None, n=50)
    imported_score(warehouse, "a", "text", 16.5, metric="word_perplexity", standard_error=1.5)
    imported_score(warehouse, "a", "mmlu", 0.9, standard_error=0.01, n=None, is_group=True)
    imported_score(warehouse, "a", "unasked", 0.0, standard_error=0.0, n=8)
    imported_score(warehouse, "a", "nothing known", 0.5, standard_error=None, n=None)
    rows = ask(warehouse, "imported_comparisons")
    found = by(rows, "task")
    assert len(rows) == len(found) == 6
    assert (found["both"]["value_imported"], found["both"]["value_ours"]) == (pytest.approx(0.4), None)
    boolq = found["boolq"]
    assert boolq["difference"] == pytest.approx(0.1)
    of_file, of_ours = reference_intervals.wilson(30, 50), reference_intervals.wilson(50, 100)
    assert [boolq["value_imported_low"], boolq["value_imported_high"]] == pytest.approx(of_file, rel=1e-6)
    # As many trials as would have the error of 0.05 are these 100.
    assert [boolq["value_ours_low"], boolq["value_ours_high"]] == pytest.approx(of_ours, rel=1e-6)
    assert boolq["is_overlapping"] is True
    text = found["text"]
    assert [text["value_imported_low"], text["value_ours_high"]] == pytest.approx([16.5 - 2.93995, 12 + 1.95996])
    assert (text["is_overlapping"], text["difference"]) == (True, 4.5)
    assert (found["mmlu"]["value_ours"], found["mmlu"]["n_ours"]) == (pytest.approx(0.4), 30)
    assert found["mmlu"]["is_overlapping"] is False
    assert (found["unasked"]["value_ours"], found["unasked"]["is_overlapping"]) == (None, None)
    assert found["unasked"]["value_imported_high"] > 0.3, "0 of 8 is no certainty"
    assert found["nothing known"]["value_imported_low"] is None
    assert {row["kl_teacher_forced_median_nats"] for row in found.values()} == {0.25}
