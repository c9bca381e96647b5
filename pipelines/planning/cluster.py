"""How long many workers take for many models, by the events of a simulated run; and what stops them first.

Pure numbers: where they are measured is the caller's business.
"""

import heapq
from collections import deque
from dataclasses import dataclass

PLANNING, BOOKKEEPING, WRITING, ANSWERS = "planning", "Dagster", "writing", "answers"


@dataclass(frozen=True)
class StageTimes:
    """What one model and one variant of a study take, in seconds.

    Attributes:
        load: a model into a worker's memory; each worker that takes up a model pays it.
        model: the model's own tables; paid once, before any of its variants.
        dense: the dense side of what is measured; each worker that takes up a model pays it.
        variant: everything that a worker computes for one variant.
        model_told: what Dagster's bookkeeping of a model takes; one process does it, for one partition after the other.
        variant_told: the same for a variant.
        planned: of that process, for each variant, before anything starts: which partitions are current.
        written: of the store that all workers share, for each variant, one after the other.
        answers: at the end, once: questions, figures and report.
    """

    load: float
    model: float
    dense: float
    variant: float
    model_told: float = 0.0
    variant_told: float = 0.0
    planned: float = 0.0
    written: float = 0.0
    answers: float = 0.0


@dataclass(frozen=True)
class SimulatedRun:
    """What a run comes to.

    Attributes:
        seconds: from its start to its end.
        computing: of all workers together, with the loads and dense sides that they repeated.
        repeated: the part of it that one worker alone would not have spent.
        serial: what does not get faster with workers, by name.
    """

    seconds: float
    computing: float
    repeated: float
    serial: dict[str, float]

    @property
    def first_limit(self) -> tuple[str, float]:
        """What saturates first, and how many workers it keeps busy: its seconds against those of all computing."""
        name = max(self.serial, key=self.serial.__getitem__)
        return name, (self.computing - self.repeated) / max(self.serial[name], 1e-9)


class _Queue:
    """What serves one at a time, in the order of asking."""

    def __init__(self) -> None:
        self._free = 0.0

    def until(self, now: float, seconds: float) -> float:
        """When so much work that is asked for now is done."""
        self._free = max(now, self._free) + seconds
        return self._free


def simulate(pace: StageTimes, models: int, variants: int, workers: int) -> SimulatedRun:
    """Runs a study in numbers: a free worker stays with its model, else begins a new one, else helps the slowest.

    A partition passes through its worker, the store and the process that keeps Dagster's books. One worker is that
    process itself; several leave the books to it and go on, but variants wait for the books of their model.

    Args:
        pace: seconds of everything.
        models: how many.
        variants: of each model.
        workers: how many compute at once.
    """
    begun = pace.planned * models * variants
    fresh, left, ready = deque(range(models)), [variants] * models, [False] * models
    books, store = _Queue(), _Queue()
    # What each worker holds, and whether it is at work on that model's own tables.
    held, is_model_part = [-1] * workers, [False] * workers
    # When, which of two at once comes first, who, and what: it is free, has computed or written, its model is told.
    events = [(begun, index, index, "free") for index in range(workers)]
    idle: list[int] = []
    computing, order, now, loads = 0.0, workers, begun, 0

    def push(when: float, who: int, what: str) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (when, order, who, what))

    while events:
        now, _, who, what = heapq.heappop(events)
        if what == "free":
            chosen = _chosen(held[who], fresh, left, ready)
            if chosen is None:
                if any(left):  # of models whose own tables are still being made
                    idle.append(who)
                continue
            is_model_part[who] = not ready[chosen] and chosen != held[who]
            if is_model_part[who]:
                fresh.popleft()
            else:
                left[chosen] -= 1
            is_loading, held[who] = held[who] != chosen, chosen
            loads += is_loading
            seconds = (pace.load + pace.dense) * is_loading + (pace.model if is_model_part[who] else pace.variant)
            computing += seconds
            push(now + seconds, who, "computed")
        elif what == "computed":
            if is_model_part[who]:
                push(books.until(now, pace.model_told), who, "told")
            else:
                push(store.until(now, pace.written), who, "written")
        elif what == "written":
            told = books.until(now, pace.variant_told)
            push(told if workers == 1 else now, who, "free")
        else:
            ready[held[who]] = True
            for waiting in [who, *idle]:
                push(now, waiting, "free")
            idle.clear()
    amount = models * variants
    serial = {
        PLANNING: pace.planned * amount,
        BOOKKEEPING: pace.model_told * models + pace.variant_told * amount,
        WRITING: pace.written * amount,
        ANSWERS: pace.answers,
    }
    repeated = (loads - models) * (pace.load + pace.dense)
    return SimulatedRun(books.until(now, 0.0) + pace.answers, computing, repeated, serial)


def _chosen(held: int, fresh: deque[int], left: list[int], ready: list[bool]) -> int | None:
    """The model of which a worker takes the next part."""
    if held >= 0 and left[held]:
        return held
    if fresh:
        return fresh[0]
    open_ = [model for model, is_ready in enumerate(ready) if is_ready and left[model]]
    return max(open_, key=left.__getitem__, default=None)
