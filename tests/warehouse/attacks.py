"""Attacks on the SQL of users: `attacks/*.sql`, one statement a file, whose first line says what must happen.

- `-- refused: REGEX`: the check refuses it.
- `-- wrong: REGEX`: DuckDB or the check cannot make sense of it.
- `-- stopped`: a limit of time, memory or size ends it.
- `-- answered`, `-- empty`: it has rows, or none.
- `-- answered or stopped`: which of the two depends on the machine.

`{root}` stands for the folder of the warehouse.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from prunescope.warehouse.core.errors import TOO_LARGE

FOLDER = Path(__file__).with_name("attacks")
GIBIBYTES = 0.5


@dataclass(frozen=True)
class Attack:
    """One statement and what must happen; `seconds` is its time limit."""

    name: str
    expected: str
    sql: str

    @property
    def seconds(self) -> float:
        return 1 if self.expected == "stopped" else 30

    def check(self, error: str | None, rows: int, is_refused: bool | None = None) -> None:
        """Compare the outcome with the expected one.

        Args:
            error: message of the refusal or failure; None for an answer.
            rows: of the answer.
            is_refused: whether the error is UnsafeSqlError; None where that is unknown.
        """
        kind, _, pattern = self.expected.partition(": ")
        match kind:
            case "answered or stopped" if error is None:
                assert rows
            case "answered" | "empty":
                assert error is None, error
                assert bool(rows) == (kind == "answered")
            case "stopped" | "answered or stopped":
                assert error is not None
                limits = (TOO_LARGE, f"the SQL ran longer than {self.seconds} s", "the result is larger than")
                assert error.startswith(limits), error
            case "refused" | "wrong":
                assert error is not None
                assert "\n" not in error
                assert re.search(pattern, error), error
                assert is_refused in {None, kind == "refused"}
            case _:
                raise ValueError(f"{self.name}: {self.expected!r} is no expectation")


def attacks(root: Path | str) -> list[Attack]:
    """Read all attacks."""
    read = []
    for path in sorted(FOLDER.glob("*.sql")):
        header, _, sql = path.read_bytes().decode().partition("\n")  # as it is: some carriage returns matter
        read.append(Attack(path.stem, header.removeprefix("-- "), sql.removesuffix("\n").replace("{root}", str(root))))
    return read
