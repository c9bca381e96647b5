"""Devices, FIFOs, sockets and files over a limit are refused before they are read; nothing waits for a writer."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.regular_files import (
    local_path,
    open_regular,
    path_problem,
    read_regular,
    require_regular,
)
from prunescope.pipelines.core.safe_yaml import read_yaml
from prunescope.pipelines.corpora.text_sources import contents_hash, read_text
from prunescope.pipelines.evaluation.tasks.definition import fields
from prunescope.pipelines.evaluation.tasks.samples import rows
from prunescope.pipelines.models.file_validation import check_gguf, check_safetensors, read_description
from prunescope.pipelines.models.sources import file_hash


@pytest.fixture(params=["device", "fifo", "socket"])
def special(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A link to what is no regular file."""
    target = tmp_path / "target"
    match request.param:
        case "device":
            target = Path("/dev/zero")
        case "fifo":
            os.mkfifo(target)
        case "socket":
            monkeypatch.chdir(tmp_path)  # the path of a socket is short
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(target.name)
    link = tmp_path / "link"
    link.symlink_to(target)
    return link


def test_what_is_no_regular_file_is_neither_opened_nor_waited_for(special: Path) -> None:
    for use in (require_regular, open_regular, lambda path: read_regular(path, 10)):
        with pytest.raises(
            InputError, match=r"link: is a device, FIFO or socket, or a link to one; only regular files are read"
        ):
            use(special)


def test_a_folder_is_the_error_that_opening_it_would_be(tmp_path: Path) -> None:
    for use in (open_regular, lambda path: read_regular(path, 10**6)):
        with pytest.raises(IsADirectoryError, match="Is a directory"):
            use(tmp_path)


READERS: dict[str, Callable[[Path], Any]] = {
    "study": read_yaml,
    "task": fields,
    "samples": lambda path: rows(str(path)),
    "text": lambda path: read_text(str(path), "text"),
    "hash of a text": lambda path: contents_hash(str(path), "text"),
    "config": read_description,
    "weights": check_safetensors,
    "GGUF": check_gguf,
    "hash of a model": lambda path: file_hash(path, path.parent),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_every_reader_refuses_an_endless_device_and_a_fifo(read: Callable[[Path], Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for target in (Path("/dev/zero"), tmp_path / "fifo"):
        link = tmp_path / "link.jsonl"
        link.symlink_to(target)
        with pytest.raises(InputError, match="link.jsonl: is a device, FIFO or socket, or a link to one"):
            read(link)
        link.unlink()


def test_a_regular_file_is_read_through_a_link_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("four")
    (tmp_path / "link").symlink_to("file")
    assert require_regular(tmp_path / "link", 4) == 4
    assert read_regular(tmp_path / "link", 4) == "four"
    with pytest.raises(InputError, match="link: 4 bytes, over the 3 that a text may have"):
        read_regular(tmp_path / "link", 3, "a text")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("a\0b", "null"),
        ("a" * 256, "longer"),
        ("a/" * 2100, "longer"),
        ("é" * 128, "longer"),
        ("~no-such/a", "no user"),
    ],
)
def test_a_path_that_no_file_can_have_is_refused(name: str, problem: str) -> None:
    assert problem in str(path_problem(name))
    with pytest.raises(InputError, match=problem):
        local_path(name, "text")


def test_usual_paths_and_addresses_pass() -> None:
    for name in ("a/b.txt", "~/a", "é" * 127, "org/name@main", "hf:allenai/c4:en:train"):
        assert path_problem(name) is None
