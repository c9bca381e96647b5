"""Writes a variant as a Hugging Face folder, whole or not at all, and proves that stock transformers computes the same.

In what form it is written is `forms.py`'s, what its model card says `card.py`'s.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Int
from safetensors.torch import save_file
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.models.decoder import Decoder, probe_tokens
from prunescope.pipelines.models.forward_probe import distance
from prunescope.pipelines.models.lm_head import allowed
from prunescope.pipelines.models.load import open_folder
from prunescope.pipelines.models.module_calls import first_tensor, without_cache
from prunescope.pipelines.models.sources import TOKENIZER_FILES
from prunescope.pipelines.pruning.checkpoints.export_config import Form, form_of
from prunescope.pipelines.pruning.checkpoints.materialized_weights import (
    MaterializedWeights,
    as_stored,
    stored_dtype,
    unchanged,
)
from prunescope.pipelines.pruning.checkpoints.model_card import About, card
from prunescope.pipelines.pruning.checkpoints.output_directory import appearing, check_place, require_room
from prunescope.pipelines.pruning.checkpoints.result import CheckpointResult
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant

# A file of weights is not larger than this, unless one tensor is.
MOST_A_SHARD = 5 * 10**9
# Tokens on which the folder is compared with the variant.
_PROBE_TOKENS = 32


def export(
    decoder: Decoder,
    variant: Variant,
    folder: Path,
    about: About,
    *,
    shrink: bool = False,
    progress: Progress = SILENT,
) -> CheckpointResult:
    """Writes config, weights, tokenizer and model card, and loads them again with nothing but transformers.

    Args:
        decoder: the dense model.
        variant: what was done to it.
        folder: a place where nothing lies yet.
        about: what the model card tells.
        shrink: make the matrices smaller where whole neurons or heads are zero.
        progress: one step a layer, and one for the comparison.

    Returns:
        What was written.

    Raises:
        InputError: the place is taken or has no room, or stock transformers has no form for the variant.
        ComputationError: transformers computes something else from the folder; nothing is left of it.
    """
    check_place(folder)
    dtype = stored_dtype(decoder.folder)
    probe = probe_tokens(decoder, _PROBE_TOKENS, seed=1)
    unrounded = _worn_logits(decoder, variant, probe)
    variant = as_stored(decoder, variant, dtype)
    truth = _worn_logits(decoder, variant, probe)
    worn = MaterializedWeights(decoder, variant)
    form = form_of(decoder, variant, worn, shrink=shrink)
    progress.start("write the checkpoint", len(form.layers) + 2)
    with appearing(folder) as scratch:
        require_room(scratch, form.parameters * dtype.itemsize)
        size = _write_weights(scratch, form, worn, unchanged(decoder), dtype, progress)
        _write_rest(scratch, decoder, form, dtype)
        found = _require_same(scratch, decoder, probe, truth)
        rounded = None if torch.equal(truth, unrounded) else (_plain(dtype), distance(found, unrounded.float()))
        notes = (*form.notes, *_type_notes(decoder, dtype))
        done = CheckpointResult(folder, size, form.parameters, distance(found, truth.float()), notes, rounded)
        text = card(about, done, decoder, variant)
        (scratch / "README.md").write_text(text, encoding="utf-8")
    progress.advance()
    progress.done()
    return done


def _logits(model: Any, tokens: Int[Tensor, "1 tokens"]) -> Tensor:  # noqa: ANN401 (transformers has no common type)
    """The logits, or the last states of a model without an LM head."""
    output = model(input_ids=tokens, **without_cache(model))
    return first_tensor(output.logits if "logits" in output else output.last_hidden_state)


def _worn_logits(decoder: Decoder, variant: Variant, probe: Int[Tensor, "1 tokens"]) -> Tensor:
    with torch.inference_mode(), apply_variant(decoder, variant):
        return _logits(decoder.model, probe)


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _write_weights(
    scratch: Path,
    form: Form,
    worn: MaterializedWeights,
    dense: Mapping[str, Tensor],
    dtype: torch.dtype,
    progress: Progress,
) -> int:
    """Files of safetensors as the hub has them, and an index where there are several; the bytes in them.

    No more than one file's tensors are made at a time.
    """
    files: list[dict[str, Tensor]] = [{}]
    places: dict[str, int] = {}
    size = total = 0

    def close() -> None:
        save_file(files[-1], scratch / f"{len(files)}.safetensors", metadata={"format": "pt"})
        places.update(dict.fromkeys(files[-1], len(files)))
        files[-1] = {}

    for names in _groups(form):
        # The names and forms that checkpoints of this architecture have on the hub: experts one by one, for example.
        tensors = revert_weight_conversion(
            cast(Any, form.model), {name: _written(form, worn, dense, name, dtype).cpu() for name in names}
        )
        for name, tensor in tensors.items():
            if files[-1] and size + tensor.nbytes > MOST_A_SHARD:
                close()
                files.append({})
                size = 0
            files[-1][name] = tensor.contiguous()
            size, total = size + tensor.nbytes, total + tensor.nbytes
        progress.advance()
    close()
    if len(files) == 1:
        (scratch / "1.safetensors").rename(scratch / "model.safetensors")
        return total
    shards = {number: f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in set(places.values())}
    for number, name in shards.items():
        (scratch / f"{number}.safetensors").rename(scratch / name)
    index = {
        "metadata": {"total_size": total, "total_parameters": form.parameters},
        "weight_map": {name: shards[number] for name, number in places.items()},
    }
    (scratch / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    return total


def _groups(form: Form) -> Iterator[list[str]]:
    """Names of what belongs to no layer, then those of each layer."""
    layers: dict[str, list[str]] = {"": []}
    for name in form.names:
        inside = name.startswith(f"{form.prefix}.")
        index = name.removeprefix(f"{form.prefix}.").partition(".")[0] if inside else ""
        layers.setdefault(index, []).append(name)
    yield from layers.values()


def _written(
    form: Form, worn: MaterializedWeights, dense: Mapping[str, Tensor], name: str, dtype: torch.dtype
) -> Tensor:
    """A parameter as it is written."""
    old = form.dense_name(name)
    if old not in worn:  # a bias that came along when another one was switched on
        shape = dict(form.model.state_dict())[name].shape
        return torch.zeros(shape, dtype=dtype)
    tensor = worn.tensor(old) if worn.is_changed(old) else dense[old]
    for dim, index in form.cuts.get(name, {}).items():
        tensor = tensor.index_select(dim, index.to(tensor.device))
    if not tensor.is_floating_point():
        return tensor
    stored = tensor.to(dtype)
    # What a checkpoint of 16 bits keeps in 32 stays in 32.
    return stored if worn.is_changed(old) or torch.equal(stored.to(tensor.dtype), tensor) else tensor


def _type_notes(decoder: Decoder, dtype: torch.dtype) -> Iterator[str]:
    if torch.promote_types(dtype, decoder.dtype) != decoder.dtype:
        yield (
            f"The model was pruned in {_plain(decoder.dtype)} and is stored in {_plain(dtype)}: parameters that the "
            f"recipe changed hold {_plain(decoder.dtype)} values, all others are the dense model's own."
        )


def _write_rest(scratch: Path, decoder: Decoder, form: Form, dtype: torch.dtype) -> None:
    """Config, generation config and tokenizer; the last two byte by byte where the dense model has them as files."""
    config = cast(Any, form.model).config
    config.dtype = _plain(dtype)
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


def _require_same(scratch: Path, decoder: Decoder, probe: Int[Tensor, "1 tokens"], truth: Tensor) -> Tensor:
    """The folder's logits, proved to be the variant's.

    Raises:
        ComputationError: it is more than rounding, or transformers misses a weight.
    """
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
        found = _logits(model, probe).float()
    apart = distance(found, truth.float())
    if not apart <= allowed(decoder.dtype, len(decoder.layers)):
        raise ComputationError(
            f"transformers computes other logits from what was written: they differ by {apart:.1e} of their length; "
            "nothing was kept"
        )
    return found
