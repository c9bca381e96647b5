"""Declaration of commands from their signatures and docstrings, and the options that several commands share.

`--warehouse` and `--debug` may also precede the command.
"""

import functools
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer
from typer.models import OptionInfo

from prunescope.assets.cli import completion, output
from prunescope.assets.instance import settings
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.regular_files import local_path
from prunescope.warehouse.catalogue.sql_process import Setup, SqlProcess

if TYPE_CHECKING:
    from prunescope.warehouse.storage.location import Place
    from prunescope.warehouse.storage.partition_store import Store

# An entry of the section `Options` of a docstring: parameter, placeholder of its value, help.
_ENTRY = re.compile(r"^ {4}(\w+)(?: \((.+?)\))?: (.+(?:\n {8}.+)*)", re.MULTILINE)


@dataclass
class Globals:
    """Values of the options that may precede the command, and a process for SQL that was started before."""

    warehouse: str | None = None
    debug: bool = False
    sql_process: SqlProcess | None = None


def sql_process(context: typer.Context, setup: Setup) -> SqlProcess:
    """Return a process for SQL, the one that was started with the command line, if any."""
    globals_ = context.ensure_object(Globals)
    ahead, globals_.sql_process = globals_.sql_process, None
    return (ahead or SqlProcess()).open(setup)


def _stored(context: typer.Context, option: typer.CallbackParam, value: str | bool | None) -> str | bool | None:
    """Store `--warehouse` or `--debug`, which may precede the command and follow it."""
    if value not in {None, False}:
        setattr(context.ensure_object(Globals), str(option.name), value)
    return value


def _checked_file(value: Path | None) -> Path | None:
    """Refuse a path in a missing folder, before anything is computed."""
    if value is not None and not value.expanduser().parent.exists():
        raise InputError(f"-o {value}: there is no folder {value.parent}; make it first")
    return value


def root(context: typer.Context) -> "Place":
    """Return the location of the warehouse, which need not exist yet."""
    from prunescope.warehouse.storage.location import place_of

    location = place_of(settings.warehouse_root(context.ensure_object(Globals).warehouse))
    if not isinstance(location, Path):
        from prunescope.warehouse.storage.partition_store import Store

        Store(location).require()
        return location
    existing = next(folder for folder in (location, *location.parents) if folder.exists())
    if not existing.is_dir():
        raise InputError(f"{existing} is a file, not a folder; choose another place with --warehouse")
    return location


def existing(context: typer.Context) -> "Place":
    """Return the location of a warehouse to read; refuse one in which no study has run, for it may be mistyped."""
    location = root(context)
    if not _is_filled(location):
        raise InputError(
            f"no study has run in the warehouse {location}; name another with --warehouse or PRUNESCOPE_WAREHOUSE, or "
            "run one, such as `prunescope run demo`"
        )
    return location


def _is_filled(location: "Place") -> bool:
    """Return whether a warehouse has a table's partition or, on this machine, variant files or layers of a run."""
    if isinstance(location, Path):
        return any(any(location.glob(files)) for files in ("*/model=*", "_variants/*", "_unfinished/*"))
    from prunescope.warehouse.storage.location import failures

    try:
        return any(not table.name.startswith("_") for table in location.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except failures() as error:
        raise InputError(f"the warehouse {location} cannot be listed: {error}") from error


def writable(context: typer.Context) -> "Store":
    """Return the warehouse to write to; create its folder if needed."""
    from prunescope.warehouse.storage.atomic_write import translate_os_errors
    from prunescope.warehouse.storage.partition_store import Store

    location = root(context)
    if isinstance(location, Path):
        with translate_os_errors(location):
            location.mkdir(parents=True, exist_ok=True)
    return Store(location)


def variants_of(location: "Place", names: Sequence[str]) -> list[tuple[str, str]]:
    """Return model and recipe of each variant, named MODEL@RECIPE, or RECIPE if only one model has it."""
    from prunescope.warehouse.catalogue.queries import find_variant, stored_variants

    known = stored_variants(location) if names else []
    return [find_variant(name, known) for name in names]


def absolute_model(model: str) -> str:
    """Return a model, with or without `NAME=`, with the absolute path of a local one, for runs in other folders."""
    name, separator, source = model.partition("=")
    if separator and "/" not in name:
        return f"{name}={absolute_model(source)}"
    if not model.strip():
        raise InputError("model '': names no model; give a folder, a .gguf file or a hub id")
    path = local_path(model, "model")
    return str(path.absolute()) if path.exists() else model


def mapping(text: str, option: str) -> dict[str, Any]:
    """Return the keys that an option gives as a mapping in YAML, or as the path of a .yaml file with one."""
    from prunescope.pipelines.core.safe_yaml import parse_yaml, read_yaml

    is_file = text.endswith((".yaml", ".yml"))
    keys = read_yaml(Path(text).expanduser(), option) if is_file else parse_yaml(text, option)
    if not isinstance(keys, dict):
        raise InputError(
            f"{option} {text}: not a mapping; write `{{key: value}}`, or the path of a .yaml file with one"
        )
    return keys


def inline_recipe(recipe: str) -> str:
    """Return a recipe's name or mapping, or the mapping in the YAML file that it names."""
    return json.dumps(mapping(recipe, "recipe")) if recipe.endswith((".yaml", ".yml")) else recipe


def absolute_study(study: str) -> str:
    """Return a study's name, or the absolute path of its file, for runs in other folders.

    A URL stays unchanged, so that loading it raises the fitting error.
    """
    path = local_path(study, "study")
    return str(path.absolute()) if path.suffix in {".yaml", ".yml"} and "://" not in study else study


def _entries(section: str) -> dict[str, dict[str, Any]]:
    """Return the placeholder and help of each entry of the section `Options` of a docstring."""
    found = _ENTRY.findall(section)
    return {name: {"metavar": value or None, "help": " ".join(words.split())} for name, value, words in found}


# Help of the options below, in the form of that section.
_SHARED = _entries("""
    warehouse (LOCATION): Warehouse: a folder or s3://BUCKET/PREFIX (default: PRUNESCOPE_WAREHOUSE, else
        warehouse/data).
    debug: Show the traceback of an error.
    format (FORMAT): table, csv, json, markdown, latex or parquet (default: by the suffix of -o, else table).
    output (FILE): Write to a file instead of standard output.
    seconds: Query timeout in seconds.
    memory (GIB): Memory limit of a query.
    study_name: Name of a shipped study (`demo`), or the path of a YAML file.
    variant: MODEL@RECIPE, or RECIPE if only one model has it.
    models (MODEL): Replaces the study's models: a folder with safetensors, a .gguf file, a hub id or `embedded:NAME`;
        `NAME=MODEL` names it.
    recipes (RECIPE): Replaces the study's recipes: a name that `prunescope recipes` lists, several joined by +,
        `{name: mine, method: wanda, sparsity: 0.6}`, or the path of a .yaml file with such a mapping.
    allow_code: Run the programs that variants write for tasks such as humaneval in a sandbox; otherwise these answers
        are not scored.
    allow_python: Run pruning methods that are Python files, with all your rights; read them first.
    device_memory (DEVICE=SIZE): Memory for layers that stay on a device, such as cpu=8GiB or cuda:0=20GiB; the other
        layers are read from disk when they run.
    shrink: Shrink matrices if whole neurons or heads are zero in every layer.
    replace: Recompute results that another study computed from other inputs.
    only_models: Only this model.
    only_recipes: Only this recipe.
    only_prompts (ID): Only this prompt.
""")
Warehouse = Annotated[str | None, typer.Option(callback=_stored, **_SHARED["warehouse"])]
Debug = Annotated[bool, typer.Option("--debug", callback=_stored, **_SHARED["debug"])]
Format = Annotated[output.Format | None, typer.Option("--format", "-f", **_SHARED["format"])]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", dir_okay=False, callback=_checked_file, **_SHARED["output"])
]
Seconds = Annotated[float, typer.Option(min=0.001, max=86_400, **_SHARED["seconds"])]
Memory = Annotated[float, typer.Option(min=0.05, **_SHARED["memory"])]
Models = Annotated[list[str], typer.Option("--model", "-m", **_SHARED["models"])]
Recipes = Annotated[list[str], typer.Option("--recipe", "-r", autocompletion=completion.recipes, **_SHARED["recipes"])]
AllowCode = Annotated[bool, typer.Option("--allow-code-execution", **_SHARED["allow_code"])]
AllowPython = Annotated[bool, typer.Option("--allow-python", **_SHARED["allow_python"])]
DeviceMemory = Annotated[list[str], typer.Option("--memory", **_SHARED["device_memory"])]
Shrink = Annotated[bool, typer.Option("--shrink", **_SHARED["shrink"])]
Replace = Annotated[bool, typer.Option("--replace", **_SHARED["replace"])]
OnlyModels = Annotated[list[str], typer.Option("--model", autocompletion=completion.models, **_SHARED["only_models"])]
OnlyRecipes = Annotated[
    list[str], typer.Option("--recipe", autocompletion=completion.recipes, **_SHARED["only_recipes"])
]
OnlyPrompts = Annotated[list[str], typer.Option("--prompt", **_SHARED["only_prompts"])]

StudyName = Annotated[str, typer.Argument(autocompletion=completion.studies, **_SHARED["study_name"])]
AnyStudy = Annotated[str | None, typer.Argument(autocompletion=completion.studies)]
_STUDY = typer.Option("--study", "-s", metavar="STUDY", autocompletion=completion.studies)
StudyOption, StudyOptions = Annotated[str | None, _STUDY], Annotated[list[str], _STUDY]
Variant = Annotated[str, typer.Argument(autocompletion=completion.variants_or_recipes, **_SHARED["variant"])]
_VARIANT = typer.Option("--variant", metavar="MODEL@RECIPE", autocompletion=completion.variants_or_recipes)
VariantOption, VariantOptions = Annotated[str | None, _VARIANT], Annotated[list[str], _VARIANT]


def declared(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command with `--debug`, `--warehouse` if it has a context, and `--format` and `-o` if it has a sink.

    The section `Options` of its docstring has the help of its parameters, and in brackets the placeholder of a value.
    A parameter with a default is an option, unless its annotation says otherwise; a list is an option that may be
    repeated.
    """
    text, _, section = inspect.cleandoc(command.__doc__ or "").partition("\n\nOptions:\n")
    entries = _entries(section)
    own = dict(inspect.signature(command).parameters)
    has_sink = own.pop("sink", None) is not None
    shared: dict[str, tuple[Any, Any]] = {"format_": (Format, None), "output": (Output, None)} if has_sink else {}
    shared |= {"warehouse": (Warehouse, None)} if "context" in own else {}
    shared |= {"debug": (Debug, False)}

    def called(**values: object) -> None:
        given = {name: values.pop(name) for name in shared}
        command(**values, **({"sink": output.chosen_sink(given["format_"], given["output"])} if has_sink else {}))

    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=option)
        for name, (option, default) in shared.items()
    ]
    parameters = [_declared(parameter, entries.get(parameter.name, {})) for parameter in (*own.values(), *added)]
    functools.update_wrapper(called, command, ("__module__", "__name__"), ())
    # Typer reads these.
    called.__doc__ = text
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def _declared(parameter: inspect.Parameter, words: Mapping[str, Any]) -> inspect.Parameter:
    """Return a parameter with all that Typer must know of it."""
    if parameter.annotation is typer.Context:
        return parameter
    is_annotated = get_origin(parameter.annotation) is Annotated
    of, *given = get_args(parameter.annotation) if is_annotated else [parameter.annotation]
    if given:
        about = copy(given[0])
    elif parameter.default is inspect.Parameter.empty:
        about = typer.Argument()
    else:  # without its name Typer would add `--no-NAME`
        about = typer.Option(*[f"--{parameter.name.replace('_', '-')}"] * (of is bool))
    about.metavar = words.get("metavar") or about.metavar
    about.help = words.get("help") or about.help
    if isinstance(about, OptionInfo) and get_origin(of) is list:
        about.help = f"{about.help} Repeatable."
    return parameter.replace(annotation=Annotated[of, about])
