"""The typer application: its commands, and the conversion of errors to messages and exit codes."""

import io
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from typer.exceptions import Abort, TyperException

from prunescope.assets.cli import ask, checkpoint, maintenance, search, show, study, watch, writing
from prunescope.assets.cli.options import Debug, Globals, Warehouse, declared
from prunescope.assets.cli.output import DONE, FAILED, INTERRUPTED, WRONG_INPUT, log
from prunescope.assets.instance import settings
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.warehouse.catalogue.sql_process import SqlProcess
from prunescope.warehouse.core.errors import (
    CatalogueError,
    DamagedFileError,
    DamagedFileWarning,
    SqlSizeError,
    SqlTimeError,
    WarehouseError,
)

app = typer.Typer(
    name="prunescope",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"prunescope {version('prunescope')}")
        raise typer.Exit


@app.callback()
def prunescope(
    warehouse: Warehouse = None,
    debug: Debug = False,
    version_: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """When does pruning a language model work, and why does it break generation?

    Prunes a model in many ways, measures how far each variant moves from the dense model, layer by layer and token by
    token, and stores all results as Parquet, open to your own SQL.

    Start with `prunescope run demo`, then `prunescope questions` and `prunescope ui`.
    Data goes to standard output, everything else to standard error.
    Exit code: 0 done, 1 the work failed, 2 the input was wrong, 130 interrupted.
    """


# In this order `--help` lists them.
GROUPS: dict[str, tuple[Callable[..., None], ...]] = {
    "Run": (writing.init, writing.schema, study.plan, study.run, search.search, ask.recipes, watch.watch),
    "Ask": (
        *(ask.question, ask.questions, ask.variants, ask.compare, ask.advise),
        *(ask.sql, ask.tables, ask.describe),
    ),
    "Show": (show.report, show.figure, show.serve, show.ui, show.export),
    "Models": (watch.add_model, checkpoint.prune, checkpoint.checkpoint),
    "Keep": (maintenance.import_lm_eval, maintenance.verify, maintenance.gc, maintenance.doctor),
}
for group, commands in GROUPS.items():
    for command in commands:
        app.command(rich_help_panel=group)(declared(command))


def main(ahead: SqlProcess | None = None) -> None:
    """Run the `prunescope` script; `ahead` is a process for SQL that was started before."""
    settings.let_waiting_threads_sleep()
    options = Globals(sql_process=ahead)
    try:
        code = run(sys.argv[1:], options)
    except SystemExit:
        raise
    except KeyboardInterrupt:  # a second one, while the first was handled
        code = INTERRUPTED
    except BaseException as error:  # here, because Typer replaces `sys.excepthook`; a panic in Rust is not an Exception
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if not options.debug:
            message += "\nThis is a bug; --debug shows where it happened."
        code = _log_error(message, FAILED, error, options)
    sys.exit(code)


def run(arguments: list[str], options: Globals) -> int:
    """Run a command line and return its exit code; unexpected errors pass through."""
    code: object = DONE
    try:
        with _logged_warnings(options):
            code = app(args=arguments, prog_name="prunescope", standalone_mode=False, obj=options)
    except TyperException as error:
        usage = io.StringIO()
        error.show(usage)
        log(usage.getvalue().rstrip())
        code = error.exit_code
    except (KeyboardInterrupt, Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader closed the pipe, as `head` does; Python must not fail again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (DamagedFileError, CatalogueError, ComputationError, SqlTimeError, SqlSizeError) as error:
        code = _log_error(str(error), FAILED, error, options)
    except (InputError, WarehouseError) as error:
        code = _log_error(str(error), WRONG_INPUT, error, options)
    except OSError as error:
        code = _log_error(f"{error.filename or 'a file'}: {error.strerror or error}", WRONG_INPUT, error, options)
    if code == INTERRUPTED:  # Typer, too, turns KeyboardInterrupt into this code
        log("interrupted; finished partitions are kept, run the command again to continue")
    return code if isinstance(code, int) else DONE


@contextmanager
def _logged_warnings(options: Globals) -> Iterator[None]:
    """Log each warning once, in one line without its source code, which --debug adds.

    A damaged file is always a warning: every answer leaves it out.
    """
    logged: set[str] = set()
    default = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: object) -> None:
        if options.debug and not issubclass(category, DamagedFileWarning):
            default(message, category, *place)
        elif (text := " ".join(str(message).split())) not in logged:
            logged.add(text)
            log(f"warning: {text}", "yellow")

    with warnings.catch_warnings():
        warnings.simplefilter("always", DamagedFileWarning)
        warnings.showwarning = show
        yield


def _log_error(message: str, code: int, error: BaseException, options: Globals) -> int:
    if options.debug:
        log("".join(traceback.format_exception(error)))
    log(f"error: {message}", "red")
    return code
