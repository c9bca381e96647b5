"""Conversion of a GGUF checkpoint into a Hugging Face folder.

transformers reads the file; settings that it is known to get wrong are set or checked by the file's metadata.
"""

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path
from threading import Lock
from typing import Any

import gguf
import torch
from safetensors import SafetensorError
from transformers import AddedToken, AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.models.config_validation import check_config
from prunescope.pipelines.models.file_validation import check_gguf, library_errors

_LOCK = Lock()  # `_cached_reader` changes the library for the whole process


def convert_gguf(file: Path, folder: Path, progress: Progress = SILENT) -> None:
    """Write safetensors (float32), config, generation config and tokenizer of a GGUF file into a folder.

    Raises:
        InputError: the file is cut short, not GGUF, or of an architecture that transformers cannot read.
        OSError: the folder cannot be written.
    """
    transformers_logging.disable_progress_bar()
    progress.start("convert GGUF to safetensors", 3)
    check_gguf(file)
    with _LOCK, _cached_reader():
        _convert(file, folder, progress)
    progress.done()


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
    arguments: dict[str, Any] = {
        "pretrained_model_name_or_path": str(file.parent),
        "gguf_file": file.name,
        "trust_remote_code": False,
    }
    with library_errors(file, "transformers cannot read this GGUF file"):
        check_config(file, AutoConfig.from_pretrained(**arguments).to_dict())
        tokenizer = AutoTokenizer.from_pretrained(**arguments)
        progress.advance()
        # The reader draws a progress bar that cannot be switched off.
        with redirect_stderr(StringIO()):
            loaded = AutoModelForCausalLM.from_pretrained(**arguments, dtype=torch.float32)
    progress.advance()

    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    _check_config(file, metadata, config)
    # A model loaded from GGUF refuses save_pretrained, so its weights move into one built from the clean config.
    with torch.device("meta"):
        clean = type(loaded)(config)
    clean.load_state_dict(loaded.state_dict(), assign=True)
    ids = {key: metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("bos", "eos", "padding")}
    clean.generation_config = GenerationConfig(
        bos_token_id=ids["bos"], eos_token_id=ids["eos"], pad_token_id=ids["padding"], do_sample=False
    )
    try:
        clean.save_pretrained(folder)
    except SafetensorError as error:  # in place of an OSError, where the disk is full
        raise OSError(str(error)) from error

    for key, attribute in (("bos", "bos_token"), ("eos", "eos_token"), ("padding", "pad_token")):
        number = ids[key]
        if number is not None:
            setattr(tokenizer, attribute, tokenizer.convert_ids_to_tokens(int(number)))
    if metadata.get("tokenizer.chat_template"):
        tokenizer.chat_template = metadata["tokenizer.chat_template"]
    _add_runs_of_spaces(metadata, tokenizer)
    _check_tokenizer(file, metadata, tokenizer)
    tokenizer.save_pretrained(folder)
    progress.advance()


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
