"""Tests that settings and tokens which transformers reads wrong from a GGUF file are set right or refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.gguf import _add_runs_of_spaces, _check_config, _check_tokenizer

FILE = Path("model.gguf")
SPACE = "\u2581"
TOKENS = ["<unk>", "<bos>", "a", SPACE, SPACE * 2, SPACE * 3]


def tokenizer(*, start: bool = True) -> PreTrainedTokenizerFast:
    """Return a tokenizer as transformers makes it of a file by SentencePiece: runs of spaces are merges."""
    merges = [(SPACE, SPACE), (SPACE * 2, SPACE)]
    made = Tokenizer(models.BPE({token: number for number, token in enumerate(TOKENS)}, merges, unk_token="<unk>"))
    made.normalizer = normalizers.Replace(" ", SPACE)
    if start:
        made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<bos>")


def metadata(**changes: object) -> dict[str, Any]:
    """Return what a file says of that tokenizer, with runs of spaces as user-defined tokens."""
    named = {
        "model": "llama",
        "tokens": [token if token == SPACE else token.replace(SPACE, " ") for token in TOKENS],
        "token_type": [2, 3, 1, 1, 4, 4],
        "bos_token_id": 1,
        "add_bos_token": True,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (named | changes).items()}


def test_the_longest_run_of_spaces_is_matched_first_as_in_sentencepiece() -> None:
    read = tokenizer()
    assert read.tokenize("a    a") == ["a", SPACE * 2, SPACE * 2, "a"]
    _add_runs_of_spaces(metadata(), read)
    assert read.tokenize("a    a") == ["a", SPACE * 3, SPACE, "a"]
    assert len(read) == len(TOKENS)
    _check_tokenizer(FILE, metadata(), read)


def test_other_tokens_or_another_start_than_the_files_are_refused() -> None:
    with pytest.raises(InputError, match=r"^model\.gguf: transformers reads token 2 as 'a', the file says 'b'$"):
        _check_tokenizer(FILE, metadata(tokens=["<unk>", "<bos>", "b", *TOKENS[3:]]), tokenizer())
    for start, verb in ((True, "puts a start token before every text"), (False, "leaves out the start token")):
        with pytest.raises(InputError, match=f"transformers {verb}, against the file's metadata"):
            _check_tokenizer(FILE, metadata(add_bos_token=not start), tokenizer(start=start))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rope.freq_base", 10_000.0, r"reads rope\.freq_base as 1000000\.0, the file says 10000"),
        ("attention.sliding_window", 1024, r"reads attention\.sliding_window as 512, the file says 1024"),
        ("rope.scaling.type", "linear", r"leaves out the file's scaling of positions \(linear\)"),
    ],
)
def test_positions_and_windows_must_be_the_files(key: str, value: object, message: str) -> None:
    config = SimpleNamespace(
        rope_parameters={"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}},
        rms_norm_eps=1e-6,
        sliding_window=512,
    )
    said = {"general.architecture": "gemma3", "gemma3.rope.freq_base": 1e6, "gemma3.attention.sliding_window": 512}
    _check_config(FILE, said, config)
    with pytest.raises(InputError, match=message):
        _check_config(FILE, said | {f"gemma3.{key}": value}, config)
