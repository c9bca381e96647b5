"""Windows and scored tokens of texts of awkward lengths, and refused texts."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.tokenization.texts import TokenizedText, tokenize_texts
from prunescope.pipelines.studies import TextSpec
from tests.pipelines.tiny_study import study_of
from tests.tiny_models import tiny_tokenizer

CONTEXT = 128


class Words:
    """A tokenizer whose tokens are the numbers in a text; with `begins` it adds a beginning-of-text token."""

    def __init__(self, begins: int | None = None) -> None:
        self.bos_token_id = begins

    def __call__(self, text: str, *, add_special_tokens: bool = True, **_: object) -> SimpleNamespace:
        own = [self.bos_token_id] if add_special_tokens and self.bos_token_id is not None else []
        return SimpleNamespace(input_ids=[*own, *(int(word) for word in text.split() if word.isdigit())])


def windows_of(folder: Path, count: int, begins: int | None = None, **spec: object) -> TokenizedText:
    """Return the windows of a text whose tokens are 100, 101, ..."""
    (folder / "text.txt").write_text(" ".join(map(str, range(100, 100 + count))))
    text = TextSpec(id="t", source=str(folder / "text.txt"), **spec)
    (found,) = tokenize_texts(study_of(texts=[text]), Words(begins), CONTEXT)
    return found


def test_the_second_half_of_every_window_is_scored_by_default(tmp_path: Path) -> None:
    found = windows_of(tmp_path, 17, context=8)
    # Windows at 0, 4 and 8; one at 12 would need tokens up to 19.
    assert found.windows[:, 0].tolist() == [100, 104, 108]
    assert found.positions.tolist() == [[4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert found.targets.tolist() == list(range(104, 116))


@pytest.mark.parametrize(
    ("tokens", "context", "stride", "windows", "scored"),
    [
        (8, 8, None, 1, 4),  # exactly one window
        (9, 8, None, 1, 4),  # one token over
        (12, 8, None, 2, 4),
        (7, 7, None, 1, 3),  # an odd context
        (10, 7, None, 2, 3),
        (8, 8, 8, 1, 7),  # side by side: the first token has nothing before it
        (16, 8, 8, 2, 7),
        (10, 8, 1, 3, 1),
        (2, 2, None, 1, 1),  # the smallest window
    ],
)
def test_windows_are_whole_and_score_each_token_once_with_enough_context(
    tmp_path: Path, tokens: int, context: int, stride: int | None, windows: int, scored: int
) -> None:
    found = windows_of(tmp_path, tokens, context=context, stride=stride)
    assert found.windows.shape == (windows, context)
    positions = found.positions
    assert positions.shape == (windows, scored)
    assert positions.unique().numel() == positions.numel()
    step = found.text.step
    for index, row in enumerate(positions):
        assert row[-1] == index * step + context - 1
        assert row[0] - index * step >= max(1, context - step), "too few tokens before the first scored one"
    assert torch.equal(found.targets, positions.reshape(-1) + 100)


def test_the_beginning_of_text_token_starts_every_window(tmp_path: Path) -> None:
    found = windows_of(tmp_path, 16, begins=1, context=8)
    # The sequence is 1, 100, 101, ...: position 4 holds 103.
    assert found.windows[:, 0].tolist() == [1, 1, 1]
    assert found.windows[1].tolist() == [1, 104, 105, 106, 107, 108, 109, 110]
    assert torch.equal(found.targets, found.positions.reshape(-1) + 99)


def test_a_token_limit_keeps_whole_windows_from_the_start(tmp_path: Path) -> None:
    whole = windows_of(tmp_path, 400, context=8)
    some = windows_of(tmp_path, 400, context=8, max_tokens=11)
    assert len(some.windows) == 2
    assert torch.equal(some.windows, whole.windows[:2])


def test_cutting_a_long_text_changes_no_token(tmp_path: Path) -> None:
    tokenizer, path = tiny_tokenizer(), tmp_path / "long.txt"
    path.write_text("Ünïcode 😀 – 木漏れ日 of   words\n\n\n" * 4000, encoding="utf-8")
    spec = TextSpec(id="t", source=str(path), context=64, max_tokens=640)
    (found,) = tokenize_texts(study_of(texts=[spec]), tokenizer, CONTEXT)
    ids = tokenizer(path.read_text(encoding="utf-8"), add_special_tokens=False, verbose=False).input_ids
    assert found.windows.shape == (20, 64)
    assert torch.equal(found.windows, torch.tensor(ids).unfold(0, 64, 32)[:20])


def test_a_text_of_long_tokens_is_read_far_enough(tmp_path: Path) -> None:
    # Far fewer tokens a character than expected at first.
    (tmp_path / "sparse.txt").write_text((" " * 500).join(map(str, range(100, 120))))
    spec = TextSpec(id="t", source=str(tmp_path / "sparse.txt"), context=8, max_tokens=8)
    (found,) = tokenize_texts(study_of(texts=[spec]), Words(), CONTEXT)
    assert found.targets.tolist() == list(range(104, 112))


def test_wikitext2_is_part_of_the_package() -> None:
    (found,) = tokenize_texts(study_of(texts=[TextSpec(id="w", context=128)]), tiny_tokenizer(), CONTEXT)
    assert len(found.targets) == 4096
    assert "Robert <unk>" in tiny_tokenizer().decode(found.windows[0])


def test_texts_that_cannot_be_scored_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"text 't', source .*text.txt: 7 tokens, fewer than one window of 8; lower"):
        windows_of(tmp_path, 7, context=8)
    with pytest.raises(InputError, match="0 tokens"):
        windows_of(tmp_path, 0, context=8)
    with pytest.raises(InputError, match="text 't': `context` 129 is over the model's 128 tokens; lower it"):
        windows_of(tmp_path, 500, context=129)
    missing = study_of(texts=[{"id": "t", "source": str(tmp_path / "none.txt"), "context": 8}])
    with pytest.raises(InputError, match="text 't', source .*none.txt: No such file"):
        tokenize_texts(missing, Words(), CONTEXT)
