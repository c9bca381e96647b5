"""Dagster's web server with the origin guard, and `dagster dev` with our programs."""

import sys
from typing import Any

from starlette.middleware import Middleware

from prunescope.assets.interface.program_start import start_ours
from prunescope.assets.publishing.origin_guard import OwnPagesOnly


def dev() -> None:
    """Run `dagster dev` with our programs instead of Dagster's, and with this process's arguments."""
    # No public entry point; test_ui starts the interface through these.
    from dagster._cli import dev as theirs
    from dagster._grpc import server

    start_ours(theirs)
    start_ours(server)
    theirs.dev_command(args=sys.argv[1:], prog_name="dagster dev")


def main() -> None:
    """Run `dagster-webserver` behind the origin guard and with our staleness."""
    from dagster_webserver.cli import main as serve
    from dagster_webserver.webserver import DagsterWebserver

    from prunescope.assets.interface import staleness

    staleness.install()

    unguarded = DagsterWebserver.build_middleware

    def guarded(server: Any) -> list[Middleware]:  # noqa: ANN401 - Dagster's own
        return [Middleware(OwnPagesOnly), *unguarded(server)]

    DagsterWebserver.build_middleware = guarded
    serve()


if __name__ == "__main__":
    main()
