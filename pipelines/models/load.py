"""Loading of a safetensors folder as a proved decoder, on one device, on several, or partly from disk."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from prunescope.pipelines.core.device import available_bytes, resolve_device
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.decoder import Decoder, unknown_token
from prunescope.pipelines.models.device_map import Placement
from prunescope.pipelines.models.file_validation import library_errors
from prunescope.pipelines.models.meta_model import auto_class, layer_stack
from prunescope.pipelines.models.model_discovery import discover
from prunescope.pipelines.models.sources import count_weights
from prunescope.pipelines.models.weight_offload import finalize_placement

# One stored number holds up to sixteen packed weights of two bits. If a config asks for more weights than that,
# transformers fills the rest with random numbers.
_MAX_PACKED = 16
# Share of the free memory of several GPUs that weights may fill; activations need the rest.
_WEIGHT_SHARE = 0.9


def check_device(device: str, memory: Mapping[str, int] | None = None) -> None:
    """Raise an InputError if torch does not see the devices of a study's `device` and `memory`."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for key, name in (("device", device), *(("memory", name) for name in memory or ())):
        if not name.startswith("cuda"):
            continue
        if key == "memory" and device == "cpu":
            raise InputError(f"memory: {name} is named, but `device` is cpu; set `device: auto`, or name cpu alone")
        if int(name.partition(":")[2] or 0) >= count:
            raise InputError(f"{key} {name}: torch sees {count} CUDA devices here; set `device: auto` or `cpu`")


def enough_memory(folder: Path, dtype: torch.dtype, device: str) -> dict[str, int] | None:
    """Return limits per GPU if a model fits only on all GPUs and `device` is auto; None if it fits on one device.

    Raises:
        InputError: the weights do not fit; names the settings that help.
    """
    needed, chosen = count_weights(folder) * dtype.itemsize, resolve_device(device)
    free = available_bytes(chosen)
    if needed <= free:
        return None
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if device == "auto" else []
    total = sum(map(available_bytes, names))
    if total and needed <= _WEIGHT_SHARE * total:
        limits = {name: round(_WEIGHT_SHARE * available_bytes(name)) for name in names}
        # The first device also holds the embedding and the head.
        with library_errors(folder):
            config, meta = _meta(folder, dtype)
        stack = layer_stack(meta, int(config.get_text_config().num_hidden_layers))
        inside = 0 if stack is None else sum(parameter.numel() for parameter in stack.parameters())
        outside = sum(parameter.numel() for parameter in meta.parameters()) - inside
        limits[chosen] = max(0, limits[chosen] - outside * dtype.itemsize)
        return limits
    type_name = str(dtype).removeprefix("torch.")
    raise InputError(
        f"{folder}: its weights take {needed / 2**30:.1f} GiB in {type_name} and {free / 2**30:.1f} GiB are free; set "
        f"`memory: {{{chosen}: {free // 2**21}MiB}}` to read layers beyond that from disk as they run"
        + ("" if dtype.itemsize == 2 else ", or `dtype: bfloat16`")
    )


def load_decoder(
    folder: Path, dtype: str = "float32", device: str = "auto", memory: Mapping[str, int] | None = None
) -> Decoder:
    """Load a folder of safetensors and prove its structure.

    The device `auto` is the first GPU, or all GPUs if it is too small, or the CPU without a GPU. `memory` has bytes of
    layers per device; layers beyond these limits are read from disk whenever they run. None puts all layers on the
    device.

    Raises:
        InputError: the architecture is unknown or not a decoder, a part of it could not be proved, or its weights
            need more memory than is free; names the module.
    """
    check_device(device, memory)
    limits = enough_memory(folder, getattr(torch, dtype), device) if memory is None else memory
    model, tokenizer = load_model(folder, getattr(torch, dtype), torch.device(resolve_device(device)), limits)
    decoder = discover(model, tokenizer, folder)
    return replace(decoder, memory=limits, is_streamed=finalize_placement(layer.module for layer in decoder.layers))


def load_model(
    folder: Path, dtype: torch.dtype, device: torch.device, memory: Mapping[str, int] | None = None
) -> tuple[nn.Module, Any]:
    """Load a folder's model, in eval mode without gradients, and its tokenizer; arguments as in `load_decoder`.

    Raises:
        InputError: transformers cannot load it, weights are missing, or the tokenizer has tokens beyond the embedding.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with library_errors(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        # "eager" computes one product per expert, in which the inputs of that expert can be observed.
        model, loading = open_folder(folder, dtype, device, memory, experts_implementation="eager")
    # transformers fills missing weights with random numbers and only warns.
    missing = sorted({*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])})
    if missing:
        raise InputError(
            f"{folder}: the weights of {missing[0]} are missing or of another shape; fetch the model again"
        )
    with library_errors(folder):
        # Added tokens are beyond the embedding in Gemma 3; they are refused if a text contains one.
        added = set(tokenizer.get_added_vocab().values())
        last = max((token for token in tokenizer.get_vocab().values() if token not in added), default=0)
        rows = int(cast(Any, model).get_input_embeddings().weight.shape[0])
    if last >= rows:
        raise unknown_token(folder, tokenizer, last, rows)
    return model, tokenizer


def open_folder(
    folder: Path, dtype: torch.dtype, device: torch.device, memory: Mapping[str, int] | None = None, **others: object
) -> tuple[nn.Module, dict[str, Any]]:
    """Load a model with transformers, in eval mode without gradients, and return it with transformers' loading info.

    Arguments are those of `load_decoder`; `others` go to transformers.

    Raises:
        Exception: transformers cannot load it; see `library_errors`.
        InputError: `memory` is set and no list of layers was found, or the config asks for many more weights than the
            folder holds.
    """
    # Unless `trust_remote_code` is set, transformers asks at the terminal.
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    config, meta = _meta(folder, dtype)
    needed, held = sum(parameter.numel() for parameter in meta.parameters()), count_weights(folder)
    if needed > _MAX_PACKED * held:  # transformers would fill memory with random numbers
        raise InputError(
            f"{folder / 'config.json'}: asks for {needed:,} weights, and the folder's files hold {held:,}; fetch the "
            "model again"
        )
    placement = None
    if memory is not None:
        placement = Placement(meta, int(config.get_text_config().num_hidden_layers), memory, dtype, device)
        others |= placement.arguments()
    model, loading = auto_class(config).from_pretrained(
        folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **local, **others
    )
    if placement is None:
        model.to(device)
    else:
        placement.place(model)
    return model.eval().requires_grad_(False), loading


def _meta(folder: Path, dtype: torch.dtype) -> tuple[Any, nn.Module]:
    """Return a folder's config and its model without weights."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        return config, auto_class(config).from_config(config, dtype=dtype)
