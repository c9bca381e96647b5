"""The parts of the header in a view's SQL file, and the joins between tables that follow from their keys."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

_PART = re.compile(r"(grain|key|across|inputs|how to read|reason): *")


@dataclass(frozen=True)
class Header:
    """Parts of a header.

    Attributes:
        asks: its first paragraph, in a question's file the question.
        grain: such as "one row per model".
        key: columns that identify a row; empty if the view has one row.
        across: `models` if a row depends on several models; empty if it depends on its own alone.
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
