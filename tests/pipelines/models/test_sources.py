"""Tests that only complete models without code are opened, and that others are refused by name."""

import json
import os
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.sources import identify, locate, weight_format


def test_a_local_folder_is_used_in_place(folder: Path, tmp_path: Path) -> None:
    assert locate(str(folder), tmp_path / "cache") == folder.resolve()


def test_identity_depends_on_content_and_not_on_the_path(folder: Path, tiny_folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    identity = identify(folder, cache)
    assert identity == identify(tiny_folder, cache) == identify(folder, tmp_path / "other")
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    changed = identify(folder, cache)
    assert changed.weight_hash != identity.weight_hash
    assert changed.tokenizer_hash == identity.tokenizer_hash


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_truncated_weights_are_refused_with_the_file(folder: Path, tmp_path: Path, kept: int) -> None:
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:kept])
    with pytest.raises(InputError, match=r"model\.safetensors"):
        locate(str(folder), tmp_path)


def test_a_pickle_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: a pickle can run code"):
        locate(str(folder), tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_config_is_refused(folder: Path, tmp_path: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        locate(str(folder), tmp_path)


def test_a_missing_shard_is_refused(folder: Path, tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="model-00002.safetensors: named by the index but missing"):
        locate(str(folder), tmp_path)


def test_missing_weights_tokenizer_or_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        locate(str(tmp_path / "none"), tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(InputError, match="no tokenizer"):
        identify(folder, tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no .safetensors"):
        locate(str(folder), tmp_path)


def test_other_files_and_cut_gguf_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"x")
    with pytest.raises(InputError, match="give a folder"):
        locate(str(tmp_path / "model.pt"), tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\x00\x00\x00\x00")
    with pytest.raises(InputError, match="not a GGUF file, or cut short"):
        locate(str(tmp_path / "model.gguf"), tmp_path / "cache")
    assert not list((tmp_path / "cache" / "models").iterdir()), "a failed conversion leaves nothing"


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "vocab.json", "additional_chat_templates/a.jinja"]
)
def test_a_device_or_fifo_in_a_models_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (folder / name).unlink(missing_ok=True)
        make(folder / name)
        with pytest.raises(InputError, match=rf"{name}: is a device, FIFO or socket, or a link to one"):
            locate(str(folder), tmp_path)


def test_a_source_that_no_path_can_be_is_refused(tmp_path: Path) -> None:
    for source in ("a" * 300, "~no-such-user/model"):
        with pytest.raises(InputError, match=f"model '{source[:20]}"):
            locate(source, tmp_path)


def test_the_number_formats_of_a_folder_are_those_of_its_tensors(folder: Path) -> None:
    assert weight_format(str(folder), folder) == "float32"
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    last = max(tensors, key=lambda name: tensors[name].numel())
    halves = {name: tensor if name == last else tensor.bfloat16() for name, tensor in tensors.items()}
    save_file(halves, file, metadata={"format": "pt"})
    share = tensors[last].numel() / sum(tensor.numel() for tensor in tensors.values())
    kinds = [f"{100 * share:.0f} % float32", f"{100 - 100 * share:.0f} % bfloat16"]
    assert weight_format(str(folder), folder) == ", ".join(kinds if share > 0.5 else kinds[::-1])
    save_file({name: tensor.to(torch.float16) for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
    assert weight_format(str(folder), folder) == "float16"


@pytest.mark.parametrize(("kind", "name"), [(gguf.LlamaFileType.MOSTLY_Q4_1, "Q4_1"), (None, "GGUF")])
def test_a_gguf_file_is_named_with_the_shares_of_what_it_holds(
    kind: gguf.LlamaFileType | None, name: str, tmp_path: Path
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    if kind is not None:
        writer.add_file_type(kind)
    for key, rows, dtype in (("a", 75, "Q4_1"), ("b", 24, "Q8_0"), ("c", 1, "F32")):
        raw = np.zeros((rows, 320), np.float32)
        kept = gguf.GGMLQuantizationType[dtype]
        writer.add_tensor(key, raw if dtype == "F32" else gguf.quantize(raw, kept), raw_dtype=kept)
    writer.add_tensor("tiny", np.zeros(100, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    # 32,100 weights; the float32 ones are 1.3 percent of them.
    mixture = "75 % Q4_1, 24 % Q8_0, 1 % F32"
    assert weight_format(str(tmp_path / "model.gguf"), tmp_path) == f"{name}: {mixture}"


def test_an_embedded_model_is_named_as_the_file_that_it_came_from(tmp_path: Path) -> None:
    assert weight_format("embedded", tmp_path) == weight_format("embedded:smollm2-135m-instruct", tmp_path)
    assert weight_format("embedded", tmp_path).startswith("Q4_1: ")
    assert weight_format("embedded:gemma-3-270m", tmp_path).startswith("Q4_K_M: 63 % Q8_0")
