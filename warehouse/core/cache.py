"""The user's cache folder: downloaded or converted models, hashes, the catalogue's views."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return PRUNESCOPE_CACHE, else the user's cache folder."""
    if folder := os.environ.get("PRUNESCOPE_CACHE"):
        return Path(folder).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("prunescope"))
