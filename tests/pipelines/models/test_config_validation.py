"""A config that names code, a size that no model has, or a value that a library refuses ends in one line."""

import json
from pathlib import Path

import pytest

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.config_validation import check_config
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.meta_model import load_meta_model
from prunescope.pipelines.models.sources import locate

FILE = Path("config.json")


def change(folder: Path, **changes: object) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    "config",
    [
        {"attn_implementation": "org/name"},
        {"_attn_implementation": "org/name@main:function"},
        {"_attn_implementation_internal": "paged|org/name"},
        {"attn_implementation": {"": "org/name"}},
        {"experts_implementation": "org/name"},
        {"attn_implementation": 5},
        {"text_config": {"attn_implementation": "org/name"}},
        {"parts": [{"_experts_implementation": "org/name"}]},
    ],
)
def test_a_kernel_from_the_hub_is_refused_by_name(config: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"config\.json: `\w+_implementation\w*` .* names a kernel"):
        check_config(FILE, config)


def test_code_in_a_nested_config_is_refused() -> None:
    with pytest.raises(InputError, match="auto_map"):
        check_config(FILE, {"text_config": {"auto_map": {"AutoModel": "evil.Model"}}})


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("num_attention_heads", 0, "from 1 to 65,536"),
        ("num_hidden_layers", 10**9, "from 1 to 2,000"),
        ("n_layer", True, "from 1 to 2,000"),
        ("hidden_size", "x", "from 1 to 1,048,576"),
        ("intermediate_size", [96, -1], "from 0 to 4,194,304"),
        ("vocab_size", 1e30, "from 1 to 10,000,000"),
        ("max_position_embeddings", -(10**300), "from 0 to 2,147,483,647"),
        ("rms_norm_eps", "x", "a number from 0 to 1"),
        ("layer_norm_eps", float("inf"), "a number from 0 to 1"),
    ],
)
def test_a_size_that_no_model_has_is_refused_with_key_value_and_bounds(key: str, value: object, allowed: str) -> None:
    with pytest.raises(InputError, match=rf"^config\.json: `{key}` is .{{1,61}}; it must be .*{allowed}$"):
        check_config(FILE, {"text_config": {key: value}})


def test_nan_is_refused_under_any_key() -> None:
    with pytest.raises(InputError, match="`factor` is not a number"):
        check_config(FILE, {"rope_scaling": {"factor": float("nan")}})


def test_values_of_real_configs_pass() -> None:
    check_config(
        FILE,
        {"_attn_implementation": "sdpa", "attn_implementation": None, "head_dim": None, "num_local_experts": 0}
        | {"time_step_limit": [0.0, float("inf")], "intermediate_size": [16384] * 30, "rms_norm_eps": 1e-6}
        | {"quantization_config": {"group_size": -1}, "pad_token_id": -1},
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 0}, r"model/config\.json: `num_attention_heads` is 0"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
    ],
    ids=["a size that no model has", "code"],
)
def test_the_check_comes_before_a_folder_is_opened(
    folder: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        locate(str(change(folder, **changes)), tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"num_attention_heads": 5},
            r"The hidden size \(64\) is not a multiple of the number of attention heads \(5\)",
        ),
        ({"use_cache": "x"}, r"Field 'use_cache' expected bool, got str"),
        ({"hidden_act": "nope"}, "KeyError: 'nope'"),
        ({"pad_token_id": 10**6}, "AssertionError: Padding_idx must be within num_embeddings"),
        ({"model_type": "no-such-model"}, "The checkpoint you are trying to load has model type `no-such-model`"),
        ({"architectures": 5}, "TypeError: 'int' object is not subscriptable"),
    ],
)
def test_a_config_that_a_library_refuses_ends_in_one_line(folder: Path, changes: dict, words: str) -> None:
    change(folder, **changes)
    for load in (load_decoder, load_meta_model):
        with pytest.raises(InputError, match=rf"model: transformers cannot load it \({words}") as caught:
            load(folder)
        assert "\n" not in str(caught.value)


def test_other_shapes_than_the_weights_have_are_told_in_one_line(folder: Path) -> None:
    with pytest.raises(InputError, match=r"its weights have other shapes than its config\.json says"):
        load_decoder(change(folder, num_key_value_heads=1))


def test_a_config_with_many_more_weights_than_its_files_is_refused_before_they_fill_memory(folder: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: asks for [\d,]+ weights, and the folder's files hold [\d,]+;"):
        load_decoder(change(folder, num_hidden_layers=200))
