"""Tests that sizes claimed by a model's file are checked against its real size before a library opens it."""

import json
import os
import struct
from pathlib import Path

import pytest
from gguf import GGUFReader, GGUFWriter
from hypothesis import given
from hypothesis import strategies as st

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models import file_validation
from prunescope.pipelines.models.file_validation import check_gguf, check_safetensors
from prunescope.pipelines.models.sources import check_folder


def gguf(path: Path, order: str = "<", version: int = 3, **values: bytes) -> Path:
    """Write a GGUF file without tensors; each value begins with its type."""
    content = b"GGUF" + struct.pack(f"{order}IQQ", version, 0, len(values))
    for name, value in values.items():
        content += struct.pack(f"{order}Q", len(name)) + name.encode() + value
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a file with the GGUF library, with a value of every kind."""
    path = tmp_path_factory.mktemp("gguf") / "real.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_token_list(["a", "bc", "d" * 1000])
    writer.add_token_scores([0.5, -1.0, 2.0])
    writer.add_add_bos_token(True)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_files_of_the_library_pass(real: Path) -> None:
    assert "tokenizer.ggml.tokens" in GGUFReader(real).fields
    check_gguf(real)


def test_both_byte_orders_pass(tmp_path: Path) -> None:
    check_gguf(gguf(tmp_path / "little.gguf", seed=struct.pack("<II", 4, 7)))
    check_gguf(gguf(tmp_path / "big.gguf", ">", seed=struct.pack(">II", 4, 7)))


@given(st.data())
def test_a_file_cut_inside_its_metadata_is_refused(real: Path, tmp_path_factory: pytest.TempPathFactory, data) -> None:
    content = real.read_bytes().rstrip(b"\0")
    path = tmp_path_factory.getbasetemp() / "cut.gguf"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 8))])
    with pytest.raises(InputError, match=r"cut.gguf: not a GGUF file, or cut short .*; fetch it again"):
        check_gguf(path)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (struct.pack("<IQ", 8, 2**63), "it ends at"),
        (struct.pack("<IIQ", 9, 0, 2**40), "more than 5,000,000 values"),
        (struct.pack("<IIQ", 9, 8, 10**6) + bytes(80), "requires a buffer of 8 bytes"),
        (struct.pack("<IIQIQ", 9, 9, 1, 9, 1), "an array of arrays"),
        (struct.pack("<I", 13), "no value is of type 13"),
    ],
    ids=["string", "array", "texts", "arrays", "type"],
)
def test_metadata_that_claim_too_much_are_refused(tmp_path: Path, value: bytes, why: str) -> None:
    with pytest.raises(InputError, match=why):
        check_gguf(gguf(tmp_path / "bomb.gguf", bomb=value))


def test_a_long_array_of_bytes_is_refused_before_it_becomes_objects(tmp_path: Path) -> None:
    path = gguf(tmp_path / "long.gguf", long=struct.pack("<IIQ", 9, 0, 6_000_000))
    os.truncate(path, 7_000_000)  # all of it is there, as a hole in the file
    with pytest.raises(InputError, match="more than 5,000,000 values"):
        check_gguf(path)


@pytest.mark.parametrize("surplus", [-1, 1])
def test_safetensors_of_a_wrong_length_are_refused(tmp_path: Path, surplus: int) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    check_safetensors(path)
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8 + surplus))
    with pytest.raises(InputError, match="cut short or damaged .*not fully covered"):
        check_safetensors(path)


def test_a_folder_in_place_of_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(InputError, match=r"model\.safetensors: Is a directory; fetch the model again"):
        check_safetensors(tmp_path / "model.safetensors")


def test_a_safetensors_header_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    path.write_bytes(struct.pack("<Q", 2**37))
    os.truncate(path, 2**38)
    with pytest.raises(InputError, match="header too large"):
        check_safetensors(path)


def test_a_deeply_nested_header_is_refused(tmp_path: Path) -> None:
    header = b'{"a":' + b"[" * 200_000
    path = tmp_path / "deep.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(InputError, match="cut short or damaged .*recursion limit"):
        check_safetensors(path)


def test_a_deep_or_large_config_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "llama", "a": ' + "[" * 200_000)
    with pytest.raises(InputError, match=r"config\.json: nested too deep"):
        check_folder(tmp_path)
    os.truncate(config, file_validation.DESCRIPTION + 1)
    with pytest.raises(InputError, match="256,000,001 bytes, over the 256,000,000"):
        check_folder(tmp_path)


def test_an_oversized_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "tokenizer.json").touch()
    os.truncate(tmp_path / "tokenizer.json", file_validation.DESCRIPTION + 1)
    with pytest.raises(InputError, match=r"tokenizer\.json: 256,000,001 bytes"):
        check_folder(tmp_path)
