"""What a study will cost on one model, from sizes alone: memory, work, and rows of every table.

Pure numbers; what a machine gives is measured in `machine.py`, what is current already is known to the caller.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prunescope.pipelines.metrics.divergence import COLUMN_NAMES
from prunescope.pipelines.metrics.logit_blocks import BLOCK_ROWS
from prunescope.pipelines.planning.cost_model import FLOAT, Cost, MemoryItem, Passes, RowCount
from prunescope.pipelines.planning.evaluation_workload import EvaluationWorkload, TaskSize
from prunescope.pipelines.planning.retrieval_workload import RetrievalSize
from prunescope.pipelines.pruning.calibration.layerwise_forward import BATCH
from prunescope.pipelines.pruning.sampled_masks import MAX_SAMPLED
from prunescope.pipelines.pruning.variant_patching import MAX_CHANGED_BYTES
from prunescope.pipelines.recipes import DepthRecipe, MatrixRecipe, NoiseRecipe, Recipe, steps
from prunescope.pipelines.studies import Study


@dataclass(frozen=True)
class Workload(Passes):
    """One study on one model.

    Attributes:
        prompts: tokens of each prompt, answer not included.
        windows: windows of each text of the study.
        workers: sublayers that are measured at once.
        tasks: what each task asks, every way of scoring on its own.
        embedded: what is embedded of each retrieval data set.
        stays: bytes of layers that stay on the device, while the others come for their turn; None where all do.
    """

    prompts: Sequence[int]
    windows: Sequence[int]
    workers: int
    tasks: Sequence[TaskSize] = ()
    embedded: Sequence[RetrievalSize] = ()
    stays: int | None = None

    @property
    def lengths(self) -> list[int]:
        """Tokens of each prompt with its answer."""
        return [prompt + self.study.generation.new_tokens for prompt in self.prompts]

    @property
    def positions(self) -> int:
        """Measured positions of all prompts."""
        if self.study.measure.positions == "every":
            return sum(self.lengths)
        return len(self.prompts) * (self.study.generation.new_tokens + 1)

    @property
    def measured(self) -> EvaluationWorkload:
        """Tasks, retrieval and speed."""
        return EvaluationWorkload(self.study, self.shape, self.tasks, self.embedded)

    # -- work -----------------------------------------------------------------------------------------------------

    def calibration(self) -> list[Cost]:
        """The dense model over the calibration tokens."""
        return [Cost("calibration pass", "body", self._calibration_pass(self.study))]

    def _calibration_pass(self, study: Study) -> float:
        return self.forward(study.calibration.length, study.calibration.sequences)

    def pruning(self, recipe: Recipe) -> list[Cost]:
        """What a recipe runs on the calibration tokens; scores, masks and updates of weights apart."""
        study = self.study.calibrated_for(recipe)
        tokens, one = study.calibration.sequences * study.calibration.length, self._calibration_pass(study)
        # The model's tables are of the study's calibration; of its own it measures what it needs.
        passes, gram = float(bool(recipe.calibration and recipe.needs)), 0.0
        for step in steps(recipe):
            if isinstance(step, MatrixRecipe) and step.reads != "nothing":
                passes += 2 if step.predecessors == "pruned" else 0 if step.needs else 1
                gram += tokens * self._gram if step.reads == "gram" else 0
            elif isinstance(step, DepthRecipe) and step.by in {"iterative", "greedy"}:
                # One pass a removal; the greedy choice runs what lies above each candidate, half of all on average.
                units = self.shape.layers * (2 if step.unit == "attn+mlp" else 1)
                passes += step.count * (1 if step.by == "iterative" else units / 2)
        costs = [Cost("calibration tokens through variants", "body", passes * one)] if passes else []
        return [*costs, Cost("Gram matrices", "body", gram)] if gram else costs

    @property
    def _gram(self) -> float:
        """Numbers of the Gram matrices of all layers: three inputs of the stream's width, one of the largest."""
        return float(self.shape.layers * (3 * self.shape.width**2 + max(self.shape.largest_matrix) ** 2))

    def dense(self, groups: int) -> list[Cost]:
        """What the traces of all variants share; the dense logits once for each group that is traced together."""
        costs = [*self._decode("dense model"), Cost("dense pass", "body", self._pass)]
        for lens in self.study.measure.lenses:
            costs += self._head(f"lens {lens}, dense side", groups * self._rows)
        return costs

    def variant(self, recipe: Recipe) -> list[Cost]:
        """Pruning apart, everything that the traces of one variant need; drops are counted as if all layers moved."""
        costs = []
        if recipe.method != "dense":
            costs.append(Cost("variant pass", "body", self._pass))
        if recipe.changes_matrices and "local" in self.study.measure.scopes:
            costs.append(Cost("sublayers in the dense context", "body", self._pass))
        if swapped := self.changed(recipe) * ("isolated" in self.study.measure.scopes):
            # Each swap runs through the layers above it: half of them on average, all of them at most.
            share = 0.5 if swapped == 2 * self.shape.layers else 1.0
            costs.append(Cost("single swaps through the layers above", "body", swapped * share * self._pass))
        if "free_running" in self.study.measure.trajectories:
            costs += self._decode("variant")
        for lens in self.study.measure.lenses:
            for scope in self.study.measure.scopes:
                if sublayers := self.moved(recipe, scope):
                    costs += self._head(f"lens {lens}, scope {scope}", self.positions * sublayers)
        steps = len(self.prompts) * self.study.generation.new_tokens * len(self.study.measure.trajectories)
        # Both sides for the table of steps and once more for the top tokens.
        return [*costs, *self._head("decoding steps", 4 * steps)]

    def text_dense(self) -> list[Cost]:
        """What the texts of all variants share."""
        return [Cost("texts, dense pass", "body", self._text_pass)] if self.scored else []

    def text_variant(self) -> list[Cost]:
        """The texts of one variant: a pass, and both sides of every scored token at T = 1."""
        if not self.scored:
            return []
        logits = 2.0 * self.scored * self.shape.vocabulary
        return [
            Cost("texts, variant pass", "body", self._text_pass),
            Cost("head product, texts", "head", 2 * logits * self.shape.width),
            Cost("measures at T = 1, texts", "vocabulary", logits),
        ]

    @property
    def scored(self) -> int:
        """Scored tokens of all texts."""
        return sum(text.scored * count for text, count in zip(self.study.texts, self.windows, strict=True))

    @property
    def _text_pass(self) -> float:
        pairs = zip(self.study.texts, self.windows, strict=True)
        return sum(self.forward(text.context, count) for text, count in pairs)

    def changed(self, recipe: Recipe) -> int:
        """Sublayers whose weights a recipe changes or that it drops."""
        if recipe.changes_matrices:
            return 2 * self.shape.layers
        return sum(
            step.count * (2 if step.unit == "block" else 1) for step in steps(recipe) if isinstance(step, DepthRecipe)
        )

    def moved(self, recipe: Recipe, scope: str) -> int:
        """Sublayers behind which a recipe moves the stream, at most."""
        if recipe.method == "dense":
            return 0
        return 2 * self.shape.layers if scope == "propagated" else self.changed(recipe)

    @property
    def _pass(self) -> float:
        """Floating-point operations of one forward pass over all prompts with their answers."""
        return sum(self.forward(length) for length in self.lengths)

    @property
    def _rows(self) -> int:
        """Rows of one lens, scope and temperature."""
        return self.positions * 2 * self.shape.layers

    def _head(self, item: str, rows: int) -> Iterator[Cost]:
        """Rows through the LM head, and each of their logits measured at every temperature."""
        measure, logits = self.study.measure, float(rows * self.shape.vocabulary)
        yield Cost(f"head product, {item}", "head", 2 * logits * self.shape.width)
        for temperature in measure.temperatures:
            yield Cost(f"measures at T = {temperature:g}, {item}", "vocabulary", logits)

    def _decode(self, who: str) -> list[Cost]:
        """All prompts together through one cache: the prompts at once, then token by token at memory speed."""
        steps = self.study.generation.new_tokens
        return [
            Cost(f"{who} decodes: prompts", "body", self.forward(max(self.prompts), len(self.prompts))),
            Cost(f"{who} decodes: {steps} tokens", "memory", float(steps * self.read_a_token)),
        ]

    # -- memory ---------------------------------------------------------------------------------------------------

    @property
    def bytes_a_variant(self) -> int:
        """Bytes that one variant keeps waiting: rows of `layer_transitions`, kept states and masks.

        A row is its numbers, and a quarter as much for the keys.
        """
        measure = self.study.measure
        kinds = len(measure.scopes) * len(measure.lenses) * len(measure.temperatures)
        states = self._rows * len(measure.scopes) * 2 * self.shape.width if measure.keep_states else 0
        return self._rows * kinds * len(COLUMN_NAMES) * FLOAT * 5 // 4 + states + self.shape.prunable // 8

    def groups(self, recipes: Sequence[Recipe], most: int, waiting: int) -> list[Sequence[Recipe]]:
        """The variants that are traced together.

        Args:
            recipes: all that are to be traced, in order.
            most: variants of a group.
            waiting: bytes of rows that may wait in memory.
        """
        size = max(1, min(most, waiting // self.bytes_a_variant))
        return [recipes[start : start + size] for start in range(0, len(recipes), size)]

    def held(self, recipe: Recipe, group: Sequence[Recipe], process: int) -> list[MemoryItem]:
        """What lies in memory for one variant, the largest holders; the peak is `peak` of them.

        Args:
            recipe: the variant's.
            group: those that are traced together with it, itself among them; their masks are loaded together.
            process: bytes of the process with its libraries, before it loads anything.
        """
        shape, measure, size = self.shape, self.study.measure, self.item_size
        tokens, sublayers = sum(self.lengths), 2 * shape.layers
        head = 0 if size == FLOAT else self.head_size * FLOAT
        # In float32 a kept state is a view that holds the whole sequence, else a copy of what is measured.
        kept = tokens if size == FLOAT else self.positions
        states = kept * shape.width * (shape.layers + sublayers) * FLOAT
        masks = -(-shape.prunable // 8) * sum(other.changes_matrices for other in group)
        masked = recipe.changes_matrices
        # More than that is made layer by layer, except where nothing may be made while the clock runs.
        pruned = shape.prunable * size
        is_whole = self.stays is None or self.stays >= self.layers_bytes
        worn = pruned if (is_whole and pruned <= MAX_CHANGED_BYTES) or self.study.speed else -(-pruned // shape.layers)
        moves = len(group) * self.positions * shape.width * sublayers * FLOAT
        swaps = self.changed(recipe) if "isolated" in measure.scopes else 0
        turns = (
            isinstance(recipe, NoiseRecipe)
            and recipe.kind == "batch"
            and is_whole
            and self.layers_bytes <= MAX_CHANGED_BYTES
        )
        rounds = isinstance(recipe, NoiseRecipe) and recipe.kind == "bfloat16"
        # Logits of both sides, z − max z, and a copy that a product may make.
        block = 4 * min(BLOCK_ROWS, self.positions * len(measure.lenses)) * shape.vocabulary * FLOAT
        cached_tokens = max(len(self.prompts) * max(self.lengths, default=0), self.measured.tokens_cached)
        cached = cached_tokens * shape.cache_width * shape.layers * size
        calibration = self.study.calibrated_for(recipe).calibration
        longest = BATCH * calibration.length
        streams = calibration.sequences * calibration.length * shape.width
        reads_gram = any(isinstance(step, MatrixRecipe) and step.reads == "gram" for step in steps(recipe))
        # Totals in float64, and one batch's in float32.
        gram = 12 * self._gram / shape.layers if reads_gram else 0
        return [
            MemoryItem("process and libraries", process),
            *self._weights(),
            MemoryItem("head in float32", head),
            MemoryItem("dense states of the prompts", states),
            MemoryItem("dense calls of every sublayer", tokens * shape.width * sublayers * size),
            MemoryItem("final streams of the texts", self.scored * shape.width * FLOAT),
            MemoryItem("activations of a calibration batch", longest * self.widest * size, "calibrated"),
            MemoryItem("streams of the calibration tokens", streams * size, "calibrated"),
            MemoryItem("Gram matrices of a layer", round(gram), "calibrated"),
            MemoryItem("masks, a bit a weight", masks, "worn"),
            MemoryItem("pruned weights", worn if masked else 0, "worn"),
            MemoryItem("weights in reverse order", self.layers_bytes if turns else 0, "worn"),
            MemoryItem("weights rounded to bfloat16", shape.body * 2 if rounds else 0, "worn"),
            MemoryItem("states of the variant", states, "worn"),
            MemoryItem("key-value cache", cached, "worn"),
            MemoryItem("masks, a bit a weight", masks, "measured"),
            MemoryItem("shifts of the stream", moves, "measured"),
            MemoryItem("pruned weights", self.workers * shape.largest_sublayer * size if masked else 0, "measured"),
            MemoryItem("shifts of the texts", self.scored * shape.width * FLOAT, "measured"),
            MemoryItem(
                "shifts of single swaps, in float64", max(self.lengths, default=0) * shape.width * swaps * 8, "measured"
            ),
            MemoryItem("logits of a block", self.workers * block, "measured"),
            MemoryItem("rows of the variants", len(group) * self.bytes_a_variant, "measured"),
            *self.measured.held(),
        ]

    def _weights(self) -> Iterator[MemoryItem]:
        """The dense model's own, as far as they lie on the device."""
        name, size, layers = f"weights in {self.study.dtype}", self.item_size, self.layers_bytes
        if self.stays is None or self.stays >= layers:
            yield MemoryItem(name, self.shape.parameters * size)
            return
        yield MemoryItem(f"{name} outside the layers", self.shape.parameters * size - layers)
        yield MemoryItem("layers that stay", self.stays)
        # A whole one in a pass, one sublayer a core where they are measured.
        turn = max(layers // self.shape.layers, self.workers * self.shape.largest_sublayer * size)
        yield MemoryItem("layers on their turn", turn)

    # -- tables ---------------------------------------------------------------------------------------------------

    def model_rows(self) -> list[RowCount]:
        """Rows of the tables of a model."""
        shape = self.shape
        return [
            RowCount("models", 1),
            RowCount("activation_stats", shape.modules, listed=shape.inputs),
            RowCount("block_influence", 3 * shape.layers),
        ]

    def variant_rows(self, recipe: Recipe) -> list[RowCount]:
        """Rows of the tables of a variant."""
        measure, prompts = self.study.measure, len(self.prompts)
        each = len(measure.lenses) * len(measure.temperatures) * self.positions
        scopes = measure.scopes
        moved = sum(self.moved(recipe, scope) for scope in scopes)
        transitions = each * 2 * self.shape.layers * len(scopes)
        written = prompts * self.study.generation.new_tokens * len(measure.trajectories)
        listed = min(measure.top_k, self.shape.vocabulary)
        decoded = written * len(measure.temperatures)
        # Of the dense model its stream; of a variant the shifts that there are, local ones of changed sublayers alone.
        kept = self.positions * (2 * self.shape.layers if recipe.method == "dense" else moved)
        choices = sum(bool(prompt.options) for prompt in self.study.prompts)
        masks = any(isinstance(part, MatrixRecipe) for part in steps(recipe))
        sampled = min(self.shape.prunable, self.shape.modules * MAX_SAMPLED) // 8
        return [
            RowCount("variants", 1),
            RowCount("mask_samples", self.shape.modules, packed=sampled if masks else 0),
            RowCount("layer_transitions", transitions, unmoved=transitions - each * moved),
            RowCount("decoding_steps", decoded, unmoved=decoded if recipe.method == "dense" else 0),
            RowCount("top_tokens", written * 2 * listed),
            RowCount("option_subspace", choices * len(measure.temperatures)),
            RowCount("generations", prompts if "free_running" in measure.trajectories else 0),
            *([RowCount("hidden_states", kept, listed=kept * self.shape.width)] if measure.keep_states else []),
            RowCount("text_tokens", self.scored, unmoved=self.scored if recipe.method == "dense" else 0),
            *self.measured.rows(recipe),
        ]
