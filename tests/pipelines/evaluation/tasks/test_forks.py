"""Forks of written answers: what the dense model writes after a variant's first different token, by a plain loop."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import regex
import torch

from prunescope.pipelines.evaluation.tasks import batched_generation, lm_eval_model, score
from prunescope.pipelines.evaluation.tasks.batched_generation import add_contexts, generate_greedy
from prunescope.pipelines.evaluation.tasks.sandbox_client import ExecutionVerdict
from prunescope.pipelines.evaluation.tasks.score import TaskSession
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.token_cache import KeyValues
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies.evaluation_specs import TaskSpec
from tests.pipelines.evaluation.tasks import harness

STOPS = ("\n", "o")
LIMIT = 12
OF_FORK = ["text_fork", "answer_fork", "is_correct_fork", "answer_lenient_fork", "is_correct_lenient_fork"]
WORDS = ("Why", "do", "the", "waves", "of", "the", "sea", "come", "back")


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, ...]]]:
    """Return the token ids of the contexts of each generation, in the order of the calls."""
    seen: list[list[tuple[int, ...]]] = []

    def spy(decoder: Decoder, read: Sequence[tuple[int, ...]], *given: Any, **named: Any) -> Any:
        seen.append(list(read))
        return generate_greedy(decoder, read, *given, **named)

    monkeypatch.setattr(lm_eval_model, "generate_greedy", spy)
    return seen


def writing(folder: Path, *, limit: int = LIMIT, shots: int | None = None) -> TaskSpec:
    """Return a task with one question of each length from one to all words."""
    data = folder / "questions.jsonl"
    questions = [{"question": " ".join(WORDS[:n]), "answer": WORDS[n - 1]} for n in range(1, len(WORDS) + 1)]
    data.write_text("\n".join(map(json.dumps, questions)))
    path = folder / "mine.yaml"
    path.write_text(harness.WRITING.format(data=data) + "fewshot_split: test\n")
    return TaskSpec(name="mine", definition=str(path), allow_functions=True, max_new_tokens=limit, shots=shots)


def has_ended(decoder: Decoder, tokens: list[int]) -> bool:
    text = decoder.tokenizer.decode(tokens)
    return bool(tokens) and (tokens[-1] in decoder.end_ids or any(stop in text for stop in STOPS))


def written(decoder: Decoder, context: Sequence[int], start: Sequence[int] = (), limit: int = LIMIT) -> list[int]:
    """Return the tokens that the loaded weights write, reading the whole text for each token without a cache."""
    tokens, model = list(start), decoder.model
    while len(tokens) < limit and not has_ended(decoder, tokens):
        with torch.inference_mode():
            logits = model(torch.tensor([[*context, *tokens]]), use_cache=False).logits
        tokens.append(int(logits[0, -1].argmax()))
    return tokens


def text_of(decoder: Decoder, tokens: list[int]) -> str:
    text = decoder.tokenizer.decode([t for t in tokens if t not in decoder.end_ids], skip_special_tokens=True)
    for stop in STOPS:
        text = text.split(stop)[0]
    return str(text)


def rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    return list(frame.iter_rows(named=True))


def scored(decoder: Decoder, spec: TaskSpec, variant: Variant) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the samples of the dense model and of a variant."""
    session = TaskSession(decoder, [spec])
    return rows(session.score("dense", Variant())["task_samples"]), rows(
        session.score("variant", variant)["task_samples"]
    )


def test_a_fork_is_what_the_dense_model_writes_after_the_forced_token(
    decoder: Decoder, tmp_path: Path, contexts: list[list[tuple[int, ...]]]
) -> None:
    dense, pruned = scored(decoder, writing(tmp_path, shots=1), prune(decoder, parse_recipe("magnitude-5")))
    of_dense, of_pruned, of_forks = contexts
    steps, forked = set(), []
    for own, other, context in zip(dense, pruned, of_pruned, strict=True):
        d, v = own["token_ids"], other["token_ids"]
        assert d == written(decoder, context)
        step = next((step for step, pair in enumerate(zip(d, v, strict=False)) if pair[0] != pair[1]), None)
        assert other["first_flip_step"] == step
        if step is None:
            assert d == v
            assert [other[name] for name in OF_FORK] == [None] * 5
            continue
        steps.add(step)
        forked.append({own["text"], other["text_fork"], other["text"]})
        fork = text_of(decoder, written(decoder, context, v[: step + 1]))
        assert other["text_fork"] == fork
        strict, lenient = (regex.findall(pattern, fork)[:1] for pattern in (r"^ ?(\S+)", r"\S"))
        assert other["answer_fork"] == (strict[0].strip() if strict else None)
        assert other["answer_lenient_fork"] == (lenient[0].strip() or None if lenient else None)
        assert other["is_correct_fork"] == (other["answer_fork"] == own["target"])
        assert other["is_correct_lenient_fork"] == (other["answer_lenient_fork"] == own["target"])
    assert of_pruned == of_dense
    # Only flipped texts are written anew, after the same worked examples.
    flipped = [row["first_flip_step"] is not None for row in pruned]
    assert of_forks == [context for context, is_flipped in zip(of_pruned, flipped, strict=True) if is_flipped]
    assert len(steps) > 1
    assert any(len(texts) == 3 for texts in forked)
    assert all(row[name] is None for row in dense for name in ("first_flip_step", *OF_FORK))


def test_a_variant_that_writes_the_dense_texts_has_no_forks(
    decoder: Decoder, tmp_path: Path, contexts: list[list[tuple[int, ...]]]
) -> None:
    dense, same = scored(decoder, writing(tmp_path), Variant())

    assert [row["token_ids"] for row in same] == [row["token_ids"] for row in dense]
    assert all(row[name] is None for row in same for name in ("first_flip_step", *OF_FORK))
    assert len(contexts) == 2


@pytest.mark.parametrize(("limit", "recipe"), [(1, "magnitude-50"), (11, "magnitude-5")])
def test_a_flip_at_the_last_step_is_the_variants_text(
    decoder: Decoder, tmp_path: Path, limit: int, recipe: str
) -> None:
    _, found = scored(decoder, writing(tmp_path, limit=limit), prune(decoder, parse_recipe(recipe)))
    last = [row for row in found if row["first_flip_step"] == limit - 1]

    assert last
    for row in last:
        assert [row[name] for name in OF_FORK] == [row[name.removesuffix("_fork")] for name in OF_FORK]


def test_an_empty_answer_forks_and_an_empty_fork_is_an_answer(decoder: Decoder, tmp_path: Path) -> None:
    spec, variant = writing(tmp_path), prune(decoder, parse_recipe("magnitude-50"))
    dense, pruned = scored(decoder, spec, variant)
    firsts = [(own["token_ids"][0], other["token_ids"][0]) for own, other in zip(dense, pruned, strict=True)]
    ends = next(pair for pair in firsts if pair[0] != pair[1])
    for end in ends:
        ending = replace(decoder, end_ids=frozenset({end}))
        dense, pruned = scored(ending, spec, variant)
        number = firsts.index(ends)
        own, other = dense[number], pruned[number]
        assert other["first_flip_step"] == 0
        assert (own["text"] == "") == (end == ends[0])
        assert (other["text_fork"] == "") == (other["text"] == "") == (end == ends[1])
        assert other["text_fork"] or other["answer_fork"] is None


def test_a_start_is_continued_as_the_plain_loop_continues_it(decoder: Decoder) -> None:
    context = tuple(range(7, 27))
    whole = written(decoder, context)
    starts = [(), (5,), (5, 77), tuple(whole[:3]), (*whole[:3], 41), tuple(whole), (*whole[:-1], 41), (200,) * LIMIT]
    # Contexts of other lengths, so that rows are padded, and a long prefix that all share.
    for read in ([context[n:] for n in range(len(starts))], [context * 4] * len(starts)):
        found = generate_greedy(decoder, read, [STOPS] * len(starts), LIMIT, starts=starts)
        for own, start, answer in zip(read, starts, found, strict=True):
            expected = written(decoder, own, start)
            assert list(answer.tokens) == expected
            assert answer.text == text_of(decoder, expected)
            assert answer.ended == has_ended(decoder, expected)


def test_known_contexts_are_continued_and_not_read_again(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tuple(range(7, 107))
    read = [*(long[n:] for n in range(3)), long[:5], (9, 8)]
    starts, known = [(), (5,), (5, 77), (31,), (7,)], dict[tuple[int, ...], KeyValues]()
    add_contexts(decoder, known, [*read, (9,)])
    assert {*known} == {*read}
    assert all(keys.shape[1] == len(context) - 1 for context, layers in known.items() for keys, _ in layers)

    passes = []
    decoder.trunk.register_forward_pre_hook(
        lambda _, __, keywords: passes.append(keywords["input_ids"].shape[1]), with_kwargs=True
    )
    for some in (known, {long: known[long]}):
        passes.clear()
        found = generate_greedy(decoder, read, [STOPS] * 5, LIMIT, starts=starts, reuses_prefix=True, known=some)
        for own, start, answer in zip(read, starts, found, strict=True):
            assert list(answer.tokens) == written(decoder, own, start)
        # The first pass reads the last token of a context and its start, unless one context of the batch is unknown.
        assert (passes[0] == 3) == (some is known)

    monkeypatch.setattr(batched_generation, "KEPT_CONTEXT_BYTES", 1000)
    too_many = dict[tuple[int, ...], KeyValues]()
    add_contexts(decoder, too_many, read)
    assert not too_many


def test_only_programs_of_forks_run_again(decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, ran = tmp_path / "programs.jsonl", []
    programs = [{"prompt": " ".join(WORDS[:n]), "test": "pass", "entry_point": "f"} for n in range(1, 9)]
    data.write_text("\n".join(map(json.dumps, programs)))

    def run(prompt: str, program: str, *_: str) -> ExecutionVerdict:
        ran.append(program)
        return ExecutionVerdict("passed" if (len(prompt) + len(program)) % 2 else "failed")

    monkeypatch.setattr(score, "run_tests", run)
    spec = TaskSpec(name="humaneval", data=str(data), max_new_tokens=5)
    found = []
    for allows_code in (True, False):
        session = TaskSession(decoder, [spec], allows_code=allows_code)
        found.append(rows(session.score("variant", prune(decoder, parse_recipe("magnitude-50")))["task_samples"]))
    forked = [row for row in found[0] if row["text_fork"] is not None]

    assert ran[16:] == [row["text_fork"] for row in forked]
    assert forked
    for row, program in zip(found[0], programs, strict=True):
        fork = row["text_fork"]
        passed = None if fork is None else (len(program["prompt"]) + len(fork)) % 2 == 1
        assert (row["answer_fork"], row["is_correct_fork"], row["is_correct_lenient_fork"]) == (fork, passed, passed)
    assert [row["text_fork"] for row in found[1]] == [row["text_fork"] for row in found[0]]
    assert all(row["is_correct_fork"] is None for row in found[1])
