"""Readers for the texts of a source: a built-in text, a file or a data set. No torch here."""

import codecs
import hashlib
import json
import lzma
from pathlib import Path

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.regular_files import local_path, open_regular, read_regular, readable
from prunescope.pipelines.corpora.hub_datasets import FORM, PREFIX, data_set_documents, data_set_hash

# Texts in the package; a file next to each names its source and licence.
CORPORA = {
    "wikitext2": Path(__file__).parent / "wikitext2.txt.xz",
    "c4": Path(__file__).parent / "c4.json.xz",
}
# Largest text, which is read as a whole; its tokens take several times its size in memory.
MAX_BYTES = 1_000_000_000
# Endings of files with one record per line.
_LINES = {".jsonl", ".ndjson"}
BUILT_IN = (*CORPORA, "embedded")
_READABLE = f"give {', '.join(f'`{name}`' for name in BUILT_IN)}, {FORM} or a readable file"


def read_text(source: str, what: str) -> str:
    """Return the documents of a source joined by empty lines; see `read_documents`."""
    return "\n\n".join(read_documents(source, what))


def read_documents(source: str, what: str) -> tuple[str, ...]:
    """Return the documents of a source: the records of a JSON or JSONL file or of a data set, else its whole text.

    Args:
        source: `c4` (300 documents), `wikitext2`, `embedded` (the help topics of the running Python),
            `hf:NAME[:CONFIG]:SPLIT[:COLUMN]`, or a path. A .json file holds a list of strings or of objects with a
            `text`; a .jsonl or .ndjson file holds one such record per line; any other file is plain text.
        what: use of the source, for messages.

    Raises:
        InputError: the source cannot be read, is not UTF-8, or holds other records.
    """
    if source == "embedded":
        from pydoc_data.topics import topics  # 465,000 characters of English, different in each version

        return tuple(topics[name] for name in sorted(topics))
    if source in CORPORA:
        text = lzma.decompress(CORPORA[source].read_bytes()).decode()
        return (text,) if source == "wikitext2" else tuple(record["text"] for record in json.loads(text))
    if source.startswith(PREFIX):
        return data_set_documents(source, what)
    path = local_path(source, what)
    with readable(f"{what} {path}", _READABLE):
        text = read_regular(path, MAX_BYTES, "a text")
    suffix = path.suffix.lower()
    if suffix not in {".json", *_LINES}:
        return (text,)
    try:
        # Lines end only in \n, because a JSON string may hold other line separators.
        lines = [line for line in text.split("\n") if line.strip()] if suffix in _LINES else [text]
        parsed = [json.loads(line) for line in lines]
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} {path}: not valid {suffix[1:].upper()}; fix it or give a .txt file") from error
    records = parsed if suffix in _LINES else parsed[0]
    texts = [_text_of(record) for record in records] if isinstance(records, list) else [_text_of(records)]
    if any(text is None for text in texts):
        raise InputError(f"{what} {path}: not text: every record must be a string or an object with a string `text`")
    return tuple(text for text in texts if text is not None)


def text_hash(source: str, what: str) -> str:
    """Return the SHA-256 of a source's text in UTF-8, which identifies it in tables; errors as in `read_documents`."""
    return hashlib.sha256(read_text(source, what).encode()).hexdigest()


def contents_hash(source: str, what: str) -> str:
    """Return the SHA-256 of a source's contents; that of `embedded` depends on the Python version.

    Raises:
        InputError: the source cannot be read.
    """
    if source.startswith(PREFIX):
        return data_set_hash(source, what)
    if source == "embedded":
        return hashlib.sha256(json.dumps(read_documents(source, what)).encode()).hexdigest()
    path = CORPORA.get(source) or local_path(source, what)
    with readable(f"{what} {path}", _READABLE), open_regular(path) as stream:
        # A byte order mark is not part of the text.
        stream.seek(len(codecs.BOM_UTF8) * stream.peek(3).startswith(codecs.BOM_UTF8))
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _text_of(record: object) -> str | None:
    text = record.get("text") if isinstance(record, dict) else record
    return text if isinstance(text, str) else None
