"""The header of a view's SQL file in its parts, and which tables a table joins to without multiplying rows.

Reads text only; what a column means is `explanations`' business.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

# A position or step says nothing without the sequence of tokens that it counts in.
_PLACES, _SEQUENCES = {"position", "step"}, {"prompt_id", "text_id"}
_PART = re.compile(r"(grain|key|across|inputs|how to read|reason): *")


@dataclass(frozen=True)
class Header:
    """What a header says.

    Attributes:
        asks: its first sentence, which a question's file asks.
        grain: what one row is, such as "one row per model".
        key: columns that identify a row; empty where the view has one row.
        across: what its rows relate, `models`; empty where a row follows from its own model alone.
        inputs: the tables and views that it reads.
        how_to_read: what to know before reading the numbers.
        reason: why someone asks.
    """

    asks: str
    grain: str
    key: tuple[str, ...]
    across: str
    inputs: str
    how_to_read: str
    reason: str

    def reading(self) -> str:
        """The first sentence of how to read it."""
        return re.split(r"(?<=[.;:])\s", self.how_to_read, maxsplit=1)[0].rstrip(".;:")


def parse(header: str) -> Header:
    """The parts of a header, as `View.header` has it."""
    parts = {"asks": ""}
    part = "asks"
    for line in header.splitlines():
        if begins := _PART.match(line):
            part = begins[1]
        parts[part] = f"{parts.get(part, '')} {line.removeprefix(begins[0] if begins else '')}".strip()
    key = re.findall(r"\w+", parts.get("key", ""))
    return Header(
        asks=parts["asks"],
        grain=parts.get("grain", "").rstrip("."),
        key=tuple(key) if key != ["none"] else (),
        across=parts.get("across", ""),
        inputs=parts.get("inputs", ""),
        how_to_read=parts.get("how to read", ""),
        reason=parts.get("reason", ""),
    )


def joins(name: str, columns: Collection[str], keys: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """What each row of a table finds at most once elsewhere: the other table, and the columns to join with.

    Args:
        name: the table.
        columns: its columns.
        keys: the keys of all tables, this one's among them.
    """
    return {other: key for other, key in keys.items() if other != name and key and set(key) <= set(columns)}


def finer(name: str, columns: Collection[str], keys: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """What each row of a table finds several times elsewhere, told by more than the variant: the table, the columns.

    Args:
        name: the table.
        columns: its columns.
        keys: the keys of all tables, this one's among them.
    """
    shared = {other: tuple(column for column in key if column in columns) for other, key in keys.items()}
    return {
        other: using
        for other, using in shared.items()
        if other != name
        and set(using) > {"model", "recipe"}
        and set(using) != set(keys[other])
        and (not _PLACES & set(using) or _SEQUENCES & set(keys[other]) <= set(using))
    }


def forced(name: str, other: str, columns: Mapping[str, Collection[str]]) -> str:
    """What a join of two tables must add so that both rows are of the same tokens; empty where nothing.

    A table with places of a prompt and no trajectory was measured on the dense model's tokens, and the place alone does
    not keep it from the rows of a generation that went elsewhere.

    Args:
        name: the one table.
        other: the other table.
        columns: the columns of the stored tables.
    """
    if name not in columns or other not in columns or not all("prompt_id" in columns[table] for table in (name, other)):
        return ""
    bare = [table for table in (name, other) if "trajectory" not in columns[table]]
    is_mixed = len(bare) == 1 and "position" in columns[bare[0]]
    return " WHERE trajectory = 'teacher_forced'" if is_mixed else ""
