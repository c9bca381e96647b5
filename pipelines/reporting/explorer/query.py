"""One SELECT over the views, and its rows of one model, variant or prompt. Which there are stands in `statements`."""

from collections.abc import Mapping
from dataclasses import dataclass

VARIANT, PROMPT = ("model", "recipe"), ("model", "recipe", "prompt_id")


@dataclass(frozen=True)
class Query:
    """One SELECT over the views.

    Attributes:
        title: what its rows are.
        sql: the statement.
        narrow: columns by which rows may be chosen from outside without changing them; empty for sums over all.
    """

    title: str
    sql: str
    narrow: tuple[str, ...] = ()


def narrowed(query: Query, wanted: Mapping[str, str]) -> str:
    """The statement for some of its rows only, spelled as the page spells it.

    Raises:
        ValueError: its rows may not be chosen by one of the columns.
    """
    if not set(wanted) <= set(query.narrow):
        raise ValueError(f"{query.title}: may be narrowed by {', '.join(query.narrow) or 'nothing'} only")
    conditions = " and ".join(f"{column} = {_literal(value)}" for column, value in wanted.items())
    return f"select * from ({query.sql}\n) where {conditions}"  # noqa: S608 - quoted, for a column of ours


def _literal(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
