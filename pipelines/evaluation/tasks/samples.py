"""Reads the samples of a task from a file, in the form in which lm-eval takes a data set of one's own.

The definitions beside this file name these functions; what is asked of a sample stands there.
"""

import gzip
import json
import lzma
import re
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from datasets import Dataset, DatasetDict

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.corpora.text_sources import CORPORA, read_text
from prunescope.pipelines.evaluation.tasks.definition import data_file

# Titles of articles in WikiText: one = on either side, sections have two and more.
_TITLE = re.compile(r"^ = [^=].*[^=] = $", re.MULTILINE)
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
# Unpacked; a hundred kilobytes of zeros can be packed gigabytes.
MOST_BYTES = 256_000_000


def rows(file: str, keys: Sequence[str] = (), **_: Any) -> DatasetDict:  # noqa: ANN401 (a definition's metadata)
    """The records of a JSONL file.

    Args:
        file: name of a shipped file, or a path; it may be packed (.gz, .xz).
        keys: what every record must have. With `choices` and `gold` among them, options are two or more texts and
            the right one's place is among them.

    Raises:
        InputError: the file cannot be read, or a line is no such record; names file and line.
    """
    path = data_file(file)
    opener = _OPENERS.get(path.suffix, open)
    try:
        with opener(path, "rb") as stream:
            content = stream.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise InputError(f"task data {path}: more than {MOST_BYTES:,} bytes, unpacked; split it")
        lines = content.decode().split("\n")  # a JSON string may hold other line separators
    except (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file in UTF-8, or cut short"
        raise InputError(f"task data {path}: {reason}; give a readable JSONL file") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"task data {path}, line {number}: not valid JSON; one record a line") from error
        if problem := _problem(record, keys):
            raise InputError(f"task data {path}, line {number}: {problem}")
        found.append({key: record[key] for key in keys} if keys else record)
    if not found:
        raise InputError(f"task data {path}: no record in it")
    return DatasetDict({"test": Dataset.from_list(found)})


def articles(file: str, **_: Any) -> DatasetDict:  # noqa: ANN401 (a definition's metadata)
    """A text in WikiText's form, one record an article; what stands before the first title is left out if blank.

    Raises:
        InputError: the text cannot be read, or holds nothing.
    """
    text = read_text(file if file in CORPORA else str(data_file(file)), "task data")
    starts = [match.start() for match in _TITLE.finditer(text)]
    cuts = sorted({0, *starts, len(text)})
    pages = [text[start:end] for start, end in pairwise(cuts)]
    found = [{"page": page} for page in pages if page.strip()]
    if not found:
        raise InputError(f"task data {file}: no text in it")
    return DatasetDict({"test": Dataset.from_list(found)})


def programs(docs: Dataset) -> Dataset:
    """MBPP's problems with what judging needs: no `prompt` stands before the program, `entry_point` is its function.

    That is the first name that the first test calls and the reference solution defines, or else the first it calls.

    Raises:
        InputError: the first test calls nothing; names the problem.
    """
    return docs.map(lambda doc: {"prompt": "", "entry_point": _tested(doc)})


def without_the_first(docs: Dataset) -> Dataset:
    """All records but the first: MBPP's worked examples are problems 2 to 4."""
    return docs.select(range(1, len(docs)))


def _tested(doc: dict[str, Any]) -> str:
    called = re.findall(r"(\w+)\s*\(", doc["test_list"][0])
    if not called:
        raise InputError(f"task data of mbpp, problem {doc.get('task_id')}: its first test calls nothing")
    defined = set(re.findall(r"\bdef\s+(\w+)", doc["code"]))
    return str(next((name for name in called if name in defined), called[0]))


def _problem(record: object, keys: Sequence[str]) -> str | None:
    """What is wrong with a record; None where nothing is."""
    if not isinstance(record, dict):
        return "not an object"
    if missing := [key for key in keys if key not in record]:
        return f"has no `{missing[0]}`; every record needs {', '.join(keys)}"
    if "choices" in keys and "gold" in keys:
        choices, gold = record["choices"], record["gold"]
        if not isinstance(choices, list) or not all(isinstance(choice, str) and choice for choice in choices):
            return "`choices` must be a list of texts, none of them empty"
        if not 2 <= len(choices) <= 26:
            return f"{len(choices)} `choices`; two to 26 can be lettered"
        if type(gold) is not int or not 0 <= gold < len(choices):
            return f"`gold` must be the place of the right one of {len(choices)} `choices`, from 0"
    return None
