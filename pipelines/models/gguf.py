"""Conversion of a GGUF checkpoint into a Hugging Face folder.

transformers reads the file; settings that it is known to get wrong are set or checked by the file's metadata.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import gguf
import torch
from torch import Tensor
from transformers import AddedToken, AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from transformers.utils import logging as transformers_logging

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.models.config_validation import check_config
from prunescope.pipelines.models.file_validation import check_gguf, library_errors

# Rows of an embedding in memory at a time; a layer is of about the same size.
_ROWS = 16_384
_LOCK = Lock()  # `_cached_reader` changes the library for the whole process


def convert_gguf(file: Path, folder: Path, progress: Progress = SILENT) -> None:
    """Write safetensors (float32), config, generation config and tokenizer of a GGUF file into a folder.

    Memory holds the weights of one layer, or one embedding, at a time.

    Raises:
        InputError: the file is cut short, not GGUF, or of an architecture that transformers cannot read.
        OSError: the folder cannot be written.
    """
    transformers_logging.disable_progress_bar()
    check_gguf(file)
    with _LOCK, _cached_reader():
        _convert(file, folder, progress)


@contextmanager
def _cached_reader() -> Iterator[None]:
    """Temporarily cache the parsed header and the table of tensor names.

    transformers parses the header for the config, the tokenizer and the weights, and builds the table for every module.
    """
    library: Any = gguf
    before = library.GGUFReader, library.get_tensor_name_map
    library.GGUFReader, library.get_tensor_name_map = map(cache, before)
    try:
        yield
    finally:
        library.GGUFReader, library.get_tensor_name_map = before


def _convert(file: Path, folder: Path, progress: Progress) -> None:
    metadata = _metadata(file)
    parts = _parts(file)
    progress.start("convert GGUF to safetensors", 1 + len(parts))
    arguments: dict[str, Any] = {
        "pretrained_model_name_or_path": str(file.parent),
        "gguf_file": file.name,
        "trust_remote_code": False,
    }
    with library_errors(file, "transformers cannot read this GGUF file"):
        config = AutoConfig.from_pretrained(**arguments)
        check_config(file, config.to_dict())
        tokenizer = AutoTokenizer.from_pretrained(**arguments)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _check_config(file, metadata, config)
    progress.advance()
    tied = model.all_tied_weights_keys
    shapes = {name: weight.shape for name, weight in model.state_dict().items() if name not in tied}
    try:
        _write(_weights(file, model, parts, progress), shapes, folder / "model.safetensors")
    except ValueError as error:
        raise InputError(f"{file}: transformers cannot read this GGUF file ({error})") from error

    ids = {key: metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("bos", "eos", "padding")}
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    GenerationConfig(
        bos_token_id=ids["bos"], eos_token_id=_ends(metadata, ids), pad_token_id=ids["padding"], do_sample=False
    ).save_pretrained(folder)
    for key, attribute in (("bos", "bos_token"), ("eos", "eos_token"), ("padding", "pad_token")):
        number = ids[key]
        if number is not None:
            setattr(tokenizer, attribute, tokenizer.convert_ids_to_tokens(int(number)))
    if metadata.get("tokenizer.chat_template"):
        tokenizer.chat_template = metadata["tokenizer.chat_template"]
    _add_runs_of_spaces(metadata, tokenizer)
    _check_tokenizer(file, metadata, tokenizer)
    tokenizer.save_pretrained(folder)
    progress.done()


def _parts(file: Path) -> list[SimpleNamespace]:
    """Return readers that stand for the reader of the whole file and show one layer, or some rows of an embedding."""
    whole = gguf.GGUFReader(str(file))
    # The tokenizer is read already, and its long lists take transformers seconds.
    fields = {
        key: field._replace(data=field.data[:1]) if key.startswith("tokenizer.") else field
        for key, field in whole.fields.items()
    }
    parts: dict[str, list[Any]] = {}
    for tensor in whole.tensors:
        if layer := re.match(r"blk\.\d+\.", tensor.name):
            parts.setdefault(layer[0], []).append(tensor)
            continue
        for row in range(0, len(tensor.data), _ROWS):
            parts[f"{tensor.name} {row}"] = [tensor._replace(data=tensor.data[row : row + _ROWS])]
    return [SimpleNamespace(fields=fields, tensors=tensors) for tensors in parts.values()]


def _weights(file: Path, model: Any, parts: list[SimpleNamespace], progress: Progress) -> Iterator[tuple[str, Tensor]]:  # noqa: ANN401 (any architecture's)
    """Yield the weights as transformers converts them, by name; those of one part of the file are in memory."""
    library: Any = gguf
    for part in parts:
        library.GGUFReader = lambda _, part=part: part
        with library_errors(file, "transformers cannot read this GGUF file"), redirect_stderr(StringIO()):
            weights = load_gguf_checkpoint(
                str(file), return_tensors=True, model_to_load=model, torch_dtype=torch.float32
            )
        yield from weights["tensors"].items()
        progress.advance()


def _write(weights: Iterator[tuple[str, Tensor]], shapes: Mapping[str, torch.Size], file: Path) -> None:
    """Write a safetensors file in any order of weights or their rows; safetensors itself needs all weights at once.

    Raises:
        ValueError: a weight is missing or has another shape.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(shapes):
        start, end = end, end + 4 * shapes[name].numel()
        header[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    left = {name: shape.numel() for name, shape in shapes.items()}
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, weight in weights:
            if name not in shapes:  # the second name of a shared weight
                continue
            if weight.shape[1:] != shapes[name][1:]:
                raise ValueError(f"{name} has shape {list(weight.shape)}, and not {list(shapes[name])}")
            stream.seek(8 + len(text) + header[name]["data_offsets"][1] - 4 * left[name])
            stream.write(weight.contiguous().numpy())
            left[name] -= weight.numel()
    if missing := [name for name, count in left.items() if count]:
        raise ValueError(f"{missing[0]} is not whole")


def _ends(metadata: dict[str, Any], ids: dict[str, int | None]) -> int | list[int] | None:
    """Return the ids of the tokens that end a text.

    Qwen's end of a document is the padding of its chat models, which may end an answer with it.
    """
    eos, padding = ids["eos"], ids["padding"]
    is_end = padding not in {None, eos} and metadata["tokenizer.ggml.tokens"][padding] == "<|endoftext|>"
    return [eos, padding] if is_end else eos


def _metadata(file: Path) -> dict[str, Any]:
    try:
        reader = gguf.GGUFReader(str(file))
        return {key: field.contents() for key, field in reader.fields.items()}
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise InputError(f"{file}: not a GGUF file, or cut short; fetch it again") from error


def _check_config(file: Path, metadata: dict[str, Any], config: Any) -> None:  # noqa: ANN401 (any architecture's)
    """Refuse a wrong position base, position scaling, norm epsilon or window, which transformers may lose."""
    architecture = metadata.get("general.architecture", "")
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)  # models with sliding windows have one entry for each type of layer
    pairs = (
        ("rope.freq_base", rope.get("rope_theta")),
        ("attention.layer_norm_rms_epsilon", getattr(config, "rms_norm_eps", None)),
        ("attention.sliding_window", getattr(config, "sliding_window", None)),
    )
    for key, actual in pairs:
        expected = metadata.get(f"{architecture}.{key}")
        if expected is not None and actual is not None and abs(actual - expected) > 1e-6 * abs(expected):
            raise InputError(f"{file}: transformers reads {key} as {actual}, the file says {expected}")
    scaling = metadata.get(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none" and rope.get("rope_type", "default") == "default":
        raise InputError(f"{file}: transformers leaves out the file's scaling of positions ({scaling})")


def _add_runs_of_spaces(metadata: dict[str, Any], tokenizer: Any) -> None:  # noqa: ANN401 (any tokenizer)
    """Match user-defined tokens of spaces before all merges, longest first, as SentencePiece does.

    A file has them with spaces, transformers with their visible form, so that it takes them for ordinary tokens and
    splits long runs in other places.
    """
    if metadata["tokenizer.ggml.model"] != "llama":
        return
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata.get("tokenizer.ggml.token_type", [])
    runs = [token for token, kind in zip(tokens, types, strict=False) if kind == gguf.TokenType.USER_DEFINED]
    runs = [_visible(token) for token in runs if set(token) == {" "}]
    known = tokenizer.get_vocab()
    tokenizer.add_tokens([AddedToken(token, normalized=True, special=False) for token in runs if token in known])


def _visible(token: str) -> str:
    """Return a token with SentencePiece's visible spaces."""
    return token.replace(" ", "\u2581")


def _check_tokenizer(file: Path, metadata: dict[str, Any], tokenizer: Any) -> None:  # noqa: ANN401 (any tokenizer)
    """Refuse other tokens than the file's, and a start token where the file says the opposite."""
    expected_tokens = metadata["tokenizer.ggml.tokens"]
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(expected_tokens))))
    for number, (token, expected) in enumerate(zip(tokens, expected_tokens, strict=True)):
        if _visible(token or "") != _visible(expected):
            raise InputError(f"{file}: transformers reads token {number} as {token!r}, the file says {expected!r}")
    start = metadata.get("tokenizer.ggml.bos_token_id")
    # Most files of byte-level tokenizers do not say whether there is one, and have none.
    expected = metadata.get("tokenizer.ggml.add_bos_token")
    if start is not None and expected is not None and (tokenizer("a").input_ids[:1] == [start]) != expected:
        verb = "leaves out the start token" if expected else "puts a start token before every text"
        raise InputError(f"{file}: transformers {verb}, against the file's metadata")
