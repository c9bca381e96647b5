"""Draft tokens for greedy decoding: guesses of a text's next tokens, several of which the model checks in one pass."""

from collections.abc import Sequence

# Lengths of the n-grams whose last occurrence predicts the next tokens, the longest first.
_NGRAMS = (3, 2)
# From about 16 rows on, the time of a matrix product is proportional to its rows.
MAX_DRAFT = 16
# Fixed cost of a pass, in rows; from the table in `prunescope.pipelines.metrics.cpu_matmul`.
_PASS_IN_ROWS = 15


class DraftProposer:
    """Proposer of the next tokens of one text, from another model's text or from the text's own repetitions.

    A draft is as long as the preceding run of right guesses, so wrong guesses cost little. Pruned models keep much of
    the dense model's text, and a collapsed model repeats itself. Checking a draft in one pass is speculative decoding
    (arXiv 2211.17192) of a greedy text; drafts from the text itself are known as prompt lookup. The text follows
    `context`. `other` is another model's text after the same context; empty if none is known.
    """

    def __init__(self, context: Sequence[int], other: Sequence[int] = ()) -> None:
        self._other_length = len(other)
        self._seen: list[int] = []
        self._next_index: dict[tuple[int, ...], int] = {}
        self._written = 0
        self._right_in_a_row = 0
        self._guess: list[int] = []
        self._read([*other, *context])

    def propose(self, limit: int) -> list[int]:
        """Return at most `limit` draft tokens: as many as the latest guesses got right in a row."""
        trusted = min(self._right_in_a_row, MAX_DRAFT)
        self._guess = self._next(trusted + 1)
        return self._guess[: min(trusted, max(0, limit))]

    def observe(self, tokens: Sequence[int]) -> None:
        """Record the tokens that the model wrote and compare them with the last guess."""
        is_right = list(tokens) == self._guess[: len(tokens)]
        self._right_in_a_row = self._right_in_a_row + len(tokens) if is_right else 0
        self._written += len(tokens)
        self._read(tokens)

    def _next(self, count: int) -> list[int]:
        seen, written = self._seen, self._written
        compared = min(written, _NGRAMS[0])
        if written < self._other_length and seen[len(seen) - compared :] == seen[written - compared : written]:
            return seen[written : min(written + count, self._other_length)]
        keys = (tuple(seen[-n:]) for n in _NGRAMS)
        start = next((self._next_index[key] for key in keys if key in self._next_index), None)
        if start is None:
            return []
        repeated = seen[start : start + count]  # shorter than `count` if the text loops
        return [repeated[index % len(repeated)] for index in range(count)]

    def _read(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            for n in _NGRAMS:
                if len(self._seen) >= n:
                    self._next_index[tuple(self._seen[-n:])] = len(self._seen)
            self._seen.append(token)


def best_draft_length(drafts: Sequence[Sequence[int]]) -> int:
    """Return how many tokens of each draft to check, to write the most tokens per second if every draft is right.

    The number is the same for all texts of a batch; shorter drafts are padded.
    """

    def speed(width: int) -> float:
        written = sum(1 + min(len(draft), width) for draft in drafts)
        return written / (_PASS_IN_ROWS + len(drafts) * (width + 1))

    return max(range(max(map(len, drafts), default=0) + 1), key=speed)
