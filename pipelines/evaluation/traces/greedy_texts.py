"""Greedy texts of both models in every trajectory. What is measured on them belongs in `trajectories`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prunescope.pipelines.core.progress import Progress
from prunescope.pipelines.evaluation.tokenization.prompts import TokenizedPrompt
from prunescope.pipelines.evaluation.traces.decoding import DecodingResult, decode, up_to_end
from prunescope.pipelines.metrics.text_metrics import first_flip
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.token_cache import KeyValues
from prunescope.pipelines.studies import Study

Tokens = tuple[int, ...]
# Maximum bytes of the keys and values of all dense texts that are kept for the texts of variants.
KEPT_BYTES = 2**29


@dataclass(frozen=True)
class VariantTexts:
    """A variant's texts of one prompt, and the dense model's response to the variant's own text.

    Attributes:
        forced: the variant on the dense text.
        own: its own text; None if variants write none.
        flip: first step at which its own token differs from the dense one; None if no step does.
        read: the dense model on the variant's text, up to its end; None without a flip or without `own_text`.
        fork: the dense model's text after the variant's token at the flip; None without a flip or without `fork`.
    """

    forced: DecodingResult
    own: DecodingResult | None
    flip: int | None = None
    read: DecodingResult | None = None
    fork: DecodingResult | None = None


class GreedyTexts:
    """Greedy decoding of all prompts of a study, in batches, with the weights that the decoder has at the call."""

    def __init__(self, decoder: Decoder, study: Study, prompts: Sequence[TokenizedPrompt]) -> None:
        self._decoder, self._ids = decoder, [prompt.ids for prompt in prompts]
        self._steps = [study.generation.new_tokens] * len(prompts)
        self._copies = 1 + study.measure.writes
        self._pads = study.generation.until == "length"
        asked = {"read": "own_text", "fork": "fork"}
        self._measured = [field for field, name in asked.items() if name in study.measure.trajectories]
        self._known: dict[int, KeyValues] = {}  # of the dense texts, by prompt

    def of_dense(self, progress: Progress) -> list[tuple[DecodingResult, ...]]:
        """Decode the dense text of every prompt in as many rows as a variant has texts, so that both round alike."""
        tokens = sum(len(ids) + steps for ids, steps in zip(self._ids, self._steps, strict=True))

        def keep(text: int, states: KeyValues | None) -> None:
            size = sum(side.nbytes // side.shape[1] for both in states or () for side in both)
            if states and self._measured and tokens * size <= KEPT_BYTES:
                self._known[text // self._copies] = [(keys.clone(), values.clone()) for keys, values in states]

        least = None if self._pads else [0] * len(self._ids)
        begun = [((),) * self._copies] * len(self._ids)
        return self._decode("dense model", self._ids, self._steps, begun, least, progress, keep=keep)

    def of_variant(self, name: str, dense: Sequence[Tokens], progress: Progress) -> list[VariantTexts]:
        """Decode every prompt with the weights of a variant: on the dense text, and freely if variants write.

        `dense`, the dense text per prompt, sets the minimum length of a text.
        """
        begun: list[tuple[Tokens, ...]] = [(tokens, ())[: self._copies] for tokens in dense]
        least = None if self._pads else [len(tokens) for tokens in dense]
        texts = self._decode(name, self._ids, self._steps, begun, least, progress)
        return [VariantTexts(own[0], own[1] if self._copies > 1 else None) for own in texts]

    def with_dense(
        self, name: str, dense: Sequence[DecodingResult], texts: Sequence[VariantTexts], progress: Progress
    ) -> list[VariantTexts]:
        """Let the dense model read each text that flips, and let it continue the text after the flip.

        It starts at the token of the flip, because it has read and predicted everything before it in its own text.
        `dense` and `texts` are the dense texts and the variant's per prompt.
        """
        found, shared, begun = list(texts), dict[int, DecodingResult](), dict[int, tuple[Tokens, ...]]()
        for index, (known, text) in enumerate(zip(dense, texts, strict=True)):
            written = up_to_end(self._decoder, text.own.tokens) if text.own else ()
            flip = first_flip(up_to_end(self._decoder, known.tokens), written)
            if flip is not None:
                found[index] = replace(text, flip=flip)
                shared[index] = DecodingResult((*known.tokens[:flip], written[flip]), known.streams[: flip + 1])
                if behind := written[flip + 1 :]:
                    begun[index] = tuple(behind if field == "read" else () for field in self._measured)
        after: dict[int, tuple[DecodingResult, ...]] = {}
        if begun and self._measured:
            contexts = [(*self._ids[index], *shared[index].tokens) for index in begun]
            steps = [self._steps[index] - len(shared[index].tokens) for index in begun]
            states = [self._known[index] for index in begun] if self._known else None
            task, least = f"dense model after {name}", [0] * len(begun)
            ends = self._decode(task, contexts, steps, list(begun.values()), least, progress, states)
            after = dict(zip(begun, ends, strict=True))
        for index, start in shared.items():
            whole = [
                DecodingResult(start.tokens + end.tokens, torch.cat([start.streams, end.streams]))
                for end in after.get(index, ())
            ] or [start] * 2
            texts_behind = dict(zip(self._measured, whole, strict=False))
            found[index] = replace(found[index], read=texts_behind.get("read"), fork=texts_behind.get("fork"))
        return found

    def _decode(
        self,
        name: str,
        contexts: Sequence[Tokens],
        steps: Sequence[int],
        begun: Sequence[tuple[Tokens, ...]],
        least: Sequence[int] | None,
        progress: Progress,
        known: Sequence[KeyValues] | None = None,
        keep: Callable[[int, KeyValues | None], None] | None = None,
    ) -> list[tuple[DecodingResult, ...]]:
        """Decode texts that begin with given tokens, the same number per context, and continue them greedily.

        `least` is the minimum number of tokens of a context's texts; with None no text ends. Texts of one context that
        begin alike take the token of the last one, because equal rows of a batch may round differently.
        """
        copies, prefixes = len(begun[0]), [tokens for own in begun for tokens in own]

        def choose(logits: Tensor, texts: Sequence[int], step: int) -> Tensor:
            progress.advance(len(texts))
            rows = {(text // copies, prefixes[text]): row for row, text in enumerate(texts)}
            chosen = logits.argmax(dim=-1)[[rows[text // copies, prefixes[text]] for text in texts]]
            tokens = [prefixes[text][step] if step < len(prefixes[text]) else -1 for text in texts]
            given = torch.tensor(tokens, device=chosen.device)
            return torch.where(given < 0, chosen, given)

        stops = None if least is None else [number for number in least for _ in range(copies)]
        tokens = copies * sum(steps)
        progress.start(f"{name} decodes", tokens, tokens)
        texts = decode(self._decoder, contexts, steps, choose, stops, copies, known, keep)
        progress.done()
        return [tuple(texts[first : first + copies]) for first in range(0, len(texts), copies)]
