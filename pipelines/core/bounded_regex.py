"""Regular expressions from studies and task definitions, which stop at a deadline. No torch here.

The package `regex` reads the patterns of Python's `re`, some of which take years on a line of text, and has a timeout.
"""

import math
import re
from contextlib import suppress
from functools import lru_cache, partialmethod
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
    """A compiled pattern whose `search`, `findall` and `sub` stop at a deadline with `SlowPatternError`; flags of `re`.

    Raises:
        ValueError: it is not a regular expression, or too large.
    """

    def __init__(self, pattern: str, flags: int = 0) -> None:
        if math.prod(max(1, int(count)) for count in re.findall(r"\{(\d+)", pattern)) > MAX_PARTS:
            raise ValueError(f"its counted repetitions make over {MAX_PARTS:,} parts; lower the counts")
        try:
            self._compiled: Any = regex.compile(pattern, int(flags))
        except (regex.error, RecursionError) as error:
            raise ValueError(f"not a regular expression: {error}") from error
        self.groups = self._compiled.groups

    def _bounded(self, method: str, *arguments: Any, **more: Any) -> Any:  # noqa: ANN401 (the library's matches)
        with suppress(TimeoutError):
            return getattr(self._compiled, method)(*arguments, **more, timeout=SECONDS)
        # A timeout among the causes of an error would count as one that may pass.
        raise SlowPatternError(
            f"regular expression {self._compiled.pattern[:80]!r}: over {SECONDS:g} seconds on one text; rewrite it "
            "without one repetition inside another, or without alternatives that match the same"
        )

    search = partialmethod(_bounded, "search")
    findall = partialmethod(_bounded, "findall")
    sub = partialmethod(_bounded, "sub")


class BoundedRe:
    """A stand-in for the module `re` in other libraries; what is not bounded here is `re`'s own."""

    compile = staticmethod(lru_cache(maxsize=512)(BoundedPattern))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Return a function of `re`; the flags follow the other arguments by keyword."""
        if name in {"search", "findall", "sub"}:
            return lambda pattern, *texts, flags=0, **more: getattr(self.compile(pattern, flags), name)(*texts, **more)
        return getattr(re, name)
