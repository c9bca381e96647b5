"""Names of the parts of a study, made from their sources. No torch here."""

import re
from pathlib import Path


def name_from(source: str) -> str:
    """Return a name from the last part of a source; empty if that has no letter and no digit."""
    # A hub id loses its revision; a path may hold an @.
    hub_id = re.sub(r"^((?:\w[\w.-]*/)?\w[\w.-]*)@(refs/.*|[^/]*)$", r"\1", source.removeprefix("embedded:"))
    last = Path(hub_id.rstrip("/")).name
    stem = re.sub(r"\.(gguf|ya?ml|txt|parquet|(csv|tsv|ndjson|jsonl?)(\.[gx]z)?)$", "", last.lower())
    return re.sub(r"[^a-z0-9._-]+", "-", stem).strip("-._")[:100]


def with_name(fields: object, source: str, *, key: str = "name", default: str = "") -> object:
    """Return what a YAML has for a part of a study, as a mapping with a name.

    Args:
        fields: a mapping, or the value of `source` alone; anything else is returned as it is, for pydantic to refuse.
        source: the key from whose value the name is made.
        key: the key of the name.
        default: value of `source` if the mapping has none.
    """
    if isinstance(fields, str):
        fields = {source: fields}
    if not isinstance(fields, dict) or key in fields or not isinstance(found := fields.get(source, default), str):
        return fields
    return fields | ({key: name} if (name := name_from(found)) else {})
