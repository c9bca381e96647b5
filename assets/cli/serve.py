"""`prunescope serve` and `prunescope ui`: web servers of the explorer and of Dagster's interface."""

import os
import socket
import sys
from typing import Annotated

import typer

from prunescope.assets import settings
from prunescope.assets.cli import options
from prunescope.assets.cli.output import INTERRUPTED, log
from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.limits import GIBIBYTES, SECONDS

_LOCALHOST = "127.0.0.1"


def serve(
    context: typer.Context,
    study: options.AnyStudy = None,
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535)] = 3001,
    seconds: options.Seconds = SECONDS,
    memory: options.Memory = GIBIBYTES,
) -> None:
    """Serve the explorer of the live warehouse, with a box for your own SQL. Ctrl-C stops it.

    The pages are those of `prunescope report`, with every prompt of every variant; a reload shows new results.
    SQL has the limits of `prunescope sql`; --seconds and --memory apply to each query. There is no password: from
    another machine, connect with `ssh -L 3001:127.0.0.1:3001 MACHINE`.

    For example:

    - `prunescope serve`
    - `prunescope serve demo --port 8000`

    Options:
        study: A study or its YAML file (default: all with results here).
        port: Port; 0 chooses a free one.
    """
    from prunescope.assets.publishing.live_study import StudyRegistry
    from prunescope.assets.publishing.server import application, server

    root = options.existing(context)
    studies = StudyRegistry(root, study)
    with _listening_socket(port) as listening:
        app = application(studies, seconds=seconds, gibibytes=memory, log=lambda line: log(f"error: {line}", "red"))
        place = f"http://{_LOCALHOST}:{listening.getsockname()[1]}/"
        log(f"{place} shows {', '.join(studies.known)} of {root}; Ctrl-C stops it")
        try:
            server(app, is_debugged=context.ensure_object(options.Globals).debug).run([listening])
        except KeyboardInterrupt:
            log("stopped")
            raise SystemExit(INTERRUPTED) from None  # a `typer.Exit` would say that there is work to continue


def ui(context: typer.Context, port: Annotated[int, typer.Option("--port", "-p", min=1, max=65535)] = 3000) -> None:
    """Open Dagster's web interface on 127.0.0.1: assets, lineage, charts, runs. Ctrl-C stops it.

    There is no password. From another machine, connect with `ssh -L 3000:127.0.0.1:3000 MACHINE`, or through a proxy
    with authentication as in SECURITY.md.

    Options:
        port: Port on 127.0.0.1.
    """
    from prunescope.assets.instance.instance import open_instance, plain_path, prepare_home, recover
    from prunescope.assets.watching.watch_list import make_models_folder

    store = options.writable(context)
    _listening_socket(port).close()
    make_models_folder(store)
    local = store.local(settings.cache_folder())
    home = plain_path(prepare_home(local))
    with open_instance(local) as instance:
        recover(instance, str(store.root), local)
    log(f"http://{_LOCALHOST}:{port}/asset-groups shows the lineage of {store.root}; Ctrl-C stops it")
    command = [sys.executable, "-W", "ignore", "-m", "prunescope.assets.interface.subprocesses", "dev"]
    command += ["--module-name", "prunescope.assets.definitions", "--working-directory", str(settings.package_parent())]
    level = "info" if context.ensure_object(options.Globals).debug else "warning"
    command += ["--host", _LOCALHOST, "--port", str(port), "--log-level", level]
    # The current folder changes below.
    own = {"PRUNESCOPE_WAREHOUSE": str(store.root), "DAGSTER_HOME": str(home), "PYTHONPATH": settings.python_path()}
    # In the current folder of a checkout, Dagster would take dagster.yaml for a second configuration.
    os.chdir(home)
    # Dagster replaces this process, so that it receives the signals and stops its servers in order.
    os.execve(sys.executable, command, os.environ | own)  # noqa: S606 - no shell


def _listening_socket(port: int) -> socket.socket:
    try:
        return socket.create_server((_LOCALHOST, port))
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        raise InputError(f"{_LOCALHOST}, port {port} cannot be used ({reason}); choose another with --port") from error
