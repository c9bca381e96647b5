"""What a plan is made of: work, bytes and rows, and the size of one pass of a model.

`workload.py` and `measured.py` count the work of a study. This module imports torch only to read a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from prunescope.pipelines.studies import Study

if TYPE_CHECKING:
    import torch

    from prunescope.pipelines.models.meta_model import Shape
    from prunescope.pipelines.planning.machine_speed import Machine

Kind = Literal["head", "body", "memory", "vocabulary"]
FLOAT = 4


@dataclass(frozen=True)
class Cost:
    """One piece of work.

    Attributes:
        item: what it is.
        kind: which of the machine's speeds bounds it.
        amount: floating-point operations of `head` and `body`, bytes of `memory`, logits of `vocabulary`.
    """

    item: str
    kind: Kind
    amount: float

    def seconds(self, machine: "Machine") -> float:
        """On a machine that is kept at its measured speed."""
        speeds = {
            "head": machine.head,
            "body": machine.body,
            "memory": machine.memory,
            "vocabulary": machine.vocabulary,
        }
        return self.amount / speeds[self.kind]


@dataclass(frozen=True)
class MemoryItem:
    """Bytes in memory.

    Attributes:
        item: what they hold.
        bytes: how many.
        phase: `always`, or while the model is `calibrated`, a variant is `worn`, or layers are `measured`.
    """

    item: str
    bytes: int
    phase: Literal["always", "calibrated", "worn", "measured"] = "always"


@dataclass(frozen=True)
class RowCount:
    """Rows of one partition.

    Attributes:
        table: its table.
        rows: how many.
        unmoved: those among them whose shift is exactly zero, which are stored in few bytes.
        listed: numbers in its list columns.
        packed: bytes of masks, which do not compress.
    """

    table: str
    rows: int
    unmoved: int = 0
    listed: int = 0
    packed: int = 0


def peak(held: Sequence[MemoryItem]) -> int:
    """The most that is in memory at once: what always is, and the largest of the phases."""
    totals: dict[str, int] = {}
    for each in held:
        totals[each.phase] = totals.get(each.phase, 0) + each.bytes
    return totals.pop("always", 0) + max(totals.values(), default=0)


@dataclass(frozen=True)
class Passes:
    """What a model of a study does for a token.

    Attributes:
        study: the study.
        shape: sizes of the model.
    """

    study: Study
    shape: "Shape"

    @property
    def dtype(self) -> "torch.dtype":
        """The type in which the model runs."""
        import torch

        return cast("torch.dtype", getattr(torch, self.study.dtype))

    @property
    def item_size(self) -> int:
        """Bytes of a number in it."""
        return self.dtype.itemsize

    def forward(self, tokens: int, sequences: int = 1) -> float:
        """Floating-point operations of a pass below the head: 2 a weight and token, and attention over the square."""
        squares = 4 * tokens**2 * self.shape.attention_width * self.shape.layers
        return sequences * float(2 * tokens * self.shape.active + squares)

    @property
    def head_size(self) -> int:
        """Weights of the LM head."""
        return self.shape.vocabulary * self.shape.width

    @property
    def layers_bytes(self) -> int:
        """Bytes of the layers' weights; learned positions and norms outside them count as theirs."""
        return (self.shape.body - self.head_size) * self.item_size

    @property
    def read_a_token(self) -> int:
        """Bytes of weights that are read for every token that is written."""
        return self.shape.active * self.item_size + self.head_size * FLOAT

    @property
    def widest(self) -> int:
        """Numbers a token that are alive at once inside a layer, about: an MLP's inner states and a few streams."""
        return 3 * max(self.shape.largest_matrix) + 8 * self.shape.width
