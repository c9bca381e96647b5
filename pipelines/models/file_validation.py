"""Checks of a model's files before a library opens them: the sizes in their headers must fit. No torch here."""

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError, safe_open

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.regular_files import open_regular, read_regular, readable, require_regular

# The largest vocabularies fill 40 MB, the longest lists of weights 20 MB.
DESCRIPTION = 256_000_000
# The reader needs a few hundred bytes per value; the largest vocabulary with its merges has 1.5 million.
GGUF_VALUES = 5_000_000
_WHAT = "a description of a model"
_DESCRIPTIONS = {".json", ".jinja", ".model", ".txt", ".jsonl", ".tiktoken", ".vocab"}
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)


def read_description(file: Path) -> object:
    """Return the content of a model's JSON file, such as config.json.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not valid JSON.
        InputError: the file is too large, nested too deep, or not a regular file.
    """
    try:
        content: object = json.loads(read_regular(file, DESCRIPTION, _WHAT))
    except RecursionError as error:
        raise InputError(f"{file}: nested too deep for a description of a model; fetch the model again") from error
    return content


def check_descriptions(folder: Path) -> None:
    """Refuse a model folder with a device, a FIFO or a socket, or with a description larger than any real one.

    All files are checked because the libraries themselves choose which ones they open.

    Raises:
        InputError: names the file.
    """
    for place in (folder, folder / "additional_chat_templates"):
        for file in sorted(place.iterdir()) if place.is_dir() else ():
            if file.exists() and not file.is_dir():  # a broken link is reported when its file is needed
                require_regular(file, DESCRIPTION if file.suffix in _DESCRIPTIONS else None, _WHAT)


@contextmanager
def library_errors(path: Path, action: str = "transformers cannot load it") -> Iterator[None]:
    """Translate every error of a library that reads a model's files into one line that names the path.

    For damaged or malicious files the libraries raise errors of any class, and `tokenizers` a bare Exception.

    Raises:
        InputError: in place of the library's error.
    """
    try:
        yield
    except (InputError, ComputationError):
        raise
    except Exception as error:
        raise InputError(f"{path}: {action} ({_reason(error)})") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # from a Rust library; the class cannot be imported
            raise
        raise InputError(f"{path}: {action} ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    """Return a library's message on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "ignore_mismatched_sizes" in lines[0]:
        return "its weights have other shapes than its config.json says"
    if lines[0].endswith(":") and len(lines) > 1:  # huggingface_hub's validators put the problem below a heading
        text = lines[1].partition("Error: ")[2] or lines[1]
    elif isinstance(error, (ValueError, OSError, RuntimeError)) or type(error) is Exception:
        text = lines[0]
    else:
        text = f"{type(error).__name__}: {lines[0]}"
    return text if len(text) <= 300 else f"{text[:300]}…"


def check_safetensors(file: Path) -> None:
    """Refuse a safetensors file that the library cannot open: it compares the sizes in the header with the file's.

    Raises:
        InputError: the file is cut short, damaged or not regular, or its header exceeds the format's limit.
    """
    try:
        with readable(str(file), "fetch the model again"), open_regular(file), safe_open(file, framework="np"):
            pass
    except SafetensorError as error:
        raise InputError(f"{file}: cut short or damaged ({error}); fetch it again") from error


def check_gguf(file: Path) -> None:
    """Refuse a GGUF file whose metadata extends past its end, or holds more values than any model's.

    Raises:
        InputError: the metadata is too long, or the file is not GGUF.
    """
    try:
        with open_regular(file) as stream:
            _scan_gguf(stream, file.stat().st_size)
    except (struct.error, ValueError, OverflowError) as error:
        raise InputError(f"{file}: not a GGUF file, or cut short ({error}); fetch it again") from error


def _scan_gguf(stream: BinaryIO, size: int) -> None:
    """Skip through the metadata; the library's own reader would fill memory with values after the file's end."""
    order, values = "<", 0

    def number(form: str) -> int:
        return int(struct.unpack(order + form, stream.read(struct.calcsize(order + form)))[0])

    def count() -> int:
        nonlocal values
        length = number("Q")
        values += length
        if values > GGUF_VALUES:
            raise ValueError(f"more than {GGUF_VALUES:,} values of metadata")
        return length

    def skip(kind: int, times: int = 1) -> None:
        for _ in range(times if kind == _STRING else 1):
            length = number("Q") if kind == _STRING else times * _SCALARS[kind]
            if length > size - stream.tell():
                raise ValueError(f"it ends at {size:,} bytes")
            stream.seek(length, 1)

    if stream.read(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    if number("I") & 0xFFFF == 0:  # in the wrong byte order a small version appears as 65,536 or more
        order = ">"
    number("Q")
    for _ in range(count()):
        skip(_STRING)
        is_array = (kind := number("I")) == _ARRAY
        kind = number("I") if is_array else kind
        if kind not in {_STRING, *_SCALARS}:
            raise ValueError("an array of arrays" if kind == _ARRAY else f"no value is of type {kind}")
        skip(kind, count() if is_array else 1)
