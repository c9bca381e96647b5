"""The published numbers are those of the sources, in the units and under the names that the table has."""

import polars as pl

from pipelines.published import contents_hash, published
from warehouse.provenance import fingerprint
from warehouse.store import Store
from warehouse.tables import TABLES

NUMBERS = published()


def value(model: str, task: str, metric: str, method: str = "dense", dropped: int = 0, layer: int = -1) -> float:
    """The one number of these names."""
    wanted = {"model": model, "task": task, "metric": metric, "method": method, "dropped": dropped, "layer": layer}
    [found] = NUMBERS.filter(*(pl.col(name) == one for name, one in wanted.items()))["value"].to_list()
    return round(found, 6)


def test_single_numbers_stand_where_they_were_printed() -> None:
    assert value("qwen2.5-7b-instruct", "gsm8k", "exact_match") == 0.75588
    assert value("qwen2.5-7b-instruct", "gsm8k", "exact_match", "attn-drop", 4) == 0.30023
    assert value("qwen2.5-7b-instruct", "mmlu", "accuracy_letter", "mlp-drop", 12) == 0.2662
    assert value("qwen2.5-7b-instruct", "humaneval", "pass_at_1", "block-drop", 1) == 0.52
    assert value("qwen2.5-7b-instruct", "layerwise", "cosine_z", "attn-drop", 1, 0) == 0.07
    assert value("qwen2.5-7b-instruct", "layerwise", "cosine_p", "mlp-drop", 1, 27) == 0.616
    assert value("mistral-7b-instruct-v0.3", "boolq", "accuracy", "attn-drop", 8) == 0.86
    assert value("mistral-7b-instruct-v0.3", "nq_open", "unnamed", "mlp-drop", 8) == 0.02
    assert value("e5-mistral-7b-instruct", "climate-fever", "ndcg_at_10", "mlp-drop", 8) == 0.384
    assert value("llama-2-7b", "wikitext2", "token_perplexity") == 5.12
    assert value("llama-2-7b", "wikitext2", "token_perplexity", "magnitude-2of4") == 54.59


def test_every_figure_and_table_is_there_whole() -> None:
    found = dict(NUMBERS.group_by("source").len().iter_rows())
    # Figure 1: four tasks, three kinds of drop from 1 to 12, and dense; Figure 4: three spaces, two kinds, 28 layers.
    assert found == {
        "2603.24652 Figure 1": 4 * (3 * 12 + 1),
        "2603.24652 Figure 4": 3 * 2 * 28,
        "2603.24652 retrieval table": 13 * 3,
        "2603.24652 Mistral-7B table": 10 * 3,
        "2306.11695 README, context 4096": 10,
    }


def test_the_rows_keep_every_rule_of_their_table_and_are_written_once(tmp_path) -> None:
    from assets.published import write_published

    store, table = Store(tmp_path), TABLES["paper_reference"]
    written = write_published(store)
    assert (written.violations, written.rows, written.fingerprint) == (
        (),
        NUMBERS.height,
        fingerprint({"published_hash": contents_hash()}),
    )
    before = {partition.path: partition.path.stat().st_mtime_ns for partition in store.partitions(table)}
    assert len(before) == NUMBERS["model"].n_unique()
    first, *others = before
    first.unlink()
    write_published(store)
    assert {path: path.stat().st_mtime_ns for path in others} == {path: before[path] for path in others}
    assert first.is_file()
