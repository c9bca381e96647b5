"""Tiny random decoders with a real tokenizer, saved as Hugging Face folders without network access."""

from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
# For calibration: the tokenizer takes half a second for the packaged text, and a hundredth of a second for this one.
SHORT_TEXT = str(Path(__file__).parents[1] / "LICENSE")
COMMON = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
LLAMA_LIKE = {**COMMON, "intermediate_size": 96, "num_key_value_heads": 2, "max_position_embeddings": 128}
NEOX_LIKE = {**COMMON, "intermediate_size": 96, "max_position_embeddings": 128}
GPT2_LIKE = {"vocab_size": 300, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_chunk_size": 8}
# Every tested form of decoder by model type; a suffix after a dash names a difference.
DECODERS: dict[str, dict[str, object]] = {
    "llama": LLAMA_LIKE,
    "mistral": LLAMA_LIKE | {"sliding_window": 4},
    "qwen2": LLAMA_LIKE,
    "qwen3": LLAMA_LIKE | {"head_dim": 16},
    "gemma2": LLAMA_LIKE
    | {"head_dim": 16, "sliding_window": 4, "final_logit_softcapping": 5.0, "attn_logit_softcapping": 2.0},
    "gemma3_text": LLAMA_LIKE | {"head_dim": 16, "sliding_window": 4, "final_logit_softcapping": 30.0},
    "phi": LLAMA_LIKE,
    "phi3": LLAMA_LIKE | {"pad_token_id": 0},
    "gpt2": GPT2_LIKE,
    "gpt_neox": NEOX_LIKE,
    "gpt_neox-sequential": NEOX_LIKE | {"use_parallel_residual": False},
    "gptj": GPT2_LIKE | {"rotary_dim": 8},
    "opt": COMMON | {"ffn_dim": 96, "max_position_embeddings": 128, "word_embed_proj_dim": 64},
    "falcon": COMMON | {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon-old": COMMON | {"new_decoder_architecture": False, "multi_query": True, "parallel_attn": True},
    "falcon-sequential": COMMON
    | {"new_decoder_architecture": False, "multi_query": False, "parallel_attn": False, "alibi": True},
    "bloom": {"vocab_size": 300, "hidden_size": 64, "n_layer": 3, "n_head": 4},
    "mpt": {"vocab_size": 300, "d_model": 64, "n_heads": 4, "n_layers": 3, "max_seq_len": 128},
    "stablelm": LLAMA_LIKE | {"use_parallel_residual": False},
    "stablelm-parallel": LLAMA_LIKE | {"use_parallel_residual": True},
    "cohere": LLAMA_LIKE | {"logit_scale": 0.0625},
    "cohere2": LLAMA_LIKE | {"logit_scale": 0.25, "sliding_window": 4, "head_dim": 16},
    "olmo": LLAMA_LIKE,
    "olmo2": LLAMA_LIKE,
    "starcoder2": LLAMA_LIKE,
    "mixtral": LLAMA_LIKE | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": LLAMA_LIKE | MOE | {"shared_expert_intermediate_size": 48},
    "qwen3_moe": LLAMA_LIKE | MOE | {"head_dim": 16},
    "olmoe": LLAMA_LIKE | {"num_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": LLAMA_LIKE | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 4},
    "llama4_text": LLAMA_LIKE
    | {"num_local_experts": 4, "intermediate_size_mlp": 96, "head_dim": 16, "moe_layers": [0, 1]},
    "nanochat": LLAMA_LIKE,
    "granite": LLAMA_LIKE
    | {"embedding_multiplier": 3.0, "residual_multiplier": 0.22, "attention_multiplier": 0.3, "logits_scaling": 4.0},
    "smollm3": LLAMA_LIKE | {"no_rope_layers": [1, 0, 1], "pad_token_id": 0},
    "nemotron": LLAMA_LIKE,
    "jamba": LLAMA_LIKE
    | {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "num_experts": 2, "num_experts_per_tok": 1},
    "bamba": LLAMA_LIKE | MAMBA | {"attn_layer_indices": [1]},
    "falcon_h1": LLAMA_LIKE
    | MAMBA
    | {"mamba_d_ssm": 128, "ssm_out_multiplier": 0.7, "attention_out_multiplier": 0.6, "lm_head_multiplier": 0.5},
    "granitemoehybrid": LLAMA_LIKE
    | MAMBA
    | {
        "layer_types": ["mamba", "attention", "mamba"],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 48,
        "residual_multiplier": 0.22,
        "logits_scaling": 4.0,
    },
    "qwen3_next": LLAMA_LIKE
    | MOE
    | {
        "head_dim": 16,
        "shared_expert_intermediate_size": 48,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    },
    "recurrent_gemma": LLAMA_LIKE
    | {"lru_width": 64, "attention_window_size": 8, "block_types": ["recurrent", "attention"], "logits_soft_cap": 30.0},
    "lfm2": LLAMA_LIKE | {"layer_types": ["conv", "full_attention", "conv"], "block_multiple_of": 32},
}


# One of each structure that is treated separately: pre-norm, sandwich and post-norm, parallel sublayers, fused and
# transposed matrices, learned positions, ALiBi, caps and scales, experts as modules and as stacks, and layers that mix
# tokens without attention, beside it or in its place. The others differ in nothing that the code reads.
STRUCTURES = {
    *("llama", "gemma2", "gpt2", "gpt_neox", "opt", "bloom", "cohere", "olmo2", "mixtral", "gpt_oss"),
    *("bamba", "falcon_h1", "qwen3_next", "recurrent_gemma"),
}
EVERY_DECODER = [
    pytest.param(name, marks=() if name in STRUCTURES else pytest.mark.exhaustive, id=name) for name in DECODERS
]
# A few that differ in ways that could affect traces: windows, sandwich norms and cap, parallel layers, Conv1D.
ARCHITECTURES = ("llama", "mistral", "qwen3", "gemma3_text", "gpt_neox", "gpt2")


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of at most 300 tokens on Python's help topics, with a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|pad|>", "<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([topics["assert"], topics["if"]], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.chat_template = TEMPLATE
    return fast


def save_tiny(folder: Path, architecture: str = "llama", seed: int = 0, shard: str = "1GB", **changes: object) -> Path:
    """Save a random decoder and its tokenizer; weights are large enough for its layers to matter."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = AutoConfig.for_model(architecture.partition("-")[0], **(DECODERS[architecture] | changes))
    config.eos_token_id, config.bos_token_id, config.pad_token_id = 2, None, 0
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(6)
            else:  # gains and biases that are neither one nor zero
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder, max_shard_size=shard)
    tiny_tokenizer().save_pretrained(folder)
    return folder
