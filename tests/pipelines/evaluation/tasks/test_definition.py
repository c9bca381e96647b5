"""Resolution of a study's tasks to definitions, and refusals before any model is loaded."""

import json
import subprocess
import sys
from pathlib import Path

import datasets
import lm_eval.api.task
import lm_eval.utils
import pytest
from lm_eval.filters.extraction import RegexFilter

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.tasks.definition import (
    FOLDER,
    Definition,
    _digest,
    contents_hash,
    find,
    runs_code,
    shipped,
)
from prunescope.pipelines.evaluation.tasks.loading import load_tasks, quiet
from prunescope.pipelines.studies.evaluation_specs import TaskSpec
from tests.assets.tiny_study import ROOT
from tests.pipelines.evaluation.tasks import harness

GOOD = {"query": "Which?", "choices": ["one", "two"], "gold": 1}


def test_names_are_found_without_torch_and_without_lm_eval() -> None:
    code = (
        "import sys; from prunescope.pipelines.studies.evaluation_specs import TaskSpec;"
        "from prunescope.pipelines.evaluation.tasks import definition as d;"
        "found = [d.find(TaskSpec(name=name)) for name in ('boolq', 'hellaswag', 'mmlu')];"
        "assert [len(each.files) for each in found] == [2, 1, 1], found;"
        "assert [each.files[0].is_relative_to(d.FOLDER) for each in found] == [True, False, False];"
        "assert [each.is_group for each in found] == [False, False, True];"
        "assert [each.is_local for each in found] == [True, False, False];"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'lm_eval', 'datasets')))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_an_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(
        InputError, match=r"task mine: neither shipped nor a task of lm_eval .* 'helaswag'; .*hellaswag"
    ):
        find(TaskSpec(name="mine", definition="helaswag"))
    with pytest.raises(InputError, match=r"did you mean .*\bhumaneval\?"):
        find(TaskSpec(name="humaneval_full"))
    with pytest.raises(InputError, match=r"shipped are arc_challenge, boolq"):
        find(TaskSpec(name="zzzzzzzzzzzz"))


def test_a_shipped_name_precedes_lm_evals_unless_prefixed() -> None:
    ours, theirs = (find(TaskSpec(name="x", definition=name)) for name in ("arc_challenge", "lm_eval:arc_challenge"))
    assert [file.stem for file in ours.files] == ["arc_challenge", "arc_challenge_letter"]
    assert [file.parent.name for file in theirs.files] == ["arc"]


def test_every_task_with_packaged_samples_loads() -> None:
    specs = {name: TaskSpec(name=name) for name in shipped()}
    fetched = {name for name, spec in specs.items() if not find(spec).is_local}
    loaded = load_tasks([spec for name, spec in specs.items() if name not in fetched])
    assert fetched == {"mbpp", "narrativeqa"}
    assert {each.name for each in loaded} == specs.keys() - fetched
    assert all(len(each.docs) > 0 for each in loaded)
    assert {name for name, spec in specs.items() if runs_code(spec)} == {"humaneval", "mbpp"}


@pytest.mark.parametrize("name", ["lm_eval:mbpp", "lm_eval:humaneval", "mbpp_instruct"])
def test_a_task_that_runs_unconfined_programs_is_refused_before_import(name: str) -> None:
    with pytest.raises(InputError, match="runs model-written code without a sandbox; use `humaneval` or `mbpp`"):
        load_tasks([TaskSpec(name="programs", definition=name)])
    assert not [each for each in sys.modules if each.startswith(("lm_eval.tasks.mbpp", "lm_eval.tasks.humaneval"))]


def test_a_users_file_replaces_the_samples(tmp_path: Path) -> None:
    data = tmp_path / "mine.jsonl"
    data.write_text("".join(f"{json.dumps(GOOD | {'query': str(number)})}\n\n" for number in range(3)))
    full, letter = load_tasks([TaskSpec(name="arc_challenge", data=str(data), samples=2)])
    assert [doc["query"] for doc in full.docs] == [doc["query"] for doc in letter.docs] == ["0", "1"]


def test_own_questions_need_their_file_and_the_names_of_unusual_fields(tmp_path: Path) -> None:
    choices, answers = tmp_path / "quiz.csv", tmp_path / "facts.jsonl"
    choices.write_text("frage,a,b,right\nWhich?,one,two,two\nWhere?,here,there,A\n")
    answers.write_text(
        '{"question": "6 × 7?", "answer": "#### 42"}\n{"question": "Capital of France?", "answer": "Paris"}\n'
    )
    quiz = {"data": str(choices), "question": "frage", "options": ["a", "b"], "answer": "right"}
    full, letter, facts = load_tasks([TaskSpec(**quiz), TaskSpec(data=str(answers))])
    assert (full.name, letter.name, facts.name) == ("quiz", "quiz", "facts")
    assert (full.scoring, letter.scoring, facts.scoring) == ("full_text", "letter", "greedy")
    assert [(doc["choices"], doc["gold"]) for doc in full.docs] == [(["one", "two"], 1), (["here", "there"], 0)]
    assert full.task.doc_to_text(full.docs[0]) == "Which?\nAnswer:"
    assert letter.task.doc_to_text(letter.docs[1]) == "Where?\nA. here\nB. there\nAnswer:"
    assert [facts.task.doc_to_target(doc) for doc in facts.docs] == ["42", "Paris"]
    for written, right in (("paris.", 1), ("It is Paris", 0)):
        assert facts.task.process_results(facts.docs[1], [written]) == {"exact_match": right}
    before = contents_hash(TaskSpec(data=str(answers)))
    answers.write_text(answers.read_text().replace("Paris", "Lyon"))
    assert contents_hash(TaskSpec(data=str(answers))) != before
    for spec, message in (
        (
            quiz | {"question": "fragen"},
            r"quiz.csv, line 2: 'fragen' is missing or empty for `question`; there are frage",
        ),
        ({"data": str(choices), "options": ["a", "b"]}, "options without a right answer"),
        ({"data": str(tmp_path / "none.csv")}, "none.csv"),
    ):
        with pytest.raises(InputError, match=message):
            load_tasks([TaskSpec(**spec)])
    with pytest.raises(ValueError, match="`answer` is a field of your own `data`; give the file"):
        TaskSpec(name="boolq", answer="label")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"query": ', "line 1: not valid JSON"),
        ("[1]", "line 1: neither an object nor a text"),
        (json.dumps(GOOD) + "\n" + json.dumps({"query": "Q", "gold": 0}), "line 2: has no `choices`"),
        (json.dumps(GOOD | {"gold": 2}), "line 1: `gold` must be the index of the right one of 2 `choices`"),
        (json.dumps(GOOD | {"gold": True}), "line 1: `gold` must be the index"),
        (json.dumps(GOOD | {"choices": ["one"]}), "line 1: 1 `choices`; there must be 2 to 26"),
        (json.dumps(GOOD | {"choices": ["", "b"]}), "line 1: `choices` must be a list of texts"),
        ("\n\n", "the file contains no record"),
        (b"\xff\xfe", "line 1: not UTF-8 text"),
    ],
)
def test_samples_in_another_form_are_refused_by_line(tmp_path: Path, lines: str | bytes, message: str) -> None:
    data = tmp_path / "mine.jsonl"
    data.write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    with pytest.raises(InputError, match=f"task boolq: {data}.*{message}"):
        load_tasks([TaskSpec(name="boolq", data=str(data))])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"name": "arc_challenge", "samples": 201}, r"`samples` 201, but there are 200"),
        ({"name": "arc_challenge", "max_new_tokens": 4}, r"`max_new_tokens` is for tasks that generate text"),
        ({"name": "wikitext2", "shots": 1}, r"`shots` is for tasks that ask questions"),
        ({"name": "humaneval", "shots": 1}, r"`shots` 1, but it has no examples apart from its problems; leave it out"),
        ({"name": "gsm8k", "shots": 9}, r"`shots` 9, but there are 8 examples; lower it"),
        ({"name": "arc_challenge", "shots": 200}, r"`shots` 200, but there are 199 examples; lower it"),
        ({"name": "arc_challenge", "context": 64}, r"`context` is for tasks that score a whole text"),
        ({"name": "arc_challenge", "data": "/no/such.jsonl"}, r"task data /no/such.jsonl: no such file"),
        ({"name": "x", "definition": "/no/such.yaml"}, r"task file /no/such.yaml: No such file"),
    ],
)
def test_keys_that_do_not_fit_the_task_are_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_tasks([TaskSpec.model_validate(keys)])


def test_bars_of_lm_eval_and_of_datasets_are_silent_as_long_as_they_would_break_ours(capsys) -> None:
    def bars() -> str:
        for bar in (lm_eval.api.task.tqdm, datasets.utils.tqdm):
            assert [*bar([1])] == [1]
        return str(capsys.readouterr().err)

    with quiet():
        assert bars() == ""
    assert bars().count("1/1") == 2


def test_two_tasks_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="task boolq: two of the study's tasks contain it, scored by full_text"):
        load_tasks([TaskSpec(name="boolq"), TaskSpec(name="boolq")])


def test_data_for_a_task_of_lm_eval_is_refused() -> None:
    with pytest.raises(InputError, match="`data` replaces a shipped task's samples; this task has none"):
        contents_hash(TaskSpec(name="hellaswag", data="/some/file"))


def test_a_users_group_is_refused_and_lm_evals_is_found(tmp_path: Path) -> None:
    path = tmp_path / "both.yaml"
    path.write_text("group: both\ntask: [mine, other]\n")
    with pytest.raises(InputError, match=rf"task both: {path} is a group; name its tasks in the study one by one"):
        contents_hash(TaskSpec(name="both", definition=str(path)))
    assert find(TaskSpec(name="mmlu")).is_group


def test_a_damaged_definition_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for text, message in (("task: [", "not valid YAML"), ("- 1", "a definition is a mapping")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            find(TaskSpec(name="mine", definition=str(path)))
    files = f"{{data_files: {{test: {tmp_path / 'nowhere.jsonl'}}}}}"
    path.write_text(f"task: mine\ndataset_path: json\ndataset_kwargs: {files}\noutput_type: multiple_choice\n")
    with pytest.raises(InputError, match=r"task mine: lm_eval [\d.]+ cannot load it"):
        load_tasks([TaskSpec(name="mine", definition=str(path))])


@pytest.mark.parametrize("given", ["", "dataset_kwargs: {split: test}\n"])
def test_a_definition_without_its_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("it was searched"))
    (tmp_path / "base.yaml").write_text(f"dataset_path: json\n{given}")
    path = tmp_path / "mine.yaml"
    path.write_text("include: base.yaml\ntask: mine\noutput_type: multiple_choice\n")
    spec = TaskSpec(name="mine", definition=str(path))
    for load in (find, contents_hash, lambda spec: load_tasks([spec])):
        with pytest.raises(InputError, match=r"`dataset_path: json` and no files; add `dataset_kwargs: \{data_files"):
            load(spec)


@pytest.mark.parametrize(
    "yaml",
    [
        "doc_to_text: !function code.run",
        "doc_to_text: !%66unction code.run",
        "filter_list: [{name: a, filter: [{function: custom, filter_fn: !function code.run}]}]",
        "include: base.yaml",
        "include: base.yaml\nprocess_docs: null",  # lm-eval imports it before it is overridden
    ],
)
def test_python_of_a_definition_runs_only_if_the_study_allows_it(tmp_path: Path, yaml: str) -> None:
    """Refuse it because loading it would import the file."""
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef run(doc): return ''\n")
    (tmp_path / "base.yaml").write_text("process_docs: !function code.run\n")
    path = tmp_path / "mine.yaml"
    path.write_text(f"task: mine\noutput_type: multiple_choice\n{yaml}\n")
    spec = TaskSpec(name="mine", definition=str(path))
    for load in (find, contents_hash, lambda spec: load_tasks([spec])):
        with pytest.raises(InputError, match=r"mine.yaml runs Python code of its own \(code.run\).*allow_functions"):
            load(spec)
    assert not (tmp_path / "ran").exists()
    assert find(spec.model_copy(update={"allow_functions": True})).files == (path,)


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "data sets")


def test_a_template_of_a_definition_reaches_no_python(tmp_path: Path) -> None:
    (loaded,) = load_tasks([harness.choosing_spec(tmp_path, [GOOD], doc_to_text="{{query | trim}}")])
    assert loaded.task.doc_to_text(loaded.docs[0]) == "Which?"
    ran = tmp_path / "ran"
    evil = "{{cycler.__init__.__globals__.os.mkdir('" + str(ran) + "')}}"
    with pytest.raises(InputError, match="task mine: lm_eval .* cannot load it .*'__init__'.* is unsafe"):
        load_tasks([harness.choosing_spec(tmp_path, [GOOD], doc_to_text=evil)])
    assert not ran.exists()


def test_a_regular_expression_of_a_definition_has_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    load_tasks([])
    monkeypatch.setattr("prunescope.pipelines.core.bounded_regex.SECONDS", 0.05)
    with pytest.raises(InputError, match=r"regular expression '\(a\|aa\)\+\$': over 0.05 seconds"):
        RegexFilter(regex_pattern="(a|aa)+$").apply([["a" * 100 + "b"]], [{}])
    assert RegexFilter(regex_pattern=r"= (\d+)").apply([["1 = 2"]], [{}]) == [["2"]]
    template = lm_eval.utils.env.from_string("{{ q | regex_replace('(a|aa)+$', 'x') }}")
    assert template.render(q="baa") == "bx"
    with pytest.raises(InputError, match="over 0.05 seconds"):
        template.render(q="a" * 100 + "b")


def test_a_metric_from_a_script_is_refused(tmp_path: Path) -> None:
    """Refuse a path, which the library `evaluate` would run as a script."""
    script, ran = tmp_path / "evil.py", tmp_path / "ran"
    script.write_text(f"open({str(ran)!r}, 'w')\n")
    with pytest.raises(InputError, match=r"task mine: metric '.*evil.py' is code from outside .*allow_functions: true"):
        load_tasks([harness.choosing_spec(tmp_path, [GOOD], metrics=[str(script)])])
    assert not ran.exists()


def test_a_metric_fetched_by_a_definitions_module_is_refused(tmp_path: Path) -> None:
    """Refuse it although modules of lm-eval's own tasks do so; `lm_eval:` does not allow their functions."""
    spec = harness.choosing_spec(tmp_path, [GOOD], doc_to_text="FUNCTION")
    (tmp_path / "code.py").write_text("import evaluate\nfound = evaluate.load('rouge')\ndef run(doc): return ''\n")
    path = Path(spec.source)
    path.write_text(path.read_text().replace("FUNCTION", "!function code.run"))
    with pytest.MonkeyPatch.context() as patch:
        own = Definition((path,))
        patch.setattr("prunescope.pipelines.evaluation.tasks.loading.find", lambda _: own)
        with pytest.raises(InputError, match="task mine: metric 'rouge' is code from outside .*allow_functions: true"):
            load_tasks([spec])


def test_a_definition_that_includes_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("include: b.yaml\n")
    (tmp_path / "b.yaml").write_text("include: ./a.yaml\n")
    with pytest.raises(InputError, match=r"a.yaml: includes itself"):
        find(TaskSpec(name="mine", definition=str(tmp_path / "a.yaml")))


def test_scores_stay_current_after_a_module_has_moved(tmp_path: Path) -> None:
    for name in ("_choice", "gsm8k", "narrativeqa"):
        now = FOLDER / f"{name}.yaml"
        text = now.read_text(encoding="utf-8")
        assert "!function prunescope.pipelines.evaluation.tasks." in text
        for module, first in (("answer_extraction", "extraction"), ("samples", "samples")):
            text = text.replace(f"prunescope.pipelines.evaluation.tasks.{module}.", f"pipelines.tasks.{first}.")
        before = tmp_path / now.name
        before.write_text(text, encoding="utf-8")
        assert _digest(now, 0, 0) == _digest(before, 0, 0)
