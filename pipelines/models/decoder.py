"""A loaded decoder whose parts were found by structure and proved by running it, not by its architecture's name.

Loading and finding only; what is measured on it lives in `prunescope.pipelines.evaluation.traces`, what changes it in `prunescope.pipelines.pruning`.
"""

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.metrics.heads import Head
from prunescope.pipelines.models.lm_head import LMHead
from prunescope.pipelines.models.module_calls import without_cache
from prunescope.pipelines.models.skipping import SkipPlan
from prunescope.pipelines.models.sublayer import Sublayer
from prunescope.pipelines.models.weight_matrices import Matrix


class TokenCache(DynamicCache):
    """The cache that a model's config asks for: keys and values, windows of them, or the states of a recurrence."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401 (any architecture's config)
        super().__init__(config=config)
        self._config = config

    def fresh(self) -> "TokenCache":
        """An empty one of the same form."""
        return TokenCache(self._config)

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows of the batch stay."""
        self.reorder_cache(torch.LongTensor(rows))  # the one selection that states of a recurrence know too


@dataclass(frozen=True)
class Layer:
    """One decoder layer: its two sublayers, in sequence or both on the same input (parallel)."""

    module: nn.Module
    attn: Sublayer
    mlp: Sublayer
    is_parallel: bool

    @property
    def sublayers(self) -> tuple[Sublayer, Sublayer]:
        """In the order in which the stream meets them."""
        return self.attn, self.mlp


@dataclass(frozen=True)
class Decoder:
    """A dense model, ready to be measured.

    Attributes:
        model: the transformers model, in eval mode, without gradients.
        trunk: the part below the LM head; returns the normed last state.
        layers: in order.
        output: final norm and LM head; None in a model that only embeds (BERT, E5-Mistral).
        tokenizer: the model's own.
        end_ids: tokens that end a text.
        vocabulary: rows of its embedding.
        width: of the stream and the last states.
        folder: where it was loaded from.
        cache_refusal: why tokens cannot pass one by one through a cache; None where they can, as proved at load.
        can_pad: whether a text that is padded gives the same states, as proved at load: on the left, beside a longer
            one and when that one has left the cache; on the right where the model reads both ways.
        is_causal: whether no token's state depends on those behind it, as seen at load.
        skips: how sublayers are left out of a pass, as proved at load; None where that gives something else than
            running them and adding nothing.
        split: into how many parts what usually passes at once is split, where memory is short.
        memory: bytes of layers on each device, by which it was loaded; None where all of it lies on its own.
        is_streamed: whether weights of some layers lie elsewhere until the layer runs.
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
    skips: SkipPlan | None = None
    memory: Mapping[str, int] | None = None
    is_streamed: bool = False
    split: int = 1

    def at_once(self, usual: int) -> int:
        """How many tokens, texts or sequences pass at once where `usual` ones do while there is memory."""
        return max(1, usual // self.split)

    @property
    def head(self) -> Head:
        """Final norm and LM head in the form that the metrics read.

        Raises:
            InputError: the model has none.
        """
        return self._written.head

    @property
    def final_norm(self) -> nn.Module:
        """The module before the head; its input is the residual stream. The head where there is no norm.

        Raises:
            InputError: the model has no head.
        """
        return self._written.final

    @property
    def _written(self) -> LMHead:
        if self.output is None:
            raise InputError(f"{type(self.model).__name__}: has no LM head, so only `retrieval` can be measured on it")
        return self.output

    @property
    def memory_beside(self) -> dict[str, int] | None:
        """Limits for another model of its size that is loaded beside it: of one with limits no layer stays."""
        return None if self.memory is None else {}

    @property
    def padding(self) -> int:
        """The token that fills a text up: the tokenizer's own, by which some encoders count positions, else 0."""
        found = self.tokenizer.pad_token_id
        return 0 if found is None else int(found)

    @property
    def is_rounded(self) -> bool:
        """Whether its body computes in fewer bits than float32 now: its own sums round by as much as is measured."""
        return next(self.trunk.parameters()).dtype != torch.float32

    @property
    def sublayers(self) -> Iterator[Sublayer]:
        """Attention and MLP of every layer, in the order in which the stream meets them."""
        for layer in self.layers:
            yield from layer.sublayers

    @property
    def matrices(self) -> dict[str, Matrix]:
        """Every weight matrix of every sublayer, by name."""
        return {name: matrix for sublayer in self.sublayers for name, matrix in sublayer.matrices.items()}

    @contextmanager
    def without(self, labels: Collection[str], *, skips: bool = True) -> Iterator[None]:
        """Some sublayers add nothing to the stream for a while.

        Args:
            labels: which.
            skips: whether they are left out where that is proved; else they run, for hooks that look at every module,
                and what they add is taken away.
        """
        gone = [sublayer for sublayer in self.sublayers if sublayer.label in labels]
        with ExitStack() as stack:
            if skips and self.skips is not None:
                stack.enter_context(self.skips.without(gone))
            else:
                for sublayer in gone:
                    stack.enter_context(sublayer.dropped())
            yield

    def new_cache(self) -> TokenCache:
        """An empty cache for `hidden`.

        Raises:
            InputError: the model cannot be run through one; names the key of the study that asks for it.
        """
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
        """Runs the trunk; the normed last states. What hooks saw is the caller's.

        Args:
            tokens: the new tokens.
            cache: what is kept of the tokens before; the new ones are added to it.
            real: 1 where a token counts, 0 where it pads on the left, over all tokens seen so far and the new ones.
        """
        parameters = inspect.signature(self.trunk.forward).parameters
        keywords = without_cache(self.trunk)
        if cache is not None:  # transformers 5.2x renamed the argument
            keywords = {"use_cache": True, "cache" if "cache" in parameters else "past_key_values": cache}
        if real is not None and not bool(real.all()):
            keywords["attention_mask"] = real
            # A padded prompt starts at position 0 all the same; models without position ids read the mask.
            if "position_ids" in parameters:
                positions = (real.cumsum(dim=1) - 1).clamp(min=0)
                keywords["position_ids"] = positions[:, -tokens.shape[1] :]
        return cast(Tensor, self.trunk(input_ids=tokens, **keywords).last_hidden_state)

    @torch.inference_mode()
    def padded(
        self, tokens: Int[Tensor, "batch tokens"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch tokens width"]:
        """The last states of texts that are padded on the right; what stands in the padding means nothing.

        Args:
            tokens: the texts, each from its first column on.
            lengths: tokens of each.

        Raises:
            InputError: the model reads both ways and was not proved to ignore padding.
        """
        if self.is_causal:  # what stands behind a text does not reach it
            return self.hidden(tokens)
        if not self.can_pad:
            raise InputError(f"{type(self.model).__name__}: padding changes the states of a text; it cannot embed")
        real = (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]).long()
        output = self.trunk(input_ids=tokens, attention_mask=real, **without_cache(self.trunk))
        return cast(Tensor, output.last_hidden_state)


def padded_left(
    contexts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "batch tokens"], Int[Tensor, "batch tokens"]]:
    """Contexts of any lengths as one batch that ends together, and 1 where a token of it counts; for `hidden`."""
    longest = max(len(context) for context in contexts)
    padding = [longest - len(context) for context in contexts]
    given = [[0] * pad + list(context) for pad, context in zip(padding, contexts, strict=True)]
    real = [[0] * pad + [1] * (longest - pad) for pad in padding]
    return torch.tensor(given, device=device), torch.tensor(real, device=device)


def probe_tokens(decoder: Decoder, count: int, seed: int = 0) -> Int[Tensor, "1 tokens"]:
    """Random tokens on the decoder's device, the same for the same seed; no more than its context holds."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, min(count, decoder.context_length))
    return torch.randint(0, decoder.vocabulary, shape, generator=generator).to(decoder.device)
