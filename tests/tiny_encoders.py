"""Tiny random models without an LM head, with a real tokenizer, saved as Hugging Face folders."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast
from transformers.utils import logging

from tests.tiny_models import LLAMA_LIKE, tiny_tokenizer

BERT_LIKE = {
    "vocab_size": 300,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 130,
}
DISTILBERT = {"vocab_size": 300, "dim": 48, "n_layers": 3, "n_heads": 4, "hidden_dim": 80}
# Post-norm and pre-norm, bidirectional and causal.
EMBEDDERS: dict[str, dict[str, object]] = {
    "bert": BERT_LIKE,
    "roberta": BERT_LIKE,
    "distilbert": DISTILBERT | {"max_position_embeddings": 130},
    "modernbert": BERT_LIKE | {"global_attn_every_n_layers": 2, "local_attention": 8},
    "mistral": LLAMA_LIKE | {"sliding_window": None},
}


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Train a WordPiece tokenizer like BERT's, with [CLS] before and [SEP] after every text, and no end token."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["the if statement is used for conditional execution; naïve 文 words"] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


def save_embedder(folder: Path, architecture: str = "bert", seed: int = 0) -> Path:
    """Save a random model without an LM head; weights are large enough for its layers to matter."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = AutoConfig.for_model(architecture, **EMBEDDERS[architecture])
    config.pad_token_id = 0
    torch.manual_seed(seed)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(4)
            else:  # gains and biases that are neither one nor zero
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    (tiny_tokenizer() if architecture == "mistral" else word_tokenizer()).save_pretrained(folder)
    return folder
