"""Streaming readers for records of prompt sets: JSONL, JSON, CSV, TSV, Parquet, plain text, and data sets.

Memory holds one record at a time, except for a .json file. No torch here.
"""

import csv
import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.regular_files import local_path, open_regular, read_regular, readable, require_regular
from prunescope.pipelines.core.suggestions import did_you_mean
from prunescope.pipelines.corpora.hub_datasets import PREFIX, data_set_rows, data_set_state

FORM = "hf:NAME[:CONFIG]:SPLIT"
_FOLDER = Path(__file__).parent / "prompt_sets"
_TASK_DATA = Path(__file__).parents[1] / "evaluation" / "tasks" / "data"
# Sets in the package; a README next to each file names its source and licence.
SHIPPED = {
    **{name: _FOLDER / f"{name}.jsonl" for name in ("maths", "open", "choice")},
    "gsm8k": _FOLDER / "maths.jsonl",
    **{name: _TASK_DATA / f"{name}.jsonl" for name in ("arc_challenge", "openbookqa", "boolq")},
}
# Longest line; reading a file without line feeds stops here.
MAX_LINE_BYTES = 10_000_000
# Largest .json file, which is read as a whole and takes several times its size in memory.
MAX_JSON_BYTES = 100_000_000
# Largest other file; one of this size has millions of lines and takes minutes to read.
MAX_BYTES = 20_000_000_000
_SIBLINGS = 1_000
_READABLE = "give a readable file"


@dataclass(frozen=True)
class Record:
    """A record of a set, with its values by name.

    `number` counts from 1: lines if the file has lines, otherwise records or rows. `unit` names the file and what is
    counted.
    """

    number: int
    unit: str
    fields: dict[str, Any]

    @property
    def place(self) -> str:
        """Return the file, the counted unit and the number, for messages."""
        return f"{self.unit} {self.number}"


def require_unambiguous(source: str) -> None:
    """Raise an InputError if a shipped set's name is also that of a file in the working folder."""
    if source in SHIPPED and Path(source).is_file():
        raise InputError(
            f"source {source!r} is the name of a shipped set and of a file here; rename the file and give its path "
            f"with an ending ({', '.join(_READERS)})"
        )


def set_name(source: str) -> str:
    """Return the name of a set: of the shipped set, of the file without its ending, or of the data set."""
    return Path(source.split(":")[1]).name if source.startswith(PREFIX) else Path(source).stem


def source_state(source: str) -> object:
    """Return a value that changes whenever the records of a local source change; errors as in `read_records`."""
    if source.startswith(PREFIX):
        return data_set_state(source)
    path = _path(source)
    with readable(str(path), _READABLE):
        require_regular(path, MAX_BYTES, "a file of records")
        status = path.stat()
    return status.st_mtime_ns, status.st_size


def read_records(source: str) -> Iterator[Record]:
    """Yield the records of a shipped set, of a path that ends in one of `_READERS`, or of `hf:NAME[:CONFIG]:SPLIT`.

    Raises:
        InputError: the source does not exist or holds no record, or a record is malformed; names file, line and fix.
    """
    if source.startswith(PREFIX):
        rows = enumerate(data_set_rows(source, "prompt set"), start=1)
        yield from (Record(number, f"{source}, row", row) for number, row in rows)
        return
    path = _path(source)
    suffix = path.suffix.lower()
    unit = f"{source if source in SHIPPED else path}, {_UNITS.get(suffix, 'line')}"
    count = 0
    with readable(str(path), _READABLE):
        for number, fields in _READERS[suffix](path):
            count += 1
            yield Record(number, unit, fields)
    if not count:
        raise InputError(f"{path}: the file contains no record; write one prompt per line")


def draw(records: Iterable[Record], samples: int, seed: int) -> list[Record]:
    """Draw `samples` records, or all if there are fewer, without replacement in one pass, keeping their order.

    The records whose SHA-256 of seed and index is smallest are drawn. So the draw is the same on every machine and with
    every library, and a larger draw contains a smaller one.
    """
    keyed = (
        (hashlib.sha256(f"{seed}:{index}".encode()).digest(), index, record) for index, record in enumerate(records)
    )
    return [record for _, _, record in sorted(heapq.nsmallest(samples, keyed), key=lambda drawn: drawn[1])]


def _path(source: str) -> Path:
    if source in SHIPPED:
        return SHIPPED[source]
    path = local_path(source, "source")
    with readable(str(path), _READABLE):
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give the path of a file, or hf:FOLDER:SPLIT for a data set on disk")
        if path.exists():
            if path.suffix.lower() not in _READERS:
                raise InputError(f"{path}: unknown ending {path.suffix!r}; prompt sets end in {', '.join(_READERS)}")
            return path
        siblings = [file.name for file in islice(path.parent.iterdir(), _SIBLINGS)] if path.parent.is_dir() else []
    hint = did_you_mean(source, SHIPPED) or did_you_mean(path.name, siblings, form=f"{path.parent}/{{}}")
    raise InputError(
        f"source {source!r}: no such set or file; {hint}shipped are {', '.join(SHIPPED)}; else give a file "
        f"({', '.join(_READERS)}) or {FORM}"
    )


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield all lines with their numbers; only a line feed ends a line, and it is included.

    Raises:
        InputError: the file is too large, a line is too long, or the text is not UTF-8; names the line.
        OSError: the file cannot be read.
    """
    number = 0
    try:
        with open_regular(path, MAX_BYTES, "a file of records") as stream:
            for number, line in enumerate(iter(partial(stream.readline, MAX_LINE_BYTES + 1), b""), start=1):
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(f"{path}, line {number}: longer than {MAX_LINE_BYTES:,} bytes; split it")
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number}: not UTF-8 text at byte {error.start + 1} of the line; save the file as UTF-8"
        ) from error


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: not valid JSON ({_reason(error)}); fix the line") from error
        yield number, _object(value, f"{path}, line {number}")


def _json(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    text = read_regular(path, MAX_JSON_BYTES, "a .json file (unlike .jsonl)")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise InputError(f"{path}, line {line}: not valid JSON ({_reason(error)}); fix it") from error
    if not isinstance(values, list):
        raise InputError(f"{path}, line 1: not a list; write [{{…}}, {{…}}], or one record per line as .jsonl")
    for number, value in enumerate(values, start=1):
        yield number, _object(value, f"{path}, record {number}")


def _reason(error: Exception) -> str:
    return str(getattr(error, "msg", "")) or ("nested too deep" if isinstance(error, RecursionError) else str(error))


def _object(value: object, place: str) -> dict[str, Any]:
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        raise InputError(f'{place}: neither an object nor a text; write {{"text": …}}')
    return value


def _table(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(MAX_LINE_BYTES)  # the default of 131,072 is less than a long prompt
    reader = csv.reader((line for _, line in numbered_lines(path)), delimiter=delimiter, strict=True)
    header: list[str] = []
    ended = 0
    try:
        for row in reader:
            number, ended = ended + 1, reader.line_num
            if row and not header:
                header = [name.strip() for name in row]
                repeated = [name for name, count in Counter(header).items() if count > 1 or not name]
                if repeated:
                    raise InputError(
                        f"{path}, line {number}: the column name {repeated[0]!r} is empty or occurs twice; rename it"
                    )
            elif row and len(row) != len(header):
                raise InputError(
                    f"{path}, line {number}: {len(row)} cells, but the header has {len(header)} columns; put a text "
                    "with separators into double quotes"
                )
            elif row:
                yield number, {name: cell for name, cell in zip(header, row, strict=True) if cell != ""}
    except csv.Error as error:
        raise InputError(
            f"{path}, line {ended + 1}: not valid {path.suffix[1:].upper()} ({error}); check its quotes"
        ) from error


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with open_regular(path, MAX_BYTES, "a file of records") as stream, pq.ParquetFile(stream) as file:
            rows = (row for batch in file.iter_batches(batch_size=1_000) for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield number, row
    except (pa.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{path}, row {number + 1}: not readable as Parquet ({reason}); write it again") from error


def _text(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in numbered_lines(path):
        if line.strip():
            yield number, {"text": line.rstrip("\r\n")}


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, dict[str, Any]]]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": partial(_table, delimiter=","),
    ".tsv": partial(_table, delimiter="\t"),
    ".parquet": _parquet,
    ".txt": _text,
}
_UNITS = {".json": "record", ".parquet": "row"}
