"""Items of a search: texts apart from calibration windows, continued prompts, and samples that the study leaves."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import Silent
from prunescope.pipelines.evaluation.search.items import (
    Item,
    halved,
    interleaved,
    prompt_items,
    search_items,
    task_items,
    text_items,
)
from prunescope.pipelines.evaluation.traces.decoding import decode
from prunescope.pipelines.models.decoder import Decoder, padded_right
from prunescope.pipelines.pruning.calibration.statistics import calibration_tokens
from prunescope.pipelines.studies import Study
from prunescope.pipelines.studies.search_spec import SearchSpec
from tests.pipelines.evaluation.tasks import harness
from tests.tiny_models import SHORT_TEXT

# Tokens of the longest text that an item may share with a calibration window by chance.
CHANCE = 14


def study_of(**changes: object) -> Study:
    about = {
        "name": "own",
        "models": [{"name": "tiny", "source": "tiny"}],
        "recipes": ["dense"],
        "calibration": {"source": SHORT_TEXT, "sequences": 12, "length": 64, "seed": 3},
        "prompts": [{"id": each, "kind": "open", "text": each * 5} for each in ("if", "while", "for")],
        "generation": {"new_tokens": 6},
    }
    return Study.model_validate(about | changes)


def without_prompts() -> Study:
    return study_of().model_copy(update={"prompts": ()})


def parts(windows: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
    size = CHANCE + 1
    return [tuple(own[start : start + size]) for own in windows for start in range(len(own) - size + 1)]


@pytest.mark.parametrize("length", [32, 61])
def test_no_text_has_a_passage_of_a_calibration_window_or_of_another_text(decoder: Decoder, length: int) -> None:
    study = study_of()
    items = text_items(decoder, study, search_of(texts=20, length=length, seed=1))
    calibration = set(parts(map(tuple, calibration_tokens(decoder.tokenizer, study.calibration).tolist())))
    own = parts(item.tokens for item in items)
    assert calibration.isdisjoint(own)
    assert len(set(own)) == len(own)
    assert [item.id for item in items] == [f"text-{index}" for index in range(20)]
    assert all(len(item.tokens) == length and item.first == 8 for item in items)


def test_texts_repeat_for_a_seed_and_differ_for_another(decoder: Decoder) -> None:
    first, again, other = (
        text_items(decoder, study_of(), search_of(texts=4, length=32, seed=seed)) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_a_corpus_that_calibration_has_used_up_is_refused_with_the_way_out(decoder: Decoder, tmp_path: Path) -> None:
    corpus = tmp_path / "short.txt"
    corpus.write_text(Path(SHORT_TEXT).read_text()[:600])
    study = study_of(calibration={"source": str(corpus), "sequences": 40, "length": 64})
    with pytest.raises(InputError, match=r"has \d windows of 48 tokens .* 6 are needed; lower `search.texts` or give"):
        text_items(decoder, study, search_of(source=str(corpus), texts=6, length=48))


def test_prompts_are_measured_where_the_dense_continuation_is_predicted(decoder: Decoder) -> None:
    study = study_of()
    items = prompt_items(decoder, study)
    assert [item.id for item in items] == ["if", "while", "for"]
    for item in items:
        prompt = item.tokens[: item.first + 1]
        assert f"{item.id * 5}" in decoder.tokenizer.decode(prompt)
        (own,) = decode(decoder, [prompt], 6, lambda z, *_: z.argmax(dim=-1), [0])
        assert item.tokens[len(prompt) :] == own.tokens[:-1]
        assert len(range(*item.measured.indices(len(item.tokens)))) == len(own.tokens)


def test_a_study_without_prompts_has_no_items_of_prompts(decoder: Decoder) -> None:
    assert prompt_items(decoder, without_prompts()) == []


def test_both_kinds_alternate_and_the_rest_follows() -> None:
    texts, prompts = (
        [Item(f"{kind}{index}", (1,), 0) for index in range(count)] for kind, count in (("t", 2), ("p", 4))
    )
    assert [item.id for item in interleaved(texts, prompts)] == ["t0", "p0", "t1", "p1", "p2", "p3"]
    assert [item.id for item in interleaved(prompts, texts)] == ["p0", "t0", "p1", "t1", "p2", "p3"]


@pytest.mark.parametrize("texts", range(2, 7))
@pytest.mark.parametrize("prompts", range(9))
def test_both_halves_have_as_many_texts_and_prompts_give_or_take_one(texts: int, prompts: int) -> None:
    every = [
        [Item(f"{kind}{index}", (1,), 0) for index in range(count)] for kind, count in (("t", texts), ("p", prompts))
    ]
    found = halved(*every)
    assert sorted(item.id for item in found) == sorted(item.id for own in every for item in own)
    middle = (len(found) + 1) // 2
    for kind in "tp":
        first, last = ([item.id[0] for item in own].count(kind) for own in (found[:middle], found[middle:]))
        assert abs(first - last) <= 1


def test_texts_are_padded_to_the_longest() -> None:
    assert padded_right([(5, 6, 7), (8,)]).tolist() == [[5, 6, 7], [8, 0, 0]]


def search_of(**changes: object) -> SearchSpec:
    return SearchSpec.model_validate(
        {"remove": [0.2], "source": SHORT_TEXT, "texts": 3, "length": 24, "prompts": 2} | changes
    )


def test_the_objective_kl_measures_texts_and_prompts_in_turn(decoder: Decoder) -> None:
    study, unasked = without_prompts(), study_of()
    both = search_items(decoder, study, unasked, search_of())
    assert [item.id for item in both] == ["text-0", "if", "text-1", "while", "text-2", "for"]
    texts = search_items(decoder, study, study, search_of())
    assert texts == text_items(decoder, study, search_of())


def test_a_search_from_a_start_needs_texts_to_hold_out(decoder: Decoder) -> None:
    started: dict[str, object] = {"remove": [], "start": "magnitude-50", "put_back": {"sublayers": 1}}
    with pytest.raises(InputError, match="3 texts to measure on, of 4 that intervals need; raise `texts` or `prompts`"):
        search_items(decoder, without_prompts(), without_prompts(), search_of(**started))
    both = search_items(decoder, without_prompts(), study_of(), search_of(**started))
    assert [item.id for item in both] == ["text-0", "if", "text-1", "text-2", "while", "for"]


def test_samples_of_a_task_are_shuffled_by_the_seed_before_half_of_them_is_held_out(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [Item(f"easy-{index}", (1,), 0) for index in range(20)]
    samples += [Item(f"hard-{index}", (1,), 0) for index in range(20)]
    monkeypatch.setattr("prunescope.pipelines.evaluation.search.items.task_items", lambda *_: list(samples))
    started: dict[str, object] = {"remove": [], "start": "magnitude-50", "put_back": {"sublayers": 1}}

    def found(**keys: object) -> list[Item]:
        return search_items(decoder, study_of(), study_of(), search_of(objective="task:any", **keys))

    assert found() == samples
    own = found(**started)
    assert sorted(item.id for item in own) == sorted(item.id for item in samples)
    assert 5 <= [item.id[:4] for item in own[:20]].count("easy") <= 15
    assert own == found(**started)
    assert own != found(**started, seed=1)


@pytest.mark.parametrize(
    ("tasks", "own"), [((), "none"), (({"name": "arc_challenge", "samples": 3},), "arc_challenge")]
)
def test_a_task_that_the_study_lacks_is_refused_with_those_that_it_has(
    decoder: Decoder, tasks: tuple[dict[str, object], ...], own: str
) -> None:
    study = study_of(tasks=tasks)
    with pytest.raises(InputError, match=f"task:boolq: the study has no task 'boolq'; its tasks are {own}"):
        search_items(decoder, study, study, search_of(objective="task:boolq"))


def test_items_of_a_task_end_with_the_tokens_of_the_right_option(decoder: Decoder, tmp_path: Path) -> None:
    data = tmp_path / "own.jsonl"
    options = [["red", "green"], ["one", "two hundred"], ["yes", "no"]]
    rows = [{"query": f"Q{n}", "choices": own, "gold": n % 2} for n, own in enumerate(options)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    study = study_of(
        tasks=[{"name": "own", "definition": "arc_challenge", "data": str(data), "samples": 1, "shots": 0}]
    )
    items = task_items(decoder, study, "own", 5)
    assert [item.id for item in items] == ["own-1", "own-2"]
    for item, right in zip(items, (" two hundred", " yes"), strict=True):
        text = decoder.tokenizer.decode(item.tokens[item.first + 1 :])
        assert right.startswith(text)
        whole = decoder.tokenizer(f"{item.id[-1]}\nAnswer:{right}").input_ids
        assert item.tokens[-(len(whole) - 1) :] == tuple(whole[:-1])
        assert len(decoder.tokenizer(right).input_ids) == len(item.tokens) - item.first


def test_a_task_that_generates_is_measured_at_the_dense_models_own_answer(decoder: Decoder, tmp_path: Path) -> None:
    study = study_of().model_copy(update={"tasks": (harness.writing_spec(tmp_path),)})
    items = task_items(decoder, study, "mine", 5)
    assert [item.id for item in items] == ["mine-1"]  # the last half, since the study scores both
    (item,) = items
    context = decoder.tokenizer("Why?\nAnswer:").input_ids
    assert item.tokens[: len(context)] == tuple(context)
    assert item.first == len(context) - 1
    steps = len(item.tokens) - item.first
    (own,) = decode(decoder, [tuple(context)], steps, lambda z, *_: z.argmax(dim=-1))
    assert item.tokens[len(context) :] == own.tokens[:-1]


class Told(Silent):
    """A listener that keeps the names of tasks."""

    def __init__(self) -> None:
        self.tasks: list[str] = []

    def start(self, task: str, total: int, tokens: int = 0) -> None:
        self.tasks.append(task)


def test_samples_come_from_behind_the_studys_and_the_progress_tells_where_there_are_none(decoder: Decoder) -> None:
    for samples, first, is_overlap in ((3, 3, False), (198, 198, False), (200, 100, True), (None, 100, True)):
        study, told = study_of(tasks=[{"name": "boolq", "samples": samples, "shots": 0}]), Told()
        items = task_items(decoder, study, "boolq", 2, told)
        assert [item.id for item in items] == [f"boolq-{first}", f"boolq-{first + 1}"]
        assert [task for task in told.tasks if "the study scores these samples too" in task] == told.tasks[:is_overlap]


def test_a_task_that_scores_whole_texts_has_no_right_answers(decoder: Decoder, tmp_path: Path) -> None:
    study = study_of().model_copy(update={"tasks": (harness.specs(tmp_path)[-1],)})
    with pytest.raises(InputError, match="task wikitext2 asks no questions; objective `kl` measures texts"):
        task_items(decoder, study, "wikitext2", 2)
