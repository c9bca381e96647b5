"""Tests that prompts from files are complete and the same everywhere, and that wrong files name line, field and fix."""

import csv
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.corpora.records import SHIPPED
from prunescope.pipelines.evaluation.tokenization.prompts import find_answer
from prunescope.pipelines.studies import Study, load_study
from prunescope.pipelines.studies.prompt_records import LAST_NUMBER
from prunescope.pipelines.studies.prompt_sets import resolve_prompts
from prunescope.pipelines.studies.prompts import MAX_PROMPTS, Prompt, number_text


def prompts_of(*entries: object) -> list[Prompt]:
    prompts = resolve_prompts(list(entries), "study.yaml")
    assert isinstance(prompts, list)
    return prompts


def written(folder: Path, name: str, *records: object) -> str:
    lines = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    (folder / name).write_bytes(b"".join(line + b"\n" for line in lines))
    return str(folder / name)


def study(folder: Path, *entries: object, **keys: object) -> Study:
    fields = {"models": [{"name": "m", "source": "m"}], "recipes": ["dense"], "prompts": entries, **keys}
    (folder / "study.yaml").write_text(json.dumps(fields))
    return load_study(str(folder / "study.yaml"))


@pytest.mark.parametrize(("name", "kind"), [("maths", "maths"), ("open", "open"), ("choice", "choice")])
def test_a_shipped_set_has_100_prompts_of_its_kind_that_no_task_scores(name: str, kind: str) -> None:
    prompts = prompts_of(name)
    assert {prompt.kind for prompt in prompts} == {kind}
    assert len({prompt.id for prompt in prompts}) == len({prompt.text for prompt in prompts}) == 100
    assert all((prompt.gold is None) == (kind == "open") for prompt in prompts)
    files = SHIPPED["boolq"].parent.glob("*.jsonl")
    tasks = [json.loads(line) for path in files for line in path.read_text().split("\n") if line]
    asked = {str(task.get("query", task.get("question"))).removeprefix("Question: ").strip() for task in tasks}
    assert len(asked) > 300
    assert not asked & {prompt.text.partition("\nA. ")[0].strip() for prompt in prompts}


def test_the_names_of_tasks_are_sets_too() -> None:
    for name in ("arc_challenge", "openbookqa", "boolq", "gsm8k"):
        (prompt,) = prompts_of({"source": name, "samples": 1})
        assert prompt.gold
        assert prompt.id.startswith(name)


def test_the_draw_is_the_one_of_its_definition_and_grows(tmp_path: Path) -> None:
    file = written(tmp_path, "p.jsonl", *({"question": f"q{index}?"} for index in range(50)))
    keys = [hashlib.sha256(f"7:{index}".encode()).hexdigest() for index in range(50)]
    smallest = sorted(range(50), key=lambda index: keys[index])[:9]
    drawn = [prompt.text for prompt in prompts_of({"source": file, "samples": 9, "seed": 7})]
    assert drawn == [f"q{index}?" for index in sorted(smallest)]
    assert set(drawn) < {prompt.text for prompt in prompts_of({"source": file, "samples": 20, "seed": 7})}
    assert drawn != [prompt.text for prompt in prompts_of({"source": file, "samples": 9})]


def test_every_draw_is_equally_likely(tmp_path: Path) -> None:
    file = written(tmp_path, "p.jsonl", *({"question": f"{index}"} for index in range(10)))
    drawn = [int(p.text) for seed in range(400) for p in prompts_of({"source": file, "samples": 3, "seed": seed})]
    counts = [drawn.count(index) for index in range(10)]
    assert sum((count - 120) ** 2 / 120 for count in counts) < 27.9  # chi-squared with 9 degrees of freedom, p = 0.001


def records_as(kind: str, folder: Path, records: list[dict[str, Any]]) -> str:
    path = folder / f"p.{kind}"
    flat = [{key: json.dumps(v) if isinstance(v, list) else v for key, v in record.items()} for record in records]
    if kind == "jsonl":
        path.write_text("\ufeff" + "\r\n".join(map(json.dumps, records)))
    elif kind == "json":
        path.write_text(json.dumps(records))
    elif kind == "parquet":
        pl.DataFrame(records).write_parquet(path)
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as stream:
            writer = csv.DictWriter(stream, list(records[0]), delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(flat)
    return str(path)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_all_forms_of_a_file_give_the_same_prompts(tmp_path: Path, kind: str) -> None:
    records: list[dict[str, Any]] = [
        {"id": "a/1", "Question": 'Which, "é"\nof two?\t\u2028', "choices": ["one", "two"], "answerKey": "B"},
        {"id": "b 2", "Question": "Who?", "choices": ["he", "she"], "answerKey": "he"},
    ]
    first, second = prompts_of({"source": records_as(kind, tmp_path, records)})
    assert first.text == 'Which, "é"\nof two?\nA. one\nB. two\nAnswer with one letter: A or B.'
    assert (first.id, first.kind, first.options, first.gold) == ("a-1", "choice", ("A", "B"), "B")
    assert (second.id, second.gold) == ("b-2", "A")


def test_a_text_file_holds_one_prompt_a_line_and_ids_are_those_of_the_lines(tmp_path: Path) -> None:
    (tmp_path / "my prompts.txt").write_text("Why?\n\n  How? \r\n")
    found = prompts_of({"source": str(tmp_path / "my prompts.txt")})
    assert [(p.id, p.text, p.kind) for p in found] == [
        ("my-prompts-1", "Why?", "open"),
        ("my-prompts-3", "  How? ", "open"),
    ]


def test_a_folder_of_a_data_set_is_read_by_its_split(tmp_path: Path) -> None:
    written(tmp_path, "test.jsonl", {"body": "Why?", "text": "no"})
    for source, keys in ((f"hf:{tmp_path}:test", {"text": "body"}), (f"hf:{tmp_path}::test:body", {})):
        (prompt,) = prompts_of({"source": source, "name": "mine", **keys})
        assert (prompt.id, prompt.text) == ("mine-1", "Why?")


@pytest.mark.parametrize(
    ("record", "kind", "gold"),
    [
        ({"question": "q", "answer": "3 x 6 = 18\n#### 1,800.50"}, "maths", "1800.5"),
        ({"question": "q", "answer": 18.0}, "maths", "18"),
        ({"question": "q", "target": "-$3"}, "maths", "-3"),
        ({"question": "q", "answer": "Paris"}, "open", None),
        ({"question": "q"}, "open", None),
        ({"question": "q", "answer": "Paris", "answer_pattern": "(Paris|Rome)"}, "open", "Paris"),
        ({"question": "q", "choices": ["no", "yes"], "gold": 0}, "choice", "A"),
        ({"ctx": "q", "endings": ["w", "x", "y", "z"], "label": "3"}, "choice", "D"),
        ({"question": "q", "choices": ["no", "yes"], "gold": 1.0}, "choice", "B"),
        ({"question": "q", "options": ["3", "0", "7"], "answer": "0"}, "choice", "B"),
        ({"question": "q", "options": [3, 0, 7], "answer": 0}, "choice", "A"),
        ({"question": "q", "choices": ["x", "y"], "answer": "b"}, "choice", "B"),
        ({"question": "q", "choices": {"text": ["2", "4"], "label": ["4", "2"]}, "answerKey": "4"}, "choice", "A"),
        ({"question": "q", "choices": {"text": ["w", "x"], "label": [1, 2]}, "answerKey": 1}, "choice", "A"),
        ({"question": "q", "choices": {"text": ["w", "x"], "label": [1, 2]}, "answerKey": 1.0}, "choice", "A"),
        ({"question": "q", "choices": {"text": ["w", "x"], "label": ["i", "ii"]}, "answerKey": "ii"}, "choice", "B"),
        ({"question": "which are even?", "answer": "2,4"}, "open", None),
        ({"question": "q", "answer": "−7"}, "maths", "-7"),
        (
            {"question_stem": "q", "choices": {"text": ["w", "x", "y"], "label": ["1", "2", "3"]}, "answerKey": "2"},
            "choice",
            "B",
        ),
    ],
)
def test_kind_and_gold_follow_from_the_record(tmp_path: Path, record: object, kind: str, gold: str | None) -> None:
    (prompt,) = prompts_of({"source": written(tmp_path, "p.jsonl", record)})
    assert (prompt.kind, prompt.gold) == (kind, gold)
    assert (prompt.answer_pattern is None) == (gold is None)


def test_named_fields_count_before_usual_ones(tmp_path: Path) -> None:
    record = {"question": "no", "turns": [], "body": "Which?", "nr": 7, "a": "x", "b": "y", "right": "y", "answer": "x"}
    keys = {"text": "body", "id": "nr", "gold": "right", "options": ["a", "b"], "system": "Be brief."}
    (prompt,) = prompts_of({"source": written(tmp_path, "p.jsonl", record), **keys})
    assert (prompt.id, prompt.gold, prompt.system) == ("7", "B", "Be brief.")
    assert prompt.text.startswith("Which?\nA. x\nB. y\n")


def test_a_text_that_shows_its_options_stays_as_it_is(tmp_path: Path) -> None:
    texts = ["Which?\nA) x\nB) y\nAnswer:", "Which?\n (A) x\n (B) y"]
    file = written(tmp_path, "p.jsonl", *({"text": text, "options": ["x", "y"], "gold": 0} for text in texts))
    assert [prompt.text for prompt in prompts_of({"source": file})] == texts


def test_turns_instructions_and_ids_of_records(tmp_path: Path) -> None:
    turns = [{"role": r, "content": c} for r, c in (("system", "s"), ("user", "u"), ("assistant", "a"))]
    records = [
        {"messages": [*turns, {"role": "user", "content": "v"}]},
        {"messages": turns},  # the answer at the end is what the prompt asks for
        {"prompt": [{"role": "user", "content": "w"}]},
        {"instruction": "Translate.", "input": "chat", "output": "cat"},
        {"input_ids": [5, 6]},
    ]
    found = prompts_of({"source": written(tmp_path, "p.jsonl", *records), "system": "t", "template": "plain"})
    assert [[message["content"] for message in prompt.messages] for prompt in found[:4]] == [
        ["s", "u", "a", "v"],
        ["s", "u"],
        ["t", "w"],
        ["t", "Translate.\n\nchat"],
    ]
    assert [prompt.text for prompt in found[:3]] == ["v", "u", "w"]
    assert (found[4].ids, found[4].template, found[4].system) == ((5, 6), None, None)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 + 4 = 7 apples.", "7"),
        ("costs $1,234.50.", "1234.5"),
        ("it is -5", "-5"),
        ("10-5", "5"),
        ("so 12 and 7,", "7"),
        ("none", None),
        ("0.250 of\nit", "0.25"),
        ("that is -$7.", "-7"),
        ("10-$5", "5"),
        ("−7", "-7"),
        ("of 4 parts it is .75", "0.75"),
        ("(-.50)", "-0.5"),
        ("1,2,3", "3"),
        ("so,5", "5"),
        ("12,345,678.90 in all", "12345678.9"),
        ("12,34,567 in all", "1234567"),
        ("3 of 4 is **.75**", "0.75"),
        ("1.2.3", "1.2"),
    ],
)
def test_the_answer_of_maths_is_the_last_number_in_its_shortest_form(text: str, number: str | None) -> None:
    prompt = Prompt(id="p", kind="maths", text="q", gold="7.0", answer_pattern=LAST_NUMBER)
    assert prompt.gold == "7"
    assert find_answer(prompt, text) == number


def test_numbers_have_one_form() -> None:
    forms = ["1000", "1,000", "$1,000.00", " +1000. ", "01000", "1000%"]
    assert {number_text(form) for form in forms} == {"1000"}
    assert [number_text(form) for form in (".50", "-0", "1e3", "seven", "", "-", "9" * 101)] == [
        "0.5",
        "0",
        *[None] * 5,
    ]


def test_an_instruction_is_asked_and_not_the_text_that_holds_its_answer(tmp_path: Path) -> None:
    record = {"instruction": "Name one.", "input": "", "output": "Eat.", "text": "### Instruction: Name one. ### Eat."}
    (prompt,) = prompts_of({"source": written(tmp_path, "alpaca.jsonl", record)})
    assert prompt.text == "Name one."


def test_a_cell_may_be_as_long_as_a_line(tmp_path: Path) -> None:
    (tmp_path / "long.csv").write_text("question\n" + "long " * 40_000)
    (prompt,) = prompts_of({"source": str(tmp_path / "long.csv")})
    assert len(prompt.text) > 131_072


def test_equal_prompts_have_equal_hashes_wherever_they_come_from(tmp_path: Path) -> None:
    record = {"id": "a", "question": "Which?", "choices": ["x", "y"], "gold": 1}
    by_hand = {
        "id": "a",
        "kind": "choice",
        "text": "Which?\nA. x\nB. y\nAnswer with one letter: A or B.",
        "options": ["A", "B"],
        "gold": "B",
        "answer_pattern": r"\b([AB])\b",
    }
    one = study(tmp_path, {"source": written(tmp_path, "p.jsonl", record)}, template="plain")
    two = study(tmp_path, by_hand | {"template": "plain"})
    assert one.prompts_hash == two.prompts_hash
    assert one.prompts[0].origin.endswith("p.jsonl, line 1")
    # Stored results of prompts without the newer keys stay current.
    old = json.dumps([{key: getattr(two.prompts[0], key) for key in by_hand}]).encode()
    assert study(tmp_path, by_hand).prompts_hash == hashlib.sha256(old).hexdigest()
    changed = [{"system": "Be brief."}, {"template": "chat"}, {"gold": "A"}, {"text": "Which one?"}]
    turns = {"turns": [{"role": "user", "content": "t"}], "text": "t"}
    hashes = [study(tmp_path, by_hand | change).prompts_hash for change in (*changed, turns)]
    (tmp_path / "q.jinja").write_text("Q: {{ text }}")
    hashes += [study(tmp_path, by_hand, template=template).prompts_hash for template in (None, "plain")]
    hashes.append(study(tmp_path, by_hand, template=str(tmp_path / "q.jinja")).prompts_hash)
    (tmp_path / "q.jinja").write_text("Question: {{ text }}")
    hashes.append(study(tmp_path, by_hand, template=str(tmp_path / "q.jinja")).prompts_hash)
    assert len(set(hashes)) == len(hashes)


def test_resolved_prompts_survive_replacements_dumps_and_changed_files(tmp_path: Path) -> None:
    (tmp_path / "q.jinja").write_text("Q: {{ text }}")
    file = written(
        tmp_path, "p.jsonl", {"question": "Why?"}, {"ids": [1, 2]}, {"turns": [{"role": "user", "content": "u"}]}
    )
    entries = ({"source": file, "system": "s"}, {"id": "own", "text": "What?"})
    made = study(tmp_path, *entries, template=str(tmp_path / "q.jinja"))
    assert made.template == "Q: {{ text }}"
    assert [prompt.id for prompt in made.prompts] == ["p-1", "p-2", "p-3", "own"]
    for other in (
        made.replaced(["b=c"], ["magnitude-50"]),
        made.extended(["b=c"]),
        Study.model_validate(made.model_dump()),
        Study.model_validate_json(made.model_dump_json()),
    ):
        assert (other.prompts, other.prompts_hash) == (made.prompts, made.prompts_hash)
    written(tmp_path, "p.jsonl", {"question": "Why not?"})
    assert study(tmp_path, *entries).prompts[0].text == "Why not?"


def test_a_prompt_with_options_knows_its_file_and_line_which_change_no_hash(tmp_path: Path) -> None:
    asked = "- {id: why, text: Why not}\n- {id: which, text: Which one, options: [A, B]}\n"
    rest = "models: [{name: m, source: m}]\nrecipes: [dense]\n"
    (tmp_path / "a.yaml").write_text(f"prompts:\n{asked}{rest}")
    (tmp_path / "b.yaml").write_text(f"{rest}prompts:\n{asked}")
    (_, first), (_, second) = ((load_study(str(tmp_path / name)).prompts) for name in ("a.yaml", "b.yaml"))

    assert first.what == f"prompt 'which' ({tmp_path}/a.yaml: line 3: `prompts.1`)"
    assert second.what == f"prompt 'which' ({tmp_path}/b.yaml: line 5: `prompts.1`)"
    assert first.contents(None) == second.contents(None)


ROW = {"question": "q"}
CHOICE = {"question": "q", "choices": ["a", "b"]}


@pytest.mark.parametrize(
    ("name", "records", "keys", "message"),
    [
        ("p.jsonl", [], {}, "p.jsonl: the file contains no record; write"),
        ("p.csv", [b"question,answer"], {}, "p.csv: the file contains no record"),
        ("p.jsonl", [ROW, {"body": "x", "title": "t"}], {}, "p.jsonl, line 2: none of the usual fields (question, "),
        ("p.jsonl", [{"body": "x", "title": "t"}], {}, "there are body, title: name one of them by `text:`"),
        (
            "p.jsonl",
            [ROW],
            {"text": "body"},
            "p.jsonl, line 1: 'body' is missing or empty for `text`; there are question",
        ),
        ("p.csv", [b"question,gold", b"q,1", b"q,"], {"gold": "gold"}, "p.csv, line 3: 'gold' is missing or empty"),
        ("p.jsonl", [ROW | {"id": "a"}, ROW, ROW | {"id": "a"}], {}, "the id 'a' is listed twice ("),
        (
            "p.jsonl",
            [b'{"question": "q"}', b'{"question": "caf\xe9"}'],
            {},
            "p.jsonl, line 2: not UTF-8 text at byte 18",
        ),
        ("p.csv", [b"question", b"q", b"caf\xe9"], {}, "p.csv, line 3: not UTF-8 text at byte 4"),
        ("p.json", [b"[1,", b'"caf\xe9"]'], {}, "p.json, line 2: not UTF-8"),
        ("p.jsonl", [ROW, b'{"question": '], {"samples": 1}, "p.jsonl, line 2: not valid JSON (Expecting value); fix"),
        ("p.jsonl", [b"[" * 100_000], {}, "p.jsonl, line 1: not valid JSON (nested too deep)"),
        ("p.jsonl", [[1]], {}, "p.jsonl, line 1: neither an object nor a text; write"),
        ("p.json", [b"[{},", b"{]"], {}, "p.json, line 2: not valid JSON"),
        ("p.json", [ROW], {}, "p.json, line 1: not a list; write"),
        ("p.csv", [b"question,answer", b'"a', b'b",1', b"q,1,2"], {}, "p.csv, line 4: 3 cells, but the header has 2"),
        ("p.csv", [b"question,answer", b"q,1", b'"q,1'], {}, "p.csv, line 3: not valid CSV (unexpected end"),
        (
            "p.csv",
            [b"question,question", b"q,1"],
            {},
            "p.csv, line 1: the column name 'question' is empty or occurs",
        ),
        ("p.parquet", [b"PAR1"], {}, "p.parquet, row 1: not readable as Parquet"),
        ("p.xml", [b"<a/>"], {}, "p.xml: unknown ending '.xml'; prompt sets end in .jsonl, "),
        ("p.jsonl", [{"question": " "}], {}, "p.jsonl, line 1: `question`: empty; write"),
        ("p.jsonl", [{"question": 5}], {}, "p.jsonl, line 1: `question`: not a text; name"),
        (
            "p.jsonl",
            [b'{"question": "\\ud800"}'],
            {},
            "p.jsonl, line 1: `question`: character 1 is half of a surrogate",
        ),
        ("p.jsonl", [CHOICE], {}, "p.jsonl, line 1: `choices`: options without a right answer; add a field `gold`, or"),
        ("p.jsonl", [CHOICE | {"gold": 2}], {}, "p.jsonl, line 1: `gold`: '2' is not one of the 2 options; give"),
        ("p.jsonl", [CHOICE | {"label": "C"}], {}, "p.jsonl, line 1: `label`: 'C' is not one of the 2 options"),
        ("p.jsonl", [CHOICE | {"gold": True}], {}, "p.jsonl, line 1: `gold`: 'True' is not one"),
        ("p.jsonl", [CHOICE | {"choices": ["a"], "gold": 0}], {}, "`choices`: holds 1; a choice has 2 to 26 options"),
        ("p.jsonl", [ROW], {"kind": "choice"}, "p.jsonl, line 1: none of the usual fields (choices, options, endings)"),
        ("p.jsonl", [ROW | {"answer": "blue"}], {"kind": "maths"}, "line 1: `answer`: 'blue' is not a number; set"),
        ("p.jsonl", [{"turns": ["hi"]}], {}, "p.jsonl, line 1: turns must be a list of {role, content}"),
        ("p.jsonl", [{"turns": [{"role": "bot", "content": "x"}]}], {}, "line 1: `turns`: 'bot' is none of 'system'"),
        ("p.jsonl", [{"ids": [1, "2"]}], {}, "p.jsonl, line 1: `ids`: must be a whole number; found '2'"),
        ("p.jsonl", [ROW | {"id": "?"}], {}, "p.jsonl, line 1: `id`: '?' has no letter and no digit"),
        ("p.jsonl", [ROW] * 3, {"samples": 4}, "`samples` is 4, but "),
        ("p.jsonl", [ROW], {"sample": 4}, "`prompts.0.sample`: is not a key here; did you mean `samples`?"),
        ("p.jsonl", [ROW], {"kind": "math"}, "`prompts.0.kind`: 'math' is none of 'maths', 'open' or 'choice'"),
        ("p.jsonl", [ROW], {"template": "/no/such.jinja"}, "`prompts.0.template`: /no/such.jinja: No such file"),
        ("p.jsonl", [ROW], {"source": "gsm8"}, "source 'gsm8': no such set or file; did you mean gsm8k? shipped are"),
        ("p.jsonl", [ROW], {"source": "hf:squad"}, "'hf:squad' does not have the form hf:NAME"),
        ("p.jsonl", [b"[]"] * (MAX_PROMPTS + 1), {}, "line 1: neither"),
    ],
)
def test_wrong_input_names_file_line_field_and_fix(
    tmp_path: Path, name: str, records: list[object], keys: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError) as refusal:
        study(tmp_path, {"source": written(tmp_path, name, *records), **keys})
    assert str(refusal.value).startswith(f"{tmp_path / 'study.yaml'}: line 1: `prompts")
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "`prompts.0`: the prompt is empty"),
        ({"id": "a", "ids": [1, True]}, "`prompts.0.ids.1`: "),
        ({"id": "a", "ids": "1, 2"}, "`prompts.0.ids`: must be a list"),
        ({"source": "open", "template": "/dev/zero"}, "study.yaml: `prompts.0.template`: /dev/zero: is a device"),
        ({"source": "open", "id": 5}, "`prompts.0.id`: must be a text; put it into quotes"),
        ({"id": "a", "ids": [-1]}, "`prompts.0.ids.0`: must be 0 or more"),
        ({"id": "a", "ids": [1], "system": "s"}, "`ids` are all tokens of the prompt; leave out `system`"),
        ({"id": "a", "turns": []}, "the prompt is empty"),
        ({"id": "a", "text": "t", "system": " "}, "`system` is empty"),
        ({"id": "a", "turns": [{"role": "assistant", "content": "t"}]}, "the last of `turns` must be the user's"),
        ({"id": "a", "turns": [{"role": "user", "content": ""}]}, "the turn is empty"),
        ({"id": "a", "text": "u", "turns": [{"role": "user", "content": "t"}]}, "`text` differs from the last of"),
        ({"id": "a", "turns": [{"role": "system", "content": "t"}] * 2, "system": "s"}, "leave one out"),
        ({"id": "a", "text": "t", "template": "chats"}, "give `chat`, `plain` or the path of a Jinja file"),
        (5, "`prompts.0`: "),
        (None, "`prompts.0`: "),
    ],
)
def test_a_wrong_prompt_of_the_study_names_its_key(entry: object, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        resolve_prompts([entry], "study.yaml")
    assert message in str(refusal.value)


def test_a_set_over_the_limit_of_prompts_asks_for_samples(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text("q\n" * (MAX_PROMPTS + 1))
    with pytest.raises(InputError, match=r"p\.txt, line 10001: over 10,000 prompts; set `samples`"):
        prompts_of({"source": str(file)})
    assert len(prompts_of({"source": str(file), "samples": 2})) == 2
    many = {"source": str(file), "samples": MAX_PROMPTS}
    with pytest.raises(InputError, match=r"`prompts\.1`: over 10,000 prompts in the study"):
        prompts_of(many, "maths")


def test_equal_ids_of_two_sets_are_told_apart_by_a_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    files = [written(tmp_path / folder, "p.jsonl", ROW) for folder in ("a", "b")]
    with pytest.raises(InputError, match=r"'p-1' is listed twice \(.*a/p\.jsonl, line 1 and .*b/p\.jsonl, line 1\)"):
        prompts_of(*({"source": file} for file in files))
    found = prompts_of(files[0], {"source": files[1], "name": "other"})
    assert [prompt.id for prompt in found] == ["p-1", "other-1"]
    same = written(tmp_path, "p.jsonl", *[ROW | {"task_id": "t"}] * 2)
    assert [prompt.id for prompt in prompts_of({"source": same, "id": False})] == ["p-1", "p-2"]


def test_a_file_with_the_name_of_a_set_is_refused_in_studies_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "maths").write_text("")
    with pytest.raises(InputError, match="'maths' is the name of a shipped set and of a file here; rename the file"):
        resolve_prompts(["maths"], "study.yaml")
    assert resolve_prompts(["maths"], "demo.yaml", is_shipped=True)


@pytest.mark.parametrize(
    "hostile", ["\x00\x1b[31m", "'; DROP TABLE variants; --", "</script><script>alert(1)</script>", "../../etc", "/"]
)
def test_hostile_texts_are_texts(tmp_path: Path, hostile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from prunescope.assets.watching import backlog

    walked: list[Path] = []
    real: Callable[..., Any] = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda path, pattern: walked.append(path) or real(path, pattern))
    file = written(tmp_path, "p.jsonl", {"id": f"a{hostile}", "question": hostile, "system": hostile})
    made = study(tmp_path, {"source": file})
    assert made.prompts[0].text == made.prompts[0].system == hostile
    assert re.fullmatch(r"[A-Za-z0-9._+-]+", made.prompts[0].id)
    walked.clear()
    backlog._study_hash(made)
    assert Path("/") not in walked
