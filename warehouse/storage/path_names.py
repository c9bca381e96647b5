"""Names of models and recipes as names of folders: safe on every file system, and never two the same.

Only text to text; whether a path exists is the store's business.
"""

import hashlib
from urllib.parse import quote, unquote

from prunescope.warehouse.core.errors import WarehouseError

LONGEST = 100
# '%~' cannot come out of percent-encoding, so a shortened name never meets a whole one.
SHORTENED = "%~"
_WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def path_safe(name: str) -> str:
    """A folder or file name for any text; different texts get different names.

    Letters, digits, `-`, `_` and `.` stay; everything else, and a dot at either end, is percent-encoded. What would
    be longer than 100 characters keeps its first 60 and gets a hash.

    Raises:
        WarehouseError: the name is empty or cannot be written as UTF-8.
    """
    if not name:
        raise WarehouseError("a model or recipe needs a name; this one is empty")
    try:
        encoded = quote(name, safe="").replace("~", "%7E")
    except UnicodeEncodeError as error:
        raise WarehouseError(f"the name {name!a} holds half a character; use valid Unicode") from error
    if encoded.startswith("."):
        encoded = "%2E" + encoded[1:]
    if encoded.endswith("."):
        encoded = encoded[:-1] + "%2E"
    if encoded.partition(".")[0].lower() in _WINDOWS_DEVICES:
        encoded = f"%{ord(encoded[0]):02X}{encoded[1:]}"
    if len(encoded) > LONGEST:
        digest = hashlib.sha256(name.encode()).hexdigest()[:32]
        encoded = f"{encoded[:60]}{SHORTENED}{digest}"
    return encoded


def original(safe: str) -> str | None:
    """The text that `path_safe` was given, or None where it was shortened."""
    return None if SHORTENED in safe else unquote(safe)
