"""`prunescope serve`, and the report in a terminal: the explorer over the warehouse as it is now.

What it shows is the business of `prunescope.pipelines.reporting.explorer`.
"""

# ruff: noqa: ARG001 - `--warehouse` and `--debug` are kept by their callbacks, see options.py

import ipaddress
import socket
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from prunescope.assets import settings
from prunescope.assets.cli import completion
from prunescope.assets.cli.options import Debug, Globals, Memory, Seconds, Warehouse, existing
from prunescope.assets.cli.output import log
from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.limits import GIBIBYTES, SECONDS

if TYPE_CHECKING:
    from prunescope.warehouse.storage.location import Place

_HERE = "127.0.0.1"
_INTERRUPTED = 130


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(serve)


def serve(
    context: typer.Context,
    study: Annotated[
        str | None,
        typer.Argument(
            help="A study or its YAML file; without it all that have computed here.", autocompletion=completion.studies
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="Port; 0 takes a free one.")] = 3001,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at. Others than 127.0.0.1 let other machines in.")
    ] = _HERE,
    seconds: Seconds = SECONDS,
    memory: Memory = GIBIBYTES,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """Serve the explorer over the warehouse as it is now, with a box for your own SQL. Ctrl-C stops it.

    The pages are those of `prunescope report`, with every prompt of every variant; what a run adds shows on reload.
    SQL is as safe as that of `prunescope sql`; --seconds and --memory limit each query. Nobody is asked for a password:
    from elsewhere reach it by `ssh -L 3001:127.0.0.1:3001 MACHINE`.

    For example:

    - `prunescope serve`
    - `prunescope serve demo --port 8000`
    """
    from prunescope.assets.publishing.live_study import StudyRegistry
    from prunescope.assets.publishing.server import application, server

    names = _names(host)
    root = existing(context)
    found = StudyRegistry(root, study)
    listening = _listening(host, port)
    with listening:
        port = listening.getsockname()[1]
        app = application(
            found, seconds=seconds, gibibytes=memory, hosts=names, log=lambda line: log(f"error: {line}", "red")
        )
        if names:
            log(f"{host}: whoever reaches this address reads all results and asks SQL; nobody is asked for a password")
        log(f"http://{next(iter(names), host)}:{port}/ shows {', '.join(found.known())} of {root}; Ctrl-C stops it")
        try:
            server(app, is_debugged=context.ensure_object(Globals).debug).run([listening])
        except KeyboardInterrupt:
            log("stopped")
            raise typer.Exit(_INTERRUPTED) from None


def _names(host: str) -> set[str]:
    """The names by which browsers ask for an address beside those of this machine, as their Host header has them.

    Raises:
        InputError: the address stands for all of the machine's, and nothing says by which names it is reached.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return set() if host == "localhost" else {host.lower()}
    if address.is_unspecified and not settings.hosts():
        raise InputError(f"--host {host}: say by which names it is reached, such as PRUNESCOPE_HOSTS=my.machine")
    shown = f"[{address}]" if address.version == 6 else str(address)
    return set() if shown == _HERE else {*settings.hosts()} if address.is_unspecified else {shown}


def _listening(host: str, port: int) -> socket.socket:
    """A socket at the address.

    Raises:
        InputError: the system refuses it.
    """
    try:
        [(family, *_, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        opened = socket.socket(family, socket.SOCK_STREAM)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
            opened.listen()
        except OSError:
            opened.close()
            raise
    except OSError as error:
        fix = "choose another with --port" if host in {_HERE, "localhost"} else "choose others with --host and --port"
        raise InputError(f"{host}, port {port} cannot be used ({error.strerror}); {fix}") from error
    return opened


def show_report(
    root: "Place", study: str | None, variant: str | None, prompt: str | None, step: int | None, *, forced: bool
) -> None:
    """Prints a study's overview, one variant of it, or one answer token by token.

    Args:
        root: the warehouse.
        study: its name or file; where None the only one that has computed here.
        variant: `model@recipe`, or a recipe.
        prompt: the id of a prompt; needs a variant.
        step: a step of that prompt.
        forced: whether the pruned model reads the dense model's tokens.

    Raises:
        InputError: one of them is not there, or one is missing.
    """
    from prunescope.assets.cli import terminal, terminal_tokens
    from prunescope.assets.publishing.live_study import LiveStudy, studies

    for value, option, other, needed in (
        (prompt, "--prompt", variant, "--variant"),
        (step, "--step", prompt, "--prompt"),
        (forced or None, "--forced", prompt, "--prompt"),
    ):
        if value is not None and other is None:
            raise InputError(f"{option}: say of which with {needed}")
    found = studies(root, study)
    if len(found) > 1:
        raise InputError(f"which study? name one of {', '.join(found)}")
    [(name, known)] = found.items()
    live = LiveStudy(root, name, known)
    index = live.index()
    console = Console(highlight=False, emoji=False, markup=False)
    if variant is None:
        terminal.show_overview(console, index)
        return
    n = terminal.find_variant(index, variant)
    if prompt is None:
        terminal.show_variant(console, index, n, live.build(f"variant/{n}"))  # type: ignore[arg-type]
        return
    m = terminal.find_prompt(index, n, prompt)
    trace = live.build(f"trace/{n}/{m}")
    if step is None:
        terminal_tokens.show_tokens(console, index, n, m, trace, forced=forced)  # type: ignore[arg-type]
    else:
        terminal_tokens.show_step(console, trace, step, forced=forced)  # type: ignore[arg-type]
