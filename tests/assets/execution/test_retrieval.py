"""A study of an encoder: its tables, by steps and by the command line, its plan, and the changes that outdate it."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import yaml
from transformers import MistralConfig

import prunescope
from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.assets.execution.model_session import ModelSession
from prunescope.assets.planning.steps import STEPS
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.assets.runs.study_run import StudyRun
from prunescope.pipelines.evaluation.retrieval.beir_data import files_of
from prunescope.pipelines.models.meta_model import load_meta_model
from prunescope.pipelines.planning.preflight import check_outline
from prunescope.pipelines.studies.evaluation_specs import RetrievalSpec
from prunescope.warehouse.storage.partition_store import Store
from tests.assets.conftest import made_once
from tests.assets.tiny_study import Heard, StudyFile, computed, few_answers, partitions
from tests.tiny_encoders import save_embedder
from tests.tiny_models import tiny_tokenizer

Capture = pytest.CaptureFixture[str]
RECIPES = ["dense", "attn-drop-1"]


def written(folder: Path, model: Path, **changes: object) -> Path:
    """Write a study of two data sets alone, one of them in a folder of its own."""
    place = folder / "beir"
    if not place.exists():
        shutil.copytree(files_of(RetrievalSpec(name="python-help"))[0].parent, place)
    few = {"max_length": 24, "max_queries": 6, "max_documents": 12}
    fields = {
        "name": "found",
        "models": [{"name": "tiny-bert", "source": str(model)}],
        "recipes": RECIPES,
        "retrieval": [{"name": "python-help", **few}, {"name": "copy", "folder": str(place), **few}],
        "calibration": {"sequences": 2, "length": 16},
        "noise": [],
    } | changes
    path = folder / "found.yaml"
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "tiny-bert", save_embedder)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, model: Path, cache: Path) -> Path:
    """Return a folder with the study and its warehouse, computed step by step."""
    folder, session = tmp_path_factory.mktemp("found"), ModelSession()
    request = StudyRequest(str(written(folder, model)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNESCOPE_CACHE", str(cache))
        of_bert = partial(computed, request, folder / "warehouse", model="tiny-bert", session=session)
        of_bert(("models", "calibration"))
        of_bert(("variants", "mask_samples", "retrieval"), *RECIPES)
    return folder


@pytest.fixture
def ran(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return such a folder, computed by the command line."""
    few_answers(monkeypatch)
    study = written(tmp_path, model)
    assert run(["run", str(study), "--warehouse", str(tmp_path / "warehouse")], Globals()) == 0
    return tmp_path


def todo(study: Path, root: Path) -> dict[str, tuple[str, ...]]:
    plan = StudyRun(StudyRequest(str(study)), Store(root), Heard(), replace=True).plan()
    return {work.name: work.tables for work in plan.works}


def tables_of(warehouse: Path) -> set[str]:
    return {name.split("/")[0] for name in partitions(warehouse)}


FILLED = {"models", "activation_stats", "block_influence", "variants", "mask_samples", *STEPS["retrieval"].tables}


def test_the_steps_of_a_study_fill_its_tables_and_nothing_is_left_to_compute(found: Path) -> None:
    assert tables_of(found / "warehouse") == FILLED
    assert todo(found / "found.yaml", found / "warehouse") == {}
    with prunescope.open(found / "warehouse") as connection:
        rows = connection.sql("select recipe, data_set, metric, value from retrieval_scores").fetchall()
    assert len(rows) == len(RECIPES) * 2 * 4


@pytest.mark.exhaustive  # the steps of such a run, above
def test_a_run_writes_the_tables_of_the_study_and_no_empty_ones(ran: Path, capsys: Capture) -> None:
    found = ran
    assert tables_of(found / "warehouse") == FILLED
    with prunescope.open(found / "warehouse") as connection:
        rows = connection.sql("select recipe, data_set, metric, value from retrieval_scores").fetchall()
        lost = connection.sql("select recipe, data_set, n_queries from q30_retrieval_loss").fetchall()
    assert len(rows) == len(RECIPES) * 2 * 4
    assert sorted(lost) == sorted((recipe, data, 6) for recipe in RECIPES[1:] for data in ("python-help", "copy"))
    # Equal texts have equal scores under any name.
    values = {(recipe, data, metric): value for recipe, data, metric, value in rows}
    assert all(values[recipe, "copy", metric] == value for (recipe, _, metric), value in values.items())
    assert run(["run", str(found / "found.yaml"), "--warehouse", str(found / "warehouse")], Globals()) == 0
    shown = capsys.readouterr()
    assert "nothing was computed" in shown.err
    assert "ndcg_at_10" in shown.out
    assert "kl_step0_nats" not in shown.out


def test_a_changed_judgement_outdates_retrieval_only(found: Path, tmp_path: Path) -> None:
    root = shutil.copytree(found / "warehouse", tmp_path / "warehouse")
    study = found / "found.yaml"
    assert todo(study, root) == {}
    mine = written(tmp_path, Path(yaml.safe_load(study.read_text())["models"][0]["source"]))
    assert todo(mine, root) == {}
    judged = tmp_path / "beir" / "qrels" / "test.tsv"
    judged.write_text(judged.read_text().replace("q001\td001\t1", "q001\td002\t1"))
    assert todo(mine, root) == {f"tiny-bert@{recipe}": STEPS["retrieval"].tables for recipe in RECIPES}


@pytest.mark.parametrize(
    ("key", "asked"),
    [
        ("prompts", {"id": "open", "kind": "open", "text": "Why?"}),
        ("texts", {"id": "help", "source": "embedded", "context": 16, "max_tokens": 16}),
        ("tasks", {"name": "openbookqa", "samples": 2}),
        ("speed", {"length": 8}),
        ("search", {"remove": [0.2]}),
    ],
)
def test_a_model_without_a_head_is_refused_what_needs_one_before_anything_runs(
    tmp_path: Path, model: Path, capsys: Capture, key: str, asked: dict[str, object]
) -> None:
    study = written(tmp_path, model, **{key: asked if key == "search" else [asked]})
    assert run(["run", str(study), "--warehouse", str(tmp_path / "w")], Globals()) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"study found: BertModel has no LM head; `{key}` cannot be measured on it" in told
    assert not partitions(tmp_path / "w")


def test_a_study_of_prompts_leaves_the_retrieval_of_a_variant_alone(study: StudyFile, tmp_path: Path) -> None:
    asked = todo(study.path, tmp_path / "nothing")
    assert not any(set(tables) & set(STEPS["retrieval"].tables) for tables in asked.values())


def test_a_plan_counts_texts_and_leaves_out_missing_data_sets(tmp_path: Path, model: Path, capsys: Capture) -> None:
    few = {"max_length": 24, "max_queries": 6, "max_documents": 12}
    lost = {"name": "lost", "folder": str(tmp_path / "lost")}
    study = written(tmp_path, model, retrieval=[{"name": "python-help", **few}, lost])
    assert run(["plan", str(study), "--warehouse", str(tmp_path / "w"), "--format", "json"], Globals()) == 0
    shown = capsys.readouterr()
    rows = json.loads(shown.out)
    assert "retrieval 'lost' has no files; this plan leaves it out, but `run` needs it" in " ".join(shown.err.split())
    by_recipe = {row["recipe"]: row["seconds"] for row in rows}
    # Every variant embeds the texts, and so does the dense model for all of them.
    assert by_recipe["dense"] == 0 < by_recipe[None]
    assert all(seconds > 0 for recipe, seconds in by_recipe.items() if recipe != "dense")
    assert run(["run", str(study), "--warehouse", str(tmp_path / "w")], Globals()) == 2
    assert "lost/corpus.jsonl is missing" in capsys.readouterr().err.replace("\n", "")


def test_the_study_of_the_paper_is_planned_without_weights_or_data(tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "num_key_value_heads": 8}
    config = MistralConfig(**sizes, vocab_size=32000, max_position_embeddings=32768, architectures=["MistralModel"])
    config.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    study = StudyRequest("paper-retrieval", (f"e5-mistral-7b-instruct={tmp_path}",)).load()
    assert len(study.retrieval) == 13
    outline = load_meta_model(tmp_path)
    there = study.model_copy(update={"retrieval": (RetrievalSpec(name="python-help", max_length=512),)})
    load = check_outline(there, outline)
    assert (load.prompts, load.windows, outline.head) == ([], [], None)
    assert load.retrieval[0][0] == 166 + 166
    shape = load.shape
    assert (shape.layers, shape.width, shape.parameters) == (32, 4096, 7_110_660_096)
