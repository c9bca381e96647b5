"""Which tokens a text probably goes on with, so that several of them pass through the model at once.

Nothing here decides a token: a guess is read by the model and kept only where the model would have written it.
"""

from collections.abc import Sequence

# Behind the last so many tokens, the more first, is looked what followed them before.
_LOOKED_AT = (3, 2)
# Most tokens of a guess: from here on products take as long as their rows are many.
MOST_GUESSED = 16
# What a pass costs however few rows it has, in rows; from the table in `prunescope.pipelines.metrics.cpu_matmul`.
_PASS_IN_ROWS = 15


class DraftProposer:
    """Guesses how one text goes on: as another model's text does, or as it went on before behind the same tokens.

    It costs nothing until it is trusted: as many tokens are guessed as the last ones were guessed right in a row.
    Pruned models keep much of the dense model's text, and what has collapsed repeats itself.
    Checking guesses in one pass is speculative decoding (arXiv 2211.17192) for greedy texts; guesses out of the text
    itself are prompt lookup.

    Args:
        context: what the text stands behind.
        other: a text that stood behind the same context; empty where none is known.
    """

    def __init__(self, context: Sequence[int], other: Sequence[int] = ()) -> None:
        self._other = len(other)
        self._seen: list[int] = []
        self._behind: dict[tuple[int, ...], int] = {}
        self._written = 0
        self._right_in_a_row = 0
        self._guess: list[int] = []
        self._read([*other, *context])

    def guess(self, most: int) -> list[int]:
        """The next tokens, as many as deserve trust, at most so many."""
        self._guess = self._next(min(self._right_in_a_row, MOST_GUESSED) + 1)
        return self._guess[: min(self._right_in_a_row, MOST_GUESSED, max(0, most))]

    def saw(self, tokens: Sequence[int]) -> None:
        """What the model wrote; how much of the last guess it is says what the next one deserves."""
        is_right = list(tokens) == self._guess[: len(tokens)]
        self._right_in_a_row = self._right_in_a_row + len(tokens) if is_right else 0
        self._written += len(tokens)
        self._read(tokens)

    def _next(self, count: int) -> list[int]:
        seen, written = self._seen, self._written
        behind = min(written, _LOOKED_AT[0])
        if written < self._other and seen[len(seen) - behind :] == seen[written - behind : written]:
            return seen[written : min(written + count, self._other)]
        place = next((self._behind[key] for n in _LOOKED_AT if (key := tuple(seen[-n:])) in self._behind), None)
        found: list[int] = []
        while place is not None and len(found) < count:
            at = place + len(found)
            found.append(seen[at] if at < len(seen) else found[at - len(seen)])  # a loop goes round
        return found

    def _read(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            for n in _LOOKED_AT:
                if len(self._seen) >= n:
                    self._behind[tuple(self._seen[-n:])] = len(self._seen)
            self._seen.append(token)


def worth(guesses: Sequence[Sequence[int]]) -> int:
    """How many tokens of every guess should pass, so that the most tokens are written a second if all are right.

    All texts of a batch pass as many, padding included.
    """
    count = len(guesses)

    def speed(width: int) -> float:
        return sum(1 + min(len(guess), width) for guess in guesses) / (_PASS_IN_ROWS + count * (width + 1))

    return max(range(max(map(len, guesses), default=0) + 1), key=speed)
