"""Reading of retrieval data sets in BEIR's format (2104.08663): documents, queries and relevance judgements."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.regular_files import readable
from prunescope.pipelines.corpora.records import numbered_lines
from prunescope.pipelines.studies.evaluation_specs import RetrievalSpec

_FORMAT = "a folder in BEIR's format holds corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv"


@dataclass(frozen=True)
class Collection:
    """A data set, cut to the limits of its specification: texts by id, in the order of the files.

    Documents begin with their titles. Queries without a judgement are left out. Relevance is by query and document id:
    above 0 is relevant; unlisted documents are not.
    """

    documents: Mapping[str, str]
    queries: Mapping[str, str]
    relevance: Mapping[str, Mapping[str, int]]


def files_of(spec: RetrievalSpec) -> tuple[Path, Path, Path]:
    """Return the paths of corpus, queries and judgements, whether or not they exist."""
    folder = Path(__file__).parent / spec.name if spec.folder is None else Path(spec.folder).expanduser()
    return folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / f"{spec.split}.tsv"


def require_files(spec: RetrievalSpec) -> None:
    """Raise an InputError for a missing file of a data set."""
    for file in files_of(spec):
        if not file.is_file():
            raise InputError(f"{spec.what}: {file} is missing; {_FORMAT}")


def has_files(spec: RetrievalSpec) -> bool:
    """Return whether all files of a data set exist."""
    return all(file.is_file() for file in files_of(spec))


def contents_hash(collection: Collection) -> str:
    """Return the SHA-256 of all texts and judgements of the collection, in their order."""
    parts = [list(collection.documents.items()), list(collection.queries.items()), list(collection.relevance.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_collection(spec: RetrievalSpec) -> Collection:
    """Read a data set; InputError for an unreadable file, a malformed line, or a repeated or unknown id."""
    require_files(spec)
    corpus_file, queries_file, judgements_file = files_of(spec)
    documents, queries = _texts(corpus_file), _texts(queries_file)
    relevance = _judgements(judgements_file, documents, queries)
    judged = [name for name in queries if name in relevance][: spec.max_queries]
    if not judged or not documents:
        what = "documents" if judged else "judged queries"
        raise InputError(f"{spec.what}: no {what} in {corpus_file if judged else judgements_file}")
    relevance = {name: relevance[name] for name in judged}
    return Collection(_limited(spec, documents, relevance), {name: queries[name] for name in judged}, relevance)


def texts_of(spec: RetrievalSpec, collection: Collection) -> list[str]:
    """Return the texts to embed: the queries, then the documents, with their prefixes."""
    queries = [spec.query_prefix + text for text in collection.queries.values()]
    return [*queries, *(spec.document_prefix + text for text in collection.documents.values())]


def _limited(
    spec: RetrievalSpec, documents: dict[str, str], relevance: Mapping[str, Mapping[str, int]]
) -> dict[str, str]:
    """Return `max_documents` documents, including every relevant one."""
    if spec.max_documents is None or spec.max_documents >= len(documents):
        return documents
    chosen = {name for judged in relevance.values() for name, score in judged.items() if score > 0}
    if len(chosen) > spec.max_documents:
        raise InputError(
            f"{spec.what}: `max_documents` {spec.max_documents} is less than the {len(chosen)} relevant documents of "
            f"its {len(relevance)} queries; raise it or lower `max_queries`"
        )
    for name in documents:
        if len(chosen) == spec.max_documents:
            break
        chosen.add(name)
    return {name: text for name, text in documents.items() if name in chosen}


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the non-blank lines with their numbers."""
    with readable(str(file), _FORMAT):
        yield from ((number, line.rstrip("\r\n")) for number, line in numbered_lines(file) if line.strip())


def _texts(file: Path) -> dict[str, str]:
    """Read the texts of a JSONL file by `_id`, each after its `title`, as BEIR joins them."""
    texts: dict[str, str] = {}
    for number, line in _lines(file):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file}, line {number}: not valid JSON") from error
        name, text = (record.get("_id"), record.get("text")) if isinstance(record, dict) else (None, None)
        title = record.get("title") or "" if isinstance(record, dict) else ""
        if not isinstance(name, str) or not name or not isinstance(text, str) or not isinstance(title, str):
            raise InputError(
                f"{file}, line {number}: not an object with the strings `_id` and `text` (and maybe `title`)"
            )
        if name in texts:
            raise InputError(f"{file}, line {number}: the id {name!r} occurs twice")
        texts[name] = f"{title} {text}".strip()
    return texts


def _judgements(file: Path, documents: Mapping[str, str], queries: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """Read the relevance by query and document; a first line that ends with `score` is the header."""
    relevance: dict[str, dict[str, int]] = {}
    for number, line in _lines(file):
        fields = line.split("\t")
        if number == 1 and fields[-1].strip().lower() == "score":
            continue
        try:
            query, document, score = fields[0], fields[1], int(fields[2])
        except (IndexError, ValueError) as error:
            raise InputError(
                f"{file}, line {number}: not a query id, a document id and a whole number, separated by tabs"
            ) from error
        for name, known, where in ((query, queries, "queries.jsonl"), (document, documents, "corpus.jsonl")):
            if name not in known:
                raise InputError(
                    f"{file}, line {number}: {name!r} is not in {where}; download that file again or delete the line"
                )
        if document in relevance.setdefault(query, {}):
            raise InputError(f"{file}, line {number}: {query!r} and {document!r} are judged twice")
        relevance[query][document] = score
    return relevance
