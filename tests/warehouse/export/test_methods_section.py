"""The methods section, which describes and cites only the sources of the exported rows."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import get_args

import duckdb
import polars as pl
import pytest

from prunescope.pipelines.recipes import KINDS
from prunescope.warehouse.catalogue import database
from prunescope.warehouse.export import bibliography
from prunescope.warehouse.export.methods_section import Methods, _prior_art, methods
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import Provenance
from prunescope.warehouse.tables import TABLES
from tests.warehouse.conftest import put, rows_of

RECIPES = {
    "dense": ("dense", {}),
    "wanda-50": ("wanda", {"ratios": "uniform"}),
    "wanda-owl": ("wanda", {"ratios": "owl"}),
    "block-drop-4": ("block-drop", {"by": "greedy"}),
    "both": ("composed", {"steps": [{"method": "sparsegpt"}, {"method": "dsnot"}]}),
    "noise-batch": ("noise", {}),
}
# Ideas of others that the tables below rest on.
PRIOR_ART = {
    *("nostalgebraist2020logit", "deiseroth2023divergent", "leviathan2023fast", "chen2023accelerating"),
}
OWN_TEXT = {"agarwal2023onpolicy", "ranzato2016sequence", "arora2022exposure"}
TABLES_READ = ("variants", "generations", "decoding_steps", "text_tokens", "layer_transitions")


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    store = Store(tmp_path_factory.mktemp("warehouse"))
    models = rows_of(TABLES["models"], "tiny", None).with_columns(source=pl.lit("embedded"))
    put(store, TABLES["models"], rows=models)
    for recipe, (method, parameters) in RECIPES.items():
        rows = rows_of(TABLES["variants"], "tiny", recipe).with_columns(
            method=pl.lit(method), parameters_json=pl.lit(json.dumps(parameters))
        )
        inputs = {"weight_hash": "a"} | ({"calibration_hash": "c" * 64} if method not in {"dense", "noise"} else {})
        put(store, TABLES["variants"], recipe=recipe, rows=rows, inputs=inputs)
        for name in ("generations", "decoding_steps", "text_tokens", "layer_transitions"):
            put(store, TABLES[name], recipe=recipe, inputs={"prompts_hash": "p" * 64}, seed=7)
    scores = TABLES["imported_scores"]
    read = Provenance.of_read_rows("mine", "tiny", "dense", {}, "1")
    store.write(scores, rows_of(scores, "tiny", "dense"), read, "tiny", "dense")
    with database.connect(store.root) as connection:
        yield connection


def written(
    warehouse: duckdb.DuckDBPyConnection,
    *recipes: str,
    model: str = "tiny",
    tables: tuple[str, ...] = TABLES_READ,
    calibration: dict[str, object] | None = None,
    corpora: Mapping[str, str] = MappingProxyType({}),
) -> Methods:
    calibrations = {"c" * 64: calibration} if calibration else {}
    used = {(model, recipe) for recipe in recipes}
    return methods(warehouse, used, tables, "1.2.3", calibrations, corpora)


def keys(section: Methods) -> set[str]:
    return set(re.findall(r"^@\w+\{([^,]+),$", section.bibtex, re.MULTILINE))


def test_only_the_sources_of_the_rows_are_named_and_cited(warehouse: duckdb.DuckDBPyConnection) -> None:
    section = written(warehouse, "dense", "wanda-50")
    assert keys(section) == {"he2026demystifying", "allal2025smollm2", "sun2024wanda", *PRIOR_ART, *OWN_TEXT}
    assert "wanda-owl" not in section.markdown + section.latex
    assert set(re.findall(r"\[@([^\]]+)\]", section.markdown)) == keys(section)
    assert set(re.findall(r"\\cite\{([^}]+)\}", section.latex)) == keys(section)


def test_the_ideas_of_parameters_and_the_steps_of_a_composition_are_cited(
    warehouse: duckdb.DuckDBPyConnection,
) -> None:
    section = written(warehouse, "wanda-owl", "block-drop-4", "both")
    assert keys(section) >= {
        *("yin2024owl", "sun2024wanda", "men2024shortgpt", "song2024sleb"),
        *("frantar2023sparsegpt", "zhang2024dsnot"),
    }


def test_the_section_has_seeds_versions_device_prompts_and_texts(warehouse: duckdb.DuckDBPyConnection) -> None:
    text = written(warehouse, "dense", "wanda-50", "noise-batch").markdown
    for part in ("torch 2.9.0", "seed 0, 7", "`cpu`", "`float32`", "Prunescope 1.2.3", "`pppppppppppp`"):
        assert part in text
    imported = written(warehouse, "dense", tables=(*TABLES_READ, "imported_scores")).markdown
    assert "``" not in imported, "scores that were read in were computed on no device of ours"
    assert "imported_scores" not in imported
    assert "`noise-batch`) gives the floor that rounding sets" in text
    assert "SHA-256 of its settings and contents `cccccccccccc`" in text
    assert "Layers were measured (prompts: 3) in scope" in text
    assert "Text `text_id 0`: 1 tokens scored in windows of 2 every 1" in text
    assert len(text.split()) < 500, "one page"


def test_a_calibration_is_named_where_its_hash_is_proven(warehouse: duckdb.DuckDBPyConnection) -> None:
    drawn = {"source": "c4", "sequences": 128, "length": 2048, "seed": 3, "documents": "single"}
    section = written(warehouse, "wanda-50", calibration=drawn, corpora={"text_hash 0": "wikitext2"})
    assert "128 sequences of 2,048 tokens from C4 [@raffel2020t5], each within one document, drawn with seed 3" in (
        section.markdown
    )
    assert "(WikiText-2 [@merity2017pointer])" in section.markdown
    assert keys(section) >= {"raffel2020t5", "merity2017pointer"}
    embedded = written(warehouse, "wanda-50", calibration=drawn | {"source": "embedded"})
    assert "tokens from Python's help topics" in embedded.markdown


def test_the_ideas_that_tables_rest_on_are_cited_where_their_rows_are_exported(store: Store) -> None:
    def section(steps: pl.DataFrame, *tables: str) -> Methods:
        for name, rows in (("decoding_steps", steps), ("task_samples", rows_of(TABLES["task_samples"], "tiny", "w"))):
            put(store, TABLES[name], recipe="w", rows=rows)
        put(store, TABLES["search_trials"])
        with database.connect(store.root) as connection:
            return methods(connection, {("tiny", "w")}, tables, "1", {}, {})

    steps = rows_of(TABLES["decoding_steps"], "tiny", "w")
    accepted = {"he2026demystifying", "leviathan2023fast", "chen2023accelerating", *OWN_TEXT}
    assert keys(section(steps, "decoding_steps")) == accepted
    assert keys(section(steps, "task_samples")) == {"he2026demystifying", "dutta2024accuracy"}
    searched = section(steps, "search_trials")
    assert keys(searched) == {"he2026demystifying", "sieberling2025evopress"}
    assert "as EvoPress [@sieberling2025evopress] does" in searched.markdown
    for _, _, text, cited in bibliography.PRIOR_ART:
        assert text.count("{}") == len(cited)


def test_texts_of_the_variant_that_both_models_read_cite_exposure_bias() -> None:
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE exported_variants AS SELECT 'tiny' AS model, 'w' AS recipe")
        connection.execute("CREATE TABLE decoding_steps AS SELECT 'tiny' AS model, 'w' AS recipe, 'x' AS trajectory")

        def cited(*tables: str) -> str:
            return str(_prior_art(lambda sql: connection.sql(sql).fetchall(), tables))

        assert "exposure" not in cited("decoding_steps")
        connection.execute("INSERT INTO decoding_steps VALUES ('tiny', 'other', 'own_text')")
        assert "exposure" not in cited("decoding_steps")
        connection.execute("INSERT INTO decoding_steps VALUES ('tiny', 'w', 'own_text')")
        for key in ("agarwal2023onpolicy", "ranzato2016sequence", "arora2022exposure"):
            assert key in cited("decoding_steps")
        assert cited() == "[]"


def test_unread_tables_are_not_described(warehouse: duckdb.DuckDBPyConnection) -> None:
    section = written(warehouse, "dense", tables=("models",))
    for word in ("scored", "decoded", "Calibration", "lens"):
        assert word not in section.markdown
    assert keys(written(warehouse)) == {"he2026demystifying"}


def test_an_unknown_model_gets_an_entry_without_invented_authors(store: Store) -> None:
    rows = rows_of(TABLES["models"], "my_model%", None).with_columns(source=pl.lit("org/x_&_y{}"))
    put(store, TABLES["models"], "my_model%", rows=rows)
    section = written(database.connect(store.root), "dense", model="my_model%")
    [entry] = [one for one in section.bibtex.split("\n\n") if one.startswith("@misc")]
    assert "author" not in entry
    assert r"org/x\_\&\_y\{\}" in entry
    assert entry.count("{") == entry.count("}")
    assert r"\texttt{my\_model\%}" in section.latex


def recipe_methods() -> dict[str, str]:
    """Return the methods of all recipes with the docstrings of their classes."""
    return {method: kind.__doc__ or "" for kind in KINDS for method in get_args(kind.model_fields["method"].annotation)}


def test_every_method_with_a_paper_cites_it() -> None:
    papers = re.compile(r"\d{4}\.\d{5}|\([^()]+ et al\.,[^()]+\)")
    without = [
        method
        for method, text in recipe_methods().items()
        # Rounding to nearest is older than the paper whose baseline it is.
        if method != "rtn" and papers.search(text) and not bibliography.of_recipe(method, "{}")
    ]
    assert not without, (
        f"the docstrings of {', '.join(without)} name a paper: give it an entry in "
        "warehouse/export/references.bib below the line `% Method: NAME`"
    )


def test_no_method_is_named_that_no_recipe_has_or_twice() -> None:
    lines = re.findall(
        "^% Method: (.+)$", Path(bibliography.__file__).with_name("references.bib").read_text(), re.MULTILINE
    )
    named = [method for line in lines for method in line.split(", ")]
    assert set(named) <= set(recipe_methods())
    assert len(named) == len(set(named))


def test_every_citation_has_an_entry_with_title_authors_and_year() -> None:
    found = bibliography.entries()
    cited = {bibliography.PAPER, *(key for _, key in bibliography.CORPORA.values())}
    for method in recipe_methods():
        cited |= set(bibliography.of_recipe(method, "{}"))
    source = Path(bibliography.__file__).read_text()
    cited |= set(re.findall(r'"([a-z]+20\d\d[a-z0-9]+)"', source))
    assert cited == set(found), "no key without an entry, no entry without a key"
    for entry in found.values():
        for name in ("title", "author", "year"):
            assert re.search(rf"^  {name} = \{{.+\}},$", entry, re.MULTILINE), entry
        assert entry.count("{") == entry.count("}")


@pytest.mark.parametrize(
    ("model", "source", "key"),
    [
        ("x", "embedded", "allal2025smollm2"),
        ("x", "embedded:gemma-3-270m", "gemma2025gemma3"),
        ("x", "embedded:qwen2.5-coder-0.5b", "hui2024qwen25coder"),
        ("x", "Qwen/Qwen2.5-Coder-7B-Instruct", "hui2024qwen25coder"),
        ("x", "Qwen/Qwen2.5-7B-Instruct", "qwen2024qwen25"),
        ("x", "meta-llama/Llama-2-7b-hf", "touvron2023llama2"),
        ("x", "meta-llama/Meta-Llama-3-8B", "grattafiori2024llama3"),
        ("e5", "intfloat/e5-mistral-7b-instruct", "wang2024e5mistral"),
        ("m", "mistralai/Mistral-7B-Instruct-v0.3", "jiang2023mistral"),
        ("embedded-thing", "./my", None),
    ],
)
def test_models_are_known_by_source_or_name(model: str, source: str, key: str | None) -> None:
    assert bibliography.of_model(model, source) == key


@pytest.mark.parametrize(("revision", "is_told"), [("weights", False), ("commit", True)])
def test_a_revision_is_named_where_it_differs_from_the_weight_hash(
    tmp_path: Path, revision: str, is_told: bool
) -> None:
    store = Store(tmp_path)
    for model in ("one", "two"):
        values = {"source": "unknown/paper", "revision": revision, "weight_hash": "weights"}
        rows = rows_of(TABLES["models"], model, None).with_columns(**{name: pl.lit(of) for name, of in values.items()})
        put(store, TABLES["models"], model, rows=rows)
        rows = rows_of(TABLES["variants"], model, "wanda-50").with_columns(
            method=pl.lit("wanda"), parameters_json=pl.lit("{}")
        )
        put(store, TABLES["variants"], model, rows=rows)
    with database.connect(store.root) as connection:
        one = written(connection, "wanda-50", model="one")
        both = methods(connection, {("one", "wanda-50"), ("two", "wanda-50")}, TABLES_READ, "1", {}, {})

    assert (f"revision `{revision}`" in one.markdown) == (f"revision {revision}" in one.bibtex) == is_told
    assert one.markdown.count("SHA-256 of the weights `weights`") == 1
    assert "The model was changed by `wanda`" in one.markdown
    assert "compared with the dense model." in one.markdown
    assert "The models were changed by `wanda`" in both.markdown
    assert "compared with its dense model." in both.markdown
