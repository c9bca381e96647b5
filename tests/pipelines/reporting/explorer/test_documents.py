"""Tests of the documents: complete, small, JSON, and with the numbers of the tables.

`test_browser` and `test_page` test the page that shows them.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from scipy import stats

from prunescope.pipelines.reporting.charts.display_text import number as spelled
from prunescope.pipelines.reporting.charts.display_text import prose
from prunescope.pipelines.reporting.charts.figure_cache import FigureCache
from prunescope.pipelines.reporting.charts.registry import FIGURES
from prunescope.pipelines.reporting.explorer import study_documents as module
from prunescope.pipelines.reporting.explorer.comparisons import nearest
from prunescope.pipelines.reporting.explorer.index_document import figure_entry, told_apart
from prunescope.pipelines.reporting.explorer.ordering import DisplayOrder
from prunescope.pipelines.reporting.explorer.page import _script, embedded, render
from prunescope.pipelines.reporting.explorer.queries import STATEMENTS, narrowed
from prunescope.pipelines.reporting.explorer.query_cache import QueryCache, numbers
from prunescope.pipelines.reporting.explorer.study_documents import OWN_BYTES, Documents, _shortened, document_name
from prunescope.pipelines.reporting.explorer.variant_document import layers
from prunescope.warehouse.catalogue.database import view_sql
from prunescope.warehouse.catalogue.materialized import Materialized
from tests.sql import demo
from tests.sql.built_whole import whole_warehouse
from tests.sql.warehouse_builder import Handmade

Ask = Callable[[str], pl.DataFrame]
VIEWS = {view.name: view.sql for view in view_sql().values()}


def asking(connection: duckdb.DuckDBPyConnection) -> Ask:
    """Return a function that runs each query and computes each view once: most tests of a warehouse read the same."""
    views = Materialized(connection)

    def ask(query: str) -> pl.DataFrame:
        views.prepare(query)
        return pl.DataFrame(connection.sql(query).to_arrow_table())

    return cache(ask)


@pytest.fixture(scope="module")
def measured() -> Iterator[duckdb.DuckDBPyConnection]:
    """Return a warehouse with a part of the demo's results."""
    with demo.opened() as connection:
        yield connection


@pytest.fixture(scope="module")
def ask(measured: duckdb.DuckDBPyConnection) -> Ask:
    return asking(measured)


@pytest.fixture(scope="module")
def file(ask: Ask) -> dict[str, Mapping[str, Any]]:
    """Return all documents of a report of the demo; its pictures, which are not opened here, are all the same one."""
    svg, one = FigureCache.svg, FIGURES["options"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FigureCache, "svg", lambda drawn, _: svg(drawn, one))
        patch.setattr(module, "picture", cache(module.picture))
        return Documents(ask, "demo", "Six ways", [{"name": "seed", "text": "0"}], VIEWS).within()


@pytest.fixture(scope="module")
def by_hand() -> Iterator[Ask]:
    """Write a warehouse in which every view has rows, with tasks, retrieval, speed and all scopes."""
    with whole_warehouse().opened() as connection:
        yield asking(connection)


HOSTILE_RECIPE = "it's \u202e</script>"
INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")


@pytest.fixture(scope="module")
def hostile() -> Iterator[Ask]:
    """Write a variant whose name, texts, tokens and facts are attacks."""
    warehouse = Handmade().model().variant("dense")
    warehouse.variant(HOSTILE_RECIPE, words="\u202eevil\0", sparsity=0.5)
    tokens = ["x" * 10_000, "\u202eevil\0", "</script>", "\ufffd\u2028"]
    prompt = "../'\u202eq</script>"
    for recipe in ("dense", HOSTILE_RECIPE):
        warehouse.generation(
            recipe, prompt, text="<img src=x onerror=alert(1)>\ufffd\0\u202e" + "y" * 10_000, prompt_text="\u2066why?"
        )
    for trajectory in ("teacher_forced", "own_text"):
        for step, token in enumerate(tokens):
            warehouse.step(HOSTILE_RECIPE, prompt, step, 0.5, trajectory=trajectory)
            warehouse.rows["decoding_steps"][-1].update(token_text_pruned=token, token_text_dense=token)
        warehouse.top_tokens(HOSTILE_RECIPE, prompt, 0, trajectory=trajectory)
    for row in warehouse.rows["top_tokens"]:
        row.update(token_text="</script>" if row["rank"] == 1 else "\u202e")
    warehouse.transition(HOSTILE_RECIPE, prompt, 0, 0.5)
    with warehouse.opened() as connection:
        yield asking(connection)


def entry_of(index: Mapping[str, Any], recipe: str) -> dict[str, Any]:
    [entry] = [entry for entry in index["variants"] if entry["recipe"] == recipe]
    return entry


def page(recipe: str, prompt: str | None = None, model: str = "smollm2-135m-instruct") -> str:
    """Return the name of the document of a variant, or of its answer to a prompt."""
    id_ = f"{model}@{recipe}"
    return document_name("variant", id_) if prompt is None else document_name("trace", id_, prompt)


def test_a_file_has_every_named_document_as_json(file) -> None:
    variants, prompts = file["index"]["variants"], file["index"]["prompts"]
    assert (len(variants), len(prompts)) == (7, 3)
    wanted = ["index", "sql", *(f"{kind}/{name}" for kind in ("figures", "pictures") for name in FIGURES)]
    wanted += [document_name("variant", entry["id"]) for entry in variants]
    wanted += [document_name("prompt", entry["model"], entry["prompt_id"]) for entry in prompts]
    # The dense variant has no traces.
    wanted += [document_name("trace", one["id"], prompt["prompt_id"]) for one in variants[1:] for prompt in prompts]
    assert sorted(file) == sorted(wanted)
    for document in file.values():
        assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_the_index_points_to_existing_documents(file, measured) -> None:
    index = file["index"]
    hashes = dict(measured.sql("select recipe, recipe_hash from variants").fetchall())
    rows = measured.sql("select recipe, prompt_id, text from generations").fetchall()
    written = {(recipe, prompt): text for recipe, prompt, text in rows}
    for entry in index["variants"]:
        facts = file[document_name("variant", entry["id"])]["facts"]
        assert {"name": "recipe_hash", "text": hashes[entry["recipe"]]} in facts
        for prompt in entry["traces"]:
            trace = file[document_name("trace", entry["id"], prompt)]
            assert trace["text_pruned"] == prose(written[entry["recipe"], prompt])
    assert {f"figures/{figure['name']}" for figure in index["figures"]} <= set(file)
    # The demo scores no task and times nothing: what would draw that comes last. It has no search either.
    bare = index["figures_without_data"]
    assert {"speed", "flips"} <= set(bare) < set(FIGURES)
    assert sorted(figure["name"] for figure in index["figures"][-len(bare) :]) == sorted(bare)
    assert index["searches"] == []
    dense, *others = index["variants"]
    assert (dense["is_dense"], dense["traces"], dense["verdict"]) == (True, [], None)
    assert {len(entry["traces"]) for entry in others} == {3}


def sources_of(value: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every statement of a document with its filter, under `sql`."""
    for name, inner in value.items() if isinstance(value, dict) else [("", one) for one in value]:
        if name == "sql":
            several = inner if isinstance(inner, list) else [inner]
            yield from ((one, {}) if isinstance(one, str) else (one["key"], one["where"]) for one in several)
        elif isinstance(inner, dict | list):
            yield from sources_of(inner)


# Statements that the scripts name in a link, a heading, a menu or a source.
LINKED = re.compile(
    r'sqlLink\("(\w+)"|heading\(2, "[^"]+", "(\w+)"|\["[^"]* [^"]*", "(\w+)"\]|(?:key|sql): "(\w+)", (?:where|heading)'
)


def test_every_statement_links_to_valid_sql_and_its_views(file, measured) -> None:
    statements = file["sql"]
    used: dict[str, set[str]] = {}
    for name, document in file.items():
        for key, where in sources_of(document) if name != "sql" else ():
            used.setdefault(key, set()).update(where)
    linked = {key for found in LINKED.findall(_script()) for key in found if key}
    assert len(linked) == 13
    assert set(used) | linked <= set(statements)
    for key, columns in used.items():
        is_pair = key.startswith("compare/")
        assert is_pair or columns <= set(statements[key]["narrow"]), key
    assert len(set(used) | linked) > 15
    for key, statement in statements.items():
        assert set(statement["views"]) <= set(statements), key
        assert statement["views"] or key.startswith("view/"), key
        if not key.startswith(("view/", "compare/")):
            result = measured.execute(f"select * from ({statement['sql']}) limit 0")
            assert set(statement["narrow"]) <= {column[0] for column in result.description}, key


NAMES_AND_BOUNDS = re.compile(
    # Numbers that sentences state about the paper or their own wording.
    r"1 − cos|\(paper: 1\.6\)|of the paper \(1\.6\)|r = 0\.996|\(4\.0e-5\)|nDCG@10|80 %|95 %|is above 0\.05"
    r"|first token is step 0"
)


def spellings(value: object) -> set[str]:
    """Return a number in every form in which sentences may round it."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return set()
    shares = {f"{100 * value:.{digits}f}" for digits in (0, 1)}
    return {spelled(value), f"{value:g}", f"{value:,}", f"{value:.2f}", f"{value:.3f}"} | shares


@pytest.mark.parametrize("warehouse", ["ask", "by_hand"])
def test_every_number_of_a_sentence_is_in_the_rows_of_its_sql(request, warehouse) -> None:
    ask = request.getfixturevalue(warehouse)
    index = Documents(ask, "demo").build("index")
    assert index["title"] == "demo"  # a study need not have a title, a page needs one
    sentences = [(finding["text"], [finding["sql"]]) for finding in index["findings"]]
    sentences += [(f"{answer['short']} {answer['text']}", answer["sql"]) for answer in index["answers"]]
    sentences += [(result["text"], [result["sql"]]) for entry in index["searches"] for result in entry["results"]]
    assert len(sentences) > 12
    checked = 0
    for text, sources in sentences:
        rows = [row for one in sources for row in ask(narrowed(STATEMENTS[one["key"]], one["where"])).to_dicts()]
        values = [value for row in rows for value in row.values()]
        names = [name for value in values for name in (value if isinstance(value, list) else [value])]
        said = NAMES_AND_BOUNDS.sub("", text)
        for name in sorted((name for name in names if isinstance(name, str)), key=len, reverse=True):
            said = said.replace(name, "")
        known = set().union(*map(spellings, values))
        for number in re.findall(r"[−-]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", said):
            assert number.rstrip(",").replace("−", "-") in known, (number, text)
            checked += 1
    assert checked > 40


def test_numbers_of_the_overview_are_those_of_the_view(file, measured) -> None:
    index = file["index"]
    rows = measured.sql("select recipe, kl_step0_nats, prompts_collapsed from variant_summary").fetchall()
    assert len(rows) == len(index["variants"])
    for recipe, kl, collapsed in rows:
        numbers = entry_of(index, recipe)["numbers"]
        assert (numbers["kl_step0_nats"], numbers["prompts_collapsed"]) == (pytest.approx(kl, rel=1e-5), collapsed)
    shown = {column["name"] for column in index["columns"]}
    assert {"perplexity_0", "loss_writing"} <= shown
    assert "loss_choosing" not in shown, "one choice is as good as constant"
    wholes = {column["of"] for column in index["columns"]} - {None}
    assert {"prompts", "prompts_graded"} <= wholes
    assert all(set(entry["numbers"]) == shown | wholes for entry in index["variants"])


def test_intervals_of_the_overview_are_those_of_the_measures_of_damage(file, measured) -> None:
    index = file["index"]
    names = {column["name"] for column in index["columns"]}
    seen = set()
    for recipe, measure, amount, *ends in measured.sql(
        "select recipe, measure, amount, amount_low, amount_high from variant_damage"
    ).fetchall():
        entry, is_share = entry_of(index, recipe), measure == "top1_change"
        name = "top1_agreement" if is_share else measure
        # The damage of the dense variant is 0 by definition.
        if name in names and recipe != "dense" and None not in ends:
            seen.add(name)
            wanted = [1 - end for end in reversed(ends)] if is_share else ends
            assert entry["intervals"][name] == pytest.approx(wanted, rel=1e-5)
            assert entry["numbers"][name] == pytest.approx(1 - amount if is_share else amount, rel=1e-5)
        else:
            assert name not in entry["intervals"]
    # Fewer than six prompts have no interval of a median.
    assert {"kl_step0_nats", "top1_agreement"} <= seen <= {"kl_step0_nats", "kl_growth_nats", "top1_agreement"}


def test_a_perplexity_has_the_paired_interval_of_its_ratio_to_the_dense_one(file, measured) -> None:
    columns = "recipe, windows, ppl_dense, ln_ppl_ratio, ln_ppl_ratio_se"
    rows = measured.sql(f"select {columns} from kld_summary where recipe <> 'dense'").fetchall()
    assert rows
    for recipe, windows, dense, ratio, error in rows:
        spread = stats.t.ppf(0.975, windows - 1) * error
        ends = [dense * math.exp(ratio - spread), dense * math.exp(ratio + spread)]
        assert entry_of(file["index"], recipe)["intervals"]["perplexity_0"] == pytest.approx(ends, rel=2e-3)


def test_scores_of_the_overview_have_their_own_intervals(by_hand) -> None:
    index = Documents(by_hand, "whole", views=VIEWS).build("index")
    columns = {column["name"]: column for column in index["columns"]}
    entry = entry_of(index, "wanda-50")
    query = "select * from variant_scores where recipe = 'wanda-50' and measure = 'non_generative'"
    [score] = by_hand(query).to_dicts()
    assert entry["numbers"]["score_non_generative"] == pytest.approx(score["score"], rel=1e-5)
    wanted = [score["score_low"], score["score_high"]]
    assert entry["intervals"]["score_non_generative"] == pytest.approx(wanted, rel=1e-5)
    task = next(name for name in columns if name.startswith("task_"))
    shown = columns[task]["heading"].partition(",")[0]
    rows = by_hand("select * from task_scores where recipe = 'wanda-50'").to_dicts()
    values = {row["metric"]: row["value"] for row in rows if row["task"] == shown}
    metric = next(name for name in ("accuracy", "exact_match", "pass_at_1") if name in values)
    assert columns[task]["heading"] == f"{shown}, {metric.replace('_', ' ')}"
    assert entry["numbers"][task] == pytest.approx(values[metric], rel=1e-5)


def test_verdicts_and_sparks_are_those_of_the_views(file, measured) -> None:
    means = "select recipe, step, avg(kl_dense_pruned_nats) from decoding_at_reference where trajectory = 'own_text'"
    rows = measured.sql(f"{means} group by all order by step").fetchall()
    for recipe, verdict in measured.sql("select recipe, verdict from variant_verdict").fetchall():
        entry = entry_of(file["index"], recipe)
        assert (entry["verdict"], len(entry["words"])) == (verdict, 3)
        assert entry["verdict_reason"].startswith("same tokens: ")
        assert entry["spark"]["own"] == pytest.approx([mean for name, _, mean in rows if name == recipe], rel=1e-2)


def test_the_curves_are_medians_from_the_nearest_variant_to_the_furthest(file, measured) -> None:
    curves = file["index"]["curves"]
    recipes = measured.sql(
        "select recipe from (select recipe, step, median(kl_dense_pruned_nats) as kl from decoding_at_reference "
        "where trajectory = 'teacher_forced' and recipe <> 'dense' group by all) group by recipe order by avg(kl)"
    ).fetchall()
    assert [curve["id"].partition("@")[2] for curve in curves] == [recipe for (recipe,) in recipes]
    for curve in curves:
        for side, trajectory in (("forced", "teacher_forced"), ("own", "own_text"), ("fork", "fork")):
            medians = measured.execute(
                "select step, median(one_minus_cos_h), median(one_minus_cos_z), median(one_minus_cos_p), "
                "median(kl_dense_pruned_nats) from decoding_at_reference where variant = ? and trajectory = ? "
                "group by step order by step",
                [curve["id"], trajectory],
            ).fetchall()
            drawn = curve[side] or dict.fromkeys(("h", "z", "p", "kl"), [None] * len(curve["step"]))
            rows = zip(curve["step"], *(drawn[space] for space in ("h", "z", "p", "kl")), strict=True)
            # A text that ends earlier has no value there, and a trajectory that was not measured none at all.
            shown = [row for row in rows if row[1] is not None]
            assert np.array(shown) == pytest.approx(np.array(medians), rel=6e-3, abs=1e-9), (curve["id"], side)


def test_the_main_questions_have_answers_with_valid_links(file) -> None:
    index = file["index"]
    right, alive, same, layers = index["answers"]
    # Three prompts are no evidence.
    assert right["short"].endswith("There are too few right answers to be sure of any variant.")
    assert right["text"].startswith("Verdicts by variant: too little evidence (")
    assert alive["short"].startswith("No variant is shown to loop or stop early in more than a tenth of the texts. The")
    assert "The least damaged variant that loops is wanda-2of4: its text to prompt choice repeats" in alive["text"]
    assert alive["links"][0]["href"] == "#/tokens/smollm2-135m-instruct%40wanda-2of4/choice/0/own"
    assert same["short"].startswith("Half of the texts differ from the dense ones (the first token is step 0): ")
    assert layers["short"].endswith(
        "comes mostly from the MLP of layer 0 (54 %), the MLP of layer 29 (31 %), the MLP of layer 15 (6 %)."
    )
    assert "the MLP of layer 0 (3 of 3)" in layers["text"]
    assert all(answer["sql"] for answer in index["answers"])


def test_a_trace_has_the_tokens_and_divergences_of_its_text(file, measured) -> None:
    asked = file["index"]["prompts"][1]["prompt_id"]
    trace = file[page("wanda-50", asked)]
    forced, top = trace["forced"], trace["top"]["forced"]
    rows = measured.execute(
        "select step, token_id_dense = token_id_pruned, kl_dense_pruned_nats from decoding_steps "
        "where recipe = 'wanda-50' and prompt_id = ? and trajectory = 'teacher_forced' order by step",
        [asked],
    ).fetchall()
    assert forced["step"] == [row[0] for row in rows]
    assert forced["is_same_token"] == [row[1] for row in rows]
    assert forced["kl_dense_pruned_nats"] == pytest.approx([row[2] for row in rows], rel=1e-3)
    assert forced["is_same_token"].index(False) == trace["first_flip_step"]
    assert {len(values) for values in forced.values()} == {len(rows)} == {len(top)}
    assert "own" not in trace, "these rows were measured before there was a trajectory own_text"
    (token, dense, pruned), (_, second, _) = top[0]["dense"][:2]
    assert token == forced["token_text_dense"][0]
    assert dense >= second
    assert 0 <= pruned <= 1


def test_layers_of_a_trace_are_matrices_of_sublayer_and_step(file, measured) -> None:
    asked = file["index"]["prompts"][0]["prompt_id"]
    found = file[page("attn-drop-4", asked)]["layers"]["propagated"]
    places = list(zip(found["layer"], found["sublayer"], strict=True))
    assert places[:2] == [(0, "attn"), (0, "mlp")]
    place, step = places.index((29, "mlp")), found["steps"].index(5)
    [row] = measured.execute(
        "select kl_dense_pruned_nats, one_minus_cos_h from layer_transitions where recipe = 'attn-drop-4' and "
        "prompt_id = ? and layer = 29 and sublayer = 'mlp' and scope = 'propagated' and lens = 'normed' and step = 5",
        [asked],
    ).fetchall()
    shown = [found[name][place][step] for name in ("kl_dense_pruned_nats", "one_minus_cos_h")]
    assert shown == pytest.approx(row, rel=1e-3)
    for name in (*(f"one_minus_cos_{space}" for space in "hzp"), "kl_dense_pruned_nats", "is_top1_same"):
        assert len(found[name]) == len(places) == len(found["is_changed"])
        assert {len(row) for row in found[name]} == {len(found["steps"])}


def test_a_sublayer_without_a_step_leaves_a_gap() -> None:
    rows = [
        {"layer": layer, "sublayer": "attn", "step": step, "is_changed": True, "is_top1_same": True,
         "one_minus_cos_h": 0.1, "one_minus_cos_z": 0.1, "one_minus_cos_p": 0.1,
         "kl_dense_pruned_nats": 10.0 * layer + step}
        for layer in (0, 1)
        for step in (0, 1, 2)
        if (layer, step) != (0, 1)
    ]  # fmt: skip
    assert layers(pl.DataFrame(rows))["kl_dense_pruned_nats"] == [[0.0, None, 2.0], [10.0, 11.0, 12.0]]


def test_options_appear_only_with_their_question(file) -> None:
    for prompt in file["index"]["prompts"]:
        options = file[page("wanda-2of4", prompt["prompt_id"])]["options"]
        assert (options is None) == (prompt["kind"] != "choice")
        if options:
            assert (options["option"], set(options["gold"])) == (["A", "B", "C", "D"], {"A"})
            assert sum(options["p_options_dense"]) == pytest.approx(1, abs=1e-3)
            assert sum(options["p_full_dense"]) == pytest.approx(options["mass_dense"][0], abs=1e-3)


def test_the_texts_of_a_variant_are_split_where_they_diverge(file) -> None:
    for summary in file[page("wanda-50")]["prompts"]:
        assert summary["text_dense"][:1] != summary["text_pruned"][:1]
        trace = file[page("wanda-50", summary["prompt_id"])]
        assert summary["text_same"] + summary["text_dense"] == trace["text_dense"]
        assert summary["text_same"] + summary["text_pruned"] == trace["text_pruned"]


def test_documents_beyond_the_size_limit_are_listed_as_omitted(ask, monkeypatch) -> None:
    # Figures are drawn elsewhere.
    monkeypatch.setattr(module, "FIGURES", {})
    documents = Documents(ask, "demo")
    whole = documents.within()
    assert whole["index"]["notes"] == []
    sizes = {name: module._size(document) for name, document in whole.items() if name != "index"}
    index_size = len(embedded(whole["index"])) + module._NOTES_BYTES
    first, ids = whole["index"]["prompts"][0]["prompt_id"], [entry["id"] for entry in whole["index"]["variants"][1:]]
    kept = {document_name("trace", id_, first) for id_ in ids}
    room = index_size + sum(size for name, size in sizes.items() if not name.startswith("trace/") or name in kept)
    found = documents.within(room)
    assert {name for name in found if name.startswith("trace/")} == kept
    assert {tuple(entry["traces"]) for entry in found["index"]["variants"][1:]} == {(first,)}
    [note] = found["index"]["notes"]
    assert "below 15 MB: 12 of 18 token views (those of each variant and kind of prompt that break last)." in note
    assert len(render(found, live=False)) <= room + OWN_BYTES
    nothing = documents.within(0)
    assert set(nothing) == {"index", "sql"}
    without_links = [entry | {"traces": []} for entry in whole["index"]["variants"]]
    assert nothing["index"]["variants"] == without_links, "the index must be complete even if it exceeds the limit"
    assert "7 of 7 pages of variants; 3 of 3 pages of prompts; 18 of 18 token views" in nothing["index"]["notes"][0]


def test_a_file_holds_pairs_of_neighbouring_variants() -> None:
    variants = [("m", None), ("m", 3.0), ("m", 1.0), ("n", 1.1), ("m", 2.0), ("m", None), ("n", 9.0)]
    near = [(1, 4), (2, 4), (3, 6)]
    assert nearest(variants, 3) == near
    without_kl = [(0, 1), (0, 2), (0, 4), (0, 5), (1, 5), (2, 5), (4, 5)]
    assert nearest(variants, 99) == [*near, (1, 2), *without_kl]
    assert nearest(variants, 0) == []


def test_variants_and_prompts_follow_the_study_else_the_numbers_in_their_names() -> None:
    known = DisplayOrder(models=("late", "early"), recipes=("b", "a"))
    of_variant = sorted(["wanda-10", "b", "wanda-9", "dense", "a"], key=lambda name: known.of_variant("m", name))
    assert of_variant == ["dense", "b", "a", "wanda-9", "wanda-10"]
    assert sorted(["early", "x", "late"], key=lambda model: known.of_variant(model, "a")) == ["late", "early", "x"]
    huge = "9" * 5000
    assert sorted(["p10", "p9", huge], key=lambda name: DisplayOrder().of_prompt("m", name)) == [huge, "p9", "p10"]


def test_served_documents_equal_those_of_a_file(file, ask) -> None:
    live = Documents(ask, "demo", "Six ways", [{"name": "seed", "text": "0"}], VIEWS, is_live=True)
    traces = [name for name in file if name.startswith("trace/")]
    for name in (page("dense"), page("wanda-50"), *traces[::5], "sql"):
        assert live.build(name) == file[name]
    # Which figures have no data is known only once all are asked.
    figures = {"figures": [figure_entry(figure) for figure in FIGURES.values()], "figures_without_data": []}
    assert live.build("index") == {**file["index"], **figures}


def test_a_server_queries_the_rows_of_one_variant_only(ask, file) -> None:
    asked: list[str] = []
    trace = next(name for name in file if name.startswith("trace/"))

    def counted(query: str) -> pl.DataFrame:
        asked.append(query)
        return ask(query)

    Documents(counted, "demo", is_live=True).build(trace)
    large = [query for query in asked if STATEMENTS["layers"].sql in query or STATEMENTS["top"].sql in query]
    assert len(large) == 2
    assert all(re.search(r"where model = '.*' and recipe = '.*' and prompt_id = '.*'$", query) for query in large)


@pytest.mark.parametrize(
    "name",
    ["", "nothing", "index/1", "variant", "variant/0", "variant/x", "variant/{a}/x", "trace/{dense}/{prompt}",
     "trace/{a}/x", "trace/{a}", "trace/x/{prompt}", "prompt/{model}/x", "prompt/x/{prompt}", "prompt/{prompt}",
     "pair/{a}/{a}", "figures/../index", "figures/none", "sql/variants"],
)  # fmt: skip
def test_an_unknown_document_is_refused(name, ask, file) -> None:
    dense, a, *_ = (entry["id"] for entry in file["index"]["variants"])
    prompt = file["index"]["prompts"][0]
    name = name.format(dense=dense, a=a, prompt=prompt["prompt_id"], model=prompt["model"])
    with pytest.raises(KeyError):
        Documents(ask, "demo").build(name)


def strings(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text of a document with its field, and the names of the fields."""
    if isinstance(value, dict):
        for field, inner in value.items():
            yield "", field
            if field != "where":  # raw names, for links only
                yield from strings(inner, field)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner, name)
    elif isinstance(value, str):
        yield name, value


def test_documents_escape_and_cut_hostile_text(hostile) -> None:
    documents = Documents(hostile, "\u202estudy", "\0title", is_live=True)
    index = documents.build("index")
    raw = {"id", "prompt_id", "href", "sql", "variant", "traces"}
    [asked] = index["prompts"]
    ids = [entry["id"] for entry in index["variants"]]
    of_trace = document_name("trace", ids[1], asked["prompt_id"])
    of_prompt = document_name("prompt", asked["model"], asked["prompt_id"])
    for name in ("index", *(document_name("variant", id_) for id_ in ids), of_prompt, of_trace):
        shown = [text for field, text in strings(documents.build(name)) if field not in raw]
        assert not [text for text in shown if INVISIBLE.search(text)]
        assert max(map(len, shown)) < 4200
    trace = documents.build(of_trace)
    assert trace["own"]["token_text_pruned"][:2] == ["x" * 59 + "…", "⟨202E⟩evil⟨0⟩"]
    assert trace["top"]["own"][0]["dense"][0][0] == "</script>"
    assert "<img src=x onerror=alert(1)>\ufffd" in trace["text_pruned"]
    entry = entry_of(index, "it's ⟨202E⟩</script>")
    assert (entry["id"], entry["is_dense"]) == (f"tiny@{HOSTILE_RECIPE}", False)


def test_a_name_with_quotes_is_escaped_and_a_sum_cannot_be_filtered() -> None:
    query = narrowed(STATEMENTS["facts"], {"model": "a'; drop table x; --", "recipe": "r"})
    assert "model = 'a''; drop table x; --' and recipe = 'r'" in query
    with pytest.raises(ValueError, match="nothing only"):
        narrowed(STATEMENTS["names"], {"model": "a"})


def test_every_measurement_has_its_table(by_hand) -> None:
    documents = Documents(by_hand, "whole", views=VIEWS)
    index, document = documents.build("index"), documents.build(page("wanda-50", model="tiny"))
    tables = {table["sql"]: table for table in document["tables"]}
    assert set(tables) >= {"losses", "scores", "comparisons", "flips", "perplexity", "retrieval"}
    for table in tables.values():
        assert {len(row) for row in table["rows"]} == {len(table["columns"])}
    assert set(document["layers"]) == {"isolated", "local", "propagated", "restored"}
    carriers = [dict(zip(tables["carriers"]["columns"], row, strict=True)) for row in tables["carriers"]["rows"]]
    assert {row["scope"] for row in carriers} == {"isolated"}
    shares = [row["share_of_kl"] for row in carriers]
    assert shares == sorted(shares, reverse=True)
    assert {"loss_writing", "loss_choosing"} <= {column["name"] for column in index["columns"]}
    assert [entry["model"] for entry in index["searches"]] == ["tiny"]
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_claims_are_in_a_table_and_not_among_the_findings(by_hand) -> None:
    index = Documents(by_hand, "whole").build("index")
    assert index["claims"]
    assert all(claim["says"] and claim["n"] > 0 for claim in index["claims"])
    assert not [finding for finding in index["findings"] if finding["sql"] == "findings/claims"]
    verdicts = ["holds", "does not hold", "as under rounding", "no null", "too little data"]
    order = [claim["verdict"] for claim in index["claims"]]
    assert order == sorted(order, key=verdicts.index)


def test_an_empty_warehouse_still_has_an_index_and_its_figures(tmp_path) -> None:
    from prunescope.warehouse.catalogue.database import connect

    with connect(tmp_path) as connection:
        found = Documents(asking(connection), "none", views=VIEWS).within()
    assert set(found) == {"index", "sql"} | {f"{kind}/{name}" for kind in ("figures", "pictures") for name in FIGURES}
    assert found["index"]["variants"] == found["index"]["answers"] == found["index"]["findings"] == []
    assert found["index"]["figures_without_data"] == list(FIGURES)


def test_figures_carry_no_theme_and_five_significant_digits(file) -> None:
    for name in FIGURES:
        for drawing in file[f"figures/{name}"]["drawings"]:
            spec = drawing["spec"]
            assert "config" not in spec
            assert spec.get("title", {}).get("text") != FIGURES[name].title
            assert spec["description"].startswith(f"{drawing['title']}. ")
            assert spec["$schema"]
            assert drawing["title"]
            written: list[str] = []
            json.loads(json.dumps(spec), parse_float=written.append)
            assert [text for text in written if float(text) != float(f"{float(text):.5g}")] == []


def test_numbers_keep_four_digits_and_nan_is_null() -> None:
    column = pl.Series([1.23456, 123456.0, 1.23456e-9, float("nan"), float("inf"), None], dtype=pl.Float32)
    assert numbers(column) == [1.235, 123500.0, 1.235e-9, None, None, None]
    assert numbers(pl.Series([0, 17])) == [0.0, 17.0]


def counting(**columns: list[Any]) -> tuple[QueryCache, list[str]]:
    """Return a cache whose every answer has these columns, and the queries that it has asked."""
    asked: list[str] = []

    def ask(query: str) -> pl.DataFrame:
        asked.append(query)
        return pl.DataFrame({"model": ["m", "m"], "recipe": ["a", "b"], "x": [1, 2], **columns})

    return QueryCache(ask, is_whole=True), asked


def test_a_whole_report_runs_each_statement_once() -> None:
    frames, asked = counting()
    assert [frames.of("facts", model="m", recipe=recipe)["x"].to_list() for recipe in "abc"] == [[1], [2], []]
    assert len(asked) == 1


def test_large_documents_are_queried_once_for_all_texts_in_focus_and_then_forgotten() -> None:
    frames, asked = counting(prompt_id=["it's", "q"])
    texts = [("m", "a", "it's"), ("m", "b", "q"), ("m", "c", "q")]
    for _ in range(2):
        frames.focus(texts)
        for _ in range(2):
            found = [frames.of("layers", model=model, recipe=r, prompt_id=prompt) for model, r, prompt in texts]
            assert [rows["x"].to_list() for rows in found] == [[1], [2], []]
        frames.focus(())
        assert not frames._parts
    assert [query[query.rindex(" where ") :] for query in asked] == 2 * [
        " where model in ('m') and recipe in ('a', 'b', 'c') and prompt_id in ('it''s', 'q') and "
        "(model, recipe, prompt_id) in (('m', 'a', 'it''s'), ('m', 'b', 'q'), ('m', 'c', 'q'))"
    ]
    frames.of("layers", model="m", recipe="a", prompt_id="q")
    assert asked[-1].endswith(" where model = 'm' and recipe = 'a' and prompt_id = 'q'")
    assert not frames._parts


@pytest.fixture(scope="module")
def many() -> Iterator[Ask]:
    """Return two variants × ten prompts of two kinds: prompt 9 breaks first, and only prompt 0 has layers."""
    warehouse = Handmade().model().variant("dense").variant("a", sparsity=0.5).variant("b", sparsity=0.5)
    for n in range(10):
        prompt, kind = f"p{n}", ("maths", "open")[n % 2]
        warehouse.generation("dense", prompt, kind=kind)
        for recipe in "ab":
            warehouse.generation(recipe, prompt, kind=kind, flip=9 - n if n else None, text=f"text {n} of {recipe}")
            warehouse.top_tokens(recipe, prompt, 0)
            for trajectory in ("teacher_forced", "own_text"):
                warehouse.step(recipe, prompt, 0, 0.5, trajectory=trajectory)
    for recipe in "ab":
        warehouse.transition(recipe, "p0", 0, 0.5)
    with warehouse.opened() as connection:
        yield asking(connection)


def test_a_full_file_keeps_of_each_variant_and_kind_what_breaks_first_and_one_text_with_layers(many) -> None:
    documents = Documents(many, "demo", views={})
    order = documents._by_break(documents._frames())
    # One of each kind, and the one with layers, of both variants.
    assert {prompt for _, prompt in order[:6]} == {"p9", "p8", "p0"}
    assert [prompt for id_, prompt in order if id_ == "tiny@a"][3:] == ["p6", "p7", "p4", "p5", "p2", "p3", "p1"]
    # The document of a text does not depend on those that were queried with it.
    built = list(documents._built(documents._frames(), order))
    assert built == [documents.build(document_name("trace", *ids)) for ids in order]
    assert [bool(trace["layers"]) for trace in built] == [prompt == "p0" for _, prompt in order]
    assert all(trace[side]["kl_dense_pruned_nats"] == [0.5] for trace in built for side in ("own", "forced"))


def test_prompts_lead_from_what_breaks_first_to_the_texts_of_all_variants(many) -> None:
    documents = Documents(many, "demo", views={})
    index = documents.build("index")
    assert [(prompt["place_in_order"], prompt["has_layers"]) for prompt in index["prompts"]] == [
        (place, place == 10) for place in range(10, 0, -1)
    ]
    # Wilson's interval of 4 of 5, whose upper end is that of one failure (Brown, Cai and DasGupta); none was graded.
    names = ("kind", "prompts", "prompts_flipped", "first_flip_step_median", "flipped_ends", "correct_ends")
    assert [tuple(kind[name] for name in names) for kind in index["variants"][1]["kinds"]] == [
        ("maths", 5, 4, 5.0, [0.3755, 0.9897], None),
        ("open", 5, 5, 4.0, [0.5655, 1.0], None),
    ]
    of_variant = documents.build(page("a", model="tiny"))["prompts"]
    assert [summary["prompt_id"] for summary in of_variant] == [f"p{n}" for n in range(9, -1, -1)]
    for live in (documents, Documents(many, "demo", views={}, is_live=True)):
        texts = live.build("prompt/tiny/p3")["texts"]
        assert [text["variant"] for text in texts] == ["tiny@dense", "tiny@a", "tiny@b"]
        assert texts[1] == of_variant[6] | {"variant": "tiny@a"}


def test_layers_of_each_model_have_the_lens_that_it_was_measured_with() -> None:
    warehouse = Handmade()
    for model, lens in (("a", "normed"), ("b", "raw")):
        warehouse.model(model).variant("dense", model=model).variant("r", sparsity=0.5, model=model)
        warehouse.generation("dense", "p", model=model).generation("r", "p", model=model)
        warehouse.step("r", "p", 0, 0.5, model=model).transition("r", "p", 0, 0.5, lens=lens, model=model)
    with warehouse.opened() as connection:
        documents = Documents(asking(connection), "demo", views={})
        index = documents.build("index")
        assert index["lenses"] == {"a": "normed", "b": "raw"}
        fits = [one["sql"]["where"]["model"] for one in index["findings"] if one["sql"]["key"] == "findings/fit"]
        assert set(fits) == {"a", "b"}
        for model in ("a", "b"):
            assert set(documents.build(page("r", model=model))["layers"]) == {"local"}
            assert set(documents.build(page("r", "p", model=model))["layers"]) == {"local"}


def test_curves_of_many_variants_are_those_of_searches_and_an_even_choice_of_the_others() -> None:
    many = [f"wanda-{share}" for share in range(10, 20)]
    assert told_apart(many) == ["wanda-10", "wanda-12", "wanda-14", "wanda-15", "wanda-17", "wanda-19"]
    searched = [*many[:7], "mixed-20-abc", *many[7:]]
    assert told_apart(searched) == ["wanda-10", "wanda-12", "wanda-14", "mixed-20-abc", "wanda-17", "wanda-19"]
    assert told_apart(many[:2]) == many[:2]
    assert told_apart([]) == []


def test_numbers_of_a_drawing_have_five_significant_digits_and_all_else_stays() -> None:
    spec = {"data": [{"x": 0.123456789, "n": 1234567, "label": "0.123456789"}, {"x": -1.5e-300, "n": None}], "on": True}
    assert _shortened(spec) == {
        "data": [{"x": 0.12346, "n": 1234567, "label": "0.123456789"}, {"x": -1.5e-300, "n": None}],
        "on": True,
    }
