"""Discrete-event simulation of a study on many workers, and the step that limits it first."""

import heapq
from collections import deque
from dataclasses import dataclass

PLANNING, BOOKKEEPING, WRITING, ANSWERS = "planning", "Dagster", "writing", "answers"


@dataclass(frozen=True)
class StageTimes:
    """Seconds that the stages of a study take.

    Attributes:
        load: loading a model, for each worker that takes up a model.
        model: the model's own tables, once and before any of its variants.
        dense: the dense side of the measurements, for each worker that takes up a model.
        variant: all computation of one variant.
        model_bookkeeping: Dagster's bookkeeping of a model; one process does it for all partitions in turn.
        variant_bookkeeping: the same of a variant.
        planning: the same process decides, before the run, whether a variant is current; per variant.
        writing: one write into the shared store, in turn for all workers; per variant.
        answers: questions, figures and report, once at the end.
    """

    load: float
    model: float
    dense: float
    variant: float
    model_bookkeeping: float = 0.0
    variant_bookkeeping: float = 0.0
    planning: float = 0.0
    writing: float = 0.0
    answers: float = 0.0


@dataclass(frozen=True)
class SimulatedRun:
    """Outcome of a simulated run.

    Attributes:
        seconds: from start to end.
        computing: seconds of all workers together, including repeated loads and dense sides.
        repeated: the part of `computing` that a single worker would not need.
        serial: seconds of each step that more workers do not speed up, by name.
    """

    seconds: float
    computing: float
    repeated: float
    serial: dict[str, float]

    @property
    def first_limit(self) -> tuple[str, float]:
        """The longest serial step, and the number of workers from which it limits the run."""
        name = max(self.serial, key=self.serial.__getitem__)
        return name, (self.computing - self.repeated) / max(self.serial[name], 1e-9)


def simulate(times: StageTimes, models: int, variants: int, workers: int) -> SimulatedRun:
    """Simulate a study: a free worker stays with its model, else starts a new one, else helps the slowest.

    A partition passes through its worker, the store and the bookkeeping process. A single worker waits for the
    bookkeeping of each variant; several do not, but variants wait for the bookkeeping of their model's own tables.

    Args:
        times: seconds of each stage.
        models: number of models.
        variants: number of variants per model.
        workers: number of workers.
    """
    start = times.planning * models * variants
    unstarted, left, is_ready = deque(range(models)), [variants] * models, [False] * models
    # The bookkeeping process and the store serve one request at a time, in order of arrival.
    free_at = {BOOKKEEPING: 0.0, WRITING: 0.0}
    # For each worker the model that it has loaded, and whether it computes that model's own tables.
    loaded, computes_model = [-1] * workers, [False] * workers
    # (time, tie-break, worker, kind); kinds: a worker is free, has computed, has written, or its model is recorded.
    events = [(start, index, index, "free") for index in range(workers)]
    idle: list[int] = []
    computing, order, now, loads = 0.0, workers, start, 0

    def push(when: float, worker: int, kind: str) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (when, order, worker, kind))

    def served(stage: str, seconds: float) -> float:
        free_at[stage] = max(now, free_at[stage]) + seconds
        return free_at[stage]

    while events:
        now, _, worker, kind = heapq.heappop(events)
        if kind == "free":
            model = _next_model(loaded[worker], unstarted, left, is_ready)
            if model is None:
                if any(left):  # wait for models whose own tables are in progress
                    idle.append(worker)
                continue
            computes_model[worker] = not is_ready[model] and model != loaded[worker]
            if computes_model[worker]:
                unstarted.popleft()
            else:
                left[model] -= 1
            must_load, loaded[worker] = loaded[worker] != model, model
            loads += must_load
            seconds = (times.load + times.dense) * must_load
            seconds += times.model if computes_model[worker] else times.variant
            computing += seconds
            push(now + seconds, worker, "computed")
        elif kind == "computed":
            if computes_model[worker]:
                push(served(BOOKKEEPING, times.model_bookkeeping), worker, "recorded")
            else:
                push(served(WRITING, times.writing), worker, "written")
        elif kind == "written":
            recorded = served(BOOKKEEPING, times.variant_bookkeeping)
            push(recorded if workers == 1 else now, worker, "free")
        else:
            is_ready[loaded[worker]] = True
            for waiting in (worker, *idle):
                push(now, waiting, "free")
            idle.clear()
    partitions = models * variants
    serial = {
        PLANNING: times.planning * partitions,
        BOOKKEEPING: times.model_bookkeeping * models + times.variant_bookkeeping * partitions,
        WRITING: times.writing * partitions,
        ANSWERS: times.answers,
    }
    repeated = (loads - models) * (times.load + times.dense)
    return SimulatedRun(served(BOOKKEEPING, 0.0) + times.answers, computing, repeated, serial)


def _next_model(loaded: int, unstarted: deque[int], left: list[int], is_ready: list[bool]) -> int | None:
    if loaded >= 0 and left[loaded]:
        return loaded
    if unstarted:
        return unstarted[0]
    open_ = [model for model, ready in enumerate(is_ready) if ready and left[model]]
    return max(open_, key=left.__getitem__, default=None)
