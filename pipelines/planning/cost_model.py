"""Units of a plan (work, memory, rows) and the work of one forward pass of a model."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from prunescope.pipelines.studies import Study

if TYPE_CHECKING:  # Shape and Machine need torch, which `assets.runs.estimate` imports late
    from prunescope.pipelines.models.meta_model import Shape
    from prunescope.pipelines.planning.machine_speed import Machine

FLOAT_BYTES = 4
Phase = Literal["always", "calibrated", "worn", "measured"]


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
        phase: `always`, during calibration (`calibrated`), while a variant is applied to the model (`worn`), or while
            its traces are measured (`measured`).
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


@dataclass(frozen=True)
class ForwardCost:
    """Work and memory of a forward pass of one model in a study.

    Attributes:
        study: the study.
        shape: sizes of the model.
    """

    study: Study
    shape: "Shape"

    @property
    def item_size(self) -> int:
        """Bytes of a number in the study's dtype."""
        return 4 if self.study.dtype == "float32" else 2

    def forward(self, tokens: int, sequences: int = 1) -> float:
        """Return the floating-point operations below the head: 2 per weight and token, and attention over tokens²."""
        attention = 4 * tokens**2 * self.shape.attention_width * self.shape.layers
        return sequences * float(2 * tokens * self.shape.active + attention)

    @property
    def head_size(self) -> int:
        """Weights of the LM head."""
        return self.shape.vocabulary * self.shape.width

    @property
    def layers_bytes(self) -> int:
        """Bytes of the layers' weights, counting learned positions and norms outside the layers with them."""
        return (self.shape.body - self.head_size) * self.item_size

    @property
    def bytes_per_token(self) -> int:
        """Bytes of weights that decoding reads for each generated token."""
        return self.shape.active * self.item_size + self.head_size * FLOAT_BYTES

    @property
    def activation_width(self) -> int:
        """Approximate numbers per token alive at once inside a layer: the inner states of its MLP and a few streams."""
        return 3 * max(self.shape.largest_matrix) + 8 * self.shape.width
