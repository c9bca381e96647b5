"""The context length of a model, from its config and its tokenizer."""

from typing import Any

# For models without a limit; it fits a 32-bit column.
UNLIMITED = 2**31 - 1


def context_length(config: Any, tokenizer: Any) -> int:  # noqa: ANN401 (the config of any architecture)
    """Return the longest sequence that a model was made for, in tokens."""
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if getattr(config, key, None):
            return int(getattr(config, key))
    # A tokenizer without a limit has a model_max_length of about 1e30.
    return min(int(tokenizer.model_max_length), UNLIMITED)
