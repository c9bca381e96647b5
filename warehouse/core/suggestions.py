"""The hint at the right name in errors about a wrong one, as the pipelines have it, which this room does not import."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'A' or 'B'? ` with up to three names like a wrong one or that contain it, or nothing."""
    by_lower = {text.lower(): text for text in sorted(known)}
    parts = [text for text in by_lower if name and name.lower() in text]
    similar = [by_lower[text] for text in (get_close_matches(name.lower(), by_lower, n=3) or parts[:3])]
    return f"did you mean {' or '.join(map(repr, similar))}? " if similar else ""
