"""Memory that a study's variants need, predicted from sizes alone. What is computed belongs to `workload`."""

from collections.abc import Sequence

import torch

from prunescope.pipelines.core.device import available_bytes
from prunescope.pipelines.evaluation.traces.decoding import BATCH_TEXTS
from prunescope.pipelines.evaluation.traces.text_traces import PASS_TOKENS, PIECE_ROWS
from prunescope.pipelines.metrics.logit_blocks import block_sizes, kernels_for
from prunescope.pipelines.models.token_cache import ROOM
from prunescope.pipelines.planning.workload import FLOAT_BYTES, Workload
from prunescope.pipelines.pruning.calibration.layerwise_forward import BATCH
from prunescope.pipelines.pruning.distill import TRAINING_TOKENS
from prunescope.pipelines.pruning.variant_patching import MAX_CHANGED_BYTES, changed_limit
from prunescope.pipelines.recipes import (
    DistillRecipe,
    LayerwiseRecipe,
    NoiseRecipe,
    Recipe,
    RepairRecipe,
    changes_matrices,
    steps,
)

# A dense embedding, and a variant's: as computed, as a unit vector in float64, and rounded.
_EMBEDDING_BYTES = 4 + 4 + 8 + 2


def memory_items(
    load: Workload, recipe: Recipe, group: Sequence[Recipe], process: int, free_bytes: int | None = None
) -> dict[str, dict[str, int]]:
    """Return the bytes of the largest users of memory while one variant is computed, by phase.

    Phases are the calibration (`calibrated`), the writing of texts (`decoded`), passes of the variant over prompts
    (`applied`) and over texts (`scored`), and the measurement of both (`measured`, `compared`). Each holds all that is
    in memory then, with what always is.

    Args:
        load: the study on one model.
        recipe: the variant's recipe.
        group: all recipes traced together with it, including it; their masks are loaded together.
        process: bytes of the process with its libraries, before it loads anything; 0 on a GPU, whose memory is meant.
        free_bytes: free memory of a GPU that this machine need not have; None asks the device.
    """
    shape, study, measure, size = load.shape, load.study, load.study.measure, load.item_size
    layered, width = sum(load.layered), shape.width
    # Numbers per token alive at once inside a layer, approximately: the inner states of its MLP and a few streams.
    inner = 3 * max(shape.largest_matrix)
    activations = inner + 8 * width
    # Single swaps need a pass in the model's own type over whole prompts; passes in float64 or by token do not serve.
    swap_pass = _states_bytes(load, size) + layered * width * load.sublayers * size
    exact_size = 8 if load.is_exact else size
    # Noise is the rounding of the model's own type, or of bfloat16.
    noise = recipe.kind if isinstance(recipe, NoiseRecipe) else None
    own_size = 2 if noise == "bfloat16" else size
    variant_size = exact_size if noise is None else own_size
    is_repeated = "isolated" in measure.scopes and (load.is_exact or measure.cache)
    written = (1 + measure.writes) * len(load.prompts)
    steps_width = study.generation.new_tokens * width
    text_states = load.scored_tokens * width * FLOAT_BYTES
    weights = shape.parameters * size
    if load.moved_bytes:
        # A pass loads one whole layer; the measurement loads one sublayer per worker.
        turn = max(load.layers_bytes // shape.layers, load.workers * shape.largest_sublayer * size)
        weights += turn - load.moved_bytes
    always = {
        "process and libraries": process,
        f"weights in {study.dtype}": weights,
        "head in float32": 0 if size == FLOAT_BYTES else load.head_size * FLOAT_BYTES,
        "dense states of the prompts": _states_bytes(load, exact_size) + swap_pass * is_repeated,
        "dense calls of every sublayer": layered * width * load.sublayers * exact_size,
        # In float64, teacher forced and free running; sampled ones in 4 bytes.
        "dense final streams": (8 * written + 4 * load.sampled_texts) * steps_width + text_states,
        "embeddings": sum(texts for texts, _ in load.retrieval) * width * _EMBEDDING_BYTES,
        "keys and values of the dense texts": load.kept_bytes,
        "keys and values of the tasks' contexts": load.kept_context_bytes,
    }
    free = (free_bytes or available_bytes(load.device)) - sum(always.values()) if study.memory is None else None
    pruned = shape.prunable * size
    # Above the limit weights are made layer by layer, but for `speed`, which makes none while it times.
    if not study.speed and (load.moved_bytes or pruned > changed_limit(load.device, free)):
        pruned = -(-pruned // shape.layers)
    reverses = noise == "batch" and not load.moved_bytes and load.layers_bytes <= MAX_CHANGED_BYTES
    masks = {"masks, a bit per weight": -(-shape.prunable // 8) * sum(map(changes_matrices, group))}
    applied = {
        **masks,
        "pruned weights": pruned * changes_matrices(recipe),
        "weights in reverse order": load.layers_bytes * reverses,
        "weights rounded to bfloat16": shape.body * 2 * (noise == "bfloat16"),
    }
    calibration = recipe.calibration or study.calibration
    repairs = [step for step in steps(recipe) if isinstance(step, RepairRecipe)]
    training = next((step for step in steps(recipe) if isinstance(step, DistillRecipe)), None)
    trained_tokens = max(TRAINING_TOKENS, calibration.length) if training else 0
    reads_gram = any(isinstance(step, LayerwiseRecipe) and step.reads == "gram" for step in steps(recipe))
    reads_gram |= any(step.rank for step in repairs)
    # A repair keeps the embeddings, both models' streams, and in float32 the dense ones after a layer's sublayers.
    stream_size = 3 * size + 2 * FLOAT_BYTES if repairs else size
    timed = () if recipe.method == "noise" else study.speed
    batch = min(max(written, load.sampled_texts), BATCH_TEXTS)
    cached = [batch * (max(load.lengths, default=0) + ROOM)]
    cached += [spec.batch * (spec.length + spec.new_tokens + ROOM) for spec in timed]
    read = [max(load.layered, default=0) * variant_size, *(spec.batch * spec.length * size for spec in timed)]
    windows = zip(study.texts, load.windows, strict=True)
    passes = [text.context * min(count, max(1, PASS_TOKENS // text.context)) for text, count in windows]
    changed_sublayer = shape.largest_sublayer if changes_matrices(recipe) or noise else 0
    swapped = 4 * layered + 16 * max(load.lengths, default=0) + 4 * len(group) * load.positions
    rows = max(block_sizes(count)[0] for count in (load.positions * len(measure.lenses), load.text_steps))
    text_rows = block_sizes(min(load.scored_tokens, PIECE_ROWS))[0]
    # The compiled kernels keep the logits of both sides, z − max z, and a copy that a product may make. Torch's arrays
    # were counted on a test device; a GPU that is only planned is taken as one that Triton runs on.
    device = torch.device(load.device)
    is_compiled = (device.type == "cuda" and not torch.cuda.is_available()) or kernels_for(device) != "torch"
    arrays = 4 if is_compiled else 21 + len(measure.temperatures)
    # A dense text is measured, and compared with none, which needs 15 arrays less in torch.
    text_arrays = arrays - 15 * (recipe.method == "dense" and not is_compiled)
    row_bytes = shape.vocabulary * FLOAT_BYTES
    phases = {
        "calibrated": {
            "activations of a calibration batch": BATCH * calibration.length * activations * size,
            "streams of the calibration tokens": calibration.sequences * calibration.length * width * stream_size,
            # Totals in float64, and those of one batch in float32.
            "Gram matrices of a layer": 12 * load.gram_numbers * reads_gram,
            "states of all layers for a gradient": trained_tokens * activations * shape.layers * FLOAT_BYTES,
            # The start, the change, its gradient and two moments of Adam.
            "trained weights": 5 * FLOAT_BYTES * shape.prunable * (training is not None and training.weights),
        },
        "decoded": {
            **applied,
            # Sampled texts are read three times: two passes in 4 bytes, and the third as it is decoded.
            "final streams of the variant": max(8 * written, 20 * load.sampled_texts) * steps_width,
            "logits of a batch of texts": 3 * batch * shape.vocabulary * FLOAT_BYTES,
            "key-value cache": max(cached) * load.token_bytes,
        },
        "applied": {
            **applied,
            "states of the variant": _states_bytes(load, variant_size) + swap_pass * ("restored" in measure.scopes),
            "activations of a pass": max(read) * activations,
        },
        "scored": {
            **applied,
            # The inner states of an MLP, and the stream before and after it.
            "activations of a pass over texts": max(passes, default=0) * (inner + 4 * width) * own_size,
            "final streams of texts": text_states,
        },
        "measured": {
            **masks,
            "shifts of the stream": len(group) * load.positions * width * load.sublayers * FLOAT_BYTES,
            # Their own contributions, two sides in float64 of one prompt after the other, and the results.
            "shifts of single swaps": load.single_swaps(recipe) * width * swapped,
            "weights of single sublayers": load.workers * changed_sublayer * own_size,
            "logits of a block": load.workers * rows * arrays * row_bytes,
            "rows of the variants": len(group) * load.bytes_per_variant * (load.device == "cpu"),
        },
        "compared": {
            **masks,
            "shifts of the texts": text_states,
            "logits of a block of texts": load.workers * text_rows * text_arrays * row_bytes,
        },
    }
    return {phase: always | items for phase, items in phases.items()}


def _states_bytes(load: Workload, size: int) -> int:
    """Return the bytes of a pass's states at the measured positions of all prompts; `size` is its bytes per number."""
    # States kept in the type of the pass are views of the whole sequence; others copy the measured positions.
    added = sum(load.layered) if load.item_size == FLOAT_BYTES else load.positions
    streams = load.positions if size > FLOAT_BYTES else added
    per_layer = streams * FLOAT_BYTES + 2 * added * max(size, FLOAT_BYTES)
    return load.shape.width * load.shape.layers * per_layer
