"""Exceptions of the warehouse, whose messages name the file or rule and the fix."""

from prunescope.pipelines.core.errors import MaskedError


class WarehouseError(MaskedError):
    """An operation of the warehouse failed; the message names the path and the fix."""


class DamagedFileError(WarehouseError):
    """A file of the warehouse is truncated, altered, or no partition."""


class DamagedFileWarning(UserWarning):
    """A file cannot be read or belongs elsewhere; answers leave it out."""


class CatalogueError(WarehouseError):
    """A view file in `sql/` cannot become a view; the message names the file."""


class SqlError(WarehouseError):
    """The user's SQL is wrong: syntax, an unknown name, a computation that fails or takes too long."""


class SqlTimeError(SqlError):
    """The SQL reached its time limit."""


class SqlSizeError(SqlError):
    """The SQL reached its limit of memory, or its answer is too large."""


# Ends the message about an object that is not the one that was listed.
REPLACED = "was replaced after this connection was opened; open the warehouse again"
# The message about a statement that would write a file.
READ_ONLY = "SQL only reads the warehouse; `-o FILE` keeps an answer"

# Messages about the limits of SQL, also for the process that sees only how the other one ended.
TOO_LARGE = "the SQL needs more memory than it may have; aggregate earlier, or give it more (--memory)"


def too_large_result(size: int) -> str:
    """Return the message about an answer of more bytes than it may have."""
    shown = f"{size >> 30} GiB" if size >= 1 << 30 else f"{size >> 20} MiB"
    return f"the result is larger than {shown}; aggregate it or add a LIMIT"
