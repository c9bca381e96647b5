"""The methods section of an export: one page from provenance that cites what the exported rows used.

The sentences are in `templates/methods.j2`.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from prunescope.pipelines.core.quoting import literal
from prunescope.pipelines.core.templates import package_templates
from prunescope.warehouse.core.formats import markdown_escaped
from prunescope.warehouse.core.latex import latex_escaped
from prunescope.warehouse.export import bibliography

# In LaTeX a longer name, of a file above all, may be broken across lines.
_MAX_UNBROKEN = 20
_OF_EXPORT = "SEMI JOIN exported_variants USING (model, recipe)"
_Query = Callable[[str], list[dict[str, Any]]]


@dataclass(frozen=True)
class Methods:
    """Section in Markdown and LaTeX, and its bibliography."""

    markdown: str
    latex: str
    bibtex: str


def methods(
    connection: duckdb.DuckDBPyConnection,
    used: Iterable[tuple[str, str]],
    tables: Sequence[str],
    version: str,
    calibrations: Mapping[str, Mapping[str, Any]],
    corpora: Mapping[str, str],
) -> Methods:
    """Write the section from an open catalogue; `version` is that of this package.

    `used` has model and recipe of every exported row, `tables` what the exported views read. `calibrations` has
    settings by the inputs' `calibration_hash`, `corpora` names of texts by `text_hash`, as far as the caller could
    verify the hashes.
    """
    pairs = sorted(set(used))
    connection.execute("CREATE OR REPLACE TEMP TABLE exported_variants (model VARCHAR, recipe VARCHAR)")
    if pairs:
        connection.executemany("INSERT INTO exported_variants VALUES (?, ?)", [list(pair) for pair in pairs])

    def query(sql: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = connection.sql(sql).to_arrow_table().to_pylist()
        return rows

    models, entries = _models(query)
    facts = {
        **{"models": models, "is_one_model": len({model for model, _ in pairs}) <= 1, **_recipes(query)},
        **{"calibrations": _calibrations(query, calibrations), "prior_art": _prior_art(query, tables)},
        **{**_measures(query, tables), "texts": _texts(query, corpora) if "text_tokens" in tables else []},
        **{**_software(query, tables), "version": version},
        **{"corpora": bibliography.CORPORA, "paper": bibliography.PAPER},
    }
    cited: set[str] = set()

    def rendered(text: Callable[[str], str], code: Callable[[str], str], form: str) -> str:
        def cite(key: str) -> str:
            cited.add(key)
            return form.format(key)

        # Values are escaped by the functions of the language, of which Jinja knows only HTML.
        environment = package_templates("warehouse.export")
        environment.filters["cite"] = cite
        language = {"text": text, "code": code, "cite": cite, "codes": lambda names: ", ".join(map(code, names))}
        paragraphs = environment.get_template("methods.j2").render(facts | language).split("\n---\n")
        return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())

    markdown = rendered(markdown_escaped, _markdown_code, "[@{}]")
    latex = rendered(latex_escaped, _latex_code, r"\cite{{{}}}")
    return Methods(
        f"## Methods\n\n{markdown}\n",
        # TeX does not hyphenate names: lines may be loose instead of too long.
        f"\\paragraph{{Methods.}}\n{{\\sloppy\n{latex}\\par}}\n",
        bibliography.bibtex(cited, entries),
    )


def _models(query: _Query) -> tuple[list[tuple[dict[str, Any], str, bool]], dict[str, str]]:
    """Return each model, its key and whether its revision is a commit, and the entries of models without a paper."""
    models, entries = [], {}
    for row in query("FROM models SEMI JOIN exported_variants USING (model) ORDER BY model"):
        key = bibliography.of_model(row["model"], row["source"])
        # A model without a commit of a hub has the hash of its weights as its revision.
        is_commit = row["revision"] != row["weight_hash"]
        if key is None:
            note = f"{'revision' if is_commit else 'SHA-256 of the weights'} {row['revision']}"
            key, entries[key] = bibliography.misc(row["model"], row["source"], note)
        models.append((row, key, is_commit))
    return models, entries


def _recipes(query: _Query) -> dict[str, Any]:
    rows = query(
        f"SELECT DISTINCT method, recipe, parameters_json FROM variants {_OF_EXPORT} "  # noqa: S608
        "WHERE method <> 'dense' ORDER BY method, recipe"
    )
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    noise = [row["recipe"] for row in by_method.pop("noise", [])]
    methods = []
    for method, recipes in by_method.items():
        keys = dict.fromkeys(key for row in recipes for key in bibliography.of_recipe(method, row["parameters_json"]))
        methods.append((method, list(keys), dict.fromkeys(row["recipe"] for row in recipes)))
    return {"methods": methods, "noise": noise}


def _calibrations(query: _Query, known: Mapping[str, object]) -> list[tuple[list[str], str, object]]:
    rows = query(
        "SELECT json_extract_string(inputs_json, '$.calibration_hash') AS calibration, "  # noqa: S608
        f"list(DISTINCT recipe ORDER BY recipe) AS recipes FROM provenance {_OF_EXPORT} "
        "WHERE table_name = 'variants' AND calibration IS NOT NULL GROUP BY calibration ORDER BY calibration"
    )
    return [(row["recipes"], row["calibration"], known.get(row["calibration"])) for row in rows]


def _measures(query: _Query, tables: Sequence[str]) -> dict[str, Any]:
    layers = query(
        "SELECT list(DISTINCT scope ORDER BY scope) AS scopes, list(DISTINCT lens ORDER BY lens) AS lenses, "  # noqa: S608
        "list(DISTINCT temperature ORDER BY temperature) AS temperatures, count(DISTINCT prompt_id) AS prompts "
        f"FROM layer_transitions {_OF_EXPORT} HAVING count(*) > 0"
    )
    prompts = (
        f"SELECT kind, count(DISTINCT prompt_id) AS prompts FROM generations {_OF_EXPORT} GROUP BY ALL ORDER BY ALL"  # noqa: S608
    )
    [steps] = query(f"SELECT max(step) + 1 AS steps FROM decoding_steps {_OF_EXPORT}")  # noqa: S608
    hashes = query(
        "SELECT DISTINCT json_extract_string(inputs_json, '$.prompts_hash') AS hash "  # noqa: S608
        f"FROM provenance {_OF_EXPORT} WHERE hash IS NOT NULL ORDER BY hash"
    )
    sampled = (
        f"SELECT temperature, top_p, max(sample) + 1 AS samples FROM sampled_generations {_OF_EXPORT} "  # noqa: S608
        "GROUP BY ALL ORDER BY ALL"
    )
    return {
        "layers": next(iter(layers), None) if "layer_transitions" in tables else None,
        "is_decoded": not {"decoding_steps", "generations", "layer_transitions"}.isdisjoint(tables),
        "prompts": query(prompts),
        "steps": steps["steps"],
        "prompt_hashes": [row["hash"][:12] for row in hashes],
        "sampled": query(sampled) if "sampled_generations" in tables else [],
    }


def _prior_art(query: _Query, tables: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Return a sentence, and its keys, for every idea of others that the exported rows rest on."""
    found = []
    for table, which, sentence, keys in bibliography.PRIOR_ART:
        columns = "model" if table == "search_trials" else "model, recipe"
        if table in tables and query(
            f"SELECT 1 FROM {table} SEMI JOIN exported_variants USING ({columns}) WHERE {which} LIMIT 1"  # noqa: S608
        ):
            found.append((sentence, keys))
    return found


def _texts(query: _Query, known: Mapping[str, str]) -> list[dict[str, Any]]:
    rows = query(
        "SELECT text_id, text_hash, context, stride, max(scored) AS scored FROM (SELECT model, recipe, text_id, "  # noqa: S608
        f"text_hash, context, stride, count(*) AS scored FROM text_tokens GROUP BY ALL) {_OF_EXPORT} "
        "GROUP BY ALL ORDER BY ALL"
    )
    return [row | {"corpus": known.get(row["text_hash"])} for row in rows]


def _software(query: _Query, tables: Sequence[str]) -> dict[str, Any]:
    names = ", ".join(map(literal, {*tables, "variants"}))
    [software] = query(
        "SELECT list_sort(list(DISTINCT dtype)) AS dtypes, list_sort(list(DISTINCT device)) AS devices, "  # noqa: S608
        "list_sort(list(DISTINCT seed)) AS seeds, list(DISTINCT libraries_json) AS libraries, "
        "list_sort(list(DISTINCT table_name || ' ' || code_version)) AS codes FROM provenance "
        "SEMI JOIN exported_variants ON provenance.model = exported_variants.model "
        "AND coalesce(provenance.recipe, exported_variants.recipe) = exported_variants.recipe "
        f"WHERE dtype <> '' AND table_name IN ({names})"  # imported scores were computed elsewhere
    )
    libraries = {
        f"{name} {number}" for text in software["libraries"] or () for name, number in json.loads(text).items()
    }
    return {"software": software if software["dtypes"] else None, "libraries": sorted(libraries)}


def _markdown_code(text: str) -> str:
    fence, pad = ("``", " ") if "`" in text else ("`", "")
    return f"{fence}{pad}{' '.join(text.split())}{pad}{fence}"


def _latex_code(text: str) -> str:
    pieces = re.split(r"(?<=[/\-_.@])", text) if len(text) > _MAX_UNBROKEN else [text]
    return r"\texttt{" + r"\allowbreak{}".join(map(latex_escaped, pieces)) + "}"
