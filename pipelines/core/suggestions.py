"""The hint at the right name in errors about a wrong one. The list of all names belongs to the caller."""

from collections.abc import Iterable
from difflib import get_close_matches


def similar_names(name: str, known: Iterable[str], n: int = 1) -> list[str]:
    """Return at most `n` known names that are like a wrong one or contain it; case does not matter."""
    by_lower, wanted = {text.lower(): text for text in known}, name.lower()
    longer = [text for text in by_lower if wanted and wanted in text]
    return [by_lower[text] for text in (get_close_matches(wanted, by_lower, n=n) or longer)[:n]]


def did_you_mean(name: str, known: Iterable[str], n: int = 1, form: str = "{}") -> str:
    """Return `did you mean A or B? ` with the similar names, each in a form such as `--{}`; empty without any."""
    names = [form.format(text) for text in similar_names(name, known, n)]
    return f"did you mean {' or '.join(names)}? " if names else ""
