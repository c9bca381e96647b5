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
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
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
# The format of `SqlProcess.ask`.
ARROW = "arrow"


@dataclass(frozen=True)
class Setup:
    """Parts of a warehouse that a process may read.

    Attributes:
        root: the warehouse.
        gibibytes: memory limit of a statement, in GiB.
        models: models whose partitions are opened; all if None.
        scope: the only models and recipes that the tables show; all if None.
    """

    root: str
    gibibytes: float = GIBIBYTES
    models: frozenset[str] | None = None
    scope: tuple[frozenset[str], frozenset[str]] | None = None


class SqlProcess(AbstractContextManager["SqlProcess"]):
    """A process with an open warehouse that answers one statement after the other; use it as a context manager."""

    def __init__(self, setup: Setup | None = None) -> None:
        """Start the process without waiting for it; without `setup` it imports what it needs and waits for `open`."""
        self._is_ready = self._is_over = self._is_cancelled = False
        self._asking = Lock()
        # Removed by this process, because the other one may be killed.
        self._temporary = TemporaryDirectory(prefix="prunescope-", ignore_cleanup_errors=True)
        environment = os.environ | {"TMPDIR": self._temporary.name, "OPENBLAS_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = str(PACKAGE.parent)
        self._connection, theirs = Pipe()
        self._errors = Path(self._temporary.name) / "errors.txt"
        with theirs, self._errors.open("wb") as log:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, str(number)],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment,
                # Ctrl-C is for this process, which ends the other one.
                start_new_session=True,
            )
        if setup is not None:
            self.open(setup)

    def open(self, setup: Setup) -> Self:
        """Let the process open the warehouse, without waiting for it."""
        with suppress(BrokenPipeError):  # it could not start, which the first statement reports
            self._connection.send(setup)
        return self

    @property
    def is_alive(self) -> bool:
        """True while it can answer; a statement that reaches a limit takes the process with it."""
        return not self._is_over and self._process.poll() is None

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()

    def ask(
        self,
        sql: str,
        parameters: Sequence[object] | Mapping[str, object] | None = None,
        **limits: Any,  # noqa: ANN401 - of `render`
    ) -> "pa.Table":
        """Return the rows of one statement; arguments and errors are those of `render`."""
        import pyarrow as pa

        content, _ = self.render(sql, parameters, to=ARROW, **limits)
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
    ) -> tuple[bytearray, int]:
        """Return the rows of one statement in a format, which the process writes within its limits; and their number.

        Args:
            sql: one SELECT, EXPLAIN, DESCRIBE, SUMMARIZE or SHOW; also WITH, VALUES and FROM first.
            parameters: values for `?` and `$n`, or by name for `$name`.
            to: one of `formats.FORMATS`, or `plain`.
            width: characters of a line in format table.
            lines: rows of format table; the number of the others stands below it.
            seconds: time limit, after which the kernel ends the process.
            rows: number of rows to fetch; all if None.
            size: limit of the answer's bytes, in Arrow's format and in this one.

        Raises:
            SqlError: the statement is wrong, does not only read the warehouse, or takes too much time or memory.
            DamagedFileError: a file that it reads is damaged; the message names the file.
            WarehouseError: the warehouse cannot be opened, or the format cannot hold the rows.
        """
        query = {"sql": sql, "parameters": parameters, "rows": rows, "size": size}
        request = {"query": query, "to": to, "layout": {"width": width, "lines": lines}, "seconds": seconds}
        content = bytearray()
        with self._asking:
            self._wait_until_ready()
            try:
                self._connection.send(request)
                while data := self._connection.recv_bytes():
                    content += data
                ending = json.loads(self._connection.recv_bytes())
            except (EOFError, OSError) as error:
                raise self._end_of_process(seconds) from error
        self._is_over |= ending["is_full"]
        _raise(ending)
        return content, int(ending["rows"])

    def cancel(self) -> None:
        """End the process from another thread; `render` then raises SqlError."""
        self._is_over = self._is_cancelled = True
        self._process.kill()

    def close(self) -> None:
        """End the process."""
        self._is_over = True
        self._process.kill()
        self._process.wait()
        with self._asking:  # a thread that waits for the answer sees the end first
            self._connection.close()
        self._temporary.cleanup()

    def _wait_until_ready(self) -> None:
        if self._is_ready:
            return
        try:
            ending = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._end_of_process(None) from error
        self._is_over |= "error" in ending
        _raise(ending)
        for message in ending["warnings"]:
            warnings.warn(message, DamagedFileWarning, stacklevel=3)
        self._is_ready = True

    def _end_of_process(self, seconds: float | None) -> SqlError:
        """Return the error that explains how the process ended; `seconds` is None before its first statement."""
        self._is_over = True
        status = self._process.wait()
        cause = signal.Signals(-status).name if status < 0 else f"status {status}"
        if self._is_cancelled:
            return SqlError("the SQL was stopped")
        if seconds is None:
            lines = self._errors.read_text(errors="replace").splitlines()
            return SqlError(f"the process for SQL could not start: {lines[-1] if lines else cause}")
        if status == -signal.SIGALRM:
            return SqlTimeError(f"the SQL ran longer than {seconds:g} s; ask for less, or give it more (--seconds)")
        return SqlSizeError(f"{TOO_LARGE} (its process ended: {cause})")


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
    setup = Setup(str(root), gibibytes, None if models is None else frozenset(models))
    with SqlProcess(setup) as process:
        return process.ask(sql, parameters, seconds=seconds)


def _raise(ending: Mapping[str, Any]) -> None:
    """Raise the error of the other process; RuntimeError for one that is a bug there."""
    if "error" in ending:
        raise getattr(errors, ending["error"], RuntimeError)(ending["message"])
