"""Reading of data sets in BEIR's format, and refusals that name file and line."""

import json
from pathlib import Path

import pytest

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.retrieval.beir_data import contents_hash, read_collection
from prunescope.pipelines.studies.evaluation_specs import RetrievalSpec

CORPUS = [
    {"_id": "d1", "title": "Émile", "text": "naïve\u2028文"},
    {"_id": "d2", "text": ""},
    {"_id": "d3", "title": "", "text": "three"},
]
QUERIES = [{"_id": "b", "text": "second"}, {"_id": "a", "text": "first"}, {"_id": "unjudged", "text": "?"}]
QRELS = "query-id\tcorpus-id\tscore\na\td3\t2\na\td1\t0\nb\td1\t1\n"


def beir(folder: Path, **files: str) -> RetrievalSpec:
    """Write a data set with some files' contents replaced."""
    contents = {
        "corpus": "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in CORPUS),
        "queries": "".join(json.dumps(record) + "\n\n" for record in QUERIES),
        "qrels": QRELS,
    } | files
    (folder / "qrels").mkdir(parents=True)
    for name, text in contents.items():
        place = "qrels/test.tsv" if name == "qrels" else f"{name}.jsonl"
        (folder / place).write_bytes(text if isinstance(text, bytes) else text.encode())
    return RetrievalSpec(name="mine", folder=str(folder))


def test_texts_keep_the_files_order_and_unjudged_queries_are_dropped(tmp_path: Path) -> None:
    found = read_collection(beir(tmp_path))
    assert dict(found.documents) == {"d1": "Émile naïve\u2028文", "d2": "", "d3": "three"}
    assert list(found.queries.items()) == [("b", "second"), ("a", "first")]
    assert found.relevance == {"b": {"d1": 1}, "a": {"d3": 2, "d1": 0}}


def test_a_judgement_file_without_header_keeps_its_first_line(tmp_path: Path) -> None:
    spec = beir(tmp_path, qrels=QRELS.partition("\n")[2].replace("\n", "\r\n"))
    assert read_collection(spec).relevance == {"b": {"d1": 1}, "a": {"d3": 2, "d1": 0}}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"corpus": '{"_id": "d1", "text": "a"}\n{"_id": "d1", "text": "b"}'}, r"corpus.jsonl, line 2: the id 'd1'"),
        ({"corpus": '\n{"_id": "d1"'}, r"corpus.jsonl, line 2: not valid JSON"),
        ({"corpus": '{"_id": 1, "text": "a"}'}, r"corpus.jsonl, line 1: not an object with the strings"),
        ({"corpus": '{"_id": "", "text": "a"}'}, r"corpus.jsonl, line 1: not an object"),
        ({"corpus": '{"_id": "d", "text": "a", "title": 3}'}, r"corpus.jsonl, line 1: not an object"),
        ({"corpus": '{"_id": "d"}'}, r"corpus.jsonl, line 1: not an object"),
        ({"corpus": "[1]"}, r"corpus.jsonl, line 1: not an object"),
        ({"corpus": b'{"_id": "d1", "text": "a"}\n\xff\n'}, r"corpus.jsonl, line 2: not UTF-8"),
        (
            {"corpus": '{"_id": "d1", "text": "' + "a" * 10**7 + '"}'},
            r"corpus.jsonl, line 1: longer than 10,000,000 bytes",
        ),
        ({"corpus": "", "qrels": "score\n"}, r"no judged queries in .*test.tsv"),
        ({"qrels": QRELS + "a\td9\t1\n"}, r"test.tsv, line 5: 'd9' is not in corpus.jsonl"),
        ({"qrels": QRELS + "z\td1\t1\n"}, r"test.tsv, line 5: 'z' is not in queries.jsonl"),
        ({"qrels": QRELS + "a\td1\t1\n"}, r"test.tsv, line 5: 'a' and 'd1' are judged twice"),
        ({"qrels": QRELS + "a d1 1\n"}, r"test.tsv, line 5: not a query id"),
        ({"qrels": QRELS + "a\td2\t0.5\n"}, r"test.tsv, line 5: not a query id"),
        ({"qrels": ""}, r"no judged queries in .*test.tsv"),
    ],
)
def test_malformed_beir_files_are_refused_by_line(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_collection(beir(tmp_path, **files))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    spec = beir(tmp_path)
    with pytest.raises(InputError, match=r"qrels/dev.tsv is missing; a folder in BEIR's format holds"):
        read_collection(spec.model_copy(update={"split": "dev"}))


def test_fewer_documents_keep_the_relevant_ones_and_the_order(tmp_path: Path) -> None:
    spec = beir(tmp_path)
    few = read_collection(spec.model_copy(update={"max_queries": 2, "max_documents": 2}))
    assert list(few.documents) == ["d1", "d3"]
    one = read_collection(spec.model_copy(update={"max_queries": 1, "max_documents": 2}))
    assert (list(one.queries), list(one.documents)) == (["b"], ["d1", "d2"])
    assert contents_hash(one) != contents_hash(few)
    with pytest.raises(InputError, match=r"`max_documents` 1 is less than the 2 relevant documents of its 2 queries"):
        read_collection(spec.model_copy(update={"max_documents": 1}))


def test_the_shipped_set_has_one_text_for_every_title() -> None:
    found = read_collection(RetrievalSpec(name="python-help"))
    assert len(found.queries) == len(found.documents) == len(set(found.documents.values())) == 166
    assert sorted(name for judged in found.relevance.values() for name in judged) == sorted(found.documents)
    title = next(name for name, text in found.queries.items() if text == "The break statement")
    (document,) = found.relevance[title]
    assert "terminates the nearest enclosing loop" in found.documents[document]
