"""Reads a retrieval data set in BEIR's form (2104.08663): documents, queries, and which of them belong together.

Every line is checked, and refused by its number; what is computed on them is for the other modules here.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.studies.evaluation_specs import RetrievalSpec

# A document of BEIR has a few thousand characters; a file without line feeds would be read whole.
LONGEST_LINE = 10_000_000
_FORM = "a folder in BEIR's form holds corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv"


@dataclass(frozen=True)
class Collection:
    """A data set, or the part of it that its specification asks for.

    Attributes:
        documents: texts by id, title in front, in the corpus's order.
        queries: texts by id, in the order of their file; only those with a judgement.
        relevance: by query and document id; above 0 is relevant, what is not listed is not.
    """

    documents: Mapping[str, str]
    queries: Mapping[str, str]
    relevance: Mapping[str, Mapping[str, int]]


def files_of(spec: RetrievalSpec) -> tuple[Path, Path, Path]:
    """Where corpus, queries and judgements lie; nothing is opened."""
    folder = Path(__file__).parent / spec.name if spec.folder is None else Path(spec.folder).expanduser()
    return folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / f"{spec.split}.tsv"


def require_files(spec: RetrievalSpec) -> None:
    """Refuses a data set whose files are not there.

    Raises:
        InputError: names the file.
    """
    for file in files_of(spec):
        if not file.is_file():
            raise InputError(f"{spec.what}: {file} is missing; {_FORM}")


def is_there(spec: RetrievalSpec) -> bool:
    """Whether all files of a data set are there."""
    return all(file.is_file() for file in files_of(spec))


def contents_hash(collection: Collection) -> str:
    """SHA-256 over all texts and judgements that are used, in their order."""
    parts = [list(collection.documents.items()), list(collection.queries.items()), list(collection.relevance.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_collection(spec: RetrievalSpec) -> Collection:
    """Reads a data set.

    Raises:
        InputError: a file cannot be read, or a line of it is not as BEIR has it, repeats an id or names one that is
            not there; gives file and line.
    """
    require_files(spec)
    corpus_file, queries_file, judgements_file = files_of(spec)
    documents, queries = _texts(corpus_file), _texts(queries_file)
    relevance = _judgements(judgements_file, documents, queries)
    judged = [name for name in queries if name in relevance][: spec.max_queries]
    if not judged or not documents:
        what = "documents" if judged else "judged queries"
        raise InputError(f"{spec.what}: no {what} in {corpus_file if judged else judgements_file}")
    relevance = {name: relevance[name] for name in judged}
    return Collection(_few(spec, documents, relevance), {name: queries[name] for name in judged}, relevance)


def texts_of(spec: RetrievalSpec, collection: Collection) -> list[str]:
    """What is embedded of a data set: its queries, then its documents, with their prefixes."""
    queries = [spec.query_prefix + text for text in collection.queries.values()]
    return [*queries, *(spec.document_prefix + text for text in collection.documents.values())]


def _few(spec: RetrievalSpec, documents: dict[str, str], relevance: Mapping[str, Mapping[str, int]]) -> dict[str, str]:
    """As many documents as are wanted, every relevant one among them."""
    if spec.max_documents is None or spec.max_documents >= len(documents):
        return documents
    kept = {name for judged in relevance.values() for name, score in judged.items() if score > 0}
    if len(kept) > spec.max_documents:
        raise InputError(
            f"{spec.what}: `max_documents` {spec.max_documents} is less than the {len(kept)} relevant documents of its "
            f"{len(relevance)} queries; raise it or lower `max_queries`"
        )
    for name in documents:
        if len(kept) == spec.max_documents:
            break
        kept.add(name)
    return {name: text for name, text in documents.items() if name in kept}


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, by number; they end in a line feed, for a JSON string may hold other separators."""
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(iter(partial(stream.readline, LONGEST_LINE + 1), b""), start=1):
                if len(line) > LONGEST_LINE:
                    raise InputError(f"{file}: line {number}: longer than {LONGEST_LINE:,} bytes; split the document")
                if line.strip():
                    yield number, _decoded(line, f"{file}: line {number}")
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; {_FORM}") from error


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text; save it as UTF-8") from error


def _texts(file: Path) -> dict[str, str]:
    """Texts of a JSONL file by `_id`; a `title` comes first, as BEIR joins them."""
    found: dict[str, str] = {}
    for number, line in _lines(file):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file}: line {number}: not valid JSON") from error
        name, text = (record.get("_id"), record.get("text")) if isinstance(record, dict) else (None, None)
        title = record.get("title") or "" if isinstance(record, dict) else ""
        if not isinstance(name, str) or not name or not isinstance(text, str) or not isinstance(title, str):
            raise InputError(
                f"{file}: line {number}: not an object with the strings `_id` and `text` (and maybe `title`)"
            )
        if name in found:
            raise InputError(f"{file}: line {number}: the id {name!r} stands there twice")
        found[name] = f"{title} {text}".strip()
    return found


def _judgements(file: Path, documents: Mapping[str, str], queries: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """Relevance by query and document; a first line that is no judgement is the header."""
    found: dict[str, dict[str, int]] = {}
    for number, line in _lines(file):
        fields = line.split("\t")
        if number == 1 and fields[-1].strip().lower() == "score":
            continue
        try:
            query, document, score = fields[0], fields[1], int(fields[2])
        except (IndexError, ValueError) as error:
            raise InputError(
                f"{file}: line {number}: not query id, document id and a whole number between tabs"
            ) from error
        for name, known, where in ((query, queries, "queries.jsonl"), (document, documents, "corpus.jsonl")):
            if name not in known:
                raise InputError(f"{file}: line {number}: {name!r} is not in {where}; fetch that again or cut the line")
        if document in found.setdefault(query, {}):
            raise InputError(f"{file}: line {number}: {query!r} and {document!r} are judged twice")
        found[query][document] = score
    return found
