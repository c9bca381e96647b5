"""`prunescope serve`: the explorer of the live warehouse on a web server."""

import ipaddress
import socket
from typing import Annotated

import typer

from prunescope.assets import settings
from prunescope.assets.cli import completion
from prunescope.assets.cli.options import Globals, Memory, Seconds, existing
from prunescope.assets.cli.output import INTERRUPTED, log
from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.limits import GIBIBYTES, SECONDS

LOCALHOST = "127.0.0.1"


def serve(
    context: typer.Context,
    study: Annotated[
        str | None,
        typer.Argument(
            help="A study or its YAML file (default: all with results here).", autocompletion=completion.studies
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="Port; 0 chooses a free one.")] = 3001,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on. Any but 127.0.0.1 gives other machines access.")
    ] = LOCALHOST,
    seconds: Seconds = SECONDS,
    memory: Memory = GIBIBYTES,
) -> None:
    """Serve the explorer of the live warehouse, with a box for your own SQL. Ctrl-C stops it.

    The pages are those of `prunescope report`, with every prompt of every variant; a reload shows new results.
    SQL has the limits of `prunescope sql`; --seconds and --memory apply to each query. There is no password: from
    another machine, connect with `ssh -L 3001:127.0.0.1:3001 MACHINE`.

    For example:

    - `prunescope serve`
    - `prunescope serve demo --port 8000`
    """
    from prunescope.assets.publishing.live_study import StudyRegistry
    from prunescope.assets.publishing.server import application, server

    names = _names(host)
    root = existing(context)
    studies = StudyRegistry(root, study)
    with listening_socket(host, port) as listening:
        port = listening.getsockname()[1]
        app = application(
            studies, seconds=seconds, gibibytes=memory, hosts=names, log=lambda line: log(f"error: {line}", "red")
        )
        if names:
            log(f"{host}: everyone with access to this address can read all results and run SQL; there is no password")
        log(f"http://{next(iter(names), host)}:{port}/ shows {', '.join(studies.known())} of {root}; Ctrl-C stops it")
        try:
            server(app, is_debugged=context.ensure_object(Globals).debug).run([listening])
        except KeyboardInterrupt:
            log("stopped")
            raise SystemExit(INTERRUPTED) from None  # a `typer.Exit` would say that there is work to continue


def _names(host: str) -> set[str]:
    """Return the names in the Host header of browsers, in addition to those of localhost.

    Raises:
        InputError: the address is a wildcard, and no setting gives the machine's names.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return set() if host == "localhost" else {host.lower()}
    if address.is_unspecified:
        if not (names := {*settings.hosts()}):
            raise InputError(f"--host {host}: set PRUNESCOPE_HOSTS to this machine's names, such as my.machine")
        return names
    name = f"[{address}]" if address.version == 6 else str(address)
    return set() if name == LOCALHOST else {name}


def listening_socket(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Raises:
        InputError: the operating system refused the address or port.
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
        fix = (
            "choose another with --port" if host in {LOCALHOST, "localhost"} else "choose others with --host and --port"
        )
        raise InputError(f"{host}, port {port} cannot be used ({error.strerror}); {fix}") from error
    return opened
