"""Export of a variant as a Hugging Face folder, written as a whole and verified with stock transformers."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.metrics.rounding import allowed, distance, other_rounding
from prunescope.pipelines.models.decoder import Decoder, probe_tokens
from prunescope.pipelines.models.embedded import embedded_model
from prunescope.pipelines.models.file_validation import TOKENIZER_FILES
from prunescope.pipelines.models.load import open_folder
from prunescope.pipelines.models.module_calls import logits_of
from prunescope.pipelines.pruning.checkpoints.export_config import Form, form_of
from prunescope.pipelines.pruning.checkpoints.materialized_weights import (
    MaterializedWeights,
    as_stored,
    stored_dtype,
    unchanged,
    with_biases,
)
from prunescope.pipelines.pruning.checkpoints.model_card import About, CheckpointResult, card
from prunescope.pipelines.pruning.checkpoints.output_directory import atomic_directory, require_free, require_room
from prunescope.pipelines.pruning.module_selection import layer_of
from prunescope.pipelines.pruning.variant import Variant, save_tensors
from prunescope.pipelines.pruning.variant_patching import apply_variant

# Maximum size of a weight file, unless a single tensor is larger.
MAX_SHARD_BYTES = 5 * 10**9
# Tokens on which the folder is compared with the variant.
_PROBE_TOKENS = 32


def export(
    decoder: Decoder, variant: Variant, folder: Path, about: About, *, shrink: bool = False, progress: Progress = SILENT
) -> CheckpointResult:
    """Write config, weights, tokenizer and model card, and load them again with stock transformers.

    With `shrink`, matrices become smaller if whole neurons or heads are zero.

    Raises:
        InputError: the folder is not free or has no room, or stock transformers has no form for the variant.
        ComputationError: transformers computes something else from the folder; the folder is removed.
    """
    require_free(folder)
    dtype = stored_dtype(decoder.folder)
    probe = probe_tokens(decoder, _PROBE_TOKENS, seed=1)
    unrounded = _variant_logits(decoder, variant, probe)
    quantized = sum(change.codes is not None for change in variant.changes.values())
    variant = as_stored(decoder, variant, dtype)
    expected = _variant_logits(decoder, variant, probe)
    written = with_biases(decoder, variant)
    weights = MaterializedWeights(decoder, written)
    form = form_of(decoder, written, weights, shrink=shrink)
    progress.start("write the checkpoint", len(form.layers) + 2)
    with atomic_directory(folder) as scratch:
        require_room(scratch, form.parameters * dtype.itemsize)
        size = _write_weights(scratch, form, weights, unchanged(decoder), dtype, progress)
        _write_config_and_tokenizer(scratch, decoder, form, dtype)
        logits = _require_same(scratch, decoder, probe, expected)
        rounded = None if torch.equal(expected, unrounded) else (_name(dtype), distance(logits, unrounded.float()))
        notes = (*form.notes, *_notes(decoder, variant, quantized, dtype))
        result = CheckpointResult(folder, size, form.parameters, distance(logits, expected.float()), notes, rounded)
        (scratch / "README.md").write_text(card(about, result, decoder, variant), encoding="utf-8")
        if about.variant_hash:
            # These names connect scores of the folder from other programs to the variant.
            names = {"model": about.model, "recipe": about.recipe, "variant_hash": about.variant_hash}
            (scratch / "prunescope.json").write_text(f"{json.dumps(names)}\n", encoding="utf-8")
        if (embedded := embedded_model(about.source)) is not None and embedded.notice:
            (scratch / "NOTICE").write_text(f"{embedded.notice}\n", encoding="utf-8")
    progress.advance()
    progress.done()
    return result


def _variant_logits(decoder: Decoder, variant: Variant, probe: Int[Tensor, "1 tokens"]) -> Tensor:
    with torch.inference_mode(), apply_variant(decoder, variant):
        return logits_of(decoder.model, probe)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _write_weights(
    scratch: Path,
    form: Form,
    weights: MaterializedWeights,
    dense: Mapping[str, Tensor],
    dtype: torch.dtype,
    progress: Progress,
) -> int:
    """Write safetensors files, one in memory at a time, and an index if there are several; return their bytes."""
    shard: dict[str, Tensor] = {}
    numbers: dict[str, int] = {}
    count = size = total = 0

    def write_shard() -> None:
        nonlocal count, size
        count += 1
        save_tensors(shard, scratch / f"{count}.safetensors", {"format": "pt"})
        numbers.update(dict.fromkeys(shard, count))
        shard.clear()
        size = 0

    layers: dict[int | None, list[str]] = {None: []}
    for name in form.names:
        layers.setdefault(layer_of(name, form.prefix), []).append(name)
    for names in layers.values():
        # Restores the names and layout of checkpoints on the hub, such as one tensor per expert.
        tensors = revert_weight_conversion(
            cast(Any, form.model), {name: _stored(form, weights, dense, name, dtype).cpu() for name in names}
        )
        for name, tensor in tensors.items():
            if shard and size + tensor.nbytes > MAX_SHARD_BYTES:
                write_shard()
            shard[name] = tensor.contiguous()
            size, total = size + tensor.nbytes, total + tensor.nbytes
        progress.advance()
    write_shard()
    if count == 1:
        (scratch / "1.safetensors").rename(scratch / "model.safetensors")
        return total
    files = {number: f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)}
    for number, file in files.items():
        (scratch / f"{number}.safetensors").rename(scratch / file)
    index = {
        "metadata": {"total_size": total, "total_parameters": form.parameters},
        "weight_map": {name: files[number] for name, number in numbers.items()},
    }
    (scratch / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    return total


def _stored(
    form: Form, weights: MaterializedWeights, dense: Mapping[str, Tensor], name: str, dtype: torch.dtype
) -> Tensor:
    old = form.dense_name(name)
    if old not in weights:  # the config adds this bias together with a needed one
        return torch.zeros(form.model.state_dict()[name].shape, dtype=dtype)
    tensor = weights.tensor(old) if weights.is_changed(old) else dense[old]
    for dim, index in form.cuts.get(name, {}).items():
        tensor = tensor.index_select(dim, index.to(tensor.device))
    if not tensor.is_floating_point():
        return tensor
    stored = tensor.to(dtype)
    # A parameter that a 16-bit checkpoint stores in 32 bits stays in 32 bits.
    return stored if weights.is_changed(old) or torch.equal(stored.to(tensor.dtype), tensor) else tensor


def _notes(decoder: Decoder, variant: Variant, quantized: int, dtype: torch.dtype) -> Iterator[str]:
    if quantized:
        yield f"The weights of {quantized} quantized matrices are stored dequantized, in {_name(dtype)}."
    if torch.promote_types(dtype, decoder.dtype) != decoder.dtype:
        yield (
            f"The model was pruned in {_name(decoder.dtype)} and is stored in {_name(dtype)}: parameters that the "
            f"recipe changed hold {_name(decoder.dtype)} values, all others are the dense model's own."
        )
    if note := variant.facts.get("repair", {}).get("note"):
        yield f"The repair: {note}."


def _write_config_and_tokenizer(scratch: Path, decoder: Decoder, form: Form, dtype: torch.dtype) -> None:
    """Write the config, and copy the generation config and the tokenizer if the dense model has them as files."""
    config = cast(Any, form.model).config
    config.dtype = _name(dtype)
    config.architectures = [type(form.model).__name__]
    config.save_pretrained(scratch)
    generation = decoder.folder / "generation_config.json"
    if generation.is_file():
        shutil.copyfile(generation, scratch / generation.name)
    elif decoder.output is not None:
        cast(Any, decoder.model).generation_config.save_pretrained(scratch)
    for name in TOKENIZER_FILES:
        if (decoder.folder / name).is_file():
            shutil.copyfile(decoder.folder / name, scratch / name)


def _require_same(scratch: Path, decoder: Decoder, probe: Int[Tensor, "1 tokens"], expected: Tensor) -> Tensor:
    """Return the folder's logits; ComputationError if a weight is missing or they differ by more than rounding."""
    try:
        model, loading = open_folder(scratch, decoder.dtype, decoder.device, decoder.memory_for_second_model)
    except (ValueError, KeyError, RuntimeError, OSError) as error:
        raise ComputationError(
            f"transformers cannot open what was written ({str(error).strip().splitlines()[0]}); nothing was kept"
        ) from error
    wrong = sorted(str(key) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in loading[kind])
    if wrong:
        raise ComputationError(f"transformers does not find {wrong[0]} in what was written; nothing was kept")
    with torch.inference_mode():
        logits = logits_of(model, probe).float()
        with other_rounding(model):
            moved = logits_of(model, probe).float()
    apart = distance(logits, expected.float())
    if not apart <= allowed(distance(moved, logits), decoder.dtype):
        raise ComputationError(
            f"transformers computes other logits from what was written: they differ by {apart:.1e} of their length; "
            "nothing was kept"
        )
    return logits
