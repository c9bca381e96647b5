"""A PostgreSQL server of its own on a free port of this machine, as the deployment has one."""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.assets.publishing.interface.browser_interface import free_port

INSTALL = "apt-get update && apt-get install -y --no-install-recommends postgresql"


def programs() -> Path:
    """Return the folder of initdb and pg_ctl, which Debian keeps out of PATH; skip the test where there is none."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        pytest.skip(INSTALL)
    return folders[-1]


@contextmanager
def postgres_server() -> Iterator[dict[str, str]]:
    """Start a server with a password; yield the environment that `assets/instance/deploy/dagster.yaml` reads."""
    bin_ = programs()
    # The server refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="prunescope-postgres-"))
    data, password = folder / "data", folder / "password"
    secret = secrets.token_hex(16)
    port = free_port()

    def called(*command: str) -> None:
        with (folder / "log").open("ab") as log:
            done = subprocess.run(command, user=user, cwd=folder, stdout=log, stderr=log, check=False)
        assert done.returncode == 0, (folder / "log").read_text()

    options = f"-c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    try:
        password.write_text(secret)
        if user:
            for path in (folder, password):
                shutil.chown(path, user)
        login = ["--username=dagster", f"--pwfile={password}", "--auth=scram-sha-256"]
        called(str(bin_ / "initdb"), f"--pgdata={data}", "--no-sync", "--encoding=UTF8", "--locale=C", *login)
        called(str(bin_ / "pg_ctl"), f"--pgdata={data}", f"--options={options}", "--wait", "--silent", "start")
        try:
            yield {
                "PRUNESCOPE_POSTGRES_HOST": "127.0.0.1",
                "PRUNESCOPE_POSTGRES_PORT": str(port),
                "PRUNESCOPE_POSTGRES_DB": "postgres",
                "PRUNESCOPE_POSTGRES_USER": "dagster",
                "PRUNESCOPE_POSTGRES_PASSWORD": secret,
            }
        finally:
            called(str(bin_ / "pg_ctl"), f"--pgdata={data}", "--mode=immediate", "--wait", "--silent", "stop")
    finally:
        shutil.rmtree(folder)
