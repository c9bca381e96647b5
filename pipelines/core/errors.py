"""The two ways in which the pipelines refuse: the input is wrong, or the computation failed.

Messages name the file, key or flag and the fix in one or two lines; what is secret in an address is left out of them,
for they are printed, logged and kept by Dagster.
"""

import re

_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/+)[^/\s@]*@")
_QUERY = re.compile(r"(https?:/+[^\s?]*)\?[^\s'\"]*", re.IGNORECASE)


def masked(text: str) -> str:
    """The text with what addresses in it hold before an `@` or, on the web, behind a `?`, as `…`."""
    return _QUERY.sub(r"\1?…", _USER.sub(r"\1…@", text))


class InputError(Exception):
    """What the user gave cannot work: a file, a name, a value."""

    def __init__(self, message: str = "") -> None:
        """Takes the message, which may quote what the user gave."""
        super().__init__(masked(message))


class ComputationError(Exception):
    """The input was fine and the computation still failed: NaN logits, a drop without effect."""

    def __init__(self, message: str = "") -> None:
        """Takes the message, which may quote what the user gave."""
        super().__init__(masked(message))
