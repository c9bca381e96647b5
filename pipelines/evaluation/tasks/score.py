"""Scoring of variants on tasks with lm-eval, as rows of `task_scores` and `task_samples`."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import jinja2
import polars as pl
from lm_eval.evaluator import evaluate

from prunescope.pipelines.core.bounded_regex import SlowPatternError
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.evaluation.tasks.lm_eval_model import VariantLM, sample_hash
from prunescope.pipelines.evaluation.tasks.loading import LoadedTask, load_tasks, quiet
from prunescope.pipelines.evaluation.tasks.sandbox_client import ExecutionVerdict, run_tests
from prunescope.pipelines.evaluation.tasks.score_rows import (
    SAMPLE_SCHEMA,
    SCORE_SCHEMA,
    TaskOutput,
    sample_rows,
    score_rows,
)
from prunescope.pipelines.metrics.text_metrics import first_flip
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.token_cache import KeyValues
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.studies.evaluation_specs import TaskSpec

_SAMPLE_KEY = ["task", "sample_id", "scoring"]
# Scorings whose answers are compared with the dense model's. Letters are compared if a task has no other scoring.
_COMPARED = ("full_text", "greedy")
# Columns of the fork, the dense model's text after a variant's first different token, and their names without suffix.
_OF_FORK = {f"{name}_fork": name for name in ("text", "answer", "is_correct", "answer_lenient", "is_correct_lenient")}


class TaskSession:
    """Tasks of a study on one model: loaded once, run with every variant.

    `decoder` is the dense model. Programs that a variant writes run, and are scored, only if `allows_code`.

    Raises:
        InputError: a task cannot be loaded.
    """

    def __init__(self, decoder: Decoder, specs: Sequence[TaskSpec], *, allows_code: bool = False) -> None:
        self.decoder, self._allows_code = decoder, allows_code
        self._tasks = load_tasks(specs)
        self._lm = VariantLM(decoder)
        self._dense: pl.DataFrame | None = None
        self._dense_contexts: dict[tuple[int, ...], KeyValues] = {}

    def score(
        self, recipe: str, variant: Variant, dense: pl.DataFrame | None = None, progress: Progress = SILENT
    ) -> dict[str, pl.DataFrame]:
        """Return the rows of `task_scores` and `task_samples` of a variant.

        They include the dense model's continuation of each text from its first different token. `dense` are the dense
        model's rows of `task_samples`, if they are known; otherwise the first call computes them. The progress advances
        once per request.

        Raises:
            InputError: a question does not fit the model.
            ComputationError: the variant's logits are NaN or infinite.
        """
        if recipe == "dense":
            scores, self._dense = self._run(recipe, variant, progress)
            return self._compared(scores, self._dense, self._dense)
        if self._dense is None:
            self._dense = self._run("dense", Variant(), progress)[1] if dense is None else dense
        scores, samples = self._run(recipe, variant, progress, self._dense)
        return self._compared(scores, self._with_forks(recipe, samples, self._dense, progress), self._dense)

    def _run(
        self, recipe: str, variant: Variant, progress: Progress, dense: pl.DataFrame | None = None
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return the rows of `task_scores` and `task_samples` before the comparison with the dense model."""
        scores, samples = [], []
        others = {} if dense is None else _tokens(dense)
        self._lm.is_noise = variant.noise is not None
        with apply_variant(self.decoder, variant):
            for _, together in groupby(self._tasks, key=lambda loaded: loaded.spec):
                for loaded, output in self._evaluated(list(together), recipe, progress, others):
                    rows = list(score_rows(loaded, output, is_compared=self._is_compared(loaded.name, loaded.scoring)))
                    scores.append(pl.DataFrame(rows, schema_overrides=SCORE_SCHEMA))
                    samples.append(pl.DataFrame(list(sample_rows(loaded, output)), schema_overrides=SAMPLE_SCHEMA))
        return _joined(scores, SCORE_SCHEMA), _joined(samples, SAMPLE_SCHEMA)

    def _with_forks(self, recipe: str, samples: pl.DataFrame, dense: pl.DataFrame, progress: Progress) -> pl.DataFrame:
        """Add the first step at which a text differs from the dense one, and the dense model's text from there.

        All samples of a task are evaluated, because the same worked examples must be drawn as before. Only the forks
        are written.
        """
        written, of_dense = _tokens(samples), _tokens(dense)
        flips = {key: first_flip(of_dense.get(key, ()), tokens) for key, tokens in written.items()}
        steps = {key: step for key, step in flips.items() if step is not None}
        starts = {key: written[key][: step + 1] for key, step in steps.items()}
        rows = [
            row | {fork: row[name] for fork, name in _OF_FORK.items()} | {"first_flip_step": steps[row["sample_hash"]]}
            for _, together in groupby(self._tasks, key=lambda loaded: loaded.spec)
            if steps and (writing := [loaded for loaded in together if loaded.scoring == "greedy"])
            for loaded, output in self._evaluated(writing, f"{recipe} (forks)", progress, written, starts)
            for row in sample_rows(loaded, output)
            if row["sample_hash"] in steps
        ]
        added = ["first_flip_step", *_OF_FORK]
        forks = pl.DataFrame(rows, schema={name: SAMPLE_SCHEMA[name] for name in (*_SAMPLE_KEY, *added)})
        return samples.drop(added).join(forks, on=_SAMPLE_KEY, how="left", maintain_order="left")

    def _evaluated(
        self,
        together: Sequence[LoadedTask],
        recipe: str,
        progress: Progress,
        others: Mapping[str, Sequence[int]],
        starts: Mapping[str, Sequence[int]] | None = None,
    ) -> Iterator[tuple[LoadedTask, TaskOutput]]:
        """Run a task in all its scorings in one call of lm-eval's evaluator, in which they share their prefixes.

        Few-shot examples are drawn anew from the study's seed. `others` are used as drafts.
        """
        lm, spec = self._lm, together[0].spec
        lm.progress, lm.task = progress, f"{recipe}: {spec.name}"
        lm.set_context(spec.context)
        lm.written.clear()
        lm.others, lm.starts = others, starts
        lm.contexts = None if starts is None else self._dense_contexts  # the dense model continues the starts
        named = {f"{loaded.name} by {loaded.scoring}": loaded for loaded in together}
        for loaded in together:
            loaded.task.set_fewshot_seed(spec.seed)
        tasks = {"tasks": {name: loaded.task for name, loaded in named.items()}, "groups": {}}
        with quiet():
            try:
                outputs: Any = evaluate(lm, tasks, limit=spec.samples, bootstrap_iters=0, log_samples=True)
            except jinja2.TemplateError as error:
                reason = str(error).partition("\n")[0]
                raise InputError(f"task {spec.name}: one of its templates fails ({reason}); fix it") from error
            except SlowPatternError as error:
                raise InputError(f"task {spec.name}: {error}") from None
        for name, loaded in named.items():
            results, samples = outputs["results"][name], outputs["samples"][name]
            rolling = loaded.scoring == "rolling"
            tokens = [len(lm.tok_encode(sample["arguments"][0][0])) for sample in samples] if rolling else []
            yield loaded, TaskOutput(results, samples, dict(lm.written), tokens, self._verdicts(loaded, samples))

    def _verdicts(self, loaded: LoadedTask, samples: Sequence[Mapping[str, Any]]) -> dict[int, ExecutionVerdict]:
        """Run the programs written in this pass in the sandbox; return nothing if the study does not allow that."""
        if not (loaded.runs_code and self._allows_code):
            return {}
        return {
            int(sample["doc_id"]): run_tests(
                sample["doc"]["prompt"], sample["resps"][0][0], sample["target"], sample["doc"]["entry_point"]
            )
            for sample in samples
            if self._lm.starts is None or sample_hash(sample["arguments"]) in self._lm.starts
        }

    def _is_compared(self, task: str, scoring: str) -> bool:
        others = {loaded.scoring for loaded in self._tasks if loaded.name == task}
        return scoring in _COMPARED or (scoring == "letter" and others == {"letter"})

    def _compared(self, scores: pl.DataFrame, samples: pl.DataFrame, dense: pl.DataFrame) -> dict[str, pl.DataFrame]:
        """Add to the frames of `_run` whether each answer equals the dense model's, and the share of equal answers."""
        answers = dense.select(*_SAMPLE_KEY, _answer().alias("dense_answer"))
        samples = (
            samples.join(answers, on=_SAMPLE_KEY, how="left", maintain_order="left")
            .with_columns(
                is_answer_same=pl.when(pl.col("dense_answer").is_not_null()).then(
                    _answer().eq_missing(pl.col("dense_answer"))
                )
            )
            .select(*SAMPLE_SCHEMA)
        )
        by_letter = [loaded.name for loaded in self._tasks if self._is_compared(loaded.name, "letter")]
        is_lettered = (pl.col("scoring") == "letter") & pl.col("task").is_in(by_letter)
        counted = samples.filter(pl.col("scoring").is_in(_COMPARED) | is_lettered)
        agreement = counted.group_by("task", maintain_order=True).agg(
            value=pl.col("is_answer_same").mean(),
            standard_error=pl.col("is_answer_same").cast(pl.Float64).std() / pl.col("is_answer_same").count().sqrt(),
            n=pl.col("is_answer_same").count().cast(pl.Int64),
        )
        is_agreement = pl.col("metric") == "agreement"
        tasks = scores.filter(is_agreement).unique("task", keep="first", maintain_order=True)
        rows = tasks.drop("value", "standard_error", "n").join(
            agreement.filter(pl.col("n") > 0), on="task", how="inner", maintain_order="left"
        )
        scores = pl.concat([scores.filter(~is_agreement), rows.select(*SCORE_SCHEMA)])
        return {"task_scores": scores, "task_samples": samples}


def _tokens(samples: pl.DataFrame) -> dict[str, list[int]]:
    return dict(samples.filter(pl.col("token_ids").is_not_null()).select("sample_hash", "token_ids").iter_rows())


def _answer() -> pl.Expr:
    """Return the expression of the answer that is compared: the lenient one for a generated text."""
    return pl.when(pl.col("scoring") == "greedy").then(pl.col("answer_lenient")).otherwise(pl.col("answer"))


def _joined(frames: Sequence[pl.DataFrame], schema: Mapping[str, Any]) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=schema), *frames], how="diagonal").select(*schema)
