"""What tasks, retrieval and speed of a study cost on one model.

Prompts, texts, pruning and calibration are in `workload.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from prunescope.pipelines.planning.cost_model import FLOAT, Cost, MemoryItem, Passes, RowCount
from prunescope.pipelines.planning.retrieval_workload import RetrievalSize
from prunescope.pipelines.recipes import Recipe

# Questions that a task writes answers to together.
TOGETHER = 16
# Rows of `task_scores` that a shipped task gives.
_METRICS = {"letter": 1, "full_text": 3, "greedy": 3, "rolling": 3}
# Of an embedding of the variant: as it is, as a unit vector in float64, and rounded.
_BYTES_OF_EMBEDDED = 4 + 8 + 2


@dataclass(frozen=True)
class TaskSize:
    """What a task asks, scored one way.

    Attributes:
        name: in the tables.
        scoring: what is compared.
        samples: how many are asked.
        contexts: tokens of every context, which passes once.
        options: tokens of all continuations behind them, or of a text that is read.
        options_a_sample: continuations of a sample, on average.
        new_tokens: at most so many are written to each context.
    """

    name: str
    scoring: str
    samples: int
    contexts: tuple[int, ...]
    options: int
    options_a_sample: float
    new_tokens: int = 0


@dataclass(frozen=True)
class EvaluationWorkload(Passes):
    """Tasks, retrieval and speed of one study on one model.

    Attributes:
        tasks: what each task asks, every way of scoring on its own.
        embedded: what is embedded of each retrieval data set.
    """

    tasks: Sequence[TaskSize] = ()
    embedded: Sequence[RetrievalSize] = ()

    def task_variant(self) -> list[Cost]:
        """The tasks of one variant: contexts once, what stands behind them, and a head product for each of those."""
        costs = []
        for task in self.tasks:
            read = sum(self.forward(length) for length in task.contexts) + 2.0 * task.options * self.shape.active
            costs.append(Cost(f"task {task.name}", "body", read))
            asked = task.options or len(task.contexts)
            costs.append(Cost(f"head product, task {task.name}", "head", 2.0 * asked * self.head_size))
            if task.new_tokens:
                rounds = -(-len(task.contexts) // TOGETHER) * task.new_tokens
                costs.append(Cost(f"task {task.name} writes, at most", "memory", float(rounds * self.read_a_token)))
        return costs

    def retrieval_dense(self) -> list[Cost]:
        """What the retrieval of all variants shares."""
        return [self._embed("dense")] if self.embedded else []

    def retrieval_variant(self, recipe: Recipe) -> list[Cost]:
        """Embeddings of one variant, and the similarities of all queries and documents; the dense model's are there."""
        if not self.embedded:
            return []
        similar = sum(2.0 * each.queries * each.documents * self.shape.width for each in self.embedded)
        costs = [Cost("similarities of queries and documents", "body", similar)]
        return costs if recipe.method == "dense" else [self._embed("variant"), *costs]

    def speed_variant(self, recipe: Recipe) -> list[Cost]:
        """What is timed of one variant and of the dense model in turn, as if dropped sublayers ran."""
        runs = [(2 * (spec.repeats + 2), spec) for spec in self.study.speed if recipe.method != "noise"]
        read = sum(count * self.forward(spec.length, spec.batch) for count, spec in runs)
        written = sum(count * (spec.new_tokens - 1) * self.read_a_token for count, spec in runs)
        return [Cost("speed: prompts", "body", read), Cost("speed: tokens", "memory", written)] if runs else []

    @property
    def tokens_cached(self) -> int:
        """Tokens in the key-value cache while the clock runs, at most."""
        return max((spec.batch * (spec.length + spec.new_tokens) for spec in self.study.speed), default=0)

    def held(self) -> list[MemoryItem]:
        """What lies in memory beside the model; of data sets, one at a time wears the variant."""
        read = max((spec.batch * spec.length for spec in self.study.speed), default=0)
        embedded = [each.texts * self.shape.width for each in self.embedded]
        return [
            MemoryItem("embeddings of the dense model", sum(embedded) * FLOAT),
            MemoryItem("embeddings of the variant", max(embedded, default=0) * _BYTES_OF_EMBEDDED, "worn"),
            MemoryItem("activations of the prompts of `speed`", read * self.widest * self.item_size, "worn"),
        ]

    def rows(self, recipe: Recipe) -> list[RowCount]:
        """Rows of the tables of a variant."""
        options = sum(task.samples * task.options_a_sample for task in self.tasks)
        kept = sum(each.texts for each in self.embedded if each.is_kept)
        return [
            RowCount("task_scores", sum(_METRICS[task.scoring] for task in self.tasks)),
            RowCount("task_samples", sum(task.samples for task in self.tasks), listed=round(2 * options)),
            RowCount("retrieval_scores", 4 * len(self.embedded)),
            RowCount("retrieval_queries", 4 * sum(each.queries for each in self.embedded)),
            # Half of what a listed float32 takes.
            RowCount("retrieval_embeddings", kept, listed=kept * self.shape.width // 2),
            RowCount("speed", len(self.study.speed) if recipe.method != "noise" else 0),
        ]

    def _embed(self, who: str) -> Cost:
        """All texts through the model."""
        amount = sum(self.forward(each.tokens // each.texts, each.texts) for each in self.embedded)
        return Cost(f"retrieval, {who} pass", "body", amount)
