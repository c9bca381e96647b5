"""From a study's tasks to lm-eval's own task objects, each with one way of scoring.

Where definitions stand is found by `definition.py`; nothing here needs a model.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NoReturn

import datasets
import jinja2
import lm_eval.api.metrics
import lm_eval.api.task
import lm_eval.utils
from jinja2.sandbox import SandboxedEnvironment
from lm_eval.api.registry import metric_registry
from lm_eval.api.samplers import ContextSampler
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from tqdm import tqdm

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.tasks.definition import LETTER, find, harness, shipped, unsafe
from prunescope.pipelines.studies.evaluation_specs import TaskSpec

Scoring = Literal["letter", "full_text", "greedy", "rolling"]
_SCORINGS: dict[str, Scoring] = {
    "multiple_choice": "full_text",
    "loglikelihood": "full_text",
    "loglikelihood_rolling": "rolling",
    "generate_until": "greedy",
}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# What comes out of a definition or a data set that is not what lm-eval expects.
_REFUSALS = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, AssertionError),
    jinja2.TemplateError,
)


@dataclass(frozen=True)
class LoadedTask:
    """One of lm-eval's tasks, ready to be asked.

    Attributes:
        spec: as the study names it.
        name: in the tables; of a group's tasks each has its own.
        scoring: what is compared.
        task: lm-eval's object, with its samples.
    """

    spec: TaskSpec
    name: str
    scoring: Scoring
    task: Any

    @property
    def group(self) -> str | None:
        """The study's name of the group that brought the task; None where the study names the task itself."""
        return self.spec.name if self.name != self.spec.name else None

    @property
    def docs(self) -> Sequence[dict[str, Any]]:
        """The samples that are asked."""
        found: Any = self.task.eval_docs
        count = len(found) if self.spec.samples is None else self.spec.samples
        return [found[index] for index in range(count)]

    @property
    def shots(self) -> int:
        """Worked examples in front of every question."""
        return int(self.task.config.num_fewshot or 0)

    @property
    def draws(self) -> bool:
        """Whether the worked examples are drawn, and not the first of a list."""
        return self.shots > 0 and type(getattr(self.task, "sampler", None)) is ContextSampler

    @property
    def runs_code(self) -> bool:
        """Whether the programs that are written have to run to be judged."""
        return bool((self.task.config.metadata or {}).get("runs_code"))

    @property
    def version(self) -> str:
        """That the definition gives itself; empty where it gives none."""
        found = (self.task.config.metadata or {}).get("version", "")
        return str(found)


def load_tasks(specs: Sequence[TaskSpec]) -> list[LoadedTask]:
    """Loads every task with its samples; of a task that is scored by letters too, one after the other.

    Raises:
        InputError: a definition is wrong or is not there, samples are missing or fewer than wanted, or two tasks have
            one name.
    """
    _confine_templates()
    with quiet():
        loaded = [each for spec in specs for each in _guarded(spec)]
    keys = [(each.name, each.scoring) for each in loaded]
    for name, scoring in keys:
        if keys.count((name, scoring)) > 1:
            raise InputError(f"task {name}: two of the study's tasks bring it, scored by {scoring}; leave one out")
    return loaded


@contextmanager
def quiet() -> Iterator[None]:
    """lm-eval and the hub say nothing for a while: what matters is raised, and their bars would tear ours."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "huggingface_hub", "datasets")]
    levels = [logger.level for logger in loggers]
    bars = lm_eval.api.task.tqdm
    shows = datasets.are_progress_bars_disabled()
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
        if not shows:
            datasets.enable_progress_bars()


def _confine_templates() -> None:
    """Has lm-eval render the templates of definitions where they reach no Python; its own environment lets them."""
    if not isinstance(lm_eval.utils.env, SandboxedEnvironment):
        confined = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
        confined.filters |= lm_eval.utils.env.filters
        lm_eval.utils.env = confined


@contextmanager
def _no_foreign_metrics(spec: TaskSpec) -> Iterator[None]:
    """For a while, a metric that lm-eval does not bring is refused: `evaluate` would fetch or import code for it.

    Modules of lm-eval's own tasks call `evaluate`, too, as soon as they are imported.
    """
    if spec.allow_functions or spec.source in shipped():  # those that travel with the package name lm-eval's alone
        yield
        return

    def refused(name: str, **_: object) -> NoReturn:
        raise InputError(
            f"metric {name!r} is code from outside of lm-eval; choose one of its own, or say "
            "`allow_functions: true` in the study if you trust it"
        )

    def own(name: str, hf_evaluate_metric: bool = False) -> Any:  # noqa: ANN401 - lm-eval's signature
        return refused(name) if hf_evaluate_metric or name not in metric_registry else metric_registry[name]

    import evaluate.loading  # brings all of transformers' pipelines

    theirs, fetching = lm_eval.api.task.get_metric, evaluate.loading.evaluation_module_factory
    lm_eval.api.task.get_metric, evaluate.loading.evaluation_module_factory = own, refused
    try:
        yield
    finally:
        lm_eval.api.task.get_metric, evaluate.loading.evaluation_module_factory = theirs, fetching


def _guarded(spec: TaskSpec) -> list[LoadedTask]:
    with _no_foreign_metrics(spec):
        return _load(spec)


def _load(spec: TaskSpec) -> list[LoadedTask]:
    definition = find(spec)
    if definition.is_group:
        if spec.data is not None:
            raise InputError(f"task {spec.name}: a group has no `data` of its own; name its tasks one by one")
        # Only lm-eval's whole index knows what a group stands for.
        tasks = _built(spec, TaskManager(), spec.source.partition(":")[2] or spec.source)
        return [_ready(spec, name, task) for name, task in tasks.items()]
    found = []
    for file in definition.files:
        config = _config(spec, load_yaml, file)
        if spec.data is not None:
            config["dataset_kwargs"] = config["dataset_kwargs"] | {"file": spec.data}
        config["task"] = spec.name + (LETTER if file.stem.endswith(LETTER) else "")
        (task,) = _built(spec, TaskManager(include_defaults=False), config).values()
        found.append(_ready(spec, spec.name, task))
    return found


def _config(spec: TaskSpec, read: Any, file: Any) -> dict[str, Any]:  # noqa: ANN401
    try:
        config: dict[str, Any] = read(file)
    except InputError as error:
        raise InputError(f"task {spec.name}: {error}") from error
    except _REFUSALS as error:
        raise InputError(f"task {spec.name}: {file}: {_reason(error)}") from error
    return config


def _built(spec: TaskSpec, manager: Any, asked: Any) -> dict[str, Any]:  # noqa: ANN401
    try:
        tasks: dict[str, Any] = manager.load([asked])["tasks"]
    except InputError as error:
        raise InputError(f"task {spec.name}: {error}") from error
    except ConnectionError as error:
        raise InputError(
            f"task {spec.name}: its samples are neither in the data sets' cache nor can they be fetched "
            f"({_reason(error)}); connect, leave it out, or give a YAML over local files as its `definition`"
        ) from error
    except (*_REFUSALS, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"task {spec.name}: {harness()} cannot load it ({_reason(error)})") from error
    return tasks


def _ready(spec: TaskSpec, name: str, task: Any) -> LoadedTask:  # noqa: ANN401
    """The task with the study's settings."""
    if getattr(task, "UNSAFE_CODE", False):
        raise InputError(unsafe(name))  # as one of a group, whose own definition says nothing of it
    if task.OUTPUT_TYPE not in _SCORINGS:
        raise InputError(f"task {name}: `output_type` {task.OUTPUT_TYPE} is none that can be scored here")
    scoring = _SCORINGS[task.OUTPUT_TYPE]
    if spec.context is not None and scoring != "rolling":
        raise InputError(f"task {name}: `context` is for tasks that read a text; this one asks questions")
    if spec.max_new_tokens is not None:
        if scoring != "greedy":
            raise InputError(f"task {name}: `max_new_tokens` is for tasks that write; this one does not")
        task.set_config("generation_kwargs", {"max_gen_toks": spec.max_new_tokens}, update=True)
    if spec.shots is not None or task.config.num_fewshot is None:
        task.set_config("num_fewshot", spec.shots or 0)
    count = len(task.eval_docs)
    if spec.samples is not None and spec.samples > count:
        raise InputError(f"task {name}: `samples` {spec.samples}, but there are {count}; lower it or give more `data`")
    if scoring == "full_text" and task.OUTPUT_TYPE == "multiple_choice" and _is_lettered(task):
        scoring = "letter"
    return LoadedTask(spec, name, scoring, task)


def _is_lettered(task: Any) -> bool:  # noqa: ANN401
    """Whether the options that are compared are letters of a list, A and on."""
    options = [str(option).strip() for option in task.doc_to_choice(task.eval_docs[0])]
    return options == list(_LETTERS[: len(options)])


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
