"""`prunescope ui` and `prunescope doctor`: the web interface, and what is wrong with this installation.

No results are computed here.
"""

# ruff: noqa: ARG001 - `--warehouse` and `--debug` are kept by their callbacks, see options.py

import os
import socket
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from prunescope.assets import settings
from prunescope.assets.cli.options import Debug, Format, Output, Warehouse, root, writable
from prunescope.assets.cli.output import chosen_format, emit, log
from prunescope.assets.cli.progress_bars import RichProgress
from prunescope.pipelines.core.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

HOST = "127.0.0.1"
FAILED = 1


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(ui)
    app.command()(doctor)


def ui(
    context: typer.Context,
    port: Annotated[int, typer.Option("--port", "-p", min=1, max=65535, help="Port on 127.0.0.1.")] = 3000,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """Open Dagster's web interface on 127.0.0.1: assets, lineage, charts, runs. Ctrl-C stops it.

    It asks nobody for a password. From elsewhere reach it by `ssh -L 3000:127.0.0.1:3000 MACHINE`, or through a proxy
    with authentication as SECURITY.md shows.
    """
    from prunescope.assets.instance.instance import prepare_home, recover_launched
    from prunescope.assets.watching.watch_list import make_models_folder
    from prunescope.warehouse.storage.partition_store import Store

    place = writable(context)
    _require_free(port)
    make_models_folder(Store(place))
    local = Store(place).local(settings.cache_folder())
    home = prepare_home(local)
    recover_launched(local)
    log(f"http://{HOST}:{port}/asset-groups shows the lineage of {place}; Ctrl-C stops it")
    checkout = str(settings.package_parent())
    command = [sys.executable, "-W", "ignore", "-c", "from prunescope.assets.interface.webserver import dev; dev()"]
    command += ["--module-name", "prunescope.assets.definitions", "--working-directory", checkout]
    command += ["--host", HOST, "--port", str(port), "--log-level", "info" if debug else "warning"]
    # The folder is another one by then, and a checkout need not be installed.
    paths = os.pathsep.join(filter(None, [checkout, os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PRUNESCOPE_WAREHOUSE": str(place), "DAGSTER_HOME": str(home), "PYTHONPATH": paths}
    # Started inside its home, Dagster does not take the checkout's dagster.yaml for a second configuration.
    os.chdir(home)
    # In place of this process, so that signals reach Dagster, which then stops its servers in order.
    os.execve(sys.executable, command, environment)  # noqa: S606 - no shell


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(f"port {port} cannot be used ({error.strerror}); choose another with --port") from error


def doctor(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="MODEL", help="Load this model and show its structure.")
    ] = None,
    format_: Format = None,
    output: Output = None,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """Look the warehouse over; exit code 1 where something is wrong. With --model, take a model apart instead.

    Of a model it prints what was found and proved: every sublayer and how it adds to the stream, final norm, LM head,
    parameter shares. A model that cannot be proved is refused with the module and the reason, exit code 2.

    For example:

    - `prunescope doctor`
    - `prunescope doctor --model ./my-model`
    - `prunescope doctor --model ./my-model --format json`
    """
    place = root(context)
    log(f"warehouse: {place}\ncache: {settings.cache_folder()}")
    if model is not None:
        chosen_format(format_, output)
        emit(_examine(model), format_, output)
        return
    from prunescope.warehouse.maintenance.diagnostics import diagnose

    found = diagnose(place)
    if found:
        import pyarrow as pa

        emit(pa.Table.from_pylist([asdict(finding) for finding in found]), format_, output)
    else:
        log("the warehouse is well")
    if any(finding.level == "error" for finding in found):
        raise typer.Exit(FAILED)


def _examine(model: str) -> "pa.Table":
    """Finds, hashes and loads a model, and tells what is in it; InputError names what is wrong with it."""
    from prunescope.pipelines.models.sources import identify, locate

    cache = settings.cache_folder()
    with RichProgress() as bars:
        folder = locate(model, cache, bars)
        identity = identify(folder, cache)
        bars.start("load the model and prove its structure", 1)
        from prunescope.pipelines.models.describe import structure_rows
        from prunescope.pipelines.models.load import load_decoder

        decoder = load_decoder(folder)
    log(f"model: {folder}\nweights: {identity.weight_bytes:,} bytes, SHA-256 {identity.weight_hash}")
    return structure_rows(decoder).to_arrow()
