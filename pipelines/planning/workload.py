"""The operations that a study takes on one model, from sizes alone. No weights, no memory and no lm-eval here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from prunescope.pipelines.core.device import resolve_device
from prunescope.pipelines.evaluation.tasks.batched_generation import BATCH_CONTEXTS, KEPT_CONTEXT_BYTES
from prunescope.pipelines.evaluation.traces.decoding import BATCH_TEXTS, bytes_per_variant
from prunescope.pipelines.evaluation.traces.greedy_texts import KEPT_BYTES
from prunescope.pipelines.evaluation.traces.stored_states import AT_OUTPUT
from prunescope.pipelines.models.meta_model import Shape
from prunescope.pipelines.recipes import (
    DepthRecipe,
    DistillRecipe,
    LayerwiseRecipe,
    MixedRecipe,
    Recipe,
    RepairRecipe,
    changes_matrices,
    steps,
)
from prunescope.pipelines.studies import CalibrationSpec, Study
from prunescope.pipelines.studies.evaluation_specs import SpeedSpec

FLOAT_BYTES = 4
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
    """Floating-point operations below the LM head and in it; other work counts as head operations of equal time."""

    layers: float = 0.0
    head: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        """Return both amounts together."""
        return Work(self.layers + other.layers, self.head + other.head)

    def seconds(self, machine: Machine) -> float:
        """Return the time at the machine's speed."""
        return self.layers / machine.layers + self.head / machine.head


@dataclass(frozen=True)
class TaskSize:
    """Tokens of a task under one way of scoring.

    Attributes:
        contexts: tokens of every sequence that is read: of contexts to write on without what they share, of options
            with what they share once, or of windows of a text.
        long_tokens: those that run in float64 if the model is in float32 on a CPU.
        reads: states whose logits are computed, apart from those of written answers.
        shared: tokens that all contexts to write on begin with, such as worked examples; they run once per batch.
        new_tokens: most tokens generated per context.
    """

    name: str
    scoring: str
    samples: int
    contexts: tuple[int, ...] = ()
    long_tokens: int = 0
    reads: int = 0
    shared: int = 0
    new_tokens: int = 0

    @property
    def answer_tokens(self) -> float:
        """Expected tokens per answer."""
        return TYPICAL_SHARE * self.new_tokens


@dataclass
class Workload:
    """One study on one model, in sizes that follow from each other.

    Attributes:
        prompts: tokens of each prompt, answer not included.
        windows: number of windows of each text of the study.
        workers: sublayers measured in parallel.
        tasks: sizes of the tasks, one per way of scoring.
        retrieval: texts of each retrieval data set, and their tokens.
        device: the study's device; a GPU with its number.
        item_size: bytes of a number in the study's dtype.
        is_exact: whether passes over prompts compute in float64: on a CPU, with float32 weights, all tokens at once.
        head_size: weights of the LM head.
        layers_bytes: bytes of the layers' weights, including learned positions and norms outside the layers.
        moved_bytes: bytes of the layers that rest elsewhere until they run.
        token_bytes: bytes of the keys and values per token.
        gram_numbers: numbers in the Gram matrices of a layer, if all of them are read.
        sublayers: attentions and MLPs of all layers.
        lengths: tokens of each prompt with its answer.
        layered: tokens of each prompt that is measured layer by layer.
        positions: positions that are measured layer by layer.
        text_steps: steps of one text of every prompt.
        sampled_texts: sampled texts of each variant.
        scored_tokens: scored tokens of all texts.
        kept_bytes: bytes of the dense texts' keys and values, from which the dense model continues; 0 if not kept.
        kept_context_bytes: bytes of the contexts' keys and values, after which it continues variants' texts in tasks.
        bytes_per_variant: bytes that a traced variant keeps until it is written.
    """

    study: Study
    shape: Shape
    prompts: Sequence[int]
    windows: Sequence[int]
    workers: int
    tasks: Sequence[TaskSize] = ()
    retrieval: Sequence[tuple[int, int]] = ()

    def __post_init__(self) -> None:
        """Compute the sizes that follow."""
        study, shape, measure, new_tokens = self.study, self.shape, self.study.measure, self.study.generation.new_tokens
        self.item_size = 4 if study.dtype == "float32" else 2
        self.device = resolve_device(study.device)
        self.is_exact = self.device == "cpu" and study.dtype == "float32" and not measure.cache
        self.head_size = shape.vocabulary * shape.width
        self.layers_bytes = (shape.body - self.head_size) * self.item_size
        stays = self.layers_bytes if study.memory is None else study.memory.get(self.device, 0)
        self.moved_bytes = max(0, self.layers_bytes - stays)
        self.token_bytes = shape.cache_width * shape.layers * self.item_size
        # An attention's two inputs and an MLP's first are as wide as the stream, its second as the largest matrix.
        self.gram_numbers = 3 * shape.width**2 + max(shape.largest_matrix) ** 2
        self.sublayers = 2 * shape.layers
        self.lengths = [prompt + new_tokens for prompt in self.prompts]
        chosen, pairs = set(study.layer_prompts), zip(study.prompts, self.lengths, strict=False)
        self.layered = [length for prompt, length in pairs if prompt.id in chosen]
        is_every = measure.positions == "every"
        self.positions = sum(self.layered) if is_every else len(self.layered) * (new_tokens + 1)
        self.text_steps = len(self.prompts) * new_tokens
        self.sampled_texts = len(self.prompts) * study.decoding.samples if study.decoding else 0
        self.scored_tokens = sum(text.scored * count for text, count in zip(study.texts, self.windows, strict=True))
        kept = sum(self.lengths) * self.token_bytes
        goes_on = not {"own_text", "fork"}.isdisjoint(measure.trajectories)
        self.kept_bytes = kept if goes_on and kept <= KEPT_BYTES else 0
        written = (task for task in self.tasks if task.new_tokens)
        kept = sum(sum(task.contexts) + len(task.contexts) * task.shared for task in written) * self.token_bytes
        self.kept_context_bytes = kept if kept <= KEPT_CONTEXT_BYTES else 0
        points, decoded = self.positions * self.sublayers, self.text_steps * len(measure.trajectories)
        self.bytes_per_variant = bytes_per_variant(measure, points, decoded, shape.width, shape.prunable)

    def moved_sublayers(self, recipe: Recipe) -> int:
        """Return how many sublayers a recipe drops, changes the weights of, or computes with other rounding."""
        if isinstance(recipe, MixedRecipe):
            return len(recipe.sublayers)
        if changes_matrices(recipe) or recipe.method == "noise":
            return self.sublayers
        drops = (step for step in steps(recipe) if isinstance(step, DepthRecipe))
        return sum(step.count * (2 if step.unit == "block" else 1) for step in drops)

    def single_swaps(self, recipe: Recipe) -> int:
        """Return how often a sublayer of a recipe is swapped alone, in the scopes `isolated` and `restored`."""
        return self.moved_sublayers(recipe) * len(set(AT_OUTPUT) & set(self.study.measure.scopes))

    # -- work -----------------------------------------------------------------------------------------------------

    def work(self, step: str, recipe: Recipe | None, groups: int = 1) -> Work:
        """Return the work of one step of a variant, or of the dense model for all variants; none if it is negligible.

        Args:
            step: name of the step.
            recipe: the variant; None for the dense model.
            groups: number of groups of variants that are traced together; each computes the dense logits once.
        """
        work = Work()
        match step:
            case "calibration" if recipe is None:
                work = self._calibration(self.study.calibration)
            case "variants" if recipe is not None:
                work = self._pruning(recipe)
            case "traces" if recipe is not None:
                work = self._traces(recipe)
            case "traces":
                rows = groups * self.positions * self.sublayers * len(self.study.measure.lenses)
                work = self._pass() + self._decode(1 + self.study.measure.writes) + self._measure(rows)
            case "sampling" if self.study.decoding is not None:
                # The dense model samples texts; a variant samples and reads the dense ones, and the dense model reads
                # the variant's, as if all part at once. Then logits of both sides, and again for what may be drawn.
                work = texts = self._decode(self.study.decoding.samples)
                if recipe is not None:
                    rows = 2 * self.sampled_texts * self.study.generation.new_tokens
                    work = texts + texts + texts + self._measure(rows, products=4, temperatures=1)
            case "texts":
                windows = zip(self.study.texts, self.windows, strict=True)
                work = Work(sum(self.forward(text.context, count) for text, count in windows))
                work += self._measure(0 if recipe is None else 2 * self.scored_tokens, temperatures=1)
            case "tasks" if recipe is not None:
                work = sum((self._task(task, recipe) for task in self.tasks), work)
            case "retrieval" if recipe is None or recipe.method != "dense":
                work = Work(sum(self.forward(tokens // texts, texts) for texts, tokens in self.retrieval))
            case "speed" if recipe is not None and recipe.method != "noise":
                work = sum(map(self._timing, self.study.speed), work)
        return work

    def forward(self, tokens: int, sequences: int = 1) -> float:
        """Return the floating-point operations below the head: 2 per weight and token, and attention over tokens²."""
        attention = 4 * tokens**2 * self.shape.attention_width * self.shape.layers
        return sequences * float(2 * tokens * self.shape.active + attention)

    def _calibration(self, spec: CalibrationSpec, passes: float = 1) -> Work:
        """Return the work of passes over the calibration tokens; in float32 the layers are as fast as the head."""
        work = passes * self.forward(spec.length, spec.sequences)
        return Work(head=work) if spec.dtype == "float32" else Work(work)

    def _pass(self, passes: float = 1, *, is_exact: bool = True) -> Work:
        """Return the work of passes over the prompts measured layer by layer; in float64 they take twice as long."""
        return Work(passes * sum(map(self.forward, self.layered)) * (2 if is_exact and self.is_exact else 1))

    def _measure(self, rows: int, products: int = 1, temperatures: int | None = None) -> Work:
        """Return the head products of rows, and the measurement of their logits at every temperature of the study."""
        measured = LOGIT_OPERATIONS * (temperatures or len(self.study.measure.temperatures))
        return Work(head=float(rows * self.shape.vocabulary * (2 * products * self.shape.width + measured)))

    def _write(self, tokens: float, rounds: float) -> Work:
        """Return the work of writing tokens in rounds, each of which reads all weights."""
        read = rounds * (self.shape.active * self.item_size + self.head_size * FLOAT_BYTES)
        return Work(2.0 * tokens * self.shape.active, 2.0 * tokens * self.head_size + BYTE_OPERATIONS * read)

    def _decode(self, copies: int, *, is_read: bool = False) -> Work:
        """Return the work of decoding so many texts of each prompt in batches, and of the prompts unless `is_read`."""
        rounds = -(-copies * len(self.prompts) // BATCH_TEXTS) * self.study.generation.new_tokens
        read = 0.0 if is_read else sum(map(self.forward, self.prompts))
        return Work(read) + self._write(copies * self.text_steps, rounds)

    def _pruning(self, recipe: Recipe) -> Work:
        """Return a recipe's work on the calibration tokens, without scores, masks and weight updates."""
        spec = recipe.calibration or self.study.calibration
        # The model's tables hold statistics of the study's calibration; a recipe with its own measures what it needs.
        passes, others = float(bool(recipe.calibration and recipe.needs)), 0.0
        for step in steps(recipe):
            if isinstance(step, LayerwiseRecipe) and step.reads != "nothing":
                passes += 2 if step.predecessors == "pruned" else 0 if step.reads == "moments" else 1
                others += spec.sequences * spec.length * self.shape.layers * self.gram_numbers * (step.reads == "gram")
            elif isinstance(step, DepthRecipe) and step.by in {"iterative", "greedy"}:
                # One pass per removal. The greedy choice runs the layers above each candidate: half of all on average.
                units = self.shape.layers * (2 if step.unit == "attn+mlp" else 1)
                passes += step.count * (1 if step.by == "iterative" else units / 2)
            elif isinstance(step, RepairRecipe):
                # The dense model, the repaired one, and a pass of its own for either sublayer of each layer.
                passes += 2 + min(2, self.moved_sublayers(recipe) / self.shape.layers)
                squares = self.moved_sublayers(recipe) * self.shape.width**2 * (step.rank > 0)
                others += 2 * spec.sequences * spec.length * squares
            elif isinstance(step, DistillRecipe):
                # Forward and backward, and the gradient of the weights; two products with the head, and their gradient.
                passes += (2 + step.weights) * step.steps * step.batch / spec.sequences
                others += 6 * step.steps * step.batch * spec.length * self.head_size
        return self._calibration(spec, passes) + Work(head=others)  # float32, even if the passes are not

    def _traces(self, recipe: Recipe) -> Work:
        """Return the trace work of one variant, counting dropped sublayers as if all layers ran."""
        measure, moved, is_dense = self.study.measure, self.moved_sublayers(recipe), recipe.method == "dense"
        # One pass of the variant, and one of its sublayers in the dense context.
        is_noise = recipe.method == "noise"
        passes = 1 + ((changes_matrices(recipe) or is_noise) and "local" in measure.scopes)
        work = self._pass(passes, is_exact=not is_noise)
        # A swap runs the layers above it: half of all on average if every sublayer is swapped, else at most all. Then
        # the variant, with its sublayers dense again.
        swapped = self.single_swaps(recipe) * (0.5 if moved == self.sublayers else 1.0)
        swapped += 2 * ("restored" in measure.scopes and not is_dense)
        work += self._pass(swapped, is_exact=False)
        # Teacher forced, and its own text if variants write; then the dense model after the variant, at most.
        if measure.writes or len(self.layered) < len(self.prompts):
            work += self._decode(1 + measure.writes)
        if again := 0 if is_dense else len({"own_text", "fork"} & set(measure.trajectories)):
            work += self._decode(again, is_read=bool(self.kept_bytes))
        shifted = sum(self.sublayers * (not is_dense) if scope == "propagated" else moved for scope in measure.scopes)
        # Logits of both sides for `decoding_steps`, and again for the texts whose most likely tokens are stored.
        texts = len(measure.trajectories) + len({"teacher_forced", "own_text"} & set(measure.trajectories))
        return work + self._measure(len(measure.lenses) * self.positions * shifted + 2 * self.text_steps * texts)

    def _task(self, task: TaskSize, recipe: Recipe) -> Work:
        """Return the work of a task for one variant: what it reads and writes, and a head product per state read.

        A written text has a fork, which begins anywhere in it, on average in the middle. Batches count as if all of
        their answers had the mean length: in those that end late few rows are left.
        """
        has_forks, is_exact = recipe.method != "dense", self.is_exact and recipe.method != "noise"
        batches = -(-len(task.contexts) // BATCH_CONTEXTS)
        passes = 2 if has_forks and task.new_tokens and not self.kept_context_bytes else 1
        read = passes * (sum(map(self.forward, task.contexts)) + batches * self.forward(task.shared))
        exact = 2.0 * task.long_tokens * self.shape.active * is_exact  # takes twice as long
        tokens = (1.5 if has_forks else 1.0) * task.answer_tokens
        written = self._write(len(task.contexts) * tokens, batches * tokens)
        return Work(read + exact, 2.0 * task.reads * self.head_size) + written

    def _timing(self, spec: SpeedSpec) -> Work:
        """Return the work of timing one variant and the dense model in turn, as if dropped sublayers ran."""
        runs = 2 * (spec.repeats + 2)
        written = runs * (spec.new_tokens - 1)
        return Work(runs * self.forward(spec.length, spec.batch)) + self._write(written * spec.batch, written)
