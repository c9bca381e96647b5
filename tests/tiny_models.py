"""Tiny random decoders with a real tokenizer, saved as any Hugging Face folder: made in a second, no network."""

from pathlib import Path
from pydoc_data.topics import topics

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
COMMON = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
LLAMA_LIKE = {**COMMON, "intermediate_size": 96, "num_key_value_heads": 2, "max_position_embeddings": 128}
ARCHITECTURES: dict[str, dict[str, object]] = {
    "llama": LLAMA_LIKE,
    "mistral": LLAMA_LIKE | {"sliding_window": 16},
    "qwen2": LLAMA_LIKE,
    "qwen3": LLAMA_LIKE | {"head_dim": 16},
    "gemma3_text": LLAMA_LIKE | {"head_dim": 16, "sliding_window": 16, "final_logit_softcapping": None},
    "gpt_neox": {**COMMON, "intermediate_size": 96, "max_position_embeddings": 128},
    "gpt2": {"vocab_size": 300, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128},
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most 300 tokens, trained on Python's help topics, with a chat template."""
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


def save_tiny(folder: Path, architecture: str = "llama", seed: int = 0, **changes: object) -> Path:
    """Saves a random decoder and its tokenizer; weights are large enough for its layers to matter."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = AutoConfig.for_model(architecture, **(ARCHITECTURES[architecture] | changes))
    config.eos_token_id, config.bos_token_id, config.pad_token_id = 2, None, 0
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(6)
            else:  # gains and biases that are neither one nor zero
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
