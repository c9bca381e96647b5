"""Thinking against answer (q44), from texts whose losses in each part can be counted by hand."""

import pytest

from prunescope.pipelines.reporting.advice import TOO_LITTLE
from tests.sql.warehouse_builder import Ask, Handmade, Row

PROMPTS = 40
# The dense text: 6 tokens of thinking, 4 of the answer, and the end.
THINKING, END = 6, 10


def thought(recipes: dict[str, dict[str, object]], *, dense: dict[str, object] | None = None) -> Handmade:
    """Build 40 prompts per recipe, whose texts are the dense one's but for what is given."""
    warehouse = Handmade().model()
    for recipe, given in {"dense": dense or {}, **recipes}.items():
        warehouse.variant(recipe)
        changed = given.get("changed", ())
        written: Row = {"thinking_steps": THINKING, "thinking_text": "hm", "thinking_answer": "12", "answer": "12"}
        written |= {"end_step": END, "token_ids": [7] * (END + 1), "is_correct": True}
        written |= {name: value for name, value in given.items() if name != "changed"}
        for index in range(PROMPTS):
            for step in range(END + 1):
                warehouse.step(recipe, f"p{index}", step, 0.01 * (step in changed), flips=step in changed)
            warehouse.generation(recipe, f"p{index}", **written)
    return warehouse


def words(ask: Ask, warehouse: Handmade) -> dict[tuple[str, str], tuple[str | None, str | None, str | None]]:
    rows = ask(warehouse, "from q44_thinking_against_answer")
    return {(row["recipe"], row["part"]): (row["fidelity"], row["quality"], row["alive"]) for row in rows}


def test_each_part_has_the_words_of_its_own_losses(ask: Ask) -> None:
    warehouse = thought(
        {
            "a-same": {},
            "b-thinks-worse": {"changed": (1, 2, 3), "thinking_answer": "13"},
            "c-answers-worse": {"changed": (7, 8), "answer": "13", "is_correct": False},
            "d-loops-thinking": {"collapse": 5, "thinking_steps": 9},
            "e-loops-answering": {"collapse": 8},
        }
    )
    whole = ("holds", "holds", "holds")

    assert words(ask, warehouse) == {
        ("a-same", "thinking"): whole,
        ("a-same", "answer"): whole,
        ("b-thinks-worse", "thinking"): ("fails", "fails", "holds"),
        ("b-thinks-worse", "answer"): whole,
        ("c-answers-worse", "thinking"): whole,
        ("c-answers-worse", "answer"): ("fails", "fails", "holds"),
        ("d-loops-thinking", "thinking"): ("holds", "holds", "fails"),
        ("d-loops-thinking", "answer"): whole,
        ("e-loops-answering", "thinking"): whole,
        ("e-loops-answering", "answer"): ("holds", "holds", "fails"),
    }
    [row] = ask(warehouse, "from q44_thinking_against_answer where recipe = 'b-thinks-worse' and part = 'thinking'")
    assert [row[f"loss_{name}"] for name in ("fidelity", "quality", "alive")] == pytest.approx([3 / THINKING, 1, 0])
    assert [row[f"n_{name}"] for name in ("fidelity", "quality", "alive")] == [PROMPTS] * 3
    [row] = ask(warehouse, "from q44_thinking_against_answer where recipe = 'c-answers-worse' and part = 'answer'")
    assert row["loss_fidelity"] == pytest.approx(2 / (END + 1 - THINKING))


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        # No thinking, but an answer; neither.
        ({"thinking_steps": 0, "thinking_text": None, "thinking_answer": None}, "holds", "holds"),
        ({"thinking_steps": 0, "thinking_text": None, "thinking_answer": None, "answer": None}, "fails", "holds"),
        # Thinking of 3 tokens is half of the dense one's.
        ({"thinking_steps": 3, "answer": None}, "holds", "holds"),
        ({"thinking_steps": 2, "answer": None}, "fails", "holds"),
        # The text ends in the thinking.
        ({"thinking_steps": 6, "end_step": 6, "answer": None}, "holds", "fails"),
        # The answer has 1 token, and 2.
        ({"end_step": 7, "answer": None}, "holds", "fails"),
        ({"end_step": 8, "answer": None}, "holds", "holds"),
        # It is cut off in the thinking: then its answer is not known. In the answer: it has not ended early.
        ({"thinking_steps": 11, "end_step": None, "answer": None}, "holds", None),
        ({"end_step": None, "answer": None}, "holds", "holds"),
        # It loops until it is cut off.
        ({"thinking_steps": 11, "end_step": None, "answer": None, "collapse": 8}, "fails", None),
    ],
)
def test_a_part_lives_if_it_neither_loops_nor_ends_early(ask, text, thinking, answer) -> None:
    found = words(ask, thought({"a": text}))
    assert (found["a", "thinking"][2], found["a", "answer"][2]) == (thinking, answer)


def test_only_prompts_whose_dense_text_thinks_count(ask: Ask) -> None:
    warehouse = thought({"a": {"changed": (1,)}})
    for row in warehouse.rows["generations"]:
        if row["prompt_id"] in {"p0", "p1"} or (row["prompt_id"] == "p2" and row["recipe"] == "a"):
            row |= {"thinking_steps": None if row["prompt_id"] == "p0" else 0, "thinking_text": None}
    rows = ask(warehouse, "from q44_thinking_against_answer")
    assert {row[f"n_{name}"] for row in rows for name in ("fidelity", "quality", "alive")} == {PROMPTS - 2}

    for row in warehouse.rows["generations"]:
        row |= {"thinking_steps": 0, "thinking_text": None, "thinking_answer": None}
    assert ask(warehouse, "from q44_thinking_against_answer") == []
    assert len(ask(warehouse, "from variant_verdict")) == 1


def test_a_dense_text_cut_off_in_its_thinking_has_no_answer(ask: Ask) -> None:
    cut: dict[str, object] = {"thinking_steps": 11, "end_step": None, "answer": None, "is_correct": False}
    found = words(ask, thought({"a": cut}, dense=cut))
    assert found == {("a", "thinking"): ("holds", "holds", "holds")}


def test_a_word_that_was_not_measured_is_null_and_few_prompts_are_too_little(ask: Ask) -> None:
    warehouse = thought({"a": {"is_correct": None}}, dense={"is_correct": None})
    assert {row[1] for row in words(ask, warehouse).values()} == {None}

    warehouse.rows["generations"] = [row for row in warehouse.rows["generations"] if len(row["prompt_id"]) == 2]
    assert {row[2] for row in words(ask, warehouse).values()} == {TOO_LITTLE}


def test_the_null_of_a_part_is_the_noise_in_that_part(ask: Ask) -> None:
    warehouse = thought({"noise-batch": {"changed": (1, 2)}, "a": {"changed": (3, 4, 7)}})
    warehouse.where("variants", recipe="noise-batch")[0]["method"] = "noise"
    rows = ask(warehouse, "from q44_thinking_against_answer")
    losses = {row["part"]: row["loss_fidelity"] for row in rows}
    assert losses == pytest.approx({"thinking": 0, "answer": 1 / (END + 1 - THINKING)})
