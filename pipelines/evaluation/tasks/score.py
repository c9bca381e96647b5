"""What variants score: lm-eval asks and judges, and its samples become rows of `task_scores` and `task_samples`.

How requests are answered is `adapter.py`'s, how tasks are loaded `loading.py`'s.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import polars as pl
from lm_eval.evaluator import evaluate

from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.evaluation.tasks.lm_eval_model import VariantLM
from prunescope.pipelines.evaluation.tasks.loading import LoadedTask, load_tasks, quiet
from prunescope.pipelines.evaluation.tasks.sandbox_client import ExecutionVerdict, passes
from prunescope.pipelines.evaluation.tasks.score_rows import (
    SAMPLE_SCHEMA,
    SCORE_SCHEMA,
    Answered,
    facts,
    sample_rows,
    score_rows,
    texts_of,
)
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.studies.evaluation_specs import TaskSpec

_SAMPLE_KEY = ["task", "sample_id", "scoring"]
# Ways of scoring whose answers are held against the dense model's; letters are the same questions once more.
_AGREEING = ("full_text", "greedy")


@dataclass(frozen=True)
class TaskScores:
    """Rows of one variant.

    Attributes:
        scores: of `task_scores`.
        samples: of `task_samples`.
    """

    scores: pl.DataFrame
    samples: pl.DataFrame


@dataclass(frozen=True)
class _Asked(TaskScores):
    """Rows of one variant by itself.

    Attributes:
        about: a row of `task_scores` without a metric for each task whose answers are held against the dense model's.
    """

    about: pl.DataFrame


class TaskSession:
    """A study's tasks on one model: loaded once, asked of every variant that the decoder wears.

    Args:
        decoder: the dense model.
        model: its name in the tables.
        specs: the study's tasks.
        allows_code: whether programs that a variant writes may run, to be judged.

    Raises:
        InputError: a task cannot be loaded.
    """

    def __init__(self, decoder: Decoder, model: str, specs: Sequence[TaskSpec], *, allows_code: bool = False) -> None:
        self.decoder, self.model, self._allows_code = decoder, model, allows_code
        self._tasks = load_tasks(specs)
        self._worn = VariantLM(decoder) if self._tasks else None
        self._dense: pl.DataFrame | None = None

    def score(
        self, recipe: str, variant: Variant, dense: pl.DataFrame | None = None, progress: Progress = SILENT
    ) -> TaskScores:
        """Asks a variant everything.

        Args:
            recipe: the variant's name.
            variant: what the decoder wears.
            dense: the dense model's rows of `task_samples`, if they are known; else it is asked, once a session.
            progress: told task by task.

        Raises:
            InputError: a question does not fit the model.
            ComputationError: the variant's logits are NaN or infinite.
        """
        if recipe == "dense":
            scored = self._asked(recipe, variant, progress)
            self._dense = scored.samples
            return self._beside_dense(scored)
        if self._dense is None:
            self._dense = self._asked("dense", Variant(), progress).samples if dense is None else dense
        return self._beside_dense(self._asked(recipe, variant, progress, self._dense))

    @property
    def dense(self) -> pl.DataFrame:
        """The dense model's rows of `task_samples`, known as soon as a variant was scored.

        Raises:
            ValueError: none was.
        """
        if self._dense is None:
            raise ValueError("no variant was scored yet")
        return self._dense

    def _asked(self, recipe: str, variant: Variant, progress: Progress, dense: pl.DataFrame | None = None) -> _Asked:
        scores, samples, about = [], [], []
        names = {"model": pl.lit(self.model), "recipe": pl.lit(recipe)}
        with apply_variant(self.decoder, variant):
            for _, together in groupby(self._tasks, key=lambda loaded: loaded.spec):
                for loaded, answered in self._evaluated(list(together), recipe, progress, dense):
                    if loaded.scoring in _AGREEING:
                        about.append(facts(loaded, answered))
                    scores.append(pl.DataFrame(list(score_rows(loaded, answered)), schema_overrides=SCORE_SCHEMA))
                    samples.append(pl.DataFrame(list(sample_rows(loaded, answered)), schema_overrides=SAMPLE_SCHEMA))
        about_tasks = _whole([pl.DataFrame(about, schema_overrides=SCORE_SCHEMA)] if about else [], SCORE_SCHEMA)
        return _Asked(
            _whole(scores, SCORE_SCHEMA).with_columns(**names),
            _whole(samples, SAMPLE_SCHEMA).with_columns(**names),
            about_tasks.with_columns(**names),
        )

    def _evaluated(
        self, together: Sequence[LoadedTask], recipe: str, progress: Progress, dense: pl.DataFrame | None
    ) -> Iterator[tuple[LoadedTask, Answered]]:
        """A task in all its ways of scoring through lm-eval's evaluator, so that these share what they begin with.

        Every time with its own draw of worked examples. What a variant writes is guessed by the dense model's texts.
        """
        worn, spec = self._worn, together[0].spec
        if worn is None:
            raise ValueError("a session without tasks asks nothing")
        worn.progress, worn.task = progress, f"{recipe}: {spec.name}"
        worn.set_context(spec.context)
        worn.written.clear()
        worn.others = {} if dense is None else _written(dense, together)
        named = {f"{loaded.name} by {loaded.scoring}": loaded for loaded in together}
        for loaded in together:
            loaded.task.set_fewshot_seed(spec.seed)
        tasks = {"tasks": {name: loaded.task for name, loaded in named.items()}, "groups": {}}
        with quiet():
            found: Any = evaluate(worn, tasks, limit=spec.samples, bootstrap_iters=0, log_samples=True)
        for name, loaded in named.items():
            results, samples = found["results"][name], found["samples"][name]
            tokens = [len(worn.tok_encode(text)) for text in texts_of(loaded, samples)]
            yield loaded, Answered(results, samples, dict(worn.written), tokens, self._verdicts(loaded, samples))

    def _verdicts(self, loaded: LoadedTask, samples: Sequence[Mapping[str, Any]]) -> dict[int, ExecutionVerdict]:
        """Runs every program that was written, one after the other; none where that is not allowed."""
        if not (loaded.runs_code and self._allows_code):
            return {}
        return {
            int(sample["doc_id"]): passes(
                sample["doc"]["prompt"], sample["resps"][0][0], sample["target"], sample["doc"]["entry_point"]
            )
            for sample in samples
        }

    def _beside_dense(self, scored: _Asked) -> TaskScores:
        """Whether answers are the dense model's own, and the share of those."""
        own = self.dense.select(*_SAMPLE_KEY, _answer().alias("dense_answer"))
        samples = (
            scored.samples.join(own, on=_SAMPLE_KEY, how="left", maintain_order="left")
            .with_columns(
                is_answer_same=pl.when(pl.col("dense_answer").is_not_null()).then(
                    _answer().eq_missing(pl.col("dense_answer"))
                )
            )
            .select(SAMPLE_SCHEMA.names())
        )
        counted = samples.filter(pl.col("scoring").is_in(_AGREEING))
        agreement = counted.group_by("task", maintain_order=True).agg(
            value=pl.col("is_answer_same").mean(),
            standard_error=pl.col("is_answer_same").cast(pl.Float64).std() / pl.col("is_answer_same").count().sqrt(),
            n=pl.col("is_answer_same").count().cast(pl.Int64),
        )
        about = scored.about.unique("task", keep="first", maintain_order=True)
        rows = about.drop("value", "standard_error", "n").join(
            agreement.filter(pl.col("n") > 0), on="task", how="inner", maintain_order="left"
        )
        rows = rows.with_columns(metric=pl.lit("agreement"), is_higher_better=pl.lit(True))
        return TaskScores(pl.concat([scored.scores, rows.select(SCORE_SCHEMA.names())]), samples)


def flips(samples: pl.DataFrame, dense: pl.DataFrame) -> pl.DataFrame:
    """By task and scoring: samples, right answers of both sides, and answers that flipped either way."""
    pairs = samples.join(dense, on=_SAMPLE_KEY, suffix="_dense").filter(pl.col("is_correct").is_not_null())
    was, now = pl.col("is_correct_dense"), pl.col("is_correct")
    return pairs.group_by("task", "scoring", maintain_order=True).agg(
        n=pl.len(),
        right_dense=was.sum(),
        right=now.sum(),
        right_to_wrong=(was & ~now).sum(),
        wrong_to_right=(~was & now).sum(),
    )


def shares(scores: pl.DataFrame) -> pl.DataFrame:
    """What a person wants to see of the scores."""
    return scores.select("task", "metric", "value", "standard_error", "n")


def _written(samples: pl.DataFrame, together: Sequence[LoadedTask]) -> dict[int, str]:
    """The texts of a task by the number of the sample; none of several tasks at once, whose numbers are the same."""
    names = {loaded.name for loaded in together}
    if len(names) > 1:
        return {}
    texts = samples.filter(pl.col("task").is_in(names), pl.col("scoring") == "greedy", pl.col("text").is_not_null())
    return {int(number): text for number, text in texts.select("sample_id", "text").iter_rows()}


def _answer() -> pl.Expr:
    """The answer that is held against the dense model's: the lenient one of a text."""
    return pl.when(pl.col("scoring") == "greedy").then(pl.col("answer_lenient")).otherwise(pl.col("answer"))


def _whole(frames: Sequence[pl.DataFrame], schema: pl.Schema) -> pl.DataFrame:
    return pl.concat([schema.to_frame(), *frames], how="diagonal").select(schema.names())
