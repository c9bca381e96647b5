"""Loading of a study's tasks as lm-eval's task objects, each with one scoring. Needs no model."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal, NoReturn, cast

import datasets
import jinja2
import lm_eval.api.metrics
import lm_eval.api.task
import lm_eval.filters.extraction
import lm_eval.filters.transformation
import lm_eval.utils
from jinja2.sandbox import SandboxedEnvironment
from lm_eval.api.registry import metric_registry
from lm_eval.api.samplers import ContextSampler
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from tqdm import tqdm

from prunescope.pipelines.core.bounded_regex import BoundedRe
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.tasks.definition import FOLDER, LETTER, find, harness, unsafe_message
from prunescope.pipelines.studies.evaluation_specs import TaskSpec

Scoring = Literal["letter", "full_text", "greedy", "rolling"]
_SCORINGS: dict[str, Scoring] = {
    "multiple_choice": "full_text",
    "loglikelihood": "full_text",
    "loglikelihood_rolling": "rolling",
    "generate_until": "greedy",
}
# Errors that lm-eval raises on a malformed definition or data set.
_LOAD_ERRORS = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, AssertionError),
    jinja2.TemplateError,
)


@dataclass(frozen=True)
class LoadedTask:
    """One of lm-eval's tasks with the study's settings.

    Attributes:
        spec: the study's entry.
        name: name in the tables; each task of a group has its own.
        task: lm-eval's object, with its samples.
    """

    spec: TaskSpec
    name: str
    scoring: Scoring
    task: Any

    @property
    def group(self) -> str | None:
        """Name of the group in the study; None if the study names the task itself."""
        return self.spec.name if self.name != self.spec.name else None

    @property
    def docs(self) -> Sequence[dict[str, Any]]:
        """Samples that the study uses."""
        docs: Any = self.task.eval_docs
        count = len(docs) if self.spec.samples is None else self.spec.samples
        return [docs[index] for index in range(count)]

    @property
    def shots(self) -> int:
        """Number of few-shot examples."""
        return int(self.task.config.num_fewshot or 0)

    @property
    def draws(self) -> bool:
        """Return whether the few-shot examples are drawn at random; otherwise they are the first of a list."""
        return self.shots > 0 and type(getattr(self.task, "sampler", None)) is ContextSampler

    @property
    def runs_code(self) -> bool:
        """Return whether scoring means running the generated programs."""
        return bool((self.task.config.metadata or {}).get("runs_code"))

    @property
    def version(self) -> str:
        """Version in the definition; empty if it has none."""
        return str((self.task.config.metadata or {}).get("version", ""))


def load_tasks(specs: Sequence[TaskSpec]) -> list[LoadedTask]:
    """Load every task with its samples; a task that is also scored by letters becomes two, one after the other.

    Raises:
        InputError: a definition is wrong or missing, samples are missing or too few, or two tasks have one name.
    """
    _confine()
    loaded = []
    with quiet():
        for spec in specs:
            with _no_foreign_metrics(spec):
                loaded += _load(spec)
    keys = [(task.name, task.scoring) for task in loaded]
    for name, scoring in keys:
        if keys.count((name, scoring)) > 1:
            raise InputError(
                f"task {name}: two of the study's tasks contain it, scored by {scoring}; remove one of the two"
            )
    return loaded


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the logs and progress bars of lm-eval and the hub, which would break ours; errors still raise."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "huggingface_hub", "datasets")]
    levels = [logger.level for logger in loggers]
    bars = lm_eval.api.task.tqdm
    were_disabled = datasets.are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    lm_eval.api.task.tqdm = partial(tqdm, disable=True)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = bars
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not were_disabled:
            datasets.enable_progress_bars()


def _confine() -> None:
    """Let lm-eval render templates in Jinja's sandbox, and stop regular expressions that take too long.

    In lm-eval's own Jinja environment, templates can reach Python objects.
    """
    for module in (lm_eval.filters.extraction, lm_eval.filters.transformation, lm_eval.api.metrics, lm_eval.utils):
        cast(Any, module).re = BoundedRe()
    if not isinstance(lm_eval.utils.env, SandboxedEnvironment):
        confined = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
        confined.filters |= lm_eval.utils.env.filters
        lm_eval.utils.env = confined


@contextmanager
def _no_foreign_metrics(spec: TaskSpec) -> Iterator[None]:
    """Temporarily refuse metrics that are not lm-eval's own: `evaluate` would download or import code for them.

    Some modules of lm-eval's tasks call `evaluate` when they are imported.
    """
    is_ours = find(spec).files[0].is_relative_to(FOLDER)  # such tasks use only lm-eval's own metrics
    if spec.allow_functions or is_ours:
        yield
        return

    def refused(name: str, **_: object) -> NoReturn:
        raise InputError(
            f"metric {name!r} is code from outside lm-eval; choose one of its own, or set "
            "`allow_functions: true` in the study if you trust it"
        )

    def own_metric(name: str, hf_evaluate_metric: bool = False) -> Any:  # noqa: ANN401 - lm-eval's signature
        return refused(name) if hf_evaluate_metric or name not in metric_registry else metric_registry[name]

    import evaluate.loading  # imports all of transformers' pipelines

    originals = lm_eval.api.task.get_metric, evaluate.loading.evaluation_module_factory
    lm_eval.api.task.get_metric, evaluate.loading.evaluation_module_factory = own_metric, refused
    try:
        yield
    finally:
        lm_eval.api.task.get_metric, evaluate.loading.evaluation_module_factory = originals


def _load(spec: TaskSpec) -> list[LoadedTask]:
    definition = find(spec)
    if definition.is_group:
        if spec.data is not None:
            raise InputError(f"task {spec.name}: a group has no `data` of its own; name its tasks one by one")
        # Only the index of all of lm-eval's tasks knows those of a group.
        with _named(spec):
            tasks = TaskManager().load([spec.source.partition(":")[2] or spec.source])["tasks"]
        return [_configured(spec, name, task) for name, task in tasks.items()]
    loaded = []
    for file in definition.files:
        with _named(spec, file):
            config: dict[str, Any] = load_yaml(file)
        if spec.data is not None:
            config["dataset_kwargs"] = config["dataset_kwargs"] | {"file": spec.data}
            if "question" in config["dataset_kwargs"]:
                named = {"question": spec.question, "options": [*spec.options], "answer": spec.answer}
                config["dataset_kwargs"] |= named
        config["task"] = spec.name + (LETTER if file.stem.endswith(LETTER) else "")
        with _named(spec):
            (task,) = TaskManager(include_defaults=False).load([config])["tasks"].values()
        loaded.append(_configured(spec, spec.name, task))
    return loaded


@contextmanager
def _named(spec: TaskSpec, file: Path | None = None) -> Iterator[None]:
    """Name the task in errors of its definition, of which we read a file, or of its samples, which lm-eval loads."""
    try:
        yield
    except InputError as error:
        raise InputError(f"task {spec.name}: {error}") from error
    except ConnectionError as error:
        raise InputError(
            f"task {spec.name}: its samples are not in the data sets' cache and cannot be downloaded "
            f"({_reason(error)}); connect, leave it out, or give a YAML over local files as its `definition`"
        ) from error
    except (*_LOAD_ERRORS, datasets.exceptions.DatasetsError) as error:
        reason = f"{harness()} cannot load it ({_reason(error)})" if file is None else f"{file}: {_reason(error)}"
        raise InputError(f"task {spec.name}: {reason}") from error


def _configured(spec: TaskSpec, name: str, task: Any) -> LoadedTask:  # noqa: ANN401
    if getattr(task, "UNSAFE_CODE", False):
        raise InputError(unsafe_message(name))  # the definition of a group does not show it
    if task.OUTPUT_TYPE not in _SCORINGS:
        raise InputError(f"task {name}: tasks with `output_type` {task.OUTPUT_TYPE} cannot be scored here")
    scoring = _SCORINGS[task.OUTPUT_TYPE]
    if spec.context is not None and scoring != "rolling":
        raise InputError(f"task {name}: `context` is for tasks that score a whole text; this one asks questions")
    if spec.max_new_tokens is not None:
        if scoring != "greedy":
            raise InputError(f"task {name}: `max_new_tokens` is for tasks that generate text; this one does not")
        task.set_config("generation_kwargs", {"max_gen_toks": spec.max_new_tokens}, update=True)
    if spec.shots and scoring == "rolling":
        raise InputError(f"task {name}: `shots` is for tasks that ask questions; this one scores a whole text")
    if spec.shots and (
        getattr(task, "sampler", None) is None
        or (task.config.fewshot_split is None and (task.config.metadata or {}).get("runs_code"))
    ):
        raise InputError(
            f"task {name}: `shots` {spec.shots}, but it has no examples apart from its problems; leave it out"
        )
    if spec.shots is not None or task.config.num_fewshot is None:
        task.set_config("num_fewshot", spec.shots or 0)
    if spec.shots:
        # If the examples come from the questions' own split, a question cannot be its own example.
        examples = len(task.sampler.fewshot_docs()) - (task.config.fewshot_split == task.config.test_split)
        if examples < spec.shots:
            raise InputError(f"task {name}: `shots` {spec.shots}, but there are {examples} examples; lower it")
    count = len(task.eval_docs)
    if spec.samples is not None and spec.samples > count:
        raise InputError(f"task {name}: `samples` {spec.samples}, but there are {count}; lower it or give more `data`")
    if scoring == "full_text" and task.OUTPUT_TYPE == "multiple_choice":
        options = [str(option).strip() for option in task.doc_to_choice(task.eval_docs[0])]
        scoring = "letter" if options == [*ascii_uppercase[: len(options)]] else scoring
    return LoadedTask(spec, name, scoring, task)


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
