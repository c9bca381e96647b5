"""SQL of tests in their own process: starting another one takes longer than the rest of a command or a question.

`tests/warehouse/catalogue/test_sql_process.py` tests the other process and its limits.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from prunescope.warehouse.catalogue.sql_process import Setup, SqlProcess, number_of_rows
from prunescope.warehouse.catalogue.sql_worker import failure, opened, write
from prunescope.warehouse.core.limits import RESULT_BYTES, TEXT_ROWS


class InThisProcess(SqlProcess):
    """A warehouse that stays open for many statements, without limits of time and memory."""

    def __init__(self, setup: Setup) -> None:
        """Open the warehouse."""
        self._connection = opened(setup)

    def render(
        self,
        sql: str,
        parameters: Sequence[object] | Mapping[str, object] | None = None,
        *,
        to: str,
        width: int = 120,
        lines: int = TEXT_ROWS,
        seconds: float = 0,
        rows: int | None = None,
        size: int = RESULT_BYTES,
    ) -> tuple[bytes, int]:
        """Return what the other process would."""
        query = {"sql": sql, "parameters": parameters, "rows": rows, "size": size}
        sink, layout = io.BytesIO(), {"to": to, "width": width, "lines": lines}
        try:
            ending: Mapping[str, object] = {"rows": write(self._connection, sink, query, layout)}
        except Exception as error:
            ending = failure(error)
        return sink.getvalue(), number_of_rows({**ending, "warnings": []})

    def close(self) -> None:
        """Close the warehouse."""
        self._connection.close()


class KeptProcesses:
    """One open warehouse per setup, whose files do not change; close them at the end."""

    def __init__(self) -> None:
        self._of: dict[Setup, InThisProcess] = {}

    @contextmanager
    def give(self, setup: Setup) -> Iterator[SqlProcess]:
        """Lend the warehouse of a setup."""
        if setup not in self._of:
            self._of[setup] = InThisProcess(setup)
        yield self._of[setup]

    def close(self) -> None:
        for process in self._of.values():
            process.close()
