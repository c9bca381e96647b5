"""Regular expressions from studies and task definitions, with limits of time and size. No torch here.

Python's `re` cannot be stopped, and some patterns take years on a line of text. The package `regex` reads the same
patterns and stops at a deadline; RE2 would need none, but has no lookaround and other classes of letters.
"""

import importlib
import re
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import regex

from prunescope.pipelines.core.errors import InputError

# A usual search takes microseconds.
SECONDS = 2.0
# Of all searches of one pattern in a process together, beyond a tenth of a second for each.
TOTAL_SECONDS = 60.0
_USUAL_SECONDS = 0.1
MAX_LENGTH = 10_000
# `regex` writes out what a pattern repeats at least so many times.
MAX_EXPANDED = 100_000


class BoundedPattern:
    """A compiled pattern whose searches stop at a deadline.

    Args:
        pattern: the pattern; `re` must accept it too, which has fewer escapes.
        flags: those of `re`.

    Raises:
        ValueError: it is no pattern, or too large.
    """

    def __init__(self, pattern: str, flags: int = 0) -> None:
        if len(pattern) > MAX_LENGTH:
            raise ValueError(f"longer than {MAX_LENGTH:,} characters")
        try:
            self.groups = re.compile(pattern, flags).groups
            if _expanded(importlib.import_module("re._parser").parse(pattern, flags)) > MAX_EXPANDED:
                raise ValueError(f"its counted repetitions make over {MAX_EXPANDED:,} parts")
            self._compiled: Any = regex.compile(pattern, int(re.RegexFlag(flags)))
        except (re.error, regex.error, OverflowError) as error:
            raise ValueError(f"not a regular expression: {error}") from error
        except RecursionError as error:
            raise ValueError("not a regular expression: nested too deep") from error
        self.pattern = pattern
        self._excess = 0.0

    def search(self, text: str) -> Any:  # noqa: ANN401 (the library's match)
        """Return the first match, or None.

        Raises:
            InputError: it takes over `SECONDS`; so do the other methods.
        """
        return self._bounded(self._compiled.search, text)

    def findall(self, text: str) -> list[Any]:
        """Return the texts, or tuples of groups, of all matches."""
        found: list[Any] = self._bounded(self._compiled.findall, text)
        return found

    def sub(self, replacement: str, text: str, count: int = 0) -> str:
        """Return the text with matches replaced."""
        return str(self._bounded(self._compiled.sub, replacement, text, count))

    def _bounded(self, function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401
        started = time.monotonic()
        try:
            if self._excess <= TOTAL_SECONDS:
                return function(*arguments, timeout=SECONDS)
        except TimeoutError:
            pass
        finally:
            self._excess += max(0.0, time.monotonic() - started - _USUAL_SECONDS)
        # Outside of the handler, because a timeout among the causes of an error counts as one that may pass.
        shown = self.pattern if len(self.pattern) <= 80 else f"{self.pattern[:80]}…"
        raise InputError(
            f"regular expression {shown!r}: over {SECONDS:g} seconds on one text, or {TOTAL_SECONDS:g} on all; rewrite "
            "it without one repetition inside another, or without alternatives that match the same"
        )


class BoundedRe:
    """A stand-in for the module `re` in other libraries; what is not bounded here is `re`'s own."""

    @staticmethod
    def compile(pattern: str, flags: int = 0) -> BoundedPattern:
        """Return a bounded pattern."""
        return _cached(pattern, int(flags))

    @staticmethod
    def search(pattern: str, string: str, flags: int = 0) -> Any:  # noqa: ANN401
        """Return the first match, or None."""
        return _cached(pattern, int(flags)).search(string)

    @staticmethod
    def findall(pattern: str, string: str, flags: int = 0) -> list[Any]:
        """Return all matches."""
        return _cached(pattern, int(flags)).findall(string)

    @staticmethod
    def sub(pattern: str, repl: str, string: str, count: int = 0, flags: int = 0) -> str:
        """Return the text with matches replaced."""
        return _cached(pattern, int(flags)).sub(repl, string, count)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Return an attribute of `re`."""
        return getattr(re, name)


@lru_cache(maxsize=512)
def _cached(pattern: str, flags: int) -> BoundedPattern:
    return BoundedPattern(pattern, flags)


def _expanded(parsed: Any) -> int:  # noqa: ANN401 (the parser's own type)
    """Return the number of parts of a parsed pattern after its least repetitions are written out."""
    total = 0
    for operation, value in parsed:
        inner = sum(_expanded(part) for part in _subpatterns(value))
        least = value[0] if str(operation).endswith("REPEAT") else 1
        total += (1 + inner) * max(1, int(least))
    return total


def _subpatterns(value: Any) -> list[Any]:  # noqa: ANN401
    """Return the patterns directly inside an operation's value."""
    if type(value).__name__ == "SubPattern":
        return [value]
    return [part for item in value for part in _subpatterns(item)] if isinstance(value, (tuple, list)) else []
