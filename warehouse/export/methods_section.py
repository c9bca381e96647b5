"""A methods section of one page, from provenance: only what the exported rows stand on, and whom to cite for it.

Facts come from the footers and tables; what footers only have the hash of is told by the caller or stays a hash.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb

from prunescope.warehouse.core.formats import markdown_escaped
from prunescope.warehouse.export import bibliography
from prunescope.warehouse.export.latex_escape import latex

_HASH = 12
# Longer names, of files above all, may go on in the next line.
_LONGEST_UNBROKEN = 20


@dataclass(frozen=True)
class Calibration:
    """How a calibration set was drawn.

    Attributes:
        source: `embedded`, `c4`, `wikitext2`, a file's name, or a data set.
        sequences: how many.
        length: tokens of each.
        seed: of the draw.
        documents: whether windows span documents (`joined`) or not (`single`).
    """

    source: str
    sequences: int
    length: int
    seed: int
    documents: str


@dataclass(frozen=True)
class ProvenanceFacts:
    """What hashes in the footers stand for, where somebody could prove it.

    Attributes:
        calibrations: by `calibration_hash` of the inputs.
        corpora: name by `text_hash`.
    """

    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    corpora: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Methods:
    """The section in both languages, and its bibliography."""

    markdown: str
    latex: str
    bibtex: str


@dataclass(frozen=True)
class _Code:
    """A name, set in a typewriter font."""

    text: str


@dataclass(frozen=True)
class _Cite:
    """A citation."""

    key: str


_Part = str | _Code | _Cite
_Row = dict[str, Any]


def methods(
    connection: duckdb.DuckDBPyConnection,
    used: Iterable[tuple[str, str]],
    tables: Sequence[str],
    known: ProvenanceFacts,
    version: str,
) -> Methods:
    """Writes the section.

    Args:
        connection: an open catalogue.
        used: model and recipe of every exported row.
        tables: tables that the exported views read.
        known: what hashes stand for.
        version: of this package.
    """
    pairs = sorted(set(used))
    connection.execute("CREATE OR REPLACE TEMP TABLE exported_variants (model VARCHAR, recipe VARCHAR)")
    if pairs:
        connection.executemany("INSERT INTO exported_variants VALUES (?, ?)", [list(pair) for pair in pairs])
    others: dict[str, str] = {}
    paragraphs = [
        _models(connection, others),
        _recipes(connection),
        _calibration(connection, known),
        _measures(connection, tables),
        _texts(connection, tables, known),
        _software(connection, tables, version),
    ]
    kept = [parts for parts in paragraphs if parts]
    keys = [part.key for parts in kept for part in parts if isinstance(part, _Cite)]
    return Methods(
        "## Methods\n\n" + "\n\n".join("".join(map(_markdown, parts)) for parts in kept) + "\n",
        # Names do not hyphenate: lines may be loose instead of too long.
        "\\paragraph{Methods.}\n{\\sloppy\n" + "\n\n".join("".join(map(_latex, parts)) for parts in kept) + "\\par}\n",
        bibliography.bibtex(keys, others),
    )


def _rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[_Row]:
    found: list[_Row] = connection.sql(query).to_arrow_table().to_pylist()
    return found


def _models(connection: duckdb.DuckDBPyConnection, others: dict[str, str]) -> list[_Part]:
    rows = _rows(connection, "FROM models SEMI JOIN exported_variants USING (model) ORDER BY model")
    parts: list[_Part] = ["We studied " if rows else ""]
    for index, row in enumerate(rows):
        key = bibliography.of_model(row["model"], row["source"])
        if key is None:
            revision = row["revision"]
            note = f"revision {revision}" if revision != row["weight_hash"] else f"SHA-256 of the weights {revision}"
            key, entry = bibliography.misc(row["model"], row["source"], note)
            others[key] = entry
        # A model that is no commit of a hub's has the hash of its weights for its revision.
        is_commit = row["revision"] != row["weight_hash"]
        parts += [
            "; " if index else "",
            *(_Code(row["model"]), " ", _Cite(key), " ("),
            *(_Code(row["architecture"]), f", {row['layers']} layers, {row['parameters']:,} parameters, source "),
            *(_Code(row["source"]), *((", revision ", _Code(str(row["revision"])[:_HASH])) if is_commit else ())),
            *(", SHA-256 of the weights ", _Code(row["weight_hash"][:_HASH]), ")"),
        ]
    return [*parts, "."] if rows else []


def _recipes(connection: duckdb.DuckDBPyConnection) -> list[_Part]:
    rows = _rows(
        connection,
        "SELECT DISTINCT method, recipe, parameters_json FROM variants SEMI JOIN exported_variants "
        "USING (model, recipe) WHERE method <> 'dense' ORDER BY method, recipe",
    )
    [[models]] = connection.execute("SELECT count(DISTINCT model) FROM exported_variants").fetchall()
    subject, baseline = ("The models were", "its dense model") if models > 1 else ("The model was", "the dense model")
    by_method: dict[str, list[_Row]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    parts: list[_Part] = []
    for method, recipes in by_method.items():
        if method == "noise":
            continue
        keys = dict.fromkeys(
            key for row in recipes for key in bibliography.of_recipe(row["method"], row["parameters_json"])
        )
        parts += ["; " if parts else f"{subject} changed by ", _Code(method)]
        parts += [part for key in keys for part in (" ", _Cite(key))]
        parts += [" (", *_listed([row["recipe"] for row in recipes]), ")"]
    if parts:
        parts.append(f"; every variant is compared with {baseline}.")
    if noise := [row["recipe"] for row in by_method.get("noise", [])]:
        parts += [
            " The dense model computed in another way (",
            *_listed(noise),
            ") gives the floor that rounding sets.",
        ]
    return parts


def _calibration(connection: duckdb.DuckDBPyConnection, known: ProvenanceFacts) -> list[_Part]:
    rows = _rows(
        connection,
        "SELECT json_extract_string(inputs_json, '$.calibration_hash') AS calibration, "
        "list(DISTINCT recipe ORDER BY recipe) AS recipes FROM provenance SEMI JOIN exported_variants "
        "USING (model, recipe) WHERE table_name = 'variants' AND calibration IS NOT NULL "
        "GROUP BY calibration ORDER BY calibration",
    )
    parts: list[_Part] = []
    for row in rows:
        parts += [" " if parts else "", "Calibration of ", *_listed(row["recipes"]), ": "]
        drawn = known.calibrations.get(row["calibration"])
        if drawn is not None:
            parts += [f"{drawn.sequences:,} sequences of {drawn.length:,} tokens from ", *_source(drawn.source)]
            within = "each within one document" if drawn.documents == "single" else "from the joined text"
            parts += [f", {within}, drawn with seed {drawn.seed}; "]
        parts += ["SHA-256 of its settings and contents ", _Code(row["calibration"][:_HASH]), "."]
    return parts


def _source(source: str) -> list[_Part]:
    if source in bibliography.CORPORA:
        name = {"c4": "C4", "wikitext2": "WikiText-2"}[source]
        return [f"{name} ", _Cite(bibliography.CORPORA[source])]
    if source == "embedded":
        return ["Python's help topics"]
    return [_Code(source)]


def _measures(connection: duckdb.DuckDBPyConnection, tables: Sequence[str]) -> list[_Part]:
    parts: list[_Part] = ["Measures follow ", _Cite(bibliography.PAPER)]
    parts += [": hidden states, logits and next-token probabilities of each variant against the dense model's."]
    if "layer_transitions" in tables:
        [row] = _rows(
            connection,
            "SELECT list(DISTINCT scope ORDER BY scope) AS scopes, list(DISTINCT lens ORDER BY lens) AS lenses, "
            "list(DISTINCT temperature ORDER BY temperature) AS temperatures "
            "FROM layer_transitions SEMI JOIN exported_variants USING (model, recipe)",
        )
        if row["scopes"]:
            temperatures = ", ".join(f"{temperature:g}" for temperature in row["temperatures"])
            parts += [" Layers were measured in scope ", *_listed(row["scopes"]), ", seen through lens "]
            parts += [*_listed(row["lenses"]), f", at T = {temperatures}."]
    prompts = _rows(
        connection,
        "SELECT kind, count(DISTINCT prompt_id) AS prompts FROM generations SEMI JOIN exported_variants "
        "USING (model, recipe) GROUP BY kind ORDER BY kind",
    )
    if prompts and {"decoding_steps", "generations", "layer_transitions"} & set(tables):
        [steps] = _rows(
            connection,
            "SELECT max(step) + 1 AS steps FROM decoding_steps SEMI JOIN exported_variants USING (model, recipe)",
        )
        kinds = ", ".join(f"{row['prompts']} {row['kind']}" for row in prompts)
        total = sum(row["prompts"] for row in prompts)
        parts.append(f" {total} prompts ({kinds}), decoded greedily")
        parts.append(f" for {steps['steps']} tokens" if steps["steps"] else "")
        parts += [*_hashes(connection, "prompts_hash", "; SHA-256 of the prompts "), "."]
    return parts


def _texts(connection: duckdb.DuckDBPyConnection, tables: Sequence[str], known: ProvenanceFacts) -> list[_Part]:
    if "text_tokens" not in tables:
        return []
    rows = _rows(
        connection,
        "SELECT text_id, text_hash, context, stride, max(scored) AS scored FROM (SELECT model, recipe, text_id, "
        "text_hash, context, stride, count(*) AS scored FROM text_tokens GROUP BY ALL) SEMI JOIN exported_variants "
        "USING (model, recipe) GROUP BY ALL ORDER BY ALL",
    )
    parts: list[_Part] = []
    for row in rows:
        corpus = known.corpora.get(row["text_hash"])
        parts += [" " if parts else "", "Text ", _Code(row["text_id"])]
        parts += [" (", *_source(corpus), ")"] if corpus else []
        parts += [
            f": {row['scored']:,} tokens scored in windows of {row['context']:,} every {row['stride']:,}, SHA-256 "
        ]
        parts += [_Code(row["text_hash"][:_HASH]), "."]
    return [*parts, " Errors of text statistics take windows as the independent units."] if parts else []


def _software(connection: duckdb.DuckDBPyConnection, tables: Sequence[str], version: str) -> list[_Part]:
    rows = _rows(
        connection,
        "SELECT table_name, device, dtype, seed, code_version, libraries_json FROM provenance "
        "SEMI JOIN exported_variants ON provenance.model = exported_variants.model "
        "AND coalesce(provenance.recipe, exported_variants.recipe) = exported_variants.recipe",
    )
    rows = [row for row in rows if row["table_name"] in {*tables, "variants"}]
    if not rows:
        return []
    libraries = sorted({(name, of) for row in rows for name, of in json.loads(row["libraries_json"]).items()})
    codes = sorted({(row["table_name"], row["code_version"]) for row in rows})
    seeds = sorted({row["seed"] for row in rows})
    parts: list[_Part] = ["Weights were held in ", *_listed(sorted({row["dtype"] for row in rows}))]
    parts += [" on ", *_listed(sorted({row["device"] for row in rows}))]
    parts += [
        f", seed {', '.join(map(str, seeds))}",
        *(f"{', ' if at else '; '}{name} {of}" for at, (name, of) in enumerate(libraries)),
    ]
    parts += [f"; exported by Prunescope {version} (versions of its computations: "]
    return [*parts, ", ".join(f"{table} {code}" for table, code in codes), ")."]


def _hashes(connection: duckdb.DuckDBPyConnection, name: str, before: str) -> list[_Part]:
    rows = _rows(
        connection,
        f"SELECT DISTINCT json_extract_string(inputs_json, '$.{name}') AS hash FROM provenance "  # noqa: S608
        "SEMI JOIN exported_variants USING (model, recipe) WHERE hash IS NOT NULL ORDER BY hash",
    )
    return [before, *_listed([row["hash"][:_HASH] for row in rows])] if rows else []


def _listed(names: Sequence[str]) -> list[_Part]:
    return [part for index, name in enumerate(names) for part in (", " if index else "", _Code(name))]


def _markdown(part: _Part) -> str:
    match part:
        case _Code():
            fence = "``" if "`" in part.text else "`"
            pad = " " if "`" in part.text else ""
            return f"{fence}{pad}{' '.join(part.text.split())}{pad}{fence}"
        case _Cite():
            return f"[@{part.key}]"
        case _:
            return markdown_escaped(part)


def _latex(part: _Part) -> str:
    match part:
        case _Code():
            pieces = re.split(r"(?<=[/\-_.@])", part.text) if len(part.text) > _LONGEST_UNBROKEN else [part.text]
            return r"\texttt{" + r"\allowbreak{}".join(map(latex, pieces)) + "}"
        case _Cite():
            return rf"\cite{{{part.key}}}"
        case _:
            # The sentence's own spaces count; the escape joins them.
            left, right = " " * part.startswith(" "), " " * (part.endswith(" ") and bool(part.strip()))
            return f"{left}{latex(part)}{right}"
