"""Makes model text safe to look at: what is invisible becomes visible, what is long is cut.

Escaping for HTML and JSON does not belong here; the report does it where it writes.
"""

import unicodedata
from functools import lru_cache

_SYMBOLS = {" ": "␣", "\n": "↵", "\t": "⇥"}
# Control, format (direction marks, joiners), line and paragraph separators, private use, unassigned.
_INVISIBLE = {"Cc", "Cf", "Zl", "Zp", "Co", "Cn", "Cs"}
# Running text keeps its line breaks, and the joiners that Indic scripts, Persian and emoji need.
_KEPT_IN_PROSE = "\n\t\u200c\u200d"


def _columns(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _show(character: str) -> str:
    return f"⟨{ord(character):X}⟩" if unicodedata.category(character) in _INVISIBLE else character


def _show_space(character: str) -> str:
    """As `_show`, and a space other than the plain one as its number: alone in a cell it would look like nothing."""
    return f"⟨{ord(character):X}⟩" if unicodedata.category(character) == "Zs" else _show(character)


def visible(token: str, limit: int) -> str:
    """One token or name on one line: white space as symbols, other invisible characters as their number.

    Args:
        token: any text, of any length.
        limit: most columns of a fixed-width font that the result takes; a longer text ends in an ellipsis.
    """
    # A token of 10,000 characters is cut before it is walked, and kept.
    return _visible(token[: limit + 1], limit)


@lru_cache(maxsize=1 << 14)  # a report shows the same few thousand tokens again and again
def _visible(token: str, limit: int) -> str:
    shown, used = "", 0
    for character in token:
        piece = _SYMBOLS.get(character) or _show_space(character)
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
    """A model, recipe or prompt name for an axis: as `visible`, but a space stays a space."""
    return visible(name, limit).replace(_SYMBOLS[" "], " ")


def prose(text: str, limit: int = 4000) -> str:
    """Running text: line breaks kept, direction marks and control characters shown as their number, cut at `limit`."""
    shown = "".join(character if character in _KEPT_IN_PROSE else _show(character) for character in text[:limit])
    return shown if len(text) <= limit else f"{shown}… (cut: {limit:,} of {len(text):,} characters shown)"
