"""Memory that a study's variants need, predicted from sizes alone."""

from collections.abc import Sequence

import torch

from prunescope.pipelines.core.device import available_bytes, resolve_device
from prunescope.pipelines.evaluation.traces.decoding import BATCH_TEXTS
from prunescope.pipelines.evaluation.traces.text_traces import PASS_TOKENS, PIECE_ROWS
from prunescope.pipelines.metrics.logit_blocks import block_sizes, kernels_for
from prunescope.pipelines.models.token_cache import ROOM
from prunescope.pipelines.planning.workload import FLOAT_BYTES, Workload
from prunescope.pipelines.pruning.calibration.layerwise_forward import BATCH
from prunescope.pipelines.pruning.variant_patching import MAX_CHANGED_BYTES, changed_limit
from prunescope.pipelines.recipes import LayerwiseRecipe, NoiseRecipe, Recipe, changes_matrices, steps

# A variant's embedding: as computed, as a unit vector in float64, and rounded.
_EMBEDDING_BYTES = 4 + 8 + 2


def memory_items(
    load: Workload, recipe: Recipe, group: Sequence[Recipe], process: int, free_bytes: int | None = None
) -> dict[str, dict[str, int]]:
    """Return the bytes of the largest users of memory while one variant is computed, by phase; `peak` is the most.

    Phases are `always`, calibration (`calibrated`), the decoding of texts (`decoded`), passes of the variant over
    prompts (`applied`) or texts (`scored`), and the measurement of what was kept of these (`measured`, `compared`).

    Args:
        load: the study on one model.
        recipe: the variant's recipe.
        group: all recipes traced together with it, including it; their masks are loaded together.
        process: bytes of the process with its libraries, before it loads anything; 0 on a GPU, whose memory is meant.
        free_bytes: free memory of a GPU that this machine need not have; None asks the device.
    """
    shape, measure, size = load.shape, load.study.measure, load.item_size
    noise = recipe.kind if isinstance(recipe, NoiseRecipe) else None
    # Numbers of a variant's own passes: noise is the rounding of the model's own type, or of bfloat16.
    own_size = 2 if noise == "bfloat16" else size
    exact_size = 8 if load.is_exact and noise is None else own_size
    # Numbers per token alive at once inside a layer, approximately: the inner states of its MLP and a few streams.
    activations = 3 * max(shape.largest_matrix) + 8 * shape.width
    longest, states = max(load.lengths, default=0), _states_bytes(load, is_exact=load.is_exact)
    calls = sum(load.layered) * shape.width * load.sublayers
    masks = -(-shape.prunable // 8) * sum(map(changes_matrices, group))
    timed = () if noise else load.study.speed
    timed_tokens = (spec.batch * (spec.length + spec.new_tokens + ROOM) for spec in timed)
    texts = (1 + measure.writes) * len(load.prompts)
    decoded = max(texts, load.sampled_texts)
    steps_width = load.study.generation.new_tokens * shape.width
    batch = min(decoded, BATCH_TEXTS)
    cached = max([batch * (longest + ROOM), *timed_tokens]) * shape.cache_width * shape.layers
    timed_prompts = max((spec.batch * spec.length for spec in timed), default=0)
    calibration = load.study.calibrated_for(recipe).calibration
    reads_gram = any(isinstance(step, LayerwiseRecipe) and step.reads == "gram" for step in steps(recipe))
    is_replaced = changes_matrices(recipe) or noise is not None
    windows = zip(load.study.texts, load.windows, strict=True)
    text_pass = max(
        (text.context * min(count, max(1, PASS_TOKENS // text.context)) for text, count in windows), default=0
    )
    text_states = load.scored_tokens * shape.width * FLOAT_BYTES
    embedded = [size.texts * shape.width for size in load.retrieval]
    device = resolve_device(load.study.device)
    is_gpu = device != "cpu"
    # Single swaps run in the model's own type: passes in float64, or token by token, are of no use to them.
    full_pass = 0
    if "isolated" in measure.scopes and (load.is_exact or measure.cache):
        full_pass = _states_bytes(load, is_exact=False) + calls * size
    always = {
        "process and libraries": process,
        **_dense_weights(load),
        "head in float32": 0 if size == FLOAT_BYTES else load.head_size * FLOAT_BYTES,
        "dense states of the prompts": states,
        "dense calls of every sublayer": calls * (8 if load.is_exact else size),
        "dense passes of single swaps": full_pass,
        # In float64, teacher forced and free running; sampled ones in 4 bytes.
        "final streams of the prompts": (8 * texts + 4 * load.sampled_texts) * steps_width,
        "keys and values of the dense texts": load.kept_bytes,
        "keys and values of the tasks' contexts": load.kept_context_bytes,
        "final streams of the texts": text_states,
        "embeddings of the dense model": sum(embedded) * FLOAT_BYTES,
    }
    is_alone = is_gpu and load.resident_bytes is None
    free = (free_bytes or available_bytes(device) or 0) - sum(always.values()) if is_alone else None
    weights = _applied_weights(load, recipe, noise, changed_limit(device, free))
    applied = {"masks, a bit per weight": masks, **weights}
    return {
        "always": always,
        "calibrated": {
            "activations of a calibration batch": BATCH * calibration.length * activations * size,
            "streams of the calibration tokens": calibration.sequences * calibration.length * shape.width * size,
            # Totals in float64, and those of one batch in float32.
            "Gram matrices of a layer": 12 * load.gram_numbers * reads_gram,
        },
        "decoded": {
            **applied,
            # Sampled texts are read three times: two passes in 4 bytes, and the third as it is decoded.
            "final streams of the variant": max(8 * texts, 20 * load.sampled_texts) * steps_width,
            "logits of a batch of texts": 3 * batch * shape.vocabulary * FLOAT_BYTES,
            # The dense model's texts are decoded before, in its own type.
            "key-value cache": max(cached * own_size, cached * size - sum(weights.values())),
            "activations of the prompts of `speed`": timed_prompts * activations * size,
        },
        "applied": {
            **applied,
            "states of the variant": _states_bytes(load, is_exact=load.is_exact and noise is None),
            "pass of the variant for scope restored": (_states_bytes(load, is_exact=False) + calls * size)
            * ("restored" in measure.scopes),
            "activations of a prompt": max(load.layered, default=0) * activations * exact_size,
            # Data sets are embedded one after the other.
            "embeddings of the variant": max(embedded, default=0) * _EMBEDDING_BYTES,
        },
        "scored": {
            **applied,
            # The inner states of an MLP, and the stream before and after it.
            "activations of a pass over texts": text_pass
            * (3 * max(shape.largest_matrix) + 4 * shape.width)
            * own_size,
            "shifts of the texts": text_states,
        },
        "measured": {
            "masks, a bit per weight": masks,
            "shifts of the stream": len(group) * load.positions * shape.width * load.sublayers * FLOAT_BYTES,
            "weights of single sublayers": load.workers * shape.largest_sublayer * own_size * is_replaced,
            # The swaps' own contributions, two sides in float64 of one prompt after the other, and the results.
            "shifts of single swaps": load.single_swaps(recipe)
            * shape.width
            * (4 * sum(load.layered) + 16 * longest + 4 * len(group) * load.positions),
            "logits of a block": load.workers
            * max(_block_bytes(load, load.positions * len(measure.lenses)), _block_bytes(load, load.text_steps)),
            "rows of the variants": 0 if is_gpu else len(group) * load.bytes_per_variant,
        },
        "compared": {
            "masks, a bit per weight": masks,
            "shifts of the texts": text_states,
            "logits of a block of texts": load.workers
            * _block_bytes(load, min(load.scored_tokens, PIECE_ROWS), is_moved=recipe.method != "dense"),
        },
    }


def _states_bytes(load: Workload, *, is_exact: bool) -> int:
    """Return the bytes of a pass's states at the measured positions of all prompts."""
    # States kept in the type of the pass are views of the whole sequence; others copy the measured positions.
    state_positions = sum(load.layered) if load.item_size == FLOAT_BYTES else load.positions
    stream_positions = load.positions if is_exact else state_positions
    pass_size = 8 if is_exact else load.item_size
    return load.shape.width * (
        stream_positions * load.shape.layers * FLOAT_BYTES
        + state_positions * load.sublayers * max(pass_size, FLOAT_BYTES)
    )


def _block_bytes(load: Workload, rows: int, *, is_moved: bool = True) -> int:
    """Return the bytes of the arrays of one block of rows × vocabulary.

    Torch's arrays were counted on a test device; the compiled kernels keep the logits of both sides, z − max z, and a
    copy that a product may make.
    """
    arrays = 4
    device = torch.device(resolve_device(load.study.device))
    # A GPU that is only planned is taken as one that Triton runs on.
    if (torch.cuda.is_available() or device.type != "cuda") and kernels_for(device) == "torch":
        arrays = (21 if is_moved else 6) + len(load.study.measure.temperatures)
    return arrays * block_sizes(rows)[0] * load.shape.vocabulary * FLOAT_BYTES


def _applied_weights(load: Workload, recipe: Recipe, noise: str | None, limit: int) -> dict[str, int]:
    """Return the bytes of weights that replace dense ones while a variant is applied; `limit` is `changed_limit`'s."""
    is_whole = load.resident_bytes is None or load.resident_bytes >= load.layers_bytes
    pruned = load.shape.prunable * load.item_size
    # Above the limit weights are made layer by layer, but for `speed`, which makes none while it times.
    if not load.study.speed and not (is_whole and pruned <= limit):
        pruned = -(-pruned // load.shape.layers)
    reverses = noise == "batch" and is_whole and load.layers_bytes <= MAX_CHANGED_BYTES
    return {
        "pruned weights": pruned if changes_matrices(recipe) else 0,
        "weights in reverse order": load.layers_bytes if reverses else 0,
        "weights rounded to bfloat16": load.shape.body * 2 if noise == "bfloat16" else 0,
    }


def _dense_weights(load: Workload) -> dict[str, int]:
    name, total, layers = f"weights in {load.study.dtype}", load.shape.parameters * load.item_size, load.layers_bytes
    if load.resident_bytes is None or load.resident_bytes >= layers:
        return {name: total}
    # A pass loads one whole layer; the measurement loads one sublayer per worker.
    turn = max(layers // load.shape.layers, load.workers * load.shape.largest_sublayer * load.item_size)
    return {
        f"{name} outside the layers": total - layers,
        "layers that stay": load.resident_bytes,
        "layers on their turn": turn,
    }
