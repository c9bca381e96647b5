"""The parts of the header in a view's SQL file, and the joins between tables that follow from their keys."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

# A position or step means nothing without its sequence of tokens.
_POSITIONS, _SEQUENCES = {"position", "step"}, {"prompt_id", "text_id"}
_PART = re.compile(r"(grain|key|across|inputs|how to read|reason): *")


@dataclass(frozen=True)
class Header:
    """Parts of a header.

    Attributes:
        asks: its first paragraph, in a question's file the question.
        grain: such as "one row per model".
        key: columns that identify a row; empty where the view has one row.
        across: `models` where a row depends on several models; empty where it depends on its own alone.
        inputs: the tables and views that it reads.
        how_to_read: guidance for reading the numbers.
        reason: purpose of the view.
    """

    asks: str
    grain: str
    key: tuple[str, ...]
    across: str
    inputs: str
    how_to_read: str
    reason: str

    def reading(self) -> str:
        """Return the first sentence of `how_to_read`."""
        return re.split(r"(?<=[.;:])\s", self.how_to_read, maxsplit=1)[0].rstrip(".;:")


def split(header: str) -> dict[str, str]:
    """Return the parts of `View.header` by name, in its order: `asks`, the first paragraph, then `grain` and others."""
    parts = {"asks": ""}
    part = "asks"
    for line in header.splitlines():
        if begins := _PART.match(line):
            part = begins[1]
        parts[part] = f"{parts.get(part, '')} {line.removeprefix(begins[0] if begins else '')}".strip()
    return parts


def parse(header: str) -> Header:
    """Parse the text of `View.header`."""
    parts = split(header)
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
    """Return, by table, the columns of a join in which each row matches at most one row of that table."""
    return {other: key for other, key in keys.items() if other != name and key and set(key) <= set(columns)}


def finer(name: str, columns: Collection[str], keys: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return, by table, the columns of a join in which each row matches several rows, by more than the variant."""
    shared = {other: tuple(column for column in key if column in columns) for other, key in keys.items()}
    return {
        other: using
        for other, using in shared.items()
        if other != name
        and set(using) > {"model", "recipe"}
        and set(using) != set(keys[other])
        and (not _POSITIONS & set(using) or _SEQUENCES & set(keys[other]) <= set(using))
    }


def forced(name: str, other: str, columns: Mapping[str, Collection[str]]) -> str:
    """Return the condition that a join of two tables needs so that both rows are of the same tokens, or nothing.

    A table with positions of a prompt and no trajectory was measured on the dense model's tokens; without the condition
    its rows would also match those of a free-running generation with other tokens.
    """
    if name not in columns or other not in columns or not all("prompt_id" in columns[table] for table in (name, other)):
        return ""
    bare = [table for table in (name, other) if "trajectory" not in columns[table]]
    is_mixed = len(bare) == 1 and "position" in columns[bare[0]]
    return " WHERE trajectory = 'teacher_forced'" if is_mixed else ""
