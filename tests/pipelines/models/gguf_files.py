"""Small GGUF files, written as llama.cpp writes them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import gguf
import numpy as np
from safetensors.torch import load_file

from tests.tiny_models import tiny_tokenizer

Change = Callable[[str, np.ndarray], np.ndarray | None]


def unchanged(_: str, values: np.ndarray) -> np.ndarray:
    """Return the values."""
    return values


def gguf_file(
    folder: Path, file: Path, tokens: Mapping[int, str] = MappingProxyType({}), change: Change = unchanged
) -> Path:
    """Write a Llama in GGUF with its matrices in 8 bits, as llama.cpp writes it.

    Args:
        folder: the Llama.
        file: is written.
        tokens: other names of tokens, by id.
        change: is called with each GGUF tensor's name and values; without a result the tensor is left out.
    """
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    tokenizer = tiny_tokenizer()
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    vocabulary = [tokens.get(number, token) for number, token in enumerate(vocabulary)]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in vocabulary])
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, weight in weights.items():
        values = weight.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # llama.cpp interleaves the halves that rotate together
            count = config["num_key_value_heads" if ".k_proj" in name else "num_attention_heads"]
            values = values.reshape(count, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        place = f"{names.get_name(name.removesuffix('.weight'))}.weight"
        if (values := change(place, values)) is None:
            continue
        if ".layers." in name and values.ndim == 2:
            packed = gguf.quantize(np.ascontiguousarray(values), gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(place, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(place, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
