"""The user's folder for what can be made again: models fetched or converted, hashes, the catalogue's views."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return PRUNESCOPE_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("PRUNESCOPE_CACHE"):
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("prunescope"))
