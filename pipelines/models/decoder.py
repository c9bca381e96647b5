"""A loaded decoder of any architecture, whose parts were found by structure and proved by running it."""

import inspect
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.metrics.output_head import OutputHead
from prunescope.pipelines.models.lm_head import LMHead
from prunescope.pipelines.models.module_calls import entered, hooks, without_cache
from prunescope.pipelines.models.skipping import SkipPlan
from prunescope.pipelines.models.sublayer import Sublayer, SublayerCall, Substitution
from prunescope.pipelines.models.token_cache import TokenCache
from prunescope.pipelines.models.weight_matrices import Matrix


@dataclass(frozen=True)
class Layer:
    """One decoder layer: its two sublayers, in sequence or both on the same input (`is_parallel`)."""

    module: nn.Module
    attn: Sublayer
    mlp: Sublayer
    is_parallel: bool

    @property
    def sublayers(self) -> tuple[Sublayer, Sublayer]:
        """Return both sublayers in the order in which they add to the stream."""
        return self.attn, self.mlp


@dataclass(frozen=True)
class Decoder:
    """A dense model, ready to be measured.

    Attributes:
        model: the transformers model, in eval mode, without gradients.
        trunk: the part below the LM head; returns the normed last states.
        output: final norm and LM head; None in a model that only embeds (BERT, E5-Mistral).
        end_ids: tokens that end a text.
        vocabulary: rows of the embedding.
        width: width of the residual stream and of the last states.
        context_length: longest sequence, in tokens.
        folder: the model's files.
        cache_refusal: why tokens cannot pass one by one through a cache; None if they can, as proved at load.
        can_pad: whether padding leaves a text's states unchanged, as proved at load. A causal model is padded on the
            left, in a batch with a longer text, also after that text has left the cache; others on the right.
        is_causal: whether no token's state depends on later tokens, as measured at load.
        rounding: distance by which rounding alone moves the last states, as measured at load.
        skips: how sublayers are skipped in a pass, as proved at load; None if skipping a sublayer differs from running
            it and dropping its contribution.
        memory: bytes of layers per device, as given to `load_decoder`; None if the whole model is on `device`.
        is_streamed: whether some layers' weights are elsewhere until the layer runs.
        split: divisor of batch sizes if memory is short.
    """

    model: nn.Module
    trunk: nn.Module
    layers: tuple[Layer, ...]
    output: LMHead | None
    tokenizer: Any
    end_ids: frozenset[int]
    vocabulary: int
    width: int
    context_length: int
    folder: Path
    dtype: torch.dtype
    device: torch.device
    cache_refusal: str | None = None
    can_pad: bool = True
    is_causal: bool = True
    rounding: float = 0.0
    skips: SkipPlan | None = None
    memory: Mapping[str, int] | None = None
    is_streamed: bool = False
    split: int = 1

    def at_once(self, usual: int) -> int:
        """Return the usual batch size (tokens, texts or sequences), or a smaller one if memory is short."""
        return max(1, usual // self.split)

    @property
    def head(self) -> OutputHead:
        """Return the final norm and the LM head in the form that the metrics read; InputError without a head."""
        return self._lm_head.head

    @property
    def final_norm(self) -> nn.Module:
        """Return the module that reads the residual stream: the final norm, else the head; InputError without one."""
        return self._lm_head.final

    @property
    def _lm_head(self) -> LMHead:
        if self.output is None:
            raise InputError(f"{type(self.model).__name__}: has no LM head, so only `retrieval` can be measured on it")
        return self.output

    @property
    def memory_for_second_model(self) -> dict[str, int] | None:
        """Return `memory` for a second model of this size; if this one has limits, the second's layers stay on disk."""
        return None if self.memory is None else {}

    @property
    def padding(self) -> int:
        """Return the tokenizer's padding token, from which some encoders compute positions, or 0."""
        token = int(self.tokenizer.pad_token_id or 0)
        return token if 0 <= token < self.vocabulary else 0  # some tokenizers' token is beyond the embedding

    @property
    def is_rounded(self) -> bool:
        """Return whether the trunk now computes in fewer bits than float32, in which sums round visibly."""
        return next(self.trunk.parameters()).dtype != torch.float32

    @property
    def sublayers(self) -> Iterator[Sublayer]:
        """Yield attention and MLP of every layer, in the order in which they add to the stream."""
        for layer in self.layers:
            yield from layer.sublayers

    @property
    def matrices(self) -> dict[str, Matrix]:
        """Return the weight matrices of all sublayers by name."""
        return {name: matrix for sublayer in self.sublayers for name, matrix in sublayer.matrices.items()}

    def without(
        self, labels: Collection[str], *, skips: bool = True, substitutes: Mapping[str, Substitution] | None = None
    ) -> AbstractContextManager[None]:
        """Temporarily drop the sublayers with some labels.

        With `skips` their modules are skipped if that is proved. Otherwise the modules run, for hooks that need every
        call, and their contributions are dropped. `substitutes`, by label, are added in place of some.
        """
        dropped = [sublayer for sublayer in self.sublayers if sublayer.label in labels]
        if skips and self.skips is not None:
            return self.skips.without(dropped, substitutes)
        return entered(sublayer.dropped((substitutes or {}).get(sublayer.label)) for sublayer in dropped)

    def calls_of(self, sublayers: Sequence[Sublayer], tokens: Int[Tensor, "batch tokens"]) -> dict[str, SublayerCall]:
        """Return the arguments of each sublayer's call in a pass over some tokens, by label."""
        calls: dict[str, list[SublayerCall]] = {each.label: [] for each in sublayers}
        with hooks(*(handle for each in sublayers for handle in each.record_calls(calls[each.label]))):
            self.hidden(tokens)
        return {label: recorded[0] for label, recorded in calls.items()}

    def new_cache(self) -> TokenCache:
        """Return an empty cache for `hidden`; InputError if the model does not run through one."""
        if self.cache_refusal is not None:
            raise InputError(f"measure.cache: {self.cache_refusal}; set it to false")
        return TokenCache(cast(Any, self.model).config)

    @torch.inference_mode()
    def hidden(
        self,
        tokens: Int[Tensor, "batch tokens"],
        cache: TokenCache | None = None,
        real: Int[Tensor, "batch seen"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Run the trunk over new tokens and return the normed last states.

        The tokens are added to the cache of the earlier ones. `real` is 0 for left padding, 1 for other tokens, over
        earlier and new tokens. It must be on the CPU, because an accelerator would have to finish all earlier work
        before it could tell whether there is padding.

        Raises:
            InputError: a token is beyond the embedding.
        """
        self._require_known(tokens)
        parameters = inspect.signature(self.trunk.forward).parameters
        keywords = without_cache(self.trunk)
        if cache is not None:  # transformers 5.2x renamed the argument
            keywords = {"use_cache": True, "cache" if "cache" in parameters else "past_key_values": cache}
        if real is not None and not bool(real.all()):
            real = real.to(self.device)
            keywords["attention_mask"] = real
            # A padded prompt must also start at position 0. Models without position ids use only the mask.
            if "position_ids" in parameters:
                keywords["position_ids"] = (real.cumsum(dim=1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        with _grouped_heads(self.device.type == "cpu" and tokens.shape[1] > 1):
            return cast(Tensor, self.trunk(input_ids=tokens, **keywords).last_hidden_state)

    def _require_known(self, tokens: Int[Tensor, "batch tokens"]) -> None:
        # A single token was chosen from logits, so it is known. Reading it would stall an accelerator at every step.
        if tokens.numel() and (tokens.shape[1] > 1 or tokens.device.type == "cpu"):
            low, high = torch.stack(tokens.aminmax()).tolist()
            if low < 0 or high >= self.vocabulary:
                raise unknown_token(self.folder, self.tokenizer, low if low < 0 else high, self.vocabulary)

    @torch.inference_mode()
    def padded(
        self, tokens: Int[Tensor, "batch tokens"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Return the last states of texts padded on the right; the states of the padding are meaningless.

        Raises:
            InputError: a token is beyond the embedding, or the model is neither causal nor proved to ignore padding.
        """
        self._require_known(tokens)
        if self.is_causal:  # no token depends on the padding after it
            return self.hidden(tokens)
        if not self.can_pad:
            raise InputError(f"{type(self.model).__name__}: padding changes the states of a text; it cannot embed")
        real = (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]).long()
        output = self.trunk(input_ids=tokens, attention_mask=real, **without_cache(self.trunk))
        return cast(Tensor, output.last_hidden_state)


@contextmanager
def _grouped_heads(is_on: bool) -> Iterator[None]:
    """Let torch read the keys and values of a masked pass once per group of query heads.

    transformers would copy them per query head, because GPUs need it. On two cores, 64 texts of 500 tokens took 41 ms
    per layer in bfloat16 with copies and 6 ms without, equal bit for bit. A pass of one token needs no setting.
    """
    name, value = "TRANSFORMERS_SDPA_FORCE_GQA", os.environ.get("TRANSFORMERS_SDPA_FORCE_GQA", "0")
    os.environ[name] = "1" if is_on else value
    try:
        yield
    finally:
        os.environ[name] = value


def padded_left(
    contexts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "batch tokens"], Int[Tensor, "batch tokens"]]:
    """Return contexts of any lengths as one left-padded batch on a device, and `real` for `Decoder.hidden`."""
    longest = max(len(context) for context in contexts)
    tokens = [[0] * (longest - len(context)) + list(context) for context in contexts]
    real = [[0] * (longest - len(context)) + [1] * len(context) for context in contexts]
    return torch.tensor(tokens, device=device), torch.tensor(real)


def padded_right(rows: Sequence[Sequence[int]]) -> Int[Tensor, "rows tokens"]:
    """Return texts of any lengths as one batch padded with zeros on the right, which a causal model ignores."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def probe_tokens(decoder: Decoder, count: int, seed: int = 0) -> Int[Tensor, "1 tokens"]:
    """Return random tokens on the decoder's device, at most as many as its context holds."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, min(count, decoder.context_length))
    return torch.randint(0, decoder.vocabulary, shape, generator=generator).to(decoder.device)


def unknown_token(folder: Path, tokenizer: Any, token: int, rows: int) -> InputError:  # noqa: ANN401 (any tokenizer)
    """Return the error for a token beyond an embedding with this number of rows."""
    name = tokenizer.convert_ids_to_tokens(token) if token >= 0 else None
    shown = f"{token} ({name!r})" if isinstance(name, str) else str(token)
    return InputError(
        f"{folder}: its tokenizer gives token {shown}, and the model's embedding has rows 0 to {rows - 1}; give it the "
        "tokenizer that it was trained with"
    )
