"""Tiny models with a chat template like Qwen3's: thinking is on, off, empty, cut off or left out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prunescope.assets.planning.fingerprints import expected, find_model
from prunescope.pipelines.core.progress import SILENT
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import load_study
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.assets.tiny_study import StudyFile, computed
from tests.tiny_models import TEMPLATE, save_tiny

STEPS = 6
SWITCH = (
    "{%- if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
)


def measured(folder: Path, model: Path, **given: bool) -> dict[str, Any]:
    """Measure the prompt of a study with these template arguments, and return its row of `generations`."""
    spec = {"name": "tiny-a", "source": str(model)} | ({"template_arguments": given} if given else {})
    prompt = {"id": "sum", "kind": "maths", "text": "2+2?", "gold": "4", "answer_pattern": r"(?s)(.)"}
    keys = {"models": [spec], "prompts": [prompt], "tasks": [], "generation": {"new_tokens": STEPS, "until": "length"}}
    study, root = StudyFile(folder / "study.yaml", model, keys=keys), folder / f"warehouse-{model.name}-{given}"
    computed(study, root, "models")
    computed(study, root, ("variants", "traces"), "dense")
    [row] = Store(root).read(TABLES["generations"], "tiny-a", "dense").to_pylist()
    return row


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model whose tokenizer has Qwen3's tokens of thinking, and which writes six other tokens."""
    folder = save_tiny(tmp_path_factory.mktemp("thinker") / "plain", "qwen3", seed=8, vocab_size=302)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = TEMPLATE + SWITCH
    tokenizer.save_pretrained(folder)
    return folder


def renamed(model: Path, folder: Path, tokens: dict[int, int]) -> Path:
    """Exchange tokens in the embedding and in the head: the model writes the same text with these tokens exchanged."""
    whole = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        for rows in (whole.get_input_embeddings().weight, whole.get_output_embeddings().weight):
            for old, new in tokens.items():
                rows[[old, new]] = rows[[new, old]]
    whole.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


def test_arguments_of_the_template_change_the_prompt_and_the_answer_follows_no_thinking(
    model: Path, tmp_path: Path
) -> None:
    plain, on, off = (
        measured(tmp_path, model),
        measured(tmp_path, model, enable_thinking=True),
        measured(tmp_path, model, enable_thinking=False),
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    switched_off = tokenizer("<think>\n\n</think>\n\n", add_special_tokens=False).input_ids

    assert on["prompt_tokens"] == plain["prompt_tokens"] == off["prompt_tokens"] - len(switched_off)
    assert on["token_ids"] == plain["token_ids"] != off["token_ids"]
    for row in (plain, on, off):
        assert (row["thinking_steps"], row["thinking_text"], row["thinking_answer"]) == (0, None, None)
        assert row["answer"] == row["text"][0]


@pytest.mark.parametrize(
    ("begins", "ends", "thinking"), [(0, 3, 4), (0, 1, 2), (0, None, STEPS), (None, 2, 3), (None, None, 0)]
)
def test_the_answer_follows_the_thinking(
    begins: int | None, ends: int | None, thinking: int, model: Path, tmp_path: Path
) -> None:
    tokenizer, written = AutoTokenizer.from_pretrained(model), measured(tmp_path, model)["token_ids"]
    assert len({*written}) == STEPS
    begin, end = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    marks = {written[step]: mark for step, mark in ((begins, begin), (ends, end)) if step is not None}
    row = measured(tmp_path, renamed(model, tmp_path / "thinker", marks), enable_thinking=True)

    assert row["token_ids"] == [marks.get(token, token) for token in written]
    assert row["thinking_steps"] == thinking
    thought, rest = (tokenizer.decode(part) for part in (row["token_ids"][:thinking], row["token_ids"][thinking:]))
    assert row["thinking_text"] == (thought or None)
    assert row["thinking_answer"] == (thought[:1] or None)
    assert row["answer"] == (rest[:1] or None)
    assert row["is_correct"] is False


def test_changed_arguments_make_the_texts_of_a_model_stale(model: Path, tmp_path: Path) -> None:
    study, texts, variants = StudyFile(tmp_path / "study.yaml", model), [], []
    for given in ({}, {"enable_thinking": True}, {"enable_thinking": False}):
        spec = {"name": "tiny-a", "source": str(model), "template_arguments": given}
        loaded = load_study(str(study.write(models=[spec])))
        identity = find_model(loaded, "tiny-a", SILENT).identity
        texts.append(expected("generations", loaded, identity, parse_recipe("dense")))
        variants.append(expected("variants", loaded, identity, parse_recipe("dense")))
    assert (len({*texts}), len({*variants})) == (3, 1)
