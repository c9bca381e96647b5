"""Execution of SQL in a process of its own, whose memory and time the kernel limits and which can read no other file.

This module imports nothing heavy: the process starts before its parent has imported the rest.
"""

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

from prunescope.warehouse.core import errors
from prunescope.warehouse.core.errors import TOO_LARGE, DamagedFileWarning, SqlError, SqlSizeError, SqlTimeError
from prunescope.warehouse.core.limits import GIBIBYTES, RESULT_BYTES, SECONDS, TEXT_ROWS
from prunescope.warehouse.core.program import PACKAGE

if TYPE_CHECKING:
    import pyarrow as pa

    from prunescope.warehouse.storage.location import Place

_MODULE = "prunescope.warehouse.catalogue.sql_worker"


@dataclass(frozen=True)
class Setup:
    """Parts of a warehouse that a process may read.

    Attributes:
        gibibytes: memory limit of a statement, in GiB.
        models: models whose partitions are opened; all if None.
        scope: the only models and recipes that the tables show; all if None.
    """

    root: str
    gibibytes: float = GIBIBYTES
    models: Collection[str] | None = None
    scope: tuple[frozenset[str], frozenset[str]] | None = None


class SqlProcess(AbstractContextManager["SqlProcess"]):
    """A process that opens a warehouse, answers one statement and ends; use it as a context manager."""

    def __init__(self, setup: Setup | None = None) -> None:
        """Start the process, which imports what it needs and waits; `setup` may be given later, to `open`."""
        self._setup = setup
        self._asking, self._is_closed = Lock(), False
        # Removed by this process, because the other one may be killed.
        self._temporary = TemporaryDirectory(prefix="prunescope-", ignore_cleanup_errors=True)
        own = {"TMPDIR": self._temporary.name, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE.parent)}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | own,
            # Ctrl-C is for this process, which ends the other one.
            start_new_session=True,
        )

    def open(self, setup: Setup) -> Self:
        """Set what the process reads."""
        self._setup = setup
        return self

    @property
    def is_running(self) -> bool:
        """Return whether the process can still be asked."""
        return self._process.poll() is None

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()

    def ask(
        self,
        sql: str,
        parameters: Sequence[object] | Mapping[str, object] | None = None,
        **limits: Any,  # noqa: ANN401 - of `render`
    ) -> "pa.Table":
        """Return the rows of the statement; arguments and errors are those of `render`."""
        import pyarrow as pa

        content, _ = self.render(sql, parameters, to="arrow", **limits)
        return pa.ipc.open_stream(content).read_all()

    def render(
        self,
        sql: str,
        parameters: Sequence[object] | Mapping[str, object] | None = None,
        *,
        to: str,
        width: int = 120,
        lines: int = TEXT_ROWS,
        seconds: float = SECONDS,
        rows: int | None = None,
        size: int = RESULT_BYTES,
    ) -> tuple[bytes, int]:
        """Return the rows of the statement in a format, which the process writes within its limits; and their number.

        Args:
            sql: one SELECT, EXPLAIN, DESCRIBE, SUMMARIZE or SHOW; also WITH, VALUES and FROM first.
            parameters: values for `?` and `$n`, or by name for `$name`.
            to: one of the formats of `formats.write`.
            width: characters of a line in format table.
            lines: rows of format table; the number of the others stands below it.
            seconds: time limit, after which the kernel ends the process.
            rows: number of rows to fetch; all if None.
            size: limit of the answer's bytes, in Arrow's format and in this one, at most the statement's memory.

        Raises:
            SqlError: the statement is wrong, does not only read the warehouse, or takes too much time or memory.
            DamagedFileError: a file that it reads is damaged; the message names the file.
            WarehouseError: the warehouse cannot be opened, or the format cannot hold the rows.
        """
        if self._setup is None:
            raise ValueError("`open` names the warehouse first")
        memory = int(self._setup.gibibytes * 2**30)
        query = {"sql": sql, "parameters": parameters, "rows": rows, "size": min(size, memory)}
        layout = {"to": to, "width": width, "lines": lines}
        setup = json.dumps(vars(self._setup), default=sorted)  # sets as lists
        with self._asking:
            try:
                request = f"{setup}\n{json.dumps([query, layout, seconds])}"
            except TypeError:
                raise SqlError("a parameter is not a number, a text, a boolean, NULL, or a list of these") from None
            content, messages = self._process.communicate(request.encode())
        status = self._process.returncode
        if self._is_closed:
            raise SqlError("the SQL was stopped")
        if status == -signal.SIGALRM:
            raise SqlTimeError(f"the SQL ran longer than {seconds:g} s; ask for less, or give it more (--seconds)")
        if status < 0:
            raise SqlSizeError(f"{TOO_LARGE} (its process ended: {signal.Signals(-status).name})")
        message = "".join(messages.decode(errors="replace").splitlines()[-1:])
        if status > 0:
            raise SqlError(f"the process for SQL failed: {message or f'status {status}'}")
        return content, number_of_rows(json.loads(message))

    def close(self) -> None:
        """End the process; a thread that waits for its answer gets SqlError."""
        self._is_closed = True
        self._process.kill()
        with self._asking, self._process:
            self._temporary.cleanup()


def run_safe(
    root: "Place | str",
    sql: str,
    parameters: Sequence[object] | Mapping[str, object] | None = None,
    *,
    seconds: float = SECONDS,
    gibibytes: float = GIBIBYTES,
    models: Collection[str] | None = None,
) -> "pa.Table":
    """Return the rows of one statement, computed in a process of its own; as `Setup` and `SqlProcess.ask` say."""
    with SqlProcess(Setup(str(root), gibibytes, models)) as process:
        return process.ask(sql, parameters, seconds=seconds)


def number_of_rows(ending: Mapping[str, Any]) -> int:
    """Return the number of rows from the last message of the other process, and repeat its warnings and its error.

    RuntimeError stands for a bug there.
    """
    for message in ending["warnings"]:
        warnings.warn(message, DamagedFileWarning, stacklevel=4)
    if "error" in ending:
        raise getattr(errors, ending["error"], RuntimeError)(ending["message"])
    return int(ending["rows"])
