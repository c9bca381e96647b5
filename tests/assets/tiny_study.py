"""A small study of a tiny model, the command line as a process, and what a warehouse holds."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from assets import fingerprints
from tests.tiny_models import SHORT_TEXT
from warehouse.tables import TABLES

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from assets.cli import main; main()"]
# What the tiny study fills of a variant.
VARIANT_TABLES = tuple(table for table in fingerprints.VARIANT_TABLES if table not in fingerprints.RETRIEVAL_TABLES)
RECIPES = ["dense", "magnitude-50", "wanda-2of4", "attn-drop-1"]


@dataclass
class StudyFile:
    """A study on disk; `write` changes keys."""

    path: Path
    model: Path
    name: str = "tiny"
    keys: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.write()

    def write(self, **changes: Any) -> Path:
        self.keys |= changes
        fields = {
            "name": self.name,
            "models": [{"name": "tiny-a", "source": str(self.model)}],
            "recipes": RECIPES,
            "prompts": [
                {"id": "open", "kind": "open", "text": "Why is the sky blue?"},
                {"id": "choice", "kind": "choice", "text": "Which? A. No B. Yes", "options": ["A", "B"], "gold": "B"},
            ],
            "texts": [{"id": "help", "source": "embedded", "context": 16, "max_tokens": 16}],
            "tasks": [{"name": "openbookqa", "samples": 2}],
            "calibration": {"source": SHORT_TEXT, "sequences": 2, "length": 32},
            "generation": {"new_tokens": 4},
            "noise": [],
        } | self.keys
        self.path.write_text(yaml.safe_dump(fields), encoding="utf-8")
        return self.path


def environment() -> dict[str, str]:
    """For a process of the command line started anywhere."""
    return os.environ | {"PYTHONPATH": str(ROOT)}


def prunescope(*arguments: object, cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The command line as a user starts it."""
    command = [*COMMAND, *map(str, arguments)]
    inherited = {key: value for key, value in os.environ.items() if key not in {"DAGSTER_HOME", "PRUNESCOPE_WAREHOUSE"}}
    whole = inherited | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(command, cwd=cwd, env=whole, capture_output=True, text=True, check=False)


def partitions(root: Path) -> dict[str, tuple[int, int]]:
    """Every partition file of a study with its inode and time of change: equal means untouched."""
    return {
        str(path.relative_to(root)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for table in TABLES.values()
        if table.is_of_studies
        for path in (root / table.name).rglob("*.parquet")
    }


def written_since(before: dict[str, tuple[int, int]], root: Path) -> set[str]:
    """Partitions that are new or were written again."""
    return {name for name, stamp in partitions(root).items() if before.get(name) != stamp}


def rows(root: Path) -> dict[str, pa.Table]:
    """The rows of every partition without the columns that measure time, and without provenance."""
    found = {}
    for table in TABLES.values():
        timing = [column.name for column in table.columns if column.is_timing]
        for path in (root / table.name).rglob("*.parquet"):
            with pq.ParquetFile(path) as file:
                kept = file.read().drop_columns(timing)
            found[str(path.relative_to(root))] = kept.replace_schema_metadata(None)
    return found


def pages(path: Path) -> list[bytes]:
    """The raw bytes of every column chunk of a Parquet file."""
    content, metadata = path.read_bytes(), pq.read_metadata(path)
    chunks = []
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            chunks.append(content[start : start + chunk.total_compressed_size])
    return chunks
