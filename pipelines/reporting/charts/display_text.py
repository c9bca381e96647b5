"""Display of text and numbers: invisible characters become visible, long texts are cut, numbers are rounded.

The code that writes HTML and JSON does the escaping.
"""

import math
import unicodedata
from collections.abc import Collection
from functools import lru_cache

_SYMBOLS = {" ": "␣", "\n": "↵", "\t": "⇥"}
# Control, format (direction marks, joiners), line and paragraph separators, private use, unassigned.
_INVISIBLE = {"Cc", "Cf", "Zl", "Zp", "Co", "Cn", "Cs"}
# A token of a space other than U+0020 would look empty.
_INVISIBLE_IN_TOKEN = {*_INVISIBLE, "Zs"}
# Running text keeps its line breaks, and the joiners that Indic scripts, Persian and emoji need.
_KEPT_IN_PROSE = "\n\t\u200c\u200d"


def _columns(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _show(character: str, hidden: Collection[str] = _INVISIBLE) -> str:
    return f"⟨{ord(character):X}⟩" if unicodedata.category(character) in hidden else character


def visible(token: str, limit: int) -> str:
    """Format a token or name on one line: space, newline and tab as symbols, other invisible ones as numbers.

    Args:
        token: any text, of any length.
        limit: maximum columns of a fixed-width font; a longer text ends in an ellipsis.
    """
    # Cut before the cached call, so that the cache holds no long texts.
    return _visible(token[: limit + 1], limit)


@lru_cache(maxsize=1 << 14)  # a report repeats the same few thousand tokens
def _visible(token: str, limit: int) -> str:
    shown, used = "", 0
    for character in token:
        piece = _SYMBOLS.get(character) or _show(character, _INVISIBLE_IN_TOKEN)
        width = sum(map(_columns, piece))
        if used + width > limit:
            break
        shown += piece
        used += width
    else:
        return shown
    while shown and used > limit - 1:
        used -= _columns(shown[-1])
        shown = shown[:-1]
    return shown + "…"


def label(name: str, limit: int = 40) -> str:
    """Format a model, recipe or prompt name: like `visible`, but a space stays a space."""
    return visible(name, limit).replace(_SYMBOLS[" "], " ")


def prose(text: str, limit: int = 4000) -> str:
    """Format running text: keep line breaks, show direction and control characters as numbers, cut at `limit`."""
    shown = "".join(character if character in _KEPT_IN_PROSE else _show(character) for character in text[:limit])
    return shown if len(text) <= limit else f"{shown}… (cut: {limit:,} of {len(text):,} characters shown)"


def number(value: float) -> str:
    """Format a number with three significant digits and all digits before the point, as 0.123 and 12,346.

    Below 0.001 and from 100,000 on, with two significant digits and an exponent, as 1.2e-4.
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 0.001 <= abs(value) < 100_000:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def percent(share: float, digits: int = 1, unit: str = " %") -> str:
    """Format a share in per cent with some decimals; a rounded −0 becomes 0."""
    return f"{round(100 * share, digits) + 0:.{digits}f}{unit}"


def counted(count: int, singular: str) -> str:
    """Format a number of things: "1 prompt", "2 prompts"."""
    return f"{count:,} {singular}{'' if count == 1 else 's'}"
