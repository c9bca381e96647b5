"""Readers of samples from files as `datasets` objects; our task definitions name them."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from string import ascii_uppercase
from typing import Any

from datasets import Dataset, DatasetDict

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.corpora.records import read_records
from prunescope.pipelines.corpora.text_sources import CORPORA, read_text
from prunescope.pipelines.evaluation.tasks.definition import data_file, question_set
from prunescope.pipelines.studies.prompt_records import question_of

# Titles of articles in WikiText have one = on either side; titles of sections have two or more.
_TITLE = re.compile(r"^ = [^=].*[^=] = $", re.MULTILINE)


def rows(file: str, keys: Sequence[str] = (), **_: Any) -> DatasetDict:  # noqa: ANN401 (a definition's metadata)
    """Return the records of one of the package's files, by its name, or of a path that `read_records` reads.

    A record must have the `keys`. If `choices` and `gold` are among them, `choices` must be two or more texts and
    `gold` the index of one of them.

    Raises:
        InputError: the file cannot be read, or a record is not of that form; names file and line.
    """
    records: list[dict[str, Any]] = []
    for record in read_records(str(data_file(file))):
        if problem := _problem(record.fields, keys):
            raise InputError(f"{record.place}: {problem}")
        records.append({key: record.fields[key] for key in keys} if keys else record.fields)
    return DatasetDict({"test": Dataset.from_list(records)})


def own(file: str, question: str | None, options: Sequence[str], answer: str | None, **_: Any) -> DatasetDict:  # noqa: ANN401
    """Return a user's questions as `query`, with `choices` and `gold` if they have options, otherwise with `answer`.

    The file has the form of a prompt set. The other arguments name its fields; `options` has one field with the list of
    options, or one per option. None finds a field by its usual names.

    Raises:
        InputError: the file cannot be read, or a record lacks a field; names file, line and field.
    """
    spec = question_set(file, question, options, answer)
    records: list[dict[str, Any]] = []
    for record in read_records(spec.source):
        text, choices, gold = question_of(record, spec)
        if gold is None:
            raise InputError(f"{record.place}: no right answer; name its field by `answer:` in the task")
        if records and (records[0].keys() >= {"choices"}) != bool(choices):
            raise InputError(f"{record.place}: some questions have options and others have none; split the file in two")
        answers = {"choices": [*choices], "gold": ascii_uppercase.index(gold)} if choices else {"answer": gold}
        records.append({"query": text} | answers)
    return DatasetDict({"test": Dataset.from_list(records)})


def articles(file: str, **_: Any) -> DatasetDict:  # noqa: ANN401 (a definition's metadata)
    """Return a text in WikiText's format as one record per article, without a blank part before the first title.

    Raises:
        InputError: the text cannot be read, or is blank.
    """
    text = read_text(file if file in CORPORA else str(data_file(file)), "task data")
    starts = [match.start() for match in _TITLE.finditer(text)]
    cuts = sorted({0, *starts, len(text)})
    pages = [{"page": text[start:end]} for start, end in pairwise(cuts) if text[start:end].strip()]
    if not pages:
        raise InputError(f"task data {file}: the file contains no text")
    return DatasetDict({"test": Dataset.from_list(pages)})


def programs(docs: Dataset) -> Dataset:
    """Return MBPP's problems with the columns that scoring needs: an empty `prompt`, and the function as `entry_point`.

    The function is the first name that the first test calls and the reference solution defines; otherwise the first
    name that the test calls.

    Raises:
        InputError: the first test calls no function; names the problem.
    """
    return docs.map(lambda doc: {"prompt": "", "entry_point": _entry_point(doc)})


def without_the_first(docs: Dataset) -> Dataset:
    """Return all records but the first: MBPP's few-shot examples are problems 2 to 4."""
    return docs.select(range(1, len(docs)))


def _entry_point(doc: dict[str, Any]) -> str:
    called = re.findall(r"(\w+)\s*\(", doc["test_list"][0])
    if not called:
        raise InputError(f"task data of mbpp, problem {doc.get('task_id')}: its first test calls no function")
    defined = set(re.findall(r"\bdef\s+(\w+)", doc["code"]))
    return str(next((name for name in called if name in defined), called[0]))


def _problem(record: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    if missing := [key for key in keys if key not in record]:
        return f"has no `{missing[0]}`; every record needs {', '.join(keys)}"
    if "choices" in keys and "gold" in keys:
        choices, gold = record["choices"], record["gold"]
        if not isinstance(choices, list) or not all(isinstance(choice, str) and choice for choice in choices):
            return "`choices` must be a list of texts, none of them empty"
        if not 2 <= len(choices) <= 26:
            return f"{len(choices)} `choices`; there must be 2 to 26"
        if type(gold) is not int or not 0 <= gold < len(choices):
            return f"`gold` must be the index of the right one of {len(choices)} `choices`, from 0"
    return None
