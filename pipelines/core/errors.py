"""The errors of the pipelines and the base class of all errors for users.

Messages name the file, key or flag and the fix in one or two lines. Secrets in addresses are masked, because messages
are printed, logged and stored by Dagster.
"""

import re

_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/+)[^/\s@]*@")
_QUERY = re.compile(r"(https?:/+[^\s?]*)\?[^\s'\"]*", re.IGNORECASE)
_MAX_LENGTH = 2_000


def masked(text: str) -> str:
    """Replace credentials before the `@` of an address and the query of a web address by `…`."""
    return _QUERY.sub(r"\1?…", _USER.sub(r"\1…@", text))


class MaskedError(Exception):
    """An error for users, whose message is short and without secrets."""

    def __init__(self, message: str = "") -> None:
        text = masked(message)
        # A message may quote a name of any length; its ends say what is wrong and how to mend it.
        super().__init__(text if len(text) <= _MAX_LENGTH else f"{text[:300]}…{text[-300:]}")


class InputError(MaskedError):
    """A wrong input of the user: a file, a name, a value."""


class ComputationError(MaskedError):
    """A failed computation on valid input: NaN logits, a drop without effect."""
