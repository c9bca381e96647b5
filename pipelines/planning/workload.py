"""Predicted work of a study on one model, computed from sizes alone; `memory` and `rows` go on from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from prunescope.pipelines.core.device import resolve_device
from prunescope.pipelines.evaluation.tasks.batched_generation import BATCH_CONTEXTS, KEPT_CONTEXT_BYTES
from prunescope.pipelines.evaluation.traces.decoding import BATCH_TEXTS, bytes_per_variant
from prunescope.pipelines.evaluation.traces.greedy_texts import KEPT_BYTES
from prunescope.pipelines.evaluation.traces.stored_states import AT_OUTPUT
from prunescope.pipelines.models.meta_model import Shape
from prunescope.pipelines.planning.cost_model import (
    BYTE_OPERATIONS,
    LOGIT_OPERATIONS,
    RetrievalSize,
    TaskSize,
    Work,
)
from prunescope.pipelines.recipes import DepthRecipe, LayerwiseRecipe, MixedRecipe, Recipe, changes_matrices, steps
from prunescope.pipelines.studies import Study

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Workload:
    """One study on one model.

    Attributes:
        study: the study.
        shape: sizes of the model.
        prompts: tokens of each prompt, answer not included.
        windows: number of windows of each text of the study.
        workers: sublayers measured in parallel.
        resident_bytes: layer weights that stay on the device while the others are loaded for their turn; None if
            all stay.
        tasks: sizes of the tasks, one per way of scoring.
        retrieval: sizes of the retrieval data sets.
    """

    study: Study
    shape: Shape
    prompts: Sequence[int]
    windows: Sequence[int]
    workers: int
    resident_bytes: int | None = None
    tasks: Sequence[TaskSize] = ()
    retrieval: Sequence[RetrievalSize] = ()

    @property
    def item_size(self) -> int:
        """Bytes of a number in the study's dtype."""
        return 4 if self.study.dtype == "float32" else 2

    @property
    def head_size(self) -> int:
        """Weights of the LM head."""
        return self.shape.vocabulary * self.shape.width

    @property
    def layers_bytes(self) -> int:
        """Bytes of the layers' weights, counting learned positions and norms outside the layers with them."""
        return (self.shape.body - self.head_size) * self.item_size

    @property
    def lengths(self) -> list[int]:
        """Tokens of each prompt with its answer."""
        return [prompt + self.study.generation.new_tokens for prompt in self.prompts]

    @cached_property  # a study may have ten thousand prompts
    def layered(self) -> list[int]:
        """Tokens of each prompt that is measured layer by layer, with its answer."""
        chosen = set(self.study.layer_prompts)
        pairs = zip(self.study.prompts, self.lengths, strict=False)
        return [length for prompt, length in pairs if prompt.id in chosen]

    @property
    def positions(self) -> int:
        """Positions that are measured layer by layer."""
        if self.study.measure.positions == "every":
            return sum(self.layered)
        return len(self.layered) * (self.study.generation.new_tokens + 1)

    @property
    def kept_bytes(self) -> int:
        """Bytes of keys and values of the dense texts, from which the dense model goes on; 0 if they are not kept."""
        size = sum(self.lengths) * self.shape.cache_width * self.shape.layers * self.item_size
        return size if size <= KEPT_BYTES and {"own_text", "fork"} & set(self.study.measure.trajectories) else 0

    @property
    def kept_context_bytes(self) -> int:
        """Bytes of keys and values of the tasks' contexts, after which the dense model continues variants' texts."""
        writing = [task for task in self.tasks if task.new_tokens]
        tokens = sum(sum(task.contexts) + len(task.contexts) * task.shared for task in writing)
        size = tokens * self.shape.cache_width * self.shape.layers * self.item_size
        return size if size <= KEPT_CONTEXT_BYTES else 0

    @property
    def sampled_texts(self) -> int:
        """Sampled texts of each variant."""
        return len(self.prompts) * self.study.decoding.samples if self.study.decoding else 0

    @property
    def scored_tokens(self) -> int:
        """Scored tokens of all texts."""
        return sum(text.scored * count for text, count in zip(self.study.texts, self.windows, strict=True))

    @property
    def sublayers(self) -> int:
        """Attentions and MLPs of all layers."""
        return 2 * self.shape.layers

    def moved_sublayers(self, recipe: Recipe) -> int:
        """Return how many sublayers a recipe drops, changes the weights of, or computes with other rounding."""
        if isinstance(recipe, MixedRecipe):
            return len(recipe.sublayers)
        if changes_matrices(recipe) or recipe.method == "noise":
            return self.sublayers
        return sum(
            step.count * (2 if step.unit == "block" else 1) for step in steps(recipe) if isinstance(step, DepthRecipe)
        )

    def shifted_sublayers(self, recipe: Recipe, scope: str) -> int:
        """Return after how many sublayers a recipe can shift the residual stream."""
        if recipe.method == "dense":
            return 0
        return self.sublayers if scope == "propagated" else self.moved_sublayers(recipe)

    @property
    def is_exact(self) -> bool:
        """Return whether these passes compute in float64: on a CPU, with float32 weights and all tokens at once."""
        is_cpu = resolve_device(self.study.device) == "cpu"
        return is_cpu and self.study.dtype == "float32" and not self.study.measure.cache

    @property
    def text_steps(self) -> int:
        """Steps of one text of every prompt."""
        return len(self.prompts) * self.study.generation.new_tokens

    @property
    def top_steps(self) -> int:
        """Steps whose most likely tokens are stored."""
        return self.text_steps * len({"teacher_forced", "own_text"} & set(self.study.measure.trajectories))

    def single_swaps(self, recipe: Recipe) -> int:
        """Return how often a sublayer of a recipe is swapped alone, in the scopes `isolated` and `restored`."""
        return self.moved_sublayers(recipe) * len(set(AT_OUTPUT) & set(self.study.measure.scopes))

    @property
    def bytes_per_variant(self) -> int:
        """Bytes that a traced variant keeps until it is written."""
        measure, shape = self.study.measure, self.shape
        points, decoded = self.positions * self.sublayers, self.text_steps * len(measure.trajectories)
        return bytes_per_variant(measure, points, decoded, shape.width, shape.prunable)

    def groups(self, recipes: Sequence[Recipe], max_size: int, max_bytes: int) -> list[Sequence[Recipe]]:
        """Split recipes, in order, into the groups whose variants are traced together.

        A group has at most `max_size` variants, whose results take at most `max_bytes`.
        """
        size = max(1, min(max_size, max_bytes // self.bytes_per_variant))
        return [recipes[start : start + size] for start in range(0, len(recipes), size)]

    # -- work -----------------------------------------------------------------------------------------------------

    def work(self, step: str, recipe: Recipe | None, groups: int = 1) -> Work:
        """Return the work of one step of a variant, or of the dense model for all variants; none if it is negligible.

        Args:
            step: name of the step.
            recipe: the variant; None for the dense model.
            groups: number of groups of variants that are traced together; each computes the dense logits once.
        """
        both = {"sampling": self._sampling, "texts": self._texts, "retrieval": self._retrieval}
        alone = {"variants": self._pruning, "traces": self._traces, "tasks": self._tasks, "speed": self._speed}
        if step in both:
            return both[step](recipe)
        if recipe is not None:
            return alone[step](recipe) if step in alone else Work()
        if step == "traces":
            measure = self.study.measure
            rows = groups * self.positions * self.sublayers * len(measure.lenses)
            return self._decode(1 + measure.writes) + Work(self._pass(self.is_exact)) + self._measure(rows)
        return self._calibration(self.study, 1) if step == "calibration" else Work()

    def forward(self, tokens: int, sequences: int = 1) -> float:
        """Return the floating-point operations below the head: 2 per weight and token, and attention over tokens²."""
        attention = 4 * tokens**2 * self.shape.attention_width * self.shape.layers
        return sequences * float(2 * tokens * self.shape.active + attention)

    def _calibration(self, study: Study, passes: float) -> Work:
        """Return the work of passes over the calibration tokens; in float32 the layers are as fast as the head."""
        spec = study.calibration
        work = passes * self.forward(spec.length, spec.sequences)
        return Work(head=work) if spec.dtype == "float32" else Work(work)

    def _measure(self, rows: int, products: int = 1, temperatures: int | None = None) -> Work:
        """Return the head products of rows, and the measurement of their logits at every temperature of the study."""
        measured = LOGIT_OPERATIONS * (len(self.study.measure.temperatures) if temperatures is None else temperatures)
        return Work(head=float(rows * self.shape.vocabulary * (2 * products * self.shape.width + measured)))

    def _write(self, tokens: float, rounds: float) -> Work:
        """Return the work of writing tokens in rounds, each of which reads all weights."""
        read = rounds * (self.shape.active * self.item_size + self.head_size * FLOAT_BYTES)
        return Work(2.0 * tokens * self.shape.active, 2.0 * tokens * self.head_size + BYTE_OPERATIONS * read)

    def _decode(self, copies: int, *, is_read: bool = False) -> Work:
        """Return the work of decoding so many texts of each prompt in batches, and of the prompts unless `is_read`."""
        read = 0.0 if is_read else sum(map(self.forward, self.prompts))
        batches = -(-copies * len(self.prompts) // BATCH_TEXTS)
        rounds = batches * self.study.generation.new_tokens
        return Work(read) + self._write(copies * self.text_steps, rounds)

    def _pruning(self, recipe: Recipe) -> Work:
        """Return a recipe's work on the calibration tokens, without scores, masks and weight updates."""
        study = self.study.calibrated_for(recipe)
        tokens = study.calibration.sequences * study.calibration.length
        # The model's tables hold statistics of the study's calibration; a recipe with its own measures what it needs.
        passes, gram = float(bool(recipe.calibration and recipe.needs)), 0.0
        for step in steps(recipe):
            if isinstance(step, LayerwiseRecipe) and step.reads != "nothing":
                passes += 2 if step.predecessors == "pruned" else 0 if step.reads == "moments" else 1
                gram += tokens * self.shape.layers * self.gram_numbers * (step.reads == "gram")
            elif isinstance(step, DepthRecipe) and step.by in {"iterative", "greedy"}:
                # One pass per removal. The greedy choice runs the layers above each candidate: half of all on average.
                units = self.shape.layers * (2 if step.unit == "attn+mlp" else 1)
                passes += step.count * (1 if step.by == "iterative" else units / 2)
        return self._calibration(study, passes) + Work(head=gram)  # float32, whatever the dtype of the passes

    @property
    def gram_numbers(self) -> int:
        """Numbers of the Gram matrices of a layer, if all of them are read.

        Two inputs of an attention and one of an MLP are as wide as the stream, its other one as the largest matrix.
        """
        return 3 * self.shape.width**2 + max(self.shape.largest_matrix) ** 2

    def _traces(self, recipe: Recipe) -> Work:
        """Return the trace work of one variant, counting dropped sublayers as if all layers ran."""
        measure, is_dense, is_noise = self.study.measure, recipe.method == "dense", recipe.method == "noise"
        # One pass of the variant, and one of its sublayers in the dense context.
        passes = 1 + ((changes_matrices(recipe) or is_noise) and "local" in measure.scopes)
        # A swap runs the layers above it: half of all on average if every sublayer is swapped, else at most all.
        swapped = self.single_swaps(recipe) * (0.5 if self.moved_sublayers(recipe) == self.sublayers else 1.0)
        if "restored" in measure.scopes and not is_dense:  # the variant, and its sublayers dense again
            swapped += 2
        work = Work(passes * self._pass(self.is_exact and not is_noise) + swapped * self._pass(is_exact=False))
        # Teacher forced, and its own text if variants write.
        if measure.writes or len(self.layered) < len(self.prompts):
            work += self._decode(1 + measure.writes)
        again = len({"own_text", "fork"} & set(measure.trajectories))
        if again and not is_dense:  # the dense model after the variant, at most
            work += self._decode(again, is_read=bool(self.kept_bytes))
        shifted = sum(self.shifted_sublayers(recipe, scope) for scope in measure.scopes)
        # Logits of both sides for `decoding_steps`, and again for `top_tokens`.
        decoded = 2 * (self.text_steps * len(measure.trajectories) + self.top_steps)
        return work + self._measure(len(measure.lenses) * self.positions * shifted + decoded)

    def _sampling(self, recipe: Recipe | None) -> Work:
        """Return the work of sampled texts: that of a variant at most, as if all part from the dense ones at once."""
        if self.study.decoding is None:
            return Work()
        texts = self._decode(self.study.decoding.samples)
        if recipe is None:
            return texts
        # The variant samples and reads the dense texts, and the dense model reads the variant's. Then logits of both
        # sides for the measures, and again for what may be drawn.
        rows = 2 * self.sampled_texts * self.study.generation.new_tokens
        return texts + texts + texts + self._measure(rows, products=4, temperatures=1)

    def _texts(self, recipe: Recipe | None) -> Work:
        """Return the work on texts: a pass, and for a variant the logits of both sides of every scored token."""
        pairs = zip(self.study.texts, self.windows, strict=True)
        read = Work(sum(self.forward(text.context, count) for text, count in pairs))
        return read if recipe is None else read + self._measure(2 * self.scored_tokens, temperatures=1)

    def _tasks(self, recipe: Recipe) -> Work:
        """Return the work of the tasks of one variant: contexts, what follows them, and a head product per state read.

        A task that writes also has a fork of each text, which begins anywhere in it, on average in the middle. Batches
        count as if all of their answers had the mean length: in those that end late few rows are left.
        """
        work = Work()
        for task in self.tasks:
            has_forks = task.new_tokens > 0 and recipe.method != "dense"
            texts = 1.5 if has_forks else 1.0
            batches = -(-len(task.contexts) // BATCH_CONTEXTS)
            passes = 1 + (has_forks and not self.kept_context_bytes)
            read = passes * (sum(map(self.forward, task.contexts)) + batches * self.forward(task.shared))
            exact = task.long_tokens * (self.is_exact and recipe.method != "noise")  # takes twice as long
            work += Work(read + 2.0 * (task.ends + exact) * self.shape.active, 2.0 * task.reads * self.head_size)
            tokens = texts * task.answer_tokens
            work += self._write(len(task.contexts) * tokens, batches * tokens)
        return work

    def _retrieval(self, recipe: Recipe | None) -> Work:
        """Return the work of the embeddings, and for a variant of the similarities of all queries and documents."""
        embedded = Work(sum(self.forward(size.tokens // size.texts, size.texts) for size in self.retrieval))
        if recipe is None:
            return embedded
        similarities = Work(sum(2.0 * size.queries * size.documents * self.shape.width for size in self.retrieval))
        return similarities if recipe.method == "dense" else embedded + similarities

    def _speed(self, recipe: Recipe) -> Work:
        """Return the work of timing one variant and the dense model in turn, as if dropped sublayers ran."""
        work = Work()
        for spec in () if recipe.method == "noise" else self.study.speed:
            runs = 2 * (spec.repeats + 2)
            written = runs * (spec.new_tokens - 1)
            work += Work(runs * self.forward(spec.length, spec.batch)) + self._write(written * spec.batch, written)
        return work

    def _pass(self, is_exact: bool) -> float:
        """Return the work of a pass over the prompts measured layer by layer; in float64 it takes twice as long."""
        return sum(map(self.forward, self.layered)) * (2 if is_exact else 1)
