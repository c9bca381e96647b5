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
        own: the variant's own text; None if variants write none.
        flip: first step at which the own token differs from the dense one; None if none differs.
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
        names = {"read": "own_text", "fork": "fork"}
        self._measured = [field for field, name in names.items() if name in study.measure.trajectories]
        self._known: dict[int, KeyValues] = {}  # of the dense texts, by prompt

    def of_dense(self, progress: Progress) -> list[tuple[DecodingResult, ...]]:
        """Decode the dense text of every prompt, as often as a variant has texts, because both must round alike."""
        tokens = sum(len(ids) + steps for ids, steps in zip(self._ids, self._steps, strict=True))

        def keep(text: int, states: KeyValues | None) -> None:
            size = sum(side.nbytes // side.shape[1] for both in states or () for side in both)
            if states and self._measured and tokens * size <= KEPT_BYTES:
                self._known[text // self._copies] = [(keys.clone(), values.clone()) for keys, values in states]

        least = None if self._pads else [0] * len(self._ids)
        starts = [((),) * self._copies] * len(self._ids)
        return self._decode("dense model", self._ids, self._steps, starts, least, progress, keep=keep)

    def of_variant(self, name: str, dense: Sequence[Tokens], progress: Progress) -> list[VariantTexts]:
        """Decode every prompt with the weights of a variant: on the dense text, and freely if variants write.

        `dense` has the dense text of each prompt; a text is at least as long.
        """
        starts: list[tuple[Tokens, ...]] = [(tokens, ())[: self._copies] for tokens in dense]
        least = None if self._pads else [len(tokens) for tokens in dense]
        texts = self._decode(name, self._ids, self._steps, starts, least, progress)
        return [VariantTexts(both[0], both[1] if self._copies > 1 else None) for both in texts]

    def with_dense(
        self, name: str, dense: Sequence[DecodingResult], texts: Sequence[VariantTexts], progress: Progress
    ) -> list[VariantTexts]:
        """Let the dense model read each text that flips, and let it continue the text after the flip.

        It starts at the token of the flip, because everything before is also in its own text, which it has read.
        `dense` has the dense texts and `texts` the variant's, one per prompt.
        """
        results, shared, starts = list(texts), dict[int, DecodingResult](), dict[int, tuple[Tokens, ...]]()
        for index, (known, text) in enumerate(zip(dense, texts, strict=True)):
            written = up_to_end(self._decoder, text.own.tokens) if text.own else ()
            flip = first_flip(up_to_end(self._decoder, known.tokens), written)
            if flip is not None:
                results[index] = replace(text, flip=flip)
                shared[index] = DecodingResult((*known.tokens[:flip], written[flip]), known.streams[: flip + 1])
                if rest := written[flip + 1 :]:
                    starts[index] = tuple(rest if field == "read" else () for field in self._measured)
        after: dict[int, tuple[DecodingResult, ...]] = {}
        if starts and self._measured:
            contexts = [(*self._ids[index], *shared[index].tokens) for index in starts]
            steps = [self._steps[index] - len(shared[index].tokens) for index in starts]
            states = [self._known[index] for index in starts] if self._known else None
            task, least = f"dense model after {name}", [0] * len(starts)
            ends = self._decode(task, contexts, steps, list(starts.values()), least, progress, states)
            after = dict(zip(starts, ends, strict=True))
        for index, begin in shared.items():
            whole = [
                DecodingResult(begin.tokens + end.tokens, torch.cat([begin.streams, end.streams]))
                for end in after.get(index, ())
            ] or [begin] * 2
            by_field = dict(zip(self._measured, whole, strict=False))
            results[index] = replace(results[index], read=by_field.get("read"), fork=by_field.get("fork"))
        return results

    def _decode(
        self,
        name: str,
        contexts: Sequence[Tokens],
        steps: Sequence[int],
        starts: Sequence[tuple[Tokens, ...]],
        least: Sequence[int] | None,
        progress: Progress,
        known: Sequence[KeyValues] | None = None,
        keep: Callable[[int, KeyValues | None], None] | None = None,
    ) -> list[tuple[DecodingResult, ...]]:
        """Decode texts that begin with the tokens `starts`, as many texts per context, and continue them greedily.

        `least` is the minimum number of tokens of a context's texts; with None no text ends. Texts of one context with
        the same start take the token of the last of them, because equal rows of a batch may round differently.
        """
        copies, prefixes = len(starts[0]), [tokens for texts in starts for tokens in texts]

        def choose(logits: Tensor, texts: Sequence[int], step: int) -> Tensor:
            progress.advance(len(texts))
            rows = {(text // copies, prefixes[text]): row for row, text in enumerate(texts)}
            chosen = logits.argmax(dim=-1)[[rows[text // copies, prefixes[text]] for text in texts]]
            tokens = [prefixes[text][step] if step < len(prefixes[text]) else -1 for text in texts]
            given = torch.tensor(tokens, device=chosen.device)
            return torch.where(given < 0, chosen, given)

        shortest = None if least is None else [number for number in least for _ in range(copies)]
        tokens = copies * sum(steps)
        progress.start(f"{name} decodes", tokens, tokens)
        texts = decode(self._decoder, contexts, steps, choose, shortest, copies, known, keep)
        progress.done()
        return [tuple(texts[first : first + copies]) for first in range(0, len(texts), copies)]
