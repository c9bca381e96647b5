"""Finds what a study's task asks: a shipped definition, one of lm-eval's, or a YAML of the user's. No torch here.

The definitions are lm-eval's own format; loading and asking them is `loading.py`'s.
"""

import hashlib
import importlib.util
import json
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.safe_yaml import read_yaml
from prunescope.pipelines.corpora.text_sources import CORPORA
from prunescope.pipelines.studies.evaluation_specs import TaskSpec

FOLDER = Path(__file__).parent / "definitions"
DATA = Path(__file__).parent / "data"
PREFIX = "lm_eval:"
# Beside a definition that compares whole options may stand one that compares their letters, on the same samples.
LETTER = "_letter"
_NAME = re.compile(r"^(?:task|group):[ \t]*[\"']?([^\s\"'\[\]{}:#-][^\s\"'#]*)", re.MULTILINE)
_PACKINGS = (".jsonl", ".jsonl.gz", ".jsonl.xz")


@dataclass(frozen=True)
class Definition:
    """Where a task stands.

    Attributes:
        files: its YAML, and that of its letters where there is one; of a group of lm-eval's the one file.
        is_harness: whether it is lm-eval's own.
        is_group: whether it stands for several tasks, each under its own name.
    """

    files: tuple[Path, ...]
    is_harness: bool = False
    is_group: bool = False

    @property
    def is_local(self) -> bool:
        """Whether its samples lie in files here, and need not be fetched."""
        return not self.is_group and bool({"custom_dataset"} & fields(self.files[0]).keys() or self.named_files)

    @property
    def named_files(self) -> list[Path]:
        """Files that a data set of `datasets`' own loaders names."""
        named = (fields(self.files[0]).get("dataset_kwargs") or {}).get("data_files")
        values = list(named.values()) if isinstance(named, dict) else named
        return [path for path in map(Path, _flat(values)) if path.is_file()]


@cache
def harness() -> str:
    """What asks and judges, with its version."""
    return f"lm_eval {version('lm_eval')}"


def shipped() -> list[str]:
    """Names of the tasks whose definitions travel with the package; where one is local, its samples do, too."""
    return sorted(
        path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith("_") and not path.stem.endswith(LETTER)
    )


def find(spec: TaskSpec) -> Definition:
    """The definition of a study's task.

    Raises:
        InputError: there is none of that name, with near matches; the file cannot be read; it is a group, whose
            tasks' own files nobody would look at to see what changed and whether programs run; it names Python
            functions that the study does not allow; or lm-eval would run in its own process what the model writes.
    """
    found = _found(spec)
    if any(fields(file).get("unsafe_code") for file in found.files):
        raise InputError(unsafe(spec.name))
    return found


def unsafe(name: str) -> str:
    """Why a task is refused that runs programs outside of the jail."""
    return (
        f"task {name}: it runs code that the model writes unconfined; `humaneval` and `mbpp`, without {PREFIX}, lock "
        "it up"
    )


def _found(spec: TaskSpec) -> Definition:
    asked = spec.source
    if Path(asked).suffix in {".yaml", ".yml"}:
        path = Path(asked).expanduser().absolute()
        if "group" in fields(path):
            raise InputError(f"task {spec.name}: {path} is a group; name its tasks in the study one by one")
        files = _with_letter(path)
        # Every file is looked into by itself: lm-eval imports a function that another file then leaves out, too.
        called = [name for file in files for each in _definitions(file) for name in _functions(_own_fields(each))]
        if called and not spec.allow_functions:
            raise InputError(
                f"task {spec.name}: {path} runs Python code of its own ({called[0]}); write it in Jinja, or say "
                "`allow_functions: true` in the study if you trust it"
            )
        for file in files:
            _require_samples(spec.name, path, fields(file))
        return Definition(files)
    if asked in shipped():
        return Definition(_with_letter(FOLDER / f"{asked}.yaml"))
    name = asked.removeprefix(PREFIX)
    known = harness_names()
    if name in known:
        return Definition((known[name],), is_harness=True, is_group="group" in fields(known[name]))
    near = get_close_matches(name, [*shipped(), *known], n=3)
    hint = f"near it are {', '.join(near)}" if near else f"shipped are {', '.join(shipped())}"
    raise InputError(f"task {spec.name}: neither shipped nor a task of {harness()} is called {name!r}; {hint}")


def _require_samples(name: str, path: Path, found: dict[str, Any]) -> None:
    """Refuses a definition over files that names none: `datasets` would take all below the working folder for them."""
    given = found.get("dataset_kwargs") or {}
    if "custom_dataset" in found or "data_files" in given or "data_dir" in given:
        return
    loader = found.get("dataset_path")
    if loader in _loaders():
        raise InputError(
            f"task {name}: {path} has `dataset_path: {loader}` and no files; add `dataset_kwargs: {{data_files: "
            "{test: FILE}}`"
        )


@cache
def _loaders() -> Container[str]:
    """Names by which `datasets` calls its own readers of files."""
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    return frozenset(_PACKAGED_DATASETS_MODULES)


def contents_hash(spec: TaskSpec) -> str:
    """Hash of all that a task asks: settings, definition with what it includes, samples, version of the harness.

    Data sets that lm-eval fetches are known by name only.

    Raises:
        InputError: as `find`, or a file cannot be read.
    """
    found = find(spec)
    paths = sorted({path for file in found.files for path in _sources(file)})
    digest = hashlib.sha256(f"{spec.hash}\n{harness()}\n".encode())
    for path in [*paths, *_data_files(spec, found)]:
        digest.update(_digest(path, *_stamp(path)))
    return digest.hexdigest()


def data_file(name: str) -> Path:
    """The file of a name that a definition gives: a shipped one, else a path."""
    if name in CORPORA:
        return CORPORA[name]
    for ending in _PACKINGS:
        if (path := DATA / f"{name}{ending}").is_file():
            return path
    return Path(name).expanduser().absolute()


def fields(path: Path) -> dict[str, Any]:
    """The keys of a definition, those that it includes among them; functions by their names.

    Raises:
        InputError: it cannot be read, or is no mapping.
    """
    whole: dict[str, Any] = {}
    for each in _definitions(path):
        whole |= _own_fields(each)
    return whole


@cache
def harness_names() -> dict[str, Path]:
    """Files of lm-eval's tasks and groups by name, without importing it."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("lm-eval is not installed; install prunescope again")
    found: dict[str, Path] = {}
    for path in sorted(Path(spec.submodule_search_locations[0], "tasks").rglob("*.yaml")):
        for name in _NAME.findall(path.read_text(encoding="utf-8", errors="replace")):
            found.setdefault(name, path)
    return found


class _Function(str):
    """Name of a Python function, which lm-eval imports and calls."""

    __slots__ = ()


class _Loader(yaml.SafeLoader):
    """Reads lm-eval's `!function` as a name."""


_Loader.add_constructor("!function", lambda _, node: _Function(node.value))


def _functions(value: Any) -> Iterator[str]:  # noqa: ANN401 (whatever stands in a YAML)
    """Names of the functions that a definition calls, at any depth."""
    if isinstance(value, _Function):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _functions(part)
    elif isinstance(value, list):
        for part in value:
            yield from _functions(part)


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file does."""
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return found.st_mtime_ns, found.st_size


def _own_fields(path: Path) -> dict[str, Any]:
    """The keys that stand in the file itself."""
    return _parsed(path, *_stamp(path))


@lru_cache(maxsize=1024)
def _parsed(path: Path, changed: int, size: int) -> dict[str, Any]:  # noqa: ARG001
    """The same, read once as long as the file does not change."""
    found = read_yaml(path, "task definition", _Loader)
    if not isinstance(found, dict):
        raise InputError(f"task definition {path}: a definition is a mapping of keys (task, output_type, ...)")
    return found


@lru_cache(maxsize=1024)
def _digest(path: Path, changed: int, size: int) -> bytes:  # noqa: ARG001
    """SHA-256 of the file; computed once as long as it does not change."""
    return hashlib.sha256(_read(path)).digest()


def _with_letter(path: Path) -> tuple[Path, ...]:
    letter = path.with_stem(path.stem + LETTER)
    return (path, letter) if letter.is_file() else (path,)


def _definitions(path: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """A definition behind those that it includes, at any depth: what comes later overrides.

    Raises:
        InputError: it includes itself, or one of them cannot be read.
    """
    if path.resolve() in above:
        raise InputError(f"task definition {path}: includes itself; take it out of `include`")
    includes = _own_fields(path).get("include", [])
    for name in [includes] if isinstance(includes, str) else includes:
        yield from _definitions(path.parent / name, (*above, path.resolve()))
    yield path


def _sources(path: Path) -> Iterator[Path]:
    """A definition, those that it includes, and Python files beside them whose functions they name."""
    for each in _definitions(path):
        yield each
        for module in re.findall(r"!function\s+([\w.]+)\.\w+", _read(each).decode("utf-8", "replace")):
            if (code := each.parent / f"{module.replace('.', '/')}.py").is_file():
                yield code


def _data_files(spec: TaskSpec, found: Definition) -> list[Path]:
    """Local files that hold the samples."""
    given = fields(found.files[0]).get("dataset_kwargs") or {}
    if spec.data is not None:
        if "file" not in given:
            raise InputError(f"task {spec.name}: `data` takes the place of a shipped task's samples; this is none")
        return [Path(spec.data).expanduser().absolute()]
    if "file" in given:
        return [data_file(given["file"])]
    return found.named_files


def _flat(values: Any) -> Iterator[str]:  # noqa: ANN401 (a name, a list of them, or nothing)
    if isinstance(values, str):
        yield values
    for value in values if isinstance(values, list) else ():
        yield from _flat(value)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"task file {path}: {error.strerror or error}; give the path of a readable file")


def runs_code(spec: TaskSpec) -> bool:
    """Whether the programs that a variant writes for a task have to run to be judged.

    Raises:
        InputError: as `find`.
    """
    return bool((fields(find(spec).files[0]).get("metadata") or {}).get("runs_code"))


def described(spec: TaskSpec) -> str:
    """A task's settings in one line, as provenance keeps them."""
    return json.dumps(spec.model_dump(exclude_none=True), sort_keys=True)
