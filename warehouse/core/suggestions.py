"""The hint at the right name in errors about a wrong one, as the pipelines have it, which this room does not import."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'A' or 'B'? ` with up to three known names that are like a wrong one; empty without any."""
    similar = get_close_matches(name, sorted(known), n=3)
    return f"did you mean {' or '.join(map(repr, similar))}? " if similar else ""
