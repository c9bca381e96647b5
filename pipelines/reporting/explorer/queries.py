"""Statements of every number, sentence and document except the figures, by the key that the page links to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prunescope.pipelines.core.quoting import literal
from prunescope.pipelines.reporting.charts.sql_files import read_sql

VARIANT = ("model", "recipe")
PROMPT = ("model", "recipe", "prompt_id")

# Files of `sql/explorer`, by the columns by which their rows may be narrowed.
_KEYS: dict[tuple[str, ...], str] = {
    (): "names",
    ("model",): (
        "lens search/allocation search/matrices answers/retrieval answers/sublayers answers/carriers answers/parts "
        "findings/flips findings/answers findings/first_token findings/feedback "
        "findings/noise findings/sampling findings/options findings/attention_or_mlp"
    ),
    VARIANT: (
        "written variants verdicts damage ranking losses perplexity ndcg task_means sparks layer_means carriers facts "
        "scores comparisons flips retrieval speed"
    ),
    PROMPT: "texts steps text_means top layers parts collapses options",
    ("model", "prompt_id"): "prompts",
    (*VARIANT, "kind"): "kinds",
    ("model", "claim", "measure"): "claims",
    ("claim", "measure"): "claims_by_model",
    ("model", "search", "trial"): "search/results",
    ("model", "text_id"): "findings/texts",
    ("model", "lens"): "findings/amplification",
    ("model", "theorem"): "findings/fit",
}


@dataclass(frozen=True)
class Query:
    """One SELECT over the views.

    Attributes:
        title: description of its rows.
        sql: the statement.
        narrow: columns by which rows may be filtered from outside without changing them; empty for totals.
    """

    title: str
    sql: str
    narrow: tuple[str, ...] = ()


def narrowed(query: Query, where: Mapping[str, str]) -> str:
    """Return the statement with a filter by column values, in the same spelling as the page's.

    Raises:
        ValueError: the rows may not be filtered by one of the columns.
    """
    if not set(where) <= set(query.narrow):
        raise ValueError(f"{query.title}: may be narrowed by {', '.join(query.narrow) or 'nothing'} only")
    conditions = " and ".join(f"{column} = {literal(value)}" for column, value in where.items())
    return f"select * from ({query.sql}\n) where {conditions}"  # noqa: S608 - escaped, and our own column names


def among(query: Query, texts: Sequence[tuple[str, str, str]]) -> str:
    """Return the statement with its rows narrowed to some texts, each given by model, recipe and prompt."""
    # The column filters are pushed down to the files; the tuples alone are not.
    literals = [tuple(map(literal, text)) for text in texts]
    columns = " and ".join(
        f"{column} in ({', '.join(dict.fromkeys(values))})"
        for column, values in zip(PROMPT, zip(*literals, strict=True), strict=True)
    )
    chosen = ", ".join(f"({', '.join(text)})" for text in literals)
    return f"select * from ({query.sql}\n) where {columns} and ({', '.join(PROMPT)}) in ({chosen})"  # noqa: S608 - escaped


STATEMENTS = {key: Query(*read_sql("explorer", key), narrow) for narrow, keys in _KEYS.items() for key in keys.split()}
FINDINGS = {key: query for key, query in STATEMENTS.items() if key.startswith("findings/")}
