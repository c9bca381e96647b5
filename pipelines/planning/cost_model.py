"""Units of a plan: work with its time, memory and rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from operator import add
from typing import Literal

Phase = Literal["always", "calibrated", "decoded", "applied", "scored", "measured", "compared"]
# Operations of the head's product that take as long as the measurement of one logit at one temperature; on two cores of
# a server 150 GFLOP/s against 200 million logits per second.
LOGIT_OPERATIONS = 750


@dataclass(frozen=True)
class Machine:
    """Speeds of a machine, all cores together.

    Attributes:
        layers: floating-point operations per second of the layers' products in the study's dtype.
        head: floating-point operations per second of the LM head's product in float32.
        weights: bytes of weights per second that token-by-token decoding reads.
    """

    layers: float
    head: float
    weights: float


@dataclass(frozen=True)
class Work:
    """An amount of work.

    Attributes:
        layers: floating-point operations below the LM head.
        head: floating-point operations of the LM head.
        weights: bytes of weights read to decode.
        logits: logits measured, counted once per temperature.
    """

    layers: float = 0.0
    head: float = 0.0
    weights: float = 0.0
    logits: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        """Return both amounts together."""
        return Work(*map(add, astuple(self), astuple(other)))

    def seconds(self, machine: Machine) -> float:
        """Return the time at the machine's speed."""
        head = self.head + LOGIT_OPERATIONS * self.logits
        return self.layers / machine.layers + head / machine.head + self.weights / machine.weights


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
