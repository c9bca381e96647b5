"""Reads YAML that somebody wrote: plain data only, and never more of it than the text seems to hold. No torch here.

What the keys mean belongs to the caller.
"""

from pathlib import Path

import yaml

from prunescope.pipelines.core.errors import InputError

# A study is a page of text; anything larger is a mistake or an attack on the parser.
MAX_BYTES = 1_000_000
# Aliases written out count every time: ten lines of them can stand for a billion values.
MAX_VALUES = 100_000
MAX_DEPTH = 50


def read_yaml(path: Path, what: str = "", loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> object:
    """What stands in a YAML file.

    Args:
        path: the file, UTF-8.
        what: what it is, as it stands in front of its name in messages.
        loader: a safe loader that knows further tags.

    Raises:
        InputError: it cannot be read, is no YAML, or exceeds a limit of `parse_yaml`; names file, line and fix.
    """
    where = f"{what} {path}".strip()
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{where}: larger than {MAX_BYTES:,} bytes; split it or leave out what is not needed")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{where}: {error.strerror or error}; give the path of a readable YAML file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text at byte {error.start}; save it as UTF-8") from error
    return parse_yaml(text, where, loader)


def parse_yaml(text: str, where: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> object:
    """What a YAML text says.

    Args:
        text: one document.
        where: where it stands, as messages begin.
        loader: a safe loader that knows further tags.

    Raises:
        InputError: it is no YAML, is longer than `MAX_BYTES` characters, holds more than `MAX_VALUES` values with every
            alias written out, or is nested deeper than `MAX_DEPTH`; names the line.
    """
    if len(text) > MAX_BYTES:
        raise InputError(f"{where}: larger than {MAX_BYTES:,} bytes; split it or leave out what is not needed")
    try:
        parser = loader(text)
        node = parser.get_single_node()
        if node is None:
            return None
        _Sizes(where).check(node)
        found: object = parser.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise InputError(f"{where}:{line} not valid YAML: {getattr(error, 'problem', None) or error}") from error
    except RecursionError as error:
        raise InputError(f"{where}: nested deeper than {MAX_DEPTH} levels; no setting needs that") from error
    except (ValueError, OverflowError) as error:  # a date or number that has the form of one and is none
        raise InputError(f"{where}: not valid YAML: {error}; put texts into quotes") from error
    return found


class _Sizes:
    """How many values stand below each node, and how deep."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._known: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()

    def check(self, node: yaml.Node) -> tuple[int, int]:
        """Values and levels of a node; InputError where there are too many, or where it contains itself."""
        if (known := self._known.get(id(node))) is not None:
            return known
        if id(node) in self._open:
            raise self._refusal(node, "an alias stands inside what it names")
        self._open.add(id(node))
        below: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            below = [each for pair in node.value for each in pair]
        elif isinstance(node, yaml.SequenceNode):
            below = node.value
        values, depth = 1, 1
        for child in below:
            others, levels = self.check(child)
            values, depth = values + others, max(depth, 1 + levels)
            if values > MAX_VALUES:
                raise self._refusal(node, f"more than {MAX_VALUES:,} values, aliases written out")
            if depth > MAX_DEPTH:
                raise self._refusal(node, f"nested deeper than {MAX_DEPTH} levels")
        self._open.discard(id(node))
        self._known[id(node)] = values, depth
        return values, depth

    def _refusal(self, node: yaml.Node, why: str) -> InputError:
        return InputError(f"{self._where}: line {node.start_mark.line + 1}: {why}; no setting needs that")
