"""Tests of the accepted forms of text and of the messages that refuse other files."""

import json
from pathlib import Path

import pytest

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.corpora.text_sources import contents_hash, read_text


def written(folder: Path, name: str, contents: str | bytes) -> str:
    file = folder / name
    file.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return str(file)


def test_other_files_are_plain_text(tmp_path: Path) -> None:
    assert read_text(written(tmp_path, "notes.md", "# ü\n{not json"), "source") == "# ü\n{not json"
    assert read_text(written(tmp_path, "bare", "one"), "source") == "one"


def test_records_are_strings_or_objects_with_a_text(tmp_path: Path) -> None:
    records = ["one", {"text": "two", "id": 2}]
    lines = "\n".join(map(json.dumps, records))
    for name, contents in (("r.json", json.dumps(records)), ("r.jsonl", f"{lines}\n\n"), ("r.jsonl", lines)):
        assert read_text(written(tmp_path, name, contents), "source") == "one\n\ntwo"
    assert read_text(written(tmp_path, "one.json", '{"text": "alone"}'), "source") == "alone"


@pytest.mark.parametrize("name", ["r.jsonl", "R.JSONL", "r.ndjson", "r.txt", "r.json"])
def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path, name: str) -> None:
    source = written(tmp_path, name, "\ufeff" + ("one" if name == "r.txt" else '{"text": "one"}'))
    assert read_text(source, "test") == "one"
    unmarked = written(tmp_path, f"b-{name}", Path(source).read_text(encoding="utf-8-sig"))
    assert contents_hash(source, "test") == contents_hash(unmarked, "test")


def test_jsonl_lines_end_only_at_newlines(tmp_path: Path) -> None:
    source = written(tmp_path, "odd.jsonl", '{"text": "a\u2028b\x85c"}\n"d"\r\n')
    assert read_text(source, "source") == "a\u2028b\x85c\n\nd"


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("bad.json", "{", "not valid JSON"),
        ("bad.jsonl", '"fine"\n{', "not valid JSONL"),
        ("deep.json", "[" * 100_000, "not valid JSON"),
        ("keys.jsonl", '{"body": "x"}', "not text: every record"),
        ("number.json", "[1]", "not text: every record"),
        ("null.jsonl", '{"text": null}', "not text: every record"),
        ("nested.json", '[["a"]]', "not text: every record"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, name: str, contents: str | bytes, message: str) -> None:
    source = written(tmp_path, name, contents)
    with pytest.raises(InputError, match=f"^text 'x', source {source}: {message}"):
        read_text(source, "text 'x', source")


@pytest.mark.parametrize("name", ["latin.txt", "binary.json", "lines.jsonl"])
def test_bytes_that_are_not_utf_8_are_refused_by_line(tmp_path: Path, name: str) -> None:
    source = written(tmp_path, name, b"1\ncaf\xe9\n")
    with pytest.raises(InputError, match=f"^{source}, line 2: not UTF-8 text; save it as UTF-8"):
        read_text(source, "text 'x', source")


def test_folders_and_missing_files_are_refused_by_both(tmp_path: Path) -> None:
    for read in (read_text, contents_hash):
        with pytest.raises(
            InputError, match=r"source .*: Is a directory; give `wikitext2`, `c4`, `embedded`, hf:NAME.* or a readable"
        ):
            read(str(tmp_path), "source")
        with pytest.raises(InputError, match="No such file"):
            read(str(tmp_path / "none"), "source")


def test_the_hash_follows_the_contents(tmp_path: Path) -> None:
    first = contents_hash(written(tmp_path, "a.txt", "one"), "source")
    assert contents_hash(written(tmp_path, "b.txt", "one"), "source") == first
    assert contents_hash(written(tmp_path, "a.txt", "two"), "source") != first
    assert contents_hash("wikitext2", "source") != first


def test_wikitext2_is_the_complete_test_split() -> None:
    text = read_text("wikitext2", "source")
    assert len(text.encode()) == 1_256_449
    assert text.startswith(" \n = Robert <unk> = \n")
