"""Checks of a model's config before a library builds modules from it: code, sizes and numbers. No torch here."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

from prunescope.pipelines.core.errors import InputError

_WIDTHS = "hidden_size n_embd d_model word_embed_proj_dim"
_INNER_WIDTHS = (
    "intermediate_size n_inner ffn_dim ffn_hidden_size moe_intermediate_size shared_expert_intermediate_size"
)
_LAYERS = "num_hidden_layers n_layer n_layers num_layers"
_HEADS = "num_attention_heads n_head n_heads num_key_value_heads num_kv_heads head_dim"
_EXPERTS = "num_experts num_local_experts n_routed_experts num_experts_per_tok"
_POSITIONS = "max_position_embeddings n_positions max_seq_len seq_length"
# The largest published models have 126 layers, a width of 18,432 (65,536 inside), 512 experts, a vocabulary of 262,144
# and 10 million positions. A thousand empty layers take a second to build.
_COUNTS: dict[str, tuple[int, int]] = {
    key: bounds
    for keys, bounds in (
        (_WIDTHS, (1, 2**20)),
        (_INNER_WIDTHS, (0, 2**22)),
        (_LAYERS, (1, 2_000)),
        (_HEADS, (1, 2**16)),
        (_EXPERTS, (0, 2**14)),
        (_POSITIONS, (0, 2**31 - 1)),
        ("vocab_size", (1, 10_000_000)),
        ("num_labels", (0, 1_000_000)),
    )
    for key in keys.split()
}
_EPSILONS = {"rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"}
_IMPLEMENTATION = re.compile(r"_?(attn|experts)_implementation(_internal)?")
_BUILT_IN = re.compile(r"[a-z0-9_]*")


def check_config(file: Path, config: object) -> None:
    """Refuse the config of a file if it or a nested config names code or holds an impossible size or a NaN.

    Raises:
        InputError: names the file, the key, its value and what is allowed.
    """
    stack: list[tuple[str, object]] = [("", config)]
    while stack:
        key, value = stack.pop()
        if isinstance(value, Mapping):
            _check_code(file, value)
            stack += [(str(inner), content) for inner, content in value.items()]
        elif isinstance(value, list):
            stack += [(key, content) for content in value]
        elif value is not None:
            _check_value(file, key, value)


def _check_code(file: Path, config: Mapping[object, object]) -> None:
    if "auto_map" in config:
        raise InputError(f"{file}: `auto_map` runs code from the model's folder, which is refused")
    for key, value in config.items():
        if not _IMPLEMENTATION.fullmatch(str(key)):
            continue
        # transformers fetches a name like `org/name` from the hub as a kernel, and runs it.
        for name in value.values() if isinstance(value, Mapping) else [value]:
            if name is not None and not (isinstance(name, str) and _BUILT_IN.fullmatch(name)):
                raise InputError(
                    f"{file}: `{key}` {_shown(name)} names a kernel with custom code, which is refused; remove the "
                    "key, or set it to eager"
                )


def _check_value(file: Path, key: str, value: object) -> None:
    if isinstance(value, float) and math.isnan(value):
        raise InputError(f"{file}: `{key}` is not a number (NaN); fetch the model again")
    if (bounds := _COUNTS.get(key)) is not None:
        low, high = bounds
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InputError(f"{file}: `{key}` is {_shown(value)}; it must be a whole number from {low} to {high:,}")
    if key in _EPSILONS and not (isinstance(value, (int, float)) and 0 <= value <= 1):
        raise InputError(f"{file}: `{key}` is {_shown(value)}; it must be a number from 0 to 1")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
