"""`prunescope verify` and `prunescope gc` on a computed warehouse, and a whole study on an object store."""

import errno
import json
import os
from pathlib import Path

import boto3
import pytest

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.scratch_directory import Scratch
from prunescope.pipelines.pruning import variant
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.assets.tiny_study import RECIPES, few_answers, one_thread, partitions, rows
from tests.object_store import KEY, SECRET, s3_server

pytestmark = pytest.mark.usefixtures("temporary")


@pytest.fixture
def ask(warehouse, capsys):
    """Run a command on the warehouse; return its exit code, its rows and its messages."""

    def asked(*arguments, place=warehouse):
        code = run([*map(str, arguments), "--warehouse", str(place)], Globals())
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return asked


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_an_unchanged_warehouse_passes_verification(ask, warehouse):
    code, out, said = ask("verify")
    files = len(list(warehouse.rglob("part.parquet"))) + len(RECIPES)
    assert (code, out) == (0, "")
    assert f"{files} files are unchanged, 0 have changed" in said


def test_every_changed_file_is_named_and_the_exit_code_is_1(ask, warehouse):
    store = Store(warehouse)
    table = store.path(TABLES["layer_transitions"], "tiny-a", "wanda-2of4")
    footer = store.path(TABLES["models"], "tiny-a", None)
    masks = next((warehouse / "_variants/tiny-a/wanda-2of4").glob("*.safetensors"))
    about = next((warehouse / "_variants/tiny-a/attn-drop-1").glob("*.safetensors"))
    flip(table, 200)
    flip(footer, -40)
    flip(masks, -3)
    flip(about, about.read_bytes().index(b"weight_hash") + 20)
    code, out, said = ask("verify", "--format", "json")
    assert code == 1
    assert {row["path"] for row in json.loads(out)} == {str(path) for path in (table, footer, masks, about)}
    assert all(row["reason"] for row in json.loads(out))
    assert "4 have changed" in said
    assert "move the changed files away and run their studies again" in said


def test_unreadable_variant_files_are_reported_and_hide_no_change(tmp_path, capsys, monkeypatch):
    store, real = Store(tmp_path), variant.verify_variant
    for name in ("a", "b", "c"):
        store.write_bytes(f"_variants/tiny/{name}/0.safetensors", lambda path: path.write_bytes(b"no variant"))

    def failing(file):
        if file.parent.name == "a":
            raise InputError(f"{file}: Input/output error") from OSError(errno.EIO, os.strerror(errno.EIO))
        if file.parent.name == "b":
            file.unlink()
        real(file)

    monkeypatch.setattr(variant, "verify_variant", failing)
    code = run(["verify", "--format", "json", "--warehouse", str(tmp_path)], Globals())
    out, said = capsys.readouterr()
    told = [(Path(row["path"]).parent.name, row["state"], row["reason"]) for row in json.loads(out)]
    assert code == 1
    assert told == [("a", "unreadable", "Input/output error"), ("c", "changed", "not a readable variant file")]
    assert "1 files could not be read" in said


def test_gc_without_yes_lists_and_removes_nothing(ask, warehouse):
    before = partitions(warehouse)
    code, out, said = ask("gc", "--format", "json")
    found = json.loads(out)
    assert code == 0
    assert {row["study"] for row in found if row["kind"] == "partition"} == {"tiny"}
    assert {row["kind"] for row in found} == {"partition", "variant", "report"}
    assert len([row for row in found if row["kind"] == "partition"]) == len(before)
    assert {row["removed_by"] for row in found} == {"--yes --computed-by tiny"}
    assert "nothing was removed, see removed_by" in said
    assert partitions(warehouse) == before


def test_gc_keeps_what_a_given_study_names(ask, warehouse, study):
    code, _, said = ask("gc", "--study", study.path, "--yes")
    assert (code, "there is nothing to remove" in said) == (0, True)
    study.write(recipes=["dense", "magnitude-50", "attn-drop-1"])
    before = partitions(warehouse)
    code, out, said = ask("gc", "--study", study.path, "--yes")
    assert code == 0
    assert "0 files removed" in said
    assert partitions(warehouse) == before
    code, out, said = ask("gc", "--study", study.path, "--yes", "--computed-by", "tiny", "--computed-by", "nosuch")
    assert code == 0
    assert "wanda-2of4" in out
    assert "computed by nosuch" in said
    assert "files removed" in said
    assert {name for name in before if "wanda-2of4" not in name} == set(partitions(warehouse))
    assert not (warehouse / "_variants/tiny-a/wanda-2of4").exists()
    assert (warehouse / "_reports/tiny.html").exists()
    assert (warehouse / "_dagster").exists()


def test_gc_removes_the_layers_of_a_killed_process_and_none_of_a_living_one(ask, study, temporary):
    living, dead = Scratch(), temporary / "prunescope-layers-deaddead"
    (dead / "layer").mkdir(parents=True)
    (dead / "layer" / "weights").write_bytes(b"x" * 10)
    assert ask("gc", "--study", study.path)[0] == 0
    assert dead.exists()
    assert ask("gc", "--study", study.path, "--yes")[0] == 0
    assert list(temporary.iterdir()) == [living.folder]
    living.discard()


def test_gc_with_an_unreadable_study_removes_nothing(ask, warehouse):
    before = partitions(warehouse)
    for wrong in ("nosuch", "nosuch.yaml", ""):
        code, _, said = ask("gc", "--yes", "--study", wrong)
        assert (code, "error" in said) == (2, True)
    assert partitions(warehouse) == before


def test_gc_removes_nothing_while_a_watched_study_or_model_cannot_be_read(ask, warehouse, study, tmp_path):
    before, remove = partitions(warehouse), ("gc", "--yes", "--computed-by", "tiny")
    assert ask("watch", study.path)[0] == 0
    whole = study.path.read_text()
    study.path.write_text("models: [")
    code, _, said = ask(*remove)
    assert (code, str(study.path) in said.replace("\n", "")) == (2, True)
    study.path.write_text(whole)
    copying = warehouse / "_models" / "new"
    copying.mkdir(parents=True)
    (copying / "model.safetensors.part").touch()
    code, _, said = ask(*remove)
    assert (code, "new is still being copied" in said) == (2, True)
    assert partitions(warehouse) == before
    assert ask("gc")[0] == 0
    copying.rename(tmp_path / "new")
    assert ask(*remove)[0] == 0
    assert partitions(warehouse) == before


@pytest.mark.exhaustive  # test_server.py runs a study on such a store, test_object_store.py tests the rest
@pytest.mark.integration
def test_a_study_runs_on_an_object_store(tmp_path, study, cache, warehouse, ask):
    """Find the same rows as on disk, nothing computed twice, and no credential anywhere."""
    study.write(recipes=["dense", "attn-drop-1"])
    place, copy = "s3://bucket/pre fix/warehouse", tmp_path / "copy"
    with s3_server() as credentials, pytest.MonkeyPatch.context() as patch:
        for name, value in credentials.items():
            patch.setenv(name, value)
        few_answers(patch)
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        said = ""
        for command, wanted in (
            (("run", study.path), "questions, figures and report"),
            (("run", study.path), "everything is current; nothing was computed"),
            (("verify",), "0 have changed"),
            (("gc", "--study", study.path, "--yes"), "there is nothing to remove"),
            (("report",), f"{place}/_reports/tiny.html"),
            (("variants",), "attn-drop-1"),
            (("checkpoint", "tiny-a@attn-drop-1", tmp_path / "out"), "plain transformers gives the same logits"),
        ):
            with one_thread():
                code, out, told = ask(*command, place=place)
            assert (code, wanted in out + told) == (0, True), out + told
            said += out + told
        code, out, told = ask("tables", place="s3://nosuch/x")
        assert (code, "there is no bucket 'nosuch'" in told) == (2, True)
        said += out + told
        for each in client.list_objects_v2(Bucket="bucket")["Contents"]:
            file = copy / each["Key"].removeprefix("pre fix/warehouse/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(client.get_object(Bucket="bucket", Key=each["Key"])["Body"].read())
    local = {name: table for name, table in rows(warehouse).items() if "2of4" not in name and "magnitude" not in name}
    there = rows(copy)
    assert there.keys() == local.keys()
    assert all(there[name].equals(local[name]) for name in local)
    written = [path for folder in (copy, cache) for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".duckdb" for path in written)
    assert any(path.name == "runs.db" for path in written)
    for secret in (KEY, SECRET):
        assert secret not in said
        assert not [path for path in written if secret.encode() in path.read_bytes()]
