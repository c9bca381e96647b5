"""`prunescope ui` and `prunescope doctor`: Dagster's web interface, and diagnosis of a warehouse or a model."""

import os
import sys
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Annotated

import typer

from prunescope.assets import settings
from prunescope.assets.cli.options import Globals, existing, writable
from prunescope.assets.cli.output import FAILED, Sink, emit, emit_list, log
from prunescope.assets.cli.progress_bars import RichProgress
from prunescope.assets.cli.serve import LOCALHOST, listening_socket

if TYPE_CHECKING:
    import pyarrow as pa


def ui(
    context: typer.Context,
    port: Annotated[int, typer.Option("--port", "-p", min=1, max=65535, help="Port on 127.0.0.1.")] = 3000,
) -> None:
    """Open Dagster's web interface on 127.0.0.1: assets, lineage, charts, runs. Ctrl-C stops it.

    There is no password. From another machine, connect with `ssh -L 3000:127.0.0.1:3000 MACHINE`, or through a proxy
    with authentication as in SECURITY.md.
    """
    from prunescope.assets.instance.instance import open_instance, plain_path, prepare_home, recover
    from prunescope.assets.watching.watch_list import make_models_folder
    from prunescope.warehouse.storage.partition_store import Store

    location = writable(context)
    listening_socket(LOCALHOST, port).close()
    make_models_folder(Store(location))
    local = Store(location).local(settings.cache_folder())
    home = plain_path(prepare_home(local))
    with open_instance(local) as instance:
        recover(instance, str(location), local)
    log(f"http://{LOCALHOST}:{port}/asset-groups shows the lineage of {location}; Ctrl-C stops it")
    command = [sys.executable, "-W", "ignore", "-m", "prunescope.assets.interface.subprocesses", "dev"]
    command += ["--module-name", "prunescope.assets.definitions", "--working-directory", str(settings.package_parent())]
    level = "info" if context.ensure_object(Globals).debug else "warning"
    command += ["--host", LOCALHOST, "--port", str(port), "--log-level", level]
    # The current folder changes below.
    own = {"PRUNESCOPE_WAREHOUSE": str(location), "DAGSTER_HOME": str(home), "PYTHONPATH": settings.python_path()}
    # In the current folder of a checkout, Dagster would take dagster.yaml for a second configuration.
    os.chdir(home)
    # Dagster replaces this process, so that it receives the signals and stops its servers in order.
    os.execve(sys.executable, command, os.environ | own)  # noqa: S606 - no shell


def doctor(
    context: typer.Context,
    sink: Sink,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Load this model and show its structure; a model as in a study, or `embedded:NAME`.",
        ),
    ] = None,
) -> None:
    """Check the warehouse; exit code 1 if there is an error. With --model, check the structure of a model instead.

    For a model, print the structure that was discovered and proved: every sublayer with its contribution to the
    residual stream, final norm, LM head, parameter shares. If the proof or the chat template fails, the error names
    the module or the model and the reason, with exit code 2.

    For example:

    - `prunescope doctor`
    - `prunescope doctor --model ./my-model`
    - `prunescope doctor --model ./my-model --format json`
    """
    if model is not None:
        log(f"cache: {settings.cache_folder()}")
        emit(_examine(model), sink)
        return
    from prunescope.warehouse.maintenance.diagnostics import Diagnosis, diagnose

    location = existing(context)
    log(f"warehouse: {location}\ncache: {settings.cache_folder()}")
    diagnoses = diagnose(location)
    if diagnoses or sink.is_chosen:
        emit_list(list(map(asdict, diagnoses)), sink, **{field.name: str for field in fields(Diagnosis)})
    if not diagnoses:
        log("no problem found in the warehouse")
    if any(diagnosis.level == "error" for diagnosis in diagnoses):
        raise typer.Exit(FAILED)


def _examine(model: str) -> "pa.Table":
    """Return the structure of a model; an InputError says what is wrong with it."""
    from prunescope.pipelines.models.sources import identify, locate, weight_format

    cache = settings.cache_folder()
    with RichProgress() as bars:
        folder = locate(model, cache, bars)
        identity = identify(folder, cache)
        bars.start("load the model and prove its structure", 1)
        from prunescope.pipelines.models.chat_template import check_chat_template
        from prunescope.pipelines.models.describe import structure_rows
        from prunescope.pipelines.models.load import load_decoder

        decoder = load_decoder(folder)
        check_chat_template(decoder.tokenizer)
    stored = f"stored as {weight_format(model, folder)}"
    log(f"model: {folder}\nweights: {identity.weight_bytes:,} bytes, {stored}, SHA-256 {identity.weight_hash}")
    return structure_rows(decoder).to_arrow()
