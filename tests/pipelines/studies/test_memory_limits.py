"""Tests of sizes and limits of memory as people write them."""

from pathlib import Path

import pytest
import yaml

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.studies import load_study
from prunescope.pipelines.studies.memory_limits import parse_limits, parse_size


@pytest.mark.parametrize(
    ("written", "size"),
    [("20GiB", 20 * 2**30), ("1.5 GB", 1_500_000_000), ("500kb", 500_000), ("2 MiB", 2**21), ("7", 7), (8, 8)],
)
def test_sizes_are_bytes(written: object, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize("written", ["", "GiB", "1 GiB 2", "-1GiB", "1e3", "20 GiBytes"])
def test_invalid_sizes_are_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size; write bytes, or 500MB, or 20GiB"):
        parse_size(written)


def test_command_line_limits_keep_their_order() -> None:
    assert list((parse_limits(["cuda:1=1GiB", "cpu=0"]) or {}).items()) == [("cuda:1", 2**30), ("cpu", 0)]
    assert parse_limits([]) is None
    with pytest.raises(ValueError, match="^'cpu': write a device and a size, such as cpu=8GiB"):
        parse_limits(["cpu"])
    for wrong in ("gpu=1", "cpu:0=1", "=1"):
        with pytest.raises(ValueError, match="cannot hold layers"):
            parse_limits([wrong])


@pytest.mark.parametrize(
    ("memory", "message"), [({"cpu": "much"}, "'much' is not a size"), ({"gpu": 1}, "'gpu' cannot hold layers")]
)
def test_a_study_names_its_wrong_limit(memory: dict[str, object], message: str, tmp_path: Path) -> None:
    study = yaml.safe_load((Path("pipelines/studies/demo.yaml")).read_text(encoding="utf-8"))
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study | {"memory": memory}), encoding="utf-8")
    with pytest.raises(InputError, match=rf"s.yaml: line 27: `memory.*{message}"):
        load_study(str(tmp_path / "s.yaml"))
