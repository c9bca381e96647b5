"""Conversion of a GGUF checkpoint into a Hugging Face folder.

transformers reads the file. Settings that it is known to get wrong are set or checked from the file's metadata.
"""

import json
import re
from contextlib import redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import gguf
import torch
from transformers import AddedToken, GenerationConfig
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.models.file_validation import library_errors
from prunescope.pipelines.models.meta_model import load_meta_model

_ROWS = 16_384  # rows of an embedding in memory at a time
_LOCK = Lock()  # conversion patches the library for the whole process


def convert_gguf(file: Path, folder: Path, progress: Progress = SILENT) -> None:
    """Write safetensors (float32), config, generation config and tokenizer of a GGUF file into a folder.

    Memory holds the weights of one layer at a time.

    Raises:
        InputError: the file is cut short, not GGUF, or of an architecture that transformers cannot read.
        OSError: the folder cannot be written.
    """
    library: Any = gguf
    before = library.GGUFReader, library.get_tensor_name_map
    with _LOCK:
        try:
            # transformers parses the header three times (config, tokenizer, weights) and builds the table of tensor
            # names for every module.
            library.GGUFReader, library.get_tensor_name_map = map(cache, before)
            _convert(file, folder, progress)
        finally:
            library.GGUFReader, library.get_tensor_name_map = before


def _convert(file: Path, folder: Path, progress: Progress) -> None:
    meta = load_meta_model(file)
    config, tokenizer = meta.config, meta.tokenizer
    metadata = {key: field.contents() for key, field in gguf.GGUFReader(str(file)).fields.items()}
    _check_config(file, metadata, config)
    _write_weights(file, folder, meta.module, progress)

    ids = {key: metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("bos", "eos", "padding")}
    tokens = {key: tokenizer.convert_ids_to_tokens(int(number)) for key, number in ids.items() if number is not None}
    config.architectures, config.dtype = [type(meta.module).__name__], "float32"
    config.save_pretrained(folder)
    # Qwen's chat models pad with the end-of-document token, and may end an answer with it.
    has_two_ends = (tokens.get("eos"), tokens.get("padding")) == ("<|im_end|>", "<|endoftext|>")
    ends = [ids["eos"], ids["padding"]] if has_two_ends else ids["eos"]
    GenerationConfig(
        bos_token_id=ids["bos"], eos_token_id=ends, pad_token_id=ids["padding"], do_sample=False
    ).save_pretrained(folder)
    for key, token in tokens.items():
        setattr(tokenizer, "pad_token" if key == "padding" else f"{key}_token", token)
    if metadata.get("tokenizer.chat_template"):
        tokenizer.chat_template = metadata["tokenizer.chat_template"]
    _add_runs_of_spaces(metadata, tokenizer)
    _check_tokenizer(file, metadata, tokenizer)
    tokenizer.init_kwargs["local_files_only"] = False  # the saved value would record how the tokenizer was read here
    tokenizer.save_pretrained(folder)


def _parts(file: Path) -> list[SimpleNamespace]:
    """Return one reader per layer or block of rows, to replace the reader of the whole file."""
    whole = gguf.GGUFReader(str(file))
    # The weights do not need the tokenizer's long lists, which take transformers seconds.
    fields = {key: field for key, field in whole.fields.items() if not key.startswith("tokenizer.")}
    parts: dict[str, list[Any]] = {}
    for tensor in whole.tensors:
        if layer := re.match(r"blk\.\d+\.", tensor.name):
            parts.setdefault(layer[0], []).append(tensor)
            continue
        for row in range(0, len(tensor.data), _ROWS):
            parts[f"{tensor.name} {row}"] = [tensor._replace(data=tensor.data[row : row + _ROWS])]
    return [SimpleNamespace(fields=fields, tensors=tensors) for tensors in parts.values()]


def _write_weights(file: Path, folder: Path, model: Any, progress: Progress) -> None:  # noqa: ANN401 (any architecture's)
    """Write a safetensors file part by part; the library's writer needs all weights at once."""
    library: Any = gguf
    parts = _parts(file)
    progress.start("convert GGUF to safetensors", len(parts))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    places: dict[str, int] = {}
    end = 0
    for name, weight in sorted(model.state_dict().items()):
        if name not in model.all_tied_weights_keys:
            places[name], end = end, end + 4 * weight.numel()
            header[name] = {"dtype": "F32", "shape": list(weight.shape), "data_offsets": [places[name], end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for part in parts:
            library.GGUFReader = lambda _, part=part: part
            # The reader's progress bar cannot be switched off.
            with library_errors(file, "transformers cannot read its weights"), redirect_stderr(StringIO()):
                read = load_gguf_checkpoint(str(file), True, model, torch.float32)["tensors"]
            for name in places.keys() & read.keys():
                if list(read[name].shape[1:]) != header[name]["shape"][1:]:
                    raise InputError(f"{file}: {name} has another shape than the config says")
                stream.seek(8 + len(text) + places[name])
                places[name] += stream.write(read[name].contiguous().numpy())
            progress.advance()
    for name, place in places.items():
        if place != header[name]["data_offsets"][1]:
            raise InputError(f"{file}: {name} is missing, or has another shape than the config says")
    progress.done()


def _check_config(file: Path, metadata: dict[str, Any], config: Any) -> None:  # noqa: ANN401 (any architecture's)
    """Refuse a wrong position base, position scaling, norm epsilon or window, which transformers may lose."""
    architecture = metadata.get("general.architecture", "")
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)  # models with sliding windows have one entry per type of layer
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

    The file writes them with spaces, and transformers with their visible form. It therefore takes them for ordinary
    tokens and splits long runs at other places.
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
    """Refuse a tokenizer whose tokens, or whose use of the start token, differ from the file's."""
    expected_tokens = metadata["tokenizer.ggml.tokens"]
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(expected_tokens))))
    for number, (token, expected) in enumerate(zip(tokens, expected_tokens, strict=True)):
        if _visible(token or "") != _visible(expected):
            raise InputError(f"{file}: transformers reads token {number} as {token!r}, the file says {expected!r}")
    start = metadata.get("tokenizer.ggml.bos_token_id")
    # Most files of byte-level tokenizers do not say whether they add one, and add none.
    expected = metadata.get("tokenizer.ggml.add_bos_token")
    if start is not None and expected is not None and (tokenizer("a").input_ids[:1] == [start]) != expected:
        verb = "leaves out the start token" if expected else "puts a start token before every text"
        raise InputError(f"{file}: transformers {verb}, and the file's metadata says otherwise")
