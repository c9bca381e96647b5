"""Units of a plan: work, memory and rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # needs torch, which `assets.runs.estimate` imports late
    from prunescope.pipelines.planning.machine_speed import Machine

Phase = Literal["always", "calibrated", "decoded", "applied", "scored", "measured", "compared"]


@dataclass(frozen=True)
class Cost:
    """One piece of work.

    Attributes:
        item: its name in the plan.
        kind: the speed of `Machine` that limits it.
        amount: floating-point operations for `head` and `body`, bytes for `memory`, logits for `vocabulary`.
    """

    item: str
    kind: Literal["head", "body", "memory", "vocabulary"]
    amount: float

    def seconds(self, machine: "Machine") -> float:
        """Return the time at the machine's measured speed."""
        return self.amount / float(getattr(machine, self.kind))


@dataclass(frozen=True)
class MemoryItem:
    """Bytes in memory.

    Attributes:
        item: their content.
        bytes: how many.
        phase: `always`, in calibration (`calibrated`), while texts are decoded (`decoded`), a variant runs on prompts
            (`applied`) or on texts (`scored`), or while what was kept of these is measured (`measured`, `compared`).
    """

    item: str
    bytes: int
    phase: Phase = "always"


@dataclass(frozen=True)
class RowCount:
    """Rows of one partition.

    Attributes:
        table: its table.
        rows: how many.
        unmoved: rows whose shift is exactly zero, which Parquet stores in few bytes.
        listed: numbers in its list columns.
        packed: bytes of masks, which do not compress.
    """

    table: str
    rows: int
    unmoved: int = 0
    listed: int = 0
    packed: int = 0


def peak(items: Sequence[MemoryItem]) -> int:
    """Return the bytes of the items of phase `always` and of the largest other phase."""
    totals: Counter[str] = Counter()
    for item in items:
        totals[item.phase] += item.bytes
    return totals.pop("always", 0) + max(totals.values(), default=0)
