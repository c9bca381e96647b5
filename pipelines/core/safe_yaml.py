"""Reader of YAML: plain data only, without repeated keys, and with limits on size and values.

No torch here.
"""

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.regular_files import local_path, read_regular, readable

# A study is a page of text.
MAX_BYTES = 1_000_000
# An alias counts at every use: ten lines of nested aliases expand to a billion values.
MAX_VALUES = 100_000
_composed = lru_cache(maxsize=1)(yaml.compose)  # a study asks for the places of many keys
# Numbers of YAML 1.1 that readers take for something else: 1:30 is 90, and 010 is 8.
_BASE_60_OR_8 = re.compile(r"[-+]?(?:[0-9_]+(?::[0-5]?[0-9])+(?:\.[0-9_]*)?|0[0-7_]+)")


class PlainLoader(yaml.SafeLoader):
    """Loader of plain data that reads `1:30` and `010` as texts."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:  # noqa: ANN401 (the library's)
        """Return the tag of a node."""
        if kind is yaml.ScalarNode and implicit[0] and _BASE_60_OR_8.fullmatch(value):
            return self.DEFAULT_SCALAR_TAG
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]


def read_yaml(path: Path, what: str = "", loader: type[PlainLoader] = PlainLoader, *, unique: bool = True) -> object:
    """Return the content of a YAML file; `what` names its kind in messages.

    Raises:
        InputError: it cannot be read, or as in `parse_yaml`; names file, line and fix.
    """
    where = f"{what} {path}".strip()
    local_path(str(path), what or "file")
    with readable(where, "give the path of a readable YAML file"):
        text = read_regular(path, MAX_BYTES, "a YAML file")
    return parse_yaml(text, where, loader, unique=unique)


def parse_yaml(text: str, where: str, loader: type[PlainLoader] = PlainLoader, *, unique: bool = True) -> object:
    """Return the content of a YAML document.

    Args:
        text: the document.
        where: its origin, for messages.
        loader: a loader that knows more tags.
        unique: whether to refuse a key that a mapping repeats; its last value would win otherwise.

    Raises:
        InputError: it is not YAML, repeats a key, is longer than `MAX_BYTES` characters, or holds more than
            `MAX_VALUES` values with aliases expanded; names the line.
    """
    if len(text) > MAX_BYTES:
        raise InputError(f"{where}: larger than {MAX_BYTES:,} bytes; split it or leave out what is not needed")
    try:
        parser = loader(text)
        node = parser.get_single_node()
        if node is None:
            return None
        if _values(node, where, {}, unique=unique) > MAX_VALUES:
            raise InputError(f"{where}: more than {MAX_VALUES:,} values with aliases expanded; no setting needs that")
        return parser.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = str(getattr(error, "problem", None) or error)
        fix = "; indent by spaces" if "\\t" in problem else "; put texts with signs such as : ? # into quotes"
        raise InputError(f"{where}:{line} not valid YAML: {problem}{fix}") from error
    except (RecursionError, ValueError, OverflowError) as error:  # also an impossible date, or a number too long
        deep, wrong = "nested too deep; no setting needs that", f"not valid YAML: {error}; put texts into quotes"
        raise InputError(f"{where}: {deep if isinstance(error, RecursionError) else wrong}") from error


def _values(node: yaml.Node, where: str, known: dict[int, float], *, unique: bool) -> float:
    """Return the number of a node's values with aliases expanded; infinite if the node contains itself.

    Raises:
        InputError: `unique` is set and a mapping repeats a key.
    """
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = math.inf
    children: list[yaml.Node] = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
        lines: dict[tuple[str, str], int] = {}
        for key in (key for key, _ in node.value if unique and isinstance(key, yaml.ScalarNode)):
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                raise InputError(
                    f"{where}: line {line}: `{key.value[:80]}` is set on line {lines[name]} already; leave one out"
                )
            lines[name] = line
    known[id(node)] = 1 + sum(_values(child, where, known, unique=unique) for child in children)
    return known[id(node)]


def key_place(path: Path | str, keys: Sequence[str | int], shown: Sequence[str | int] | None = None) -> str:
    """Return the file, the line and the path of a key, for messages; without the line if no file has it.

    Args:
        path: the file.
        keys: keys of mappings and positions in lists, from the outermost; the last ones may be missing in the file.
        shown: the keys as the message shows them, if they differ.
    """
    where = str(path)
    with suppress(OSError, yaml.YAMLError, InputError):
        node = _composed(read_regular(Path(path), MAX_BYTES), PlainLoader)
        for key in map(str, keys):
            children: dict[str, tuple[yaml.Node, yaml.Node]] = {}
            if isinstance(node, yaml.MappingNode):
                children = {str(name.value): (name, value) for name, value in node.value}
            elif isinstance(node, yaml.SequenceNode):
                children = {str(place): (value, value) for place, value in enumerate(node.value)}
            if key not in children:
                break
            name, node = children[key]
            where = f"{path}: line {name.start_mark.line + 1}"
    dotted = ".".join(map(str, keys if shown is None else shown))
    return f"{where}: `{dotted}`" if dotted else where
