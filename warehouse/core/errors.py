"""What goes wrong in the warehouse, in words that a user can act on.

Exception classes only; each message names the file or rule and the fix where it arises. Credentials in an address are
left out of it, for messages are printed, logged and kept by Dagster.
"""

import re

_CREDENTIALS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/+)[^/\s@]*@")


class WarehouseError(Exception):
    """The warehouse refused or failed; the message names the path and the fix."""

    def __init__(self, message: str = "") -> None:
        """Takes the message, which may quote an address that the user gave."""
        super().__init__(_CREDENTIALS.sub(r"\1…@", message))


class DamagedFileError(WarehouseError):
    """A file of the warehouse is truncated, unreadable or not ours."""


class DamagedFileWarning(UserWarning):
    """A file that cannot be read; the catalogue opens, and only what reads the file fails."""


class CatalogueError(WarehouseError):
    """A view file in `sql/` cannot become a view; the message names the file."""


class NothingSharedError(WarehouseError):
    """Two variants were measured on nothing that is the same; the message says what differs."""


class SqlError(WarehouseError):
    """The user's SQL is wrong: syntax, an unknown name, a failing or an overlong computation."""


class UnsafeSqlError(SqlError):
    """The user's SQL does more than read the warehouse; the message names the rule."""
