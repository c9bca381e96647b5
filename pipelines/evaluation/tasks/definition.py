"""Task definitions in lm-eval's format: ours, lm-eval's, and the user's YAML files. Imports no torch."""

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.regular_files import local_path, open_regular, path_problem, readable
from prunescope.pipelines.core.safe_yaml import PlainLoader, read_yaml
from prunescope.pipelines.core.suggestions import did_you_mean
from prunescope.pipelines.corpora.records import read_records
from prunescope.pipelines.corpora.text_sources import CORPORA
from prunescope.pipelines.studies.evaluation_specs import TaskSpec
from prunescope.pipelines.studies.prompt_records import question_of
from prunescope.pipelines.studies.prompts import PromptSet

FOLDER = Path(__file__).parent / "definitions"
DATA = Path(__file__).parent / "data"
PREFIX = "lm_eval:"
# Suffix of a definition that compares the letters of the options, on the same samples as the definition without it.
LETTER = "_letter"
_NAME = re.compile(r"^(?:task|group):[ \t]*[\"']?([^\s\"'\[\]{}:#-][^\s\"'#]*)", re.MULTILINE)
# Definitions name our functions. Hashes use the original names of these modules, because moving a module must not make
# scores stale.
_HASHED_NAMES = {
    b"!function prunescope.pipelines.evaluation.tasks.answer_extraction.": b"!function pipelines.tasks.extraction.",
    b"!function prunescope.pipelines.evaluation.tasks.": b"!function pipelines.tasks.",
}
# Bytes per file of samples, which is read whole.
MAX_SAMPLES = 2_000_000_000


@dataclass(frozen=True)
class Definition:
    """Files of a task.

    Attributes:
        files: its YAML, and the YAML that compares letters if there is one; for one of lm-eval's groups, one file.
        is_group: whether it names several tasks.
    """

    files: tuple[Path, ...]
    is_group: bool = False

    @property
    def is_local(self) -> bool:
        """Return whether its samples are local files, which need no download."""
        return not self.is_group and ("custom_dataset" in fields(self.files[0]) or bool(self.named_files))

    @property
    def named_files(self) -> list[Path]:
        """Existing files that `data_files` names, for a loader of the library `datasets`."""
        named = (fields(self.files[0]).get("dataset_kwargs") or {}).get("data_files")
        return [path for name in strings(named) if not path_problem(name) and (path := Path(name)).is_file()]


@cache
def harness() -> str:
    """Return the name and version of the evaluation harness."""
    return f"lm_eval {version('lm_eval')}"


def shipped() -> list[str]:
    """Return the names of the tasks that this package contains."""
    return sorted(
        path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith("_") and not path.stem.endswith(LETTER)
    )


def find(spec: TaskSpec) -> Definition:
    """Return the definition of a study's task.

    Raises:
        InputError: no task has that name; the file cannot be read; it is the user's group, whose tasks would not be
            checked and hashed; it names Python functions that the study does not allow; or lm-eval would run
            model-written code in its own process.
    """
    definition = _find(spec)
    if any(fields(file).get("unsafe_code") for file in definition.files):
        raise InputError(unsafe_message(spec.name))
    return definition


def unsafe_message(name: str) -> str:
    """Return the error for a task that runs model-written programs outside the sandbox."""
    return (
        f"task {name}: it runs model-written code without a sandbox; use `humaneval` or `mbpp`, without {PREFIX}, "
        "which run it in one"
    )


def _find(spec: TaskSpec) -> Definition:
    source, name = spec.source, spec.source.removeprefix(PREFIX)
    if Path(source).suffix in {".yaml", ".yml"}:
        path = Path(source).expanduser().absolute()
        if "group" in fields(path):
            raise InputError(f"task {spec.name}: {path} is a group; name its tasks in the study one by one")
        files = _with_letter(path)
        # Each file is searched separately, because lm-eval also imports functions that a later file overrides.
        texts = [text for file in files for part in _definitions(file) for text in strings(_keys(part))]
        functions = [text for text in texts if isinstance(text, _Function)]
        if functions and not spec.allow_functions:
            raise InputError(
                f"task {spec.name}: {path} runs Python code of its own ({functions[0]}); write it in Jinja, or set "
                "`allow_functions: true` in the study if you trust it"
            )
        for file in files:
            _require_samples(spec.name, path, fields(file))
        return Definition(files)
    if (
        spec.data is not None
        and spec.definition is None
        and (spec.question or spec.options or spec.answer or not (source in shipped() or name in harness_names()))
    ):
        questions = question_set(spec.data, spec.question, spec.options, spec.answer)
        first = next(iter(read_records(questions.source)), None)
        has_options = first is not None and bool(question_of(first, questions)[1])
        return Definition(_with_letter(FOLDER / ("_own_choice.yaml" if has_options else "_own_answer.yaml")))
    if source in shipped():
        return Definition(_with_letter(FOLDER / f"{source}.yaml"))
    known = harness_names()
    if name in known:
        return Definition((known[name],), is_group="group" in fields(known[name]))
    hint = did_you_mean(name, [*shipped(), *known], n=3)
    raise InputError(
        f"task {spec.name}: neither shipped nor a task of {harness()} is called {name!r}; {hint}shipped are "
        f"{', '.join(shipped())}"
    )


def question_set(data: str, question: str | None, options: Sequence[str], answer: str | None) -> PromptSet:
    """Return a file of the user's questions, with the names of its fields, as a prompt set."""
    path = local_path(data, "task data").absolute()
    return PromptSet(source=str(path), text=question, options=tuple(options), gold=answer)


def _require_samples(name: str, path: Path, keys: dict[str, Any]) -> None:
    """Refuse a file loader without files: `datasets` would read every file below the working folder."""
    arguments = keys.get("dataset_kwargs") or {}
    if "custom_dataset" in keys or "data_files" in arguments or "data_dir" in arguments:
        return
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    if (loader := keys.get("dataset_path")) in _PACKAGED_DATASETS_MODULES:
        raise InputError(
            f"task {name}: {path} has `dataset_path: {loader}` and no files; add `dataset_kwargs: {{data_files: "
            "{test: FILE}}`"
        )


def contents_hash(spec: TaskSpec) -> str:
    """Return a hash of a task's settings, definition files, local samples and harness version.

    Data sets that lm-eval downloads count by name only.

    Raises:
        InputError: as `find`, or a file cannot be read.
    """
    definition = find(spec)
    paths = sorted({path for file in definition.files for path in _sources(file)})
    digest = hashlib.sha256(f"{spec.hash}\n{harness()}\n".encode())
    for path in [*paths, *_data_files(spec, definition)]:
        digest.update(_digest(path, *_stamp(path)))
    return digest.hexdigest()


def data_file(name: str) -> Path:
    """Return the path of a definition's `file`, a path or the name of one of the package's data sets.

    Raises:
        InputError: there is no such file.
    """
    path = CORPORA.get(name, DATA / f"{name}.jsonl")
    if not path.is_file():
        path = local_path(name, "task data").absolute()
    if not path.exists():
        raise InputError(f"task data {path}: no such file; give the path of a file with one record per line")
    return path


def fields(path: Path) -> dict[str, Any]:
    """Return the keys of a definition and of its includes, with functions as names.

    Raises:
        InputError: a file cannot be read, is not a mapping, or includes itself.
    """
    merged: dict[str, Any] = {}
    for part in _definitions(path):
        merged |= _keys(part)
    return merged


@cache
def _harness_folder() -> Path:
    """Return the folder of lm-eval's own definitions."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("lm-eval is not installed; install prunescope again")
    return Path(spec.submodule_search_locations[0], "tasks")


@cache
def harness_names() -> dict[str, Path]:
    """Return the files of lm-eval's tasks and groups by name, without importing lm-eval."""
    files: dict[str, Path] = {}
    for path in sorted(_harness_folder().rglob("*.yaml")):
        for name in _NAME.findall(path.read_text(encoding="utf-8", errors="replace")):
            files.setdefault(name, path)
    return files


class _Function(str):
    """Name of a Python function that lm-eval would import and call."""

    __slots__ = ()


class _Loader(PlainLoader):
    """YAML loader that reads lm-eval's `!function` as a name."""


_Loader.add_constructor("!function", lambda _, node: _Function(node.value))


def _stamp(path: Path) -> tuple[int, int]:
    """Return modification time and size, by which the caches below notice a changed file."""
    local_path(str(path), "task file")
    with _readable(path):
        status = path.stat()
    return status.st_mtime_ns, status.st_size


def _keys(path: Path) -> dict[str, Any]:
    """Return the keys of one file, without those of its includes."""
    return _parsed(path, *_stamp(path))


@lru_cache(maxsize=1024)
def _parsed(path: Path, modified: int, size: int) -> dict[str, Any]:  # noqa: ARG001
    # Some of lm-eval's own definitions repeat a key. They are trusted, because they come with an installed package.
    keys = read_yaml(path, "task definition", _Loader, unique=not path.is_relative_to(_harness_folder()))
    if not isinstance(keys, dict):
        raise InputError(f"task definition {path}: a definition is a mapping of keys (task, output_type, ...)")
    return keys


@lru_cache(maxsize=1024)
def _digest(path: Path, modified: int, size: int) -> bytes:  # noqa: ARG001
    content = _read(path)
    for name, hashed_name in _HASHED_NAMES.items():
        content = content.replace(name, hashed_name)
    return hashlib.sha256(content).digest()


def _with_letter(path: Path) -> tuple[Path, ...]:
    letter = path.with_stem(path.stem + LETTER)
    return (path, letter) if letter.is_file() else (path,)


def _definitions(path: Path, including: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield the included definitions, at any depth, then the definition itself: later ones override earlier ones."""
    if path.resolve() in including:
        raise InputError(f"task definition {path}: includes itself; take it out of `include`")
    includes = _keys(path).get("include", [])
    names = [includes] if isinstance(includes, str) else includes
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"task definition {path}: `include` must be a file or a list of files")
    for name in names:
        yield from _definitions(path.parent / name, (*including, path.resolve()))
    yield path


def _sources(path: Path) -> Iterator[Path]:
    """Yield a definition, its includes, and the Python files in their folders whose functions they name."""
    for part in _definitions(path):
        yield part
        for module in re.findall(r"!function\s+([\w.]+)\.\w+", _read(part).decode("utf-8", "replace")):
            if (code := part.parent / f"{module.replace('.', '/')}.py").is_file():
                yield code


def _data_files(spec: TaskSpec, definition: Definition) -> list[Path]:
    arguments = fields(definition.files[0]).get("dataset_kwargs") or {}
    if spec.data is not None:
        if "file" not in arguments:
            raise InputError(f"task {spec.name}: `data` replaces a shipped task's samples; this task has none")
        return [Path(spec.data).expanduser().absolute()]
    if "file" in arguments:
        return [data_file(arguments["file"])]
    return definition.named_files


def strings(value: Any) -> Iterator[str]:  # noqa: ANN401 (any YAML value)
    """Yield the strings in a value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


def _read(path: Path) -> bytes:
    with _readable(path), open_regular(path, MAX_SAMPLES, "a task's file") as stream:
        return stream.read()


def _readable(path: Path) -> AbstractContextManager[None]:
    return readable(f"task file {path}", "give the path of a readable file")


def runs_code(spec: TaskSpec) -> bool:
    """Return whether scoring the task runs the programs that a variant writes.

    Raises:
        InputError: as `find`.
    """
    return bool((fields(find(spec).files[0]).get("metadata") or {}).get("runs_code"))


def settings_json(spec: TaskSpec) -> str:
    """Return a task's settings as one line of JSON, for the provenance."""
    return json.dumps(spec.model_dump(exclude_none=True), sort_keys=True)
