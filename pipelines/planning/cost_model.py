"""Units of a plan: work with its time, memory, and sizes of data sets. No torch and no lm-eval here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

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
        contexts: tokens of every prefix that runs once: the contexts of written answers without their shared tokens, or
            what several options have in common.
        ends: tokens that run after them, or of texts scored as a whole.
        long_tokens: those of contexts and ends that run in float64 if the model is in float32 on a CPU.
        reads: states whose logits are computed, apart from those of written answers.
        options_per_sample: mean number of options per sample.
        shared: tokens that all contexts to write on begin with, such as worked examples; they run once per batch.
        new_tokens: most tokens generated per context.
    """

    name: str
    scoring: str
    samples: int
    contexts: tuple[int, ...] = ()
    ends: int = 0
    long_tokens: int = 0
    reads: int = 0
    options_per_sample: float = 0.0
    shared: int = 0
    new_tokens: int = 0

    @property
    def answer_tokens(self) -> float:
        """Tokens per answer that are expected."""
        return TYPICAL_SHARE * self.new_tokens


def peak(memory: Mapping[str, Mapping[str, int]]) -> int:
    """Return the bytes of phase `always` and of the largest other phase."""
    totals = {phase: sum(items.values()) for phase, items in memory.items()}
    return totals.pop("always") + max(totals.values(), default=0)
