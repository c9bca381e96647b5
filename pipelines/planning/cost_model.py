"""Units of a plan: work with its time, memory, rows, and sizes of data sets. No torch and no lm-eval here."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Phase = Literal["always", "calibrated", "decoded", "applied", "scored", "measured", "compared"]
# Operations of the head's product that take as long as the measurement of one logit at one temperature, and as reading
# one byte of weights to write a token. On two cores of a server: 150 GFLOP/s, 200 million logits and 12 GB per second.
LOGIT_OPERATIONS, BYTE_OPERATIONS = 750, 12
# Length of an answer as a share of its limit. The mean answer of Qwen2.5-Coder-0.5B and two pruned variants took 0.19
# to 0.29 of HumanEval's limit of 256, 0.47 to 0.56 of GSM8K's 200.
TYPICAL_SHARE = 0.4


class Machine(NamedTuple):
    """Operations per second: in the products of the layers in the study's dtype, and of the head in float32."""

    layers: float
    head: float


@dataclass(frozen=True)
class Work:
    """Floating-point operations: below the LM head; and of the head, with what takes as long as so many of them."""

    layers: float = 0.0
    head: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        """Return both amounts together."""
        return Work(self.layers + other.layers, self.head + other.head)

    def seconds(self, machine: Machine) -> float:
        """Return the time at the machine's speed."""
        return self.layers / machine.layers + self.head / machine.head


class MemoryItem(NamedTuple):
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


class RowCount(NamedTuple):
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


class RetrievalSize(NamedTuple):
    """Size of what is embedded of a data set.

    Attributes:
        queries: number of queries.
        documents: number of documents.
        tokens: of all of them, estimated from the first texts.
        keeps_embeddings: whether the embeddings are stored.
    """

    queries: int
    documents: int
    tokens: int
    keeps_embeddings: bool

    @property
    def texts(self) -> int:
        """Number of queries and documents."""
        return self.queries + self.documents


@dataclass(frozen=True)
class TaskSize:
    """Tokens of a task under one way of scoring.

    Attributes:
        name: its name in the tables.
        scoring: the way of scoring.
        samples: number of samples.
        contexts: tokens of every context; each runs once. Those that are continued lack their shared tokens.
        options: tokens of all continuations of the contexts, or of a text scored as a whole.
        options_per_sample: mean number of continuations per sample.
        shared: tokens that all contexts to write on begin with, such as worked examples; they run once per batch.
        new_tokens: most tokens generated per context.
    """

    name: str
    scoring: str
    samples: int
    contexts: tuple[int, ...]
    options: int
    options_per_sample: float
    shared: int = 0
    new_tokens: int = 0

    @property
    def answer_tokens(self) -> float:
        """Tokens per answer that are expected."""
        return TYPICAL_SHARE * self.new_tokens


def peak(items: Sequence[MemoryItem]) -> int:
    """Return the bytes of the items of phase `always` and of the largest other phase."""
    totals: Counter[str] = Counter()
    for item in items:
        totals[item.phase] += item.bytes
    return totals.pop("always", 0) + max(totals.values(), default=0)
