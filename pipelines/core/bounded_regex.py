"""Regular expressions from studies and task definitions, which stop at a deadline. No torch here.

Python's `re` cannot be stopped, and some patterns take years on a line of text. The package `regex` reads the same
patterns and has a timeout.
"""

import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import regex

from prunescope.pipelines.core.errors import InputError

# A usual search takes microseconds.
SECONDS = 2.0
# `regex` writes counted repetitions out: a million parts take 0.3 seconds and 400 MB.
MAX_PARTS = 1_000_000


class SlowPatternError(InputError):
    """A search that ran into its deadline; the message names the pattern and the fix."""


class BoundedPattern:
    """A compiled pattern whose searches stop at a deadline.

    Args:
        pattern: the pattern; `re` must accept it too, which has fewer escapes.
        flags: those of `re`.

    Raises:
        ValueError: it is not a regular expression, or too large.
    """

    def __init__(self, pattern: str, flags: int = 0) -> None:
        if math.prod(max(1, int(count)) for count in re.findall(r"\{(\d+)", pattern)) > MAX_PARTS:
            raise ValueError(f"its counted repetitions make over {MAX_PARTS:,} parts; lower the counts")
        try:
            self.groups = re.compile(pattern, flags).groups
            self._compiled: Any = regex.compile(pattern, int(flags))
        except (re.error, regex.error, OverflowError) as error:
            raise ValueError(f"not a regular expression: {error}") from error
        except RecursionError as error:
            raise ValueError("not a regular expression: nested too deep") from error
        self._shown = pattern if len(pattern) <= 80 else f"{pattern[:80]}…"

    def search(self, text: str) -> Any:  # noqa: ANN401 (the library's match)
        """Return the first match, or None.

        Raises:
            SlowPatternError: it takes over `SECONDS`; the other methods raise it too.
        """
        return self._bounded(self._compiled.search, text)

    def findall(self, text: str) -> Any:  # noqa: ANN401
        """Return the texts, or tuples of groups, of all matches."""
        return self._bounded(self._compiled.findall, text)

    def sub(self, replacement: str, text: str, count: int = 0) -> Any:  # noqa: ANN401
        """Return the text with matches replaced."""
        return self._bounded(self._compiled.sub, replacement, text, count)

    def _bounded(self, function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401
        try:
            return function(*arguments, timeout=SECONDS)
        except TimeoutError:
            pass
        # Outside of the handler, because a timeout among the causes of an error counts as one that may pass.
        raise SlowPatternError(
            f"regular expression {self._shown!r}: over {SECONDS:g} seconds on one text; rewrite it without one "
            "repetition inside another, or without alternatives that match the same"
        )


class BoundedRe:
    """A stand-in for the module `re` in other libraries; what is not bounded here is `re`'s own."""

    compile = staticmethod(lru_cache(maxsize=512)(BoundedPattern))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Return a function of `re`; the flags follow the other arguments by keyword."""
        if name in {"search", "findall", "sub"}:
            return lambda pattern, *texts, flags=0, **more: getattr(self.compile(pattern, flags), name)(*texts, **more)
        return getattr(re, name)
