"""A SELECT over the views, and its restriction to a model, variant or prompt."""

from collections.abc import Mapping
from dataclasses import dataclass

VARIANT, PROMPT = ("model", "recipe"), ("model", "recipe", "prompt_id")


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
    """Return the statement with a filter by column values, spelled as the page spells it.

    Raises:
        ValueError: the rows may not be filtered by one of the columns.
    """
    if not set(where) <= set(query.narrow):
        raise ValueError(f"{query.title}: may be narrowed by {', '.join(query.narrow) or 'nothing'} only")
    escaped = {column: value.replace("'", "''") for column, value in where.items()}
    conditions = " and ".join(f"{column} = '{value}'" for column, value in escaped.items())
    return f"select * from ({query.sql}\n) where {conditions}"  # noqa: S608 - escaped, and our own column names
