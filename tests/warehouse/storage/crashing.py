"""A process that forks writers, kills them, and reports the results as JSON; `test_crashes.py` starts it.

The test's own process cannot fork because it has threads.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.quality import checks
from prunescope.warehouse.storage import file_checksum, partition_store
from prunescope.warehouse.storage.file_checksum import is_intact
from prunescope.warehouse.storage.partition_store import Store, to_arrow
from prunescope.warehouse.tables import TABLES
from tests.warehouse.conftest import leftovers, noisy_rows, provenance_of

TABLE = TABLES["top_tokens"]
RECIPES = ("a", "b", "c")
ROWS = {
    recipe: to_arrow(TABLE, noisy_rows(TABLE, 40, seed).with_columns(recipe=pl.lit(recipe)))
    for seed, recipe in enumerate(RECIPES)
}
# A fork would wait for threads of polars and DuckDB that it does not have; neither concerns files.
partition_store.to_arrow = lambda table, rows: rows
checks.violations = lambda table, rows: []


def write(to: Store, recipe: str, count: int) -> None:
    to.write(TABLE, ROWS[recipe], provenance_of("tiny", recipe, fingerprint=str(count)), "tiny", recipe)


def forked(body: Callable[[], None]) -> int:
    """Fork a child that runs a function and exits, with status 1 where it raises; return its id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            body()
            status = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(status)
    return child


def state(of: Store) -> dict[str, int]:
    """Return the count in every existing partition; read each whole, with its checksums and its seal."""
    found = {}
    for recipe in RECIPES:
        made = of.provenance(TABLE, "tiny", recipe)
        if made is not None:
            rows = of.read(TABLE, "tiny", recipe)
            with of.path(TABLE, "tiny", recipe).open("rb") as file:
                assert is_intact(file)
            assert rows["recipe"].to_pylist() == [recipe] * 40
            found[recipe] = int(made.fingerprint)
    return found


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _after(module: Any, name: str) -> None:
    real = getattr(module, name)
    setattr(module, name, lambda *given, **named: (real(*given, **named), die()))


def _half(rows: Any, file: Any, **_: object) -> None:
    file.write(b"PAR1 and a part of a page")
    file.flush()
    die()


def _second_sync() -> None:
    real, calls = os.fsync, []
    os.fsync = lambda descriptor: die() if calls else (calls.append(1), real(descriptor))


STEPS: dict[str, Callable[[], None]] = {
    "before the temporary is made": lambda: setattr(partition_store, "_write_parquet", die),
    "with the temporary half written": lambda: setattr(pq, "write_table", _half),
    "with the temporary written": lambda: _after(partition_store, "_write_parquet"),
    "before the seal": lambda: setattr(partition_store, "seal", die),
    "in the middle of the seal": lambda: setattr(file_checksum, "_hash", die),
    "after the seal": lambda: _after(partition_store, "seal"),
    "before fsync of the file": lambda: setattr(os, "fsync", die),
    "after fsync of the file": lambda: _after(os, "fsync"),
    "before the rename": lambda: setattr(os, "replace", die),
    "after the rename": lambda: _after(os, "replace"),
    "before fsync of the folder": _second_sync,
}
LATE = {"after the rename", "before fsync of the folder"}


def at_every_step(root: Path) -> dict[str, Any]:
    """Kill a writer between any two of its steps, over nothing and over an older partition."""
    for number, (step, patch) in enumerate(STEPS.items()):
        for has_old in (False, True):
            place = root / f"{number}-{has_old}"
            to = Store(place)
            if has_old:
                write(to, "a", 1)
            else:  # the entries of new folders have a sync of their own
                to.path(TABLE, "tiny", "a").parent.mkdir(parents=True)

            def write_once(patched: Callable[[], None], target: Store) -> None:
                patched()
                write(target, "a", 2)

            _, status = os.waitpid(forked(partial(write_once, patch, to)), 0)
            assert os.WIFSIGNALED(status), step
            found = state(to)
            assert found == ({"a": 2} if step in LATE else {"a": 1} if has_old else {}), (step, found)
            before = leftovers(place)
            assert bool(before) == (step not in LATE and step != "before the temporary is made"), (step, before)
            assert len(to.clean_temporaries()) == len(before)
            write(to, "a", 7)
            assert to.path(TABLE, "tiny", "a").read_bytes() == undisturbed(root).read_bytes(), step
    return {"steps": len(STEPS)}


def undisturbed(root: Path) -> Path:
    to = Store(root / "undisturbed")
    path = to.path(TABLE, "tiny", "a")
    if not path.exists():
        write(to, "a", 7)
    return path


def two_at_once(root: Path) -> dict[str, Any]:
    """Let two processes write the same partition; a reader always sees rows and provenance of one of them."""
    to, ranks = Store(root), ROWS["a"]["rank"]
    other = ROWS["a"].set_column(
        ROWS["a"].column_names.index("rank"), TABLE.arrow().field("rank"), pc.add(ranks, pa.scalar(100, ranks.type))
    )

    def write_often(rows: Any, name: str) -> None:
        for _ in range(40):
            to.write(TABLE, rows, provenance_of("tiny", "a", fingerprint=name), "tiny", "a")

    children = [forked(partial(write_often, ROWS["a"], "low")), forked(partial(write_often, other, "high"))]
    seen, statuses = set(), []
    while children:
        path = to.path(TABLE, "tiny", "a")
        if path.exists():
            with path.open("rb") as file:
                assert is_intact(file)
                content = pq.read_table(file)
            name = json.loads(content.schema.metadata[b"prunescope"])["fingerprint"]
            assert (min(content["rank"].to_pylist()) > 100) == (name == "high")
            seen.add(name)
        for child in tuple(children):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                children.remove(child)
                statuses.append(status)
    assert statuses == [0, 0]
    last = to.provenance(TABLE, "tiny", "a")
    assert last is not None
    assert to.read(TABLE, "tiny", "a").equals({"low": ROWS["a"], "high": other}[last.fingerprint])
    return {"seen": sorted(seen), "left": leftovers(root)}


def refused(root: Path) -> dict[str, str]:
    """Return the errors of a writer in a read-only folder, and with a file over the size limit."""
    import resource

    told = {}
    for name in ("folder", "limit"):
        place = root / name
        to = Store(place)
        write(to, "a", 1)
        reader, writer = os.pipe()

        def attempt(kind: str, target: Store, out: int) -> None:
            if kind == "folder":
                target.path(TABLE, "tiny", "a").parent.chmod(0o555)
                if os.geteuid() == 0:
                    os.setuid(65534)
            else:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
            try:
                write(target, "a", 2)
            except WarehouseError as error:
                os.write(out, str(error).encode())

        _, status = os.waitpid(forked(partial(attempt, name, to, writer)), 0)
        assert status == 0, name
        os.close(writer)
        with os.fdopen(reader) as text:
            told[name] = text.read()
        assert state(to) == {"a": 1}
        assert leftovers(place) == []
    return told


if __name__ == "__main__":
    scenario, folder = sys.argv[1], Path(sys.argv[2])
    write(Store(folder / "warm"), "a", 0)  # imports what a first write imports, once for all children
    found = {
        "at_every_step": lambda: at_every_step(folder),
        "two_at_once": lambda: two_at_once(folder),
        "refused": lambda: refused(folder),
    }[scenario]()
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()
    # Arrow's threads do not always end well in a process that has forked.
    os._exit(0)
