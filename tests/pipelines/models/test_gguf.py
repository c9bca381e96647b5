"""Tests of GGUF files: weights are converted in parts, and what transformers reads wrong is set right or refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, processors
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models import gguf as conversion
from prunescope.pipelines.models.gguf import _add_runs_of_spaces, _check_config, _check_tokenizer, convert_gguf
from tests.pipelines.models.gguf_files import gguf_file

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
        with pytest.raises(InputError, match=f"transformers {verb}, and the file's metadata says otherwise"):
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


HEAD = "output.weight"


@pytest.mark.parametrize("tied", [False, True])
def test_parts_of_a_file_become_the_weights_that_transformers_reads_at_once(
    tied: bool, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = gguf_file(
        tiny_folder, tmp_path / FILE, change=lambda name, values: None if tied and name == HEAD else values
    )
    at_once = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=FILE.name, dtype=torch.float32)
    weights = at_once.state_dict()
    if tied:
        assert weights.pop("lm_head.weight").equal(weights["model.embed_tokens.weight"])
    save_file(weights, tmp_path / "expected", {"format": "pt"})
    read, sizes = conversion.load_gguf_checkpoint, []

    def counted(*arguments: object) -> dict[str, dict[str, torch.Tensor]]:
        part = read(*arguments)
        sizes.append(sum(weight.nbytes for weight in part["tensors"].values()))
        return part

    monkeypatch.setattr(conversion, "load_gguf_checkpoint", counted)
    monkeypatch.setattr(conversion, "_ROWS", 7)  # 300 rows of the embedding in 43 parts, the last one smaller
    (tmp_path / "made").mkdir()
    convert_gguf(file, tmp_path / "made")
    assert (tmp_path / "made" / "model.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()
    layer = sum(weight.nbytes for name, weight in weights.items() if ".layers.0." in name)
    assert max(sizes) == layer, "more than one layer was in memory"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blk.1.ffn_up.weight": None}, r"up_proj\.weight is missing, or has another shape than the config says"),
        ({"blk.1.ffn_up.weight": "transposed"}, r"layers\.1\.mlp\.up_proj\.weight has another shape than the config"),
        ({"token_embd.weight": "cut"}, r"embed_tokens\.weight is missing, or has another shape than the config says"),
    ],
)
def test_a_missing_weight_or_another_shape_is_refused_by_name(
    change: Mapping[str, str | None], message: str, tiny_folder: Path, tmp_path: Path
) -> None:
    def changed(name: str, values: np.ndarray) -> np.ndarray | None:
        others = {None: None, "transposed": np.ascontiguousarray(values.T), "cut": values[:-1]}
        return others[change[name]] if name in change else values

    file = gguf_file(tiny_folder, tmp_path / FILE, change=changed)
    with pytest.raises(InputError, match=message):
        convert_gguf(file, tmp_path)


@pytest.mark.parametrize(
    ("tokens", "ends"), [({}, 2), ({2: "<|im_end|>"}, 2), ({2: "<|im_end|>", 0: "<|endoftext|>"}, [2, 0])]
)
def test_a_text_of_qwen_ends_at_the_end_of_a_document_too(
    tokens: Mapping[int, str], ends: object, tiny_folder: Path, tmp_path: Path
) -> None:
    convert_gguf(gguf_file(tiny_folder, tmp_path / FILE, tokens), tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == ends
