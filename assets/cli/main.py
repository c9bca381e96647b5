"""The commands together, and how errors become messages and exit codes.

What each command does stands in the modules beside this one.
"""

import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.exceptions import Abort, TyperException

from prunescope.assets import settings
from prunescope.assets.cli import (
    advise,
    checkpoint,
    completion,
    figures,
    host,
    maintenance,
    publication,
    querying,
    serve,
    study,
    watch,
)
from prunescope.assets.cli.options import Debug, Globals, Warehouse
from prunescope.assets.cli.output import log
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.warehouse.core.errors import CatalogueError, DamagedFileError, DamagedFileWarning, WarehouseError

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130

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
    token, and keeps all of it in Parquet for your own SQL.

    Start with `prunescope run demo`, then `prunescope questions` and `prunescope ui`.
    Data goes to standard output, everything else to standard error.
    Exit code: 0 done, 1 the work failed, 2 the input was wrong, 130 interrupted.
    """


study.register(app)
watch.register(app)
advise.register(app)
querying.register(app)
figures.register(app)
publication.register(app)
checkpoint.register(app)
maintenance.register(app)
serve.register(app)
host.register(app)


def main() -> None:
    """Entry point of the `prunescope` script."""
    settings.let_waiting_threads_sleep()
    chosen = Globals()
    # A bug gets one line too; its traceback is for those who ask.
    sys.excepthook = lambda kind, error, _: _unexpected(chosen, kind, error)
    with completion.whole_words():
        sys.exit(run(sys.argv[1:], chosen))


def run(arguments: list[str], chosen: Globals) -> int:
    """Runs a command line and gives its exit code; unexpected errors pass through."""
    code: object = DONE
    try:
        with _warnings_told(chosen):
            code = app(args=arguments, prog_name="prunescope", standalone_mode=False, obj=chosen)
    except TyperException as error:
        shown = io.StringIO()
        error.show(shown)
        log(shown.getvalue().rstrip())
        code = error.exit_code
    except (KeyboardInterrupt, Abort):
        log("interrupted; whole partitions were kept, run it again to go on")
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe has seen enough; Python must not complain again while closing the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (DamagedFileError, CatalogueError, ComputationError) as error:
        code = _told(str(error), FAILED, error, chosen)
    except (InputError, WarehouseError) as error:
        code = _told(str(error), WRONG_INPUT, error, chosen)
    except OSError as error:
        code = _told(f"{error.filename or 'a file'}: {error.strerror or error}", WRONG_INPUT, error, chosen)
    return code if isinstance(code, int) else DONE


@contextmanager
def _warnings_told(chosen: Globals) -> Iterator[None]:
    """Says each warning once, in a line of its own without the code that it comes from, which --debug shows.

    Damaged files are warned of: only what reads them fails.
    """
    told: set[str] = set()
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any) -> None:  # noqa: ANN401 - as Python passes it
        if chosen.debug and not issubclass(category, DamagedFileWarning):
            others(message, category, *where)
        elif (text := " ".join(str(message).split())) not in told:
            told.add(text)
            log(f"warning: {text}", "yellow")

    with warnings.catch_warnings():
        warnings.simplefilter("always", DamagedFileWarning)
        warnings.showwarning = show
        yield


def _told(message: str, code: int, error: Exception, chosen: Globals) -> int:
    if chosen.debug:
        log("".join(traceback.format_exception(error)))
    log(f"error: {message}", "red")
    return code


def _unexpected(chosen: Globals, kind: type[BaseException], error: BaseException) -> None:
    if chosen.debug:
        log("".join(traceback.format_exception(error)))
    else:
        log(f"error: {kind.__name__}: {error}\nThis is a bug; --debug shows where it happened.", "red")
