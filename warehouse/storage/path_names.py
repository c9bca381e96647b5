"""Encoding of model and recipe names as folder names: safe on every file system and unique."""

import hashlib
from urllib.parse import quote, unquote

from prunescope.warehouse.core.errors import WarehouseError

MAX_LENGTH = 100
# Percent-encoding never produces '%~', so a shortened name cannot equal a whole one.
SHORTENED = "%~"
_WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def path_safe(name: str) -> str:
    """Return a folder or file name for any text; different texts get different names.

    Letters, digits, `-`, `_` and `.` stay; everything else, and a dot at either end, is percent-encoded. A name over
    100 characters keeps its first 60 and gets a hash.

    Raises:
        WarehouseError: the name is empty or cannot be written as UTF-8.
    """
    if not name:
        raise WarehouseError("a model or recipe needs a name; this one is empty")
    try:
        encoded = quote(name, safe="").replace("~", "%7E")
    except UnicodeEncodeError as error:
        raise WarehouseError(f"the name {name!a} contains half a character; use valid Unicode") from error
    if encoded.startswith("."):
        encoded = "%2E" + encoded[1:]
    if encoded.endswith("."):
        encoded = encoded[:-1] + "%2E"
    if encoded.partition(".")[0].lower() in _WINDOWS_DEVICES:
        encoded = f"%{ord(encoded[0]):02X}{encoded[1:]}"
    if len(encoded) > MAX_LENGTH:
        digest = hashlib.sha256(name.encode()).hexdigest()[:32]
        encoded = f"{encoded[:60]}{SHORTENED}{digest}"
    return encoded


def partition_folders(model: str, recipe: str | None) -> tuple[str, ...]:
    """Return the folders below that of the table in which a partition's file is.

    Raises:
        WarehouseError: as `path_safe`.
    """
    folder = f"model={path_safe(model)}"
    return (folder,) if recipe is None else (folder, f"recipe={path_safe(recipe)}")


def original(safe: str) -> str | None:
    """Return the text that `path_safe` encoded; None if it was shortened."""
    return None if SHORTENED in safe else unquote(safe)
