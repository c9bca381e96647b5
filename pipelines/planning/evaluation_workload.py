"""Work, memory and rows of a study's tasks, retrieval and speed measurements on one model."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from prunescope.pipelines.planning.cost_model import FLOAT_BYTES, Cost, ForwardCost, MemoryItem, RowCount
from prunescope.pipelines.planning.retrieval_workload import RetrievalSize
from prunescope.pipelines.recipes import Recipe

# Answers that a task generates in one batch.
GENERATION_BATCH = 16
# Rows of `task_scores` per shipped task.
_METRICS = {"letter": 1, "full_text": 3, "greedy": 3, "rolling": 3}
# A variant's embedding: as computed, as a unit vector in float64, and rounded.
_EMBEDDING_BYTES = 4 + 8 + 2


@dataclass(frozen=True)
class TaskSize:
    """Tokens of a task under one way of scoring.

    Attributes:
        name: its name in the tables.
        scoring: the way of scoring.
        samples: number of samples.
        contexts: tokens of every context; each runs once.
        options: tokens of all continuations of the contexts, or of a text scored as a whole.
        options_a_sample: mean number of continuations per sample.
        new_tokens: most tokens generated per context.
    """

    name: str
    scoring: str
    samples: int
    contexts: tuple[int, ...]
    options: int
    options_a_sample: float
    new_tokens: int = 0


@dataclass(frozen=True)
class EvaluationWorkload(ForwardCost):
    """Tasks, retrieval and speed of one study on one model.

    Attributes:
        tasks: sizes of the tasks, one per way of scoring.
        retrieval: sizes of the retrieval data sets.
    """

    tasks: Sequence[TaskSize] = field(default=(), kw_only=True)
    retrieval: Sequence[RetrievalSize] = field(default=(), kw_only=True)

    def task_variant(self) -> list[Cost]:
        """Return the work of the tasks of one variant: contexts, continuations, and a head product for each of them."""
        costs = []
        for task in self.tasks:
            read = sum(self.forward(length) for length in task.contexts) + 2.0 * task.options * self.shape.active
            scored = task.options or len(task.contexts)
            costs += [
                Cost(f"task {task.name}", "body", read),
                Cost(f"head product, task {task.name}", "head", 2.0 * scored * self.head_size),
            ]
            if task.new_tokens:
                rounds = -(-len(task.contexts) // GENERATION_BATCH) * task.new_tokens
                costs.append(Cost(f"task {task.name} writes, at most", "memory", float(rounds * self.bytes_per_token)))
        return costs

    def retrieval_dense(self) -> list[Cost]:
        """Return the retrieval work that all variants share."""
        return [self._embed("dense")] if self.retrieval else []

    def retrieval_variant(self, recipe: Recipe) -> list[Cost]:
        """Return the work of one variant's embeddings and of the similarities of all queries and documents."""
        if not self.retrieval:
            return []
        products = sum(2.0 * size.queries * size.documents * self.shape.width for size in self.retrieval)
        similarities = Cost("similarities of queries and documents", "body", products)
        # The dense embeddings are counted in `retrieval_dense`.
        return [similarities] if recipe.method == "dense" else [self._embed("variant"), similarities]

    def _embed(self, side: str) -> Cost:
        amount = sum(self.forward(size.tokens // size.texts, size.texts) for size in self.retrieval)
        return Cost(f"retrieval, {side} pass", "body", amount)

    def speed_variant(self, recipe: Recipe) -> list[Cost]:
        """Return the work of timing one variant and the dense model in turn, as if dropped sublayers ran."""
        if recipe.method == "noise" or not self.study.speed:
            return []
        runs = [(2 * (spec.repeats + 2), spec) for spec in self.study.speed]
        read = sum(count * self.forward(spec.length, spec.batch) for count, spec in runs)
        written = sum(count * (spec.new_tokens - 1) * self.bytes_per_token for count, spec in runs)
        return [Cost("speed: prompts", "body", read), Cost("speed: tokens", "memory", written)]

    @property
    def timed_cache_tokens(self) -> int:
        """Most tokens in the key-value cache of a speed measurement."""
        return max((spec.batch * (spec.length + spec.new_tokens) for spec in self.study.speed), default=0)

    def evaluation_memory(self) -> list[MemoryItem]:
        """Return the memory of retrieval and speed; data sets are embedded by the variant one after the other."""
        prompts = max((spec.batch * spec.length for spec in self.study.speed), default=0)
        embedded = [size.texts * self.shape.width for size in self.retrieval]
        return [
            MemoryItem("embeddings of the dense model", sum(embedded) * FLOAT_BYTES),
            MemoryItem("embeddings of the variant", max(embedded, default=0) * _EMBEDDING_BYTES, "worn"),
            MemoryItem(
                "activations of the prompts of `speed`", prompts * self.activation_width * self.item_size, "worn"
            ),
        ]

    def evaluation_rows(self, recipe: Recipe) -> list[RowCount]:
        """Return the rows of a variant in the tables of tasks, retrieval and speed."""
        options = sum(task.samples * task.options_a_sample for task in self.tasks)
        stored = sum(size.texts for size in self.retrieval if size.keeps_embeddings)
        return [
            RowCount("task_scores", sum(_METRICS[task.scoring] for task in self.tasks)),
            RowCount("task_samples", sum(task.samples for task in self.tasks), listed=round(2 * options)),
            RowCount("retrieval_scores", 4 * len(self.retrieval)),
            RowCount("retrieval_queries", 4 * sum(size.queries for size in self.retrieval)),
            # A float16 takes half of a listed float32.
            RowCount("retrieval_embeddings", stored, listed=stored * self.shape.width // 2),
            RowCount("speed", len(self.study.speed) if recipe.method != "noise" else 0),
        ]
