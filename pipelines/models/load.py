"""From a folder of safetensors to a proved decoder on a device."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from pipelines.errors import InputError
from pipelines.models.decoder import Decoder
from pipelines.models.outline import auto_class
from pipelines.models.structure import discover


def check_device(device: str) -> None:
    """Refuses a device that torch does not see here; InputError names the key and the fix."""
    if not device.startswith("cuda"):
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(device.partition(":")[2] or 0)
    if index >= count:
        raise InputError(f"device {device}: torch sees {count} CUDA devices here; set `device: auto` or `cpu`")


def load_decoder(folder: Path, dtype: str = "float32", device: str = "auto") -> Decoder:
    """Loads a folder of safetensors and proves its structure.

    Raises:
        InputError: the architecture is unknown or not a decoder, or a part of it could not be proved; names the module.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    model, tokenizer = load_model(folder, getattr(torch, dtype), torch.device(device))
    return discover(model, tokenizer, folder)


def load_model(folder: Path, dtype: torch.dtype, device: torch.device) -> tuple[nn.Module, Any]:
    """Loads a folder of safetensors: the model, in eval mode without gradients, and its tokenizer.

    Raises:
        InputError: transformers cannot load it, or weights are missing.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        loaded: Any = auto_class(config).from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,  # said, or transformers asks at the terminal
            experts_implementation="eager",  # one product an expert: what flows into each is seen
            output_loading_info=True,
        )
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise InputError(f"{folder}: transformers cannot load it ({str(error).strip().splitlines()[0]})") from error
    model, loading = loaded
    # transformers fills what a checkpoint lacks with random numbers and only warns.
    lacking = sorted({*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])})
    if lacking:
        raise InputError(
            f"{folder}: the weights of {lacking[0]} are missing or of another shape; fetch the model again"
        )
    return model.to(device).eval().requires_grad_(False), tokenizer
