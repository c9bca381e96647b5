"""Methods section of an export: one page, written from provenance, that cites what the exported rows used."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

import duckdb

from prunescope.warehouse.core.formats import markdown_escaped
from prunescope.warehouse.core.latex import latex_escaped
from prunescope.warehouse.export import bibliography

_HASH = 12
# LaTeX may break a longer name across lines; the longest are names of files.
_MAX_UNBROKEN = 20
# Name or citation within a paragraph. Its text is percent-encoded, so that it cannot contain the delimiter.
_MARKED = re.compile("\x1b(code|cite):([^\x1b]*)\x1b")
_OF_EXPORT = "SEMI JOIN exported_variants USING (model, recipe)"


@dataclass(frozen=True)
class Calibration:
    """Origin of a calibration set.

    Attributes:
        source: `embedded`, `c4`, `wikitext2`, the name of a file, or a data set.
        sequences: number of sequences.
        length: tokens per sequence.
        seed: seed of the draw.
        documents: whether windows span documents (`joined`) or not (`single`).
    """

    source: str
    sequences: int
    length: int
    seed: int
    documents: str


@dataclass(frozen=True)
class ProvenanceFacts:
    """Sources of the hashes in the footers, as far as the caller could verify them.

    Attributes:
        calibrations: sources by `calibration_hash` of the inputs.
        corpora: names by `text_hash`.
    """

    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    corpora: Mapping[str, str] = field(default_factory=dict)


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
    known: ProvenanceFacts,
    version: str,
) -> Methods:
    """Write the section.

    Args:
        connection: an open catalogue.
        used: model and recipe of every exported row.
        tables: tables that the exported views read.
        known: sources of hashes.
        version: version of this package.
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
        _prior_art(connection, tables),
        _texts(connection, tables, known),
        _software(connection, tables, version),
    ]
    texts = [paragraph for paragraph in paragraphs if paragraph]
    keys = [unquote(key) for kind, key in _MARKED.findall("".join(texts)) if kind == "cite"]
    markdown = "\n\n".join(_rendered(text, markdown_escaped, _markdown_code, "[@{}]") for text in texts)
    tex = "\n\n".join(_rendered(text, _latex_text, _latex_code, r"\cite{{{}}}") for text in texts)
    return Methods(
        f"## Methods\n\n{markdown}\n",
        # TeX does not hyphenate names, so lines may be loose instead of too long.
        f"\\paragraph{{Methods.}}\n{{\\sloppy\n{tex}\\par}}\n",
        bibliography.bibtex(keys, others),
    )


def _code(text: str) -> str:
    return f"\x1bcode:{quote(text)}\x1b"


def _codes(names: Iterable[str]) -> str:
    return ", ".join(map(_code, names))


def _cite(key: str) -> str:
    return f"\x1bcite:{quote(key)}\x1b"


def _rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = connection.sql(query).to_arrow_table().to_pylist()
    return rows


def _models(connection: duckdb.DuckDBPyConnection, others: dict[str, str]) -> str:
    sentences = []
    for row in _rows(connection, "FROM models SEMI JOIN exported_variants USING (model) ORDER BY model"):
        key = bibliography.of_model(row["model"], row["source"])
        # If the revision is not a commit of a hub, it is the hash of the weights.
        is_commit = row["revision"] != row["weight_hash"]
        if key is None:
            note = f"{'revision' if is_commit else 'SHA-256 of the weights'} {row['revision']}"
            key, others[key] = bibliography.misc(row["model"], row["source"], note)
        revision = f", revision {_code(str(row['revision'])[:_HASH])}" if is_commit else ""
        sentences.append(
            f"{_code(row['model'])} {_cite(key)} ({_code(row['architecture'])}, {row['layers']} layers, "
            f"{row['parameters']:,} parameters, {_stored(row['weight_format'])}"
            f"source {_code(row['source'])}{revision}, "
            f"SHA-256 of the weights {_code(row['weight_hash'][:_HASH])})"
        )
    return f"We studied {'; '.join(sentences)}." if sentences else ""


def _stored(weight_format: str | None) -> str:
    return "" if weight_format is None else f"weights stored as {weight_format}, "


def _recipes(connection: duckdb.DuckDBPyConnection) -> str:
    rows = _rows(
        connection,
        f"SELECT DISTINCT method, recipe, parameters_json FROM variants {_OF_EXPORT} "  # noqa: S608
        "WHERE method <> 'dense' ORDER BY method, recipe",
    )
    [[models]] = connection.execute("SELECT count(DISTINCT model) FROM exported_variants").fetchall()
    subject, baseline = ("The models were", "its dense model") if models > 1 else ("The model was", "the dense model")
    changes = []
    for method in dict.fromkeys(row["method"] for row in rows if row["method"] != "noise"):
        recipes = [row for row in rows if row["method"] == method]
        keys = dict.fromkeys(key for row in recipes for key in bibliography.of_recipe(method, row["parameters_json"]))
        names = _codes(row["recipe"] for row in recipes)
        changes.append(f"{' '.join([_code(method), *map(_cite, keys)])} ({names})")
    text = f"{subject} changed by {'; '.join(changes)}; every variant is compared with {baseline}." if changes else ""
    if noise := _codes(row["recipe"] for row in rows if row["method"] == "noise"):
        text += f" The dense model computed in another way ({noise}) gives the floor that rounding sets."
    return text


def _calibration(connection: duckdb.DuckDBPyConnection, known: ProvenanceFacts) -> str:
    rows = _rows(
        connection,
        "SELECT json_extract_string(inputs_json, '$.calibration_hash') AS calibration, "  # noqa: S608
        f"list(DISTINCT recipe ORDER BY recipe) AS recipes FROM provenance {_OF_EXPORT} "
        "WHERE table_name = 'variants' AND calibration IS NOT NULL GROUP BY calibration ORDER BY calibration",
    )
    sentences = []
    for row in rows:
        origin = ""
        if drawn := known.calibrations.get(row["calibration"]):
            within = "each within one document" if drawn.documents == "single" else "from the joined text"
            origin = (
                f"{drawn.sequences:,} sequences of {drawn.length:,} tokens from {_source(drawn.source)}, {within}, "
                f"drawn with seed {drawn.seed}; "
            )
        digest = _code(row["calibration"][:_HASH])
        sentences.append(
            f"Calibration of {_codes(row['recipes'])}: {origin}SHA-256 of its settings and contents {digest}."
        )
    return " ".join(sentences)


def _source(source: str) -> str:
    if source in bibliography.CORPORA:
        name, key = bibliography.CORPORA[source]
        return f"{name} {_cite(key)}"
    return "Python's help topics" if source == "embedded" else _code(source)


def _measures(connection: duckdb.DuckDBPyConnection, tables: Sequence[str]) -> str:
    text = (
        f"Measures follow {_cite(bibliography.PAPER)}: hidden states, logits and next-token probabilities of each "
        "variant against the dense model's."
    )
    if "layer_transitions" in tables:
        [row] = _rows(
            connection,
            "SELECT list(DISTINCT scope ORDER BY scope) AS scopes, list(DISTINCT lens ORDER BY lens) AS lenses, "  # noqa: S608
            "list(DISTINCT temperature ORDER BY temperature) AS temperatures, count(DISTINCT prompt_id) AS prompts "
            f"FROM layer_transitions {_OF_EXPORT}",
        )
        if row["scopes"]:
            temperatures = ", ".join(f"{temperature:g}" for temperature in row["temperatures"])
            text += (
                f" Layers were measured (prompts: {row['prompts']}) in scope {_codes(row['scopes'])}, read through "
                f"lens {_codes(row['lenses'])}, at T = {temperatures}."
            )
    prompts = _rows(
        connection,
        "SELECT kind, count(DISTINCT prompt_id) AS prompts "  # noqa: S608
        f"FROM generations {_OF_EXPORT} GROUP BY kind ORDER BY kind",
    )
    if prompts and {"decoding_steps", "generations", "layer_transitions"} & set(tables):
        [steps] = _rows(connection, f"SELECT max(step) + 1 AS steps FROM decoding_steps {_OF_EXPORT}")  # noqa: S608
        hashes = _rows(
            connection,
            "SELECT DISTINCT json_extract_string(inputs_json, '$.prompts_hash') AS hash "  # noqa: S608
            f"FROM provenance {_OF_EXPORT} WHERE hash IS NOT NULL ORDER BY hash",
        )
        kinds = ", ".join(f"{row['prompts']} {row['kind']}" for row in prompts)
        text += f" {sum(row['prompts'] for row in prompts)} prompts ({kinds}), decoded greedily"
        text += f" for at most {steps['steps']} tokens" if steps["steps"] else ""
        text += f"; SHA-256 of the prompts {_codes(row['hash'][:_HASH] for row in hashes)}" if hashes else ""
        text += "."
    if prompts and "sampled_generations" in tables:
        for row in _rows(
            connection,
            "SELECT temperature, top_p, max(sample) + 1 AS samples "  # noqa: S608
            f"FROM sampled_generations {_OF_EXPORT} GROUP BY ALL ORDER BY ALL",
        ):
            text += (
                f" {row['samples']} texts of each prompt were sampled at T = {row['temperature']:g}, top-p "
                f"{row['top_p']:g}, both models with the same Gumbel noise."
            )
    return text


def _prior_art(connection: duckdb.DuckDBPyConnection, tables: Sequence[str]) -> str:
    """Return one sentence per published idea that the exported rows depend on."""
    said = []
    for table, which, text, keys in bibliography.PRIOR_ART:
        columns = "model" if table == "search_trials" else "model, recipe"
        query = f"SELECT 1 FROM {table} SEMI JOIN exported_variants USING ({columns}) WHERE {which} LIMIT 1"  # noqa: S608
        if table in tables and _rows(connection, query):
            said.append(text.format(*map(_cite, keys)))
    return " ".join(said)


def _texts(connection: duckdb.DuckDBPyConnection, tables: Sequence[str], known: ProvenanceFacts) -> str:
    if "text_tokens" not in tables:
        return ""
    rows = _rows(
        connection,
        "SELECT text_id, text_hash, context, stride, max(scored) AS scored FROM (SELECT model, recipe, text_id, "  # noqa: S608
        f"text_hash, context, stride, count(*) AS scored FROM text_tokens GROUP BY ALL) {_OF_EXPORT} "
        "GROUP BY ALL ORDER BY ALL",
    )
    sentences = []
    for row in rows:
        corpus = known.corpora.get(row["text_hash"])
        sentences.append(
            f"Text {_code(row['text_id'])}{f' ({_source(corpus)})' if corpus else ''}: {row['scored']:,} tokens scored "
            f"in windows of {row['context']:,} every {row['stride']:,}, SHA-256 {_code(row['text_hash'][:_HASH])}."
        )
    return " ".join([*sentences, "Errors of text statistics take windows as the independent units."]) if rows else ""


def _software(connection: duckdb.DuckDBPyConnection, tables: Sequence[str], version: str) -> str:
    rows = _rows(
        connection,
        "SELECT table_name, device, dtype, seed, code_version, libraries_json FROM provenance "
        "SEMI JOIN exported_variants ON provenance.model = exported_variants.model "
        "AND coalesce(provenance.recipe, exported_variants.recipe) = exported_variants.recipe "
        "WHERE provenance.dtype <> ''",  # imported scores were computed elsewhere
    )
    rows = [row for row in rows if row["table_name"] in {*tables, "variants"}]
    if not rows:
        return ""

    def distinct(name: str) -> list[Any]:
        return sorted({row[name] for row in rows})

    libraries = {item for row in rows for item in json.loads(row["libraries_json"]).items()}
    codes = {(row["table_name"], row["code_version"]) for row in rows}
    listed = ", ".join(f"{name} {number}" for name, number in sorted(libraries))
    return (
        f"Weights were held in {_codes(distinct('dtype'))} on {_codes(distinct('device'))}, "
        f"seed {', '.join(map(str, distinct('seed')))}{f'; {listed}' if listed else ''}; "
        f"exported by Prunescope {version} (versions of its computations: "
        f"{', '.join(f'{table} {code}' for table, code in sorted(codes))})."
    )


def _rendered(paragraph: str, prose: Callable[[str], str], code: Callable[[str], str], cite: str) -> str:
    """Render prose, names and citations of a paragraph in one language."""
    pieces = []
    position = 0
    for match in _MARKED.finditer(paragraph):
        value = unquote(match[2])
        pieces += [
            prose(paragraph[position : match.start()]),
            code(value) if match[1] == "code" else cite.format(value),
        ]
        position = match.end()
    return "".join([*pieces, prose(paragraph[position:])])


def _markdown_code(text: str) -> str:
    fence, pad = ("``", " ") if "`" in text else ("`", "")
    return f"{fence}{pad}{' '.join(text.split())}{pad}{fence}"


def _latex_text(text: str) -> str:
    # `latex_escaped` strips white space, but spaces next to a name matter.
    after = " " * (text.endswith(" ") and not text.isspace())
    return f"{' ' * text.startswith(' ')}{latex_escaped(text)}{after}"


def _latex_code(text: str) -> str:
    pieces = re.split(r"(?<=[/\-_.@])", text) if len(text) > _MAX_UNBROKEN else [text]
    return r"\texttt{" + r"\allowbreak{}".join(map(latex_escaped, pieces)) + "}"
