"""Tests that a study and its limits of memory are read completely, or refused with the file, the key and the reason."""

import json
from pathlib import Path

import pytest
import yaml

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.studies import Study, load_study, study_names
from prunescope.pipelines.studies.memory_limits import parse_limits, parse_size

GOOD = """
name: mine
models: [{name: tiny, source: /models/tiny}]
recipes: [dense, wanda-50, {name: soft, method: magnitude, sparsity: 0.2, group: output}]
prompts: [{id: a, kind: open, text: 'Why?'}]
"""
NOISE = ["noise-bfloat16", "noise-batch"]


def written(folder: Path, text: str) -> str:
    file = folder / "study.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_the_shipped_studies_are_valid() -> None:
    assert "demo" in study_names()
    for name in study_names():
        assert load_study(name).name == name


def test_recipes_are_names_or_mappings(tmp_path: Path) -> None:
    study = load_study(written(tmp_path, GOOD))
    assert [recipe.name for recipe in study.recipes] == ["dense", "wanda-50", "soft", *NOISE]
    soft = json.loads(study.recipe("soft").parameters_json)
    assert (soft["method"], soft["sparsity"], soft["group"]) == ("magnitude", 0.2, "output")
    assert "name" not in soft
    assert study.recipe("mlp-drop-3").name == "mlp-drop-3"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("'Why?'", "'  '"), "prompt is empty"),
        *(
            (("name: tiny", f"name: {json.dumps(name)}"), "models.0.name")
            for name in ("../x", "", "a|b", "a\nb", "a" * 101, " a")
        ),
        (("kind: open", "kind: choice"), "options"),
        (("'Why?'", "'Why?', answer_pattern: '('"), "regular expression"),
        (("'Why?'", "'Why?', answer_pattern: 'a'"), "one group"),
        (("prompts:", "measure: {temperatures: [.nan]}\nprompts:"), "temperatures"),
        (("prompts:", "measure: {lenses: []}\nprompts:"), "lenses"),
        (("name: soft, method: magnitude", "name: dense, method: magnitude"), "twice"),
        (("[dense,", "[dense, {name: x, method: dense},"), "dense"),
        (("prompts:", "texts: [{id: a}, {id: a, context: 64}]\nprompts:"), "`texts`: 'a' is listed twice"),
        (("prompts:", "texts: [{id: a/b}]\nprompts:"), "texts.0.id"),
        (("prompts:", "calibration: {sequences: 1000000000}\nprompts:"), "sequences`: must be 100,000 or less"),
        (("prompts:", "calibration: {sequences: 1:30}\nprompts:"), "calibration.sequences"),
        (("prompts:", "calibration: {sequences: 100000, length: 4096}\nprompts:"), "`sequences` × `length` is over"),
        (("prompts:", "generation: {new_tokens: 1000000}\nprompts:"), "new_tokens`: must be 100,000 or less"),
        (("prompts:", "texts: [{id: a, max_tokens: 1000000000}]\nprompts:"), "must be 268,435,456 or less"),
        (("prompts:", "tasks: [{name: boolq, shots: 1001}]\nprompts:"), "must be 1,000 or less"),
        (("prompts:", "speed: [{batch: 10000, length: 100000}]\nprompts:"), "is over 268,435,456 tokens"),
        (("prompts:", "memory: {cpu: " + "9" * 400 + "TiB}\nprompts:"), "is not a size"),
        (("source: /models/tiny", "source: " + "a" * 300), "longer than a path can be"),
        (("source: /models/tiny", "source: ~no-such-user/tiny"), "there is no user ~no-such-user"),
        (("name: soft", "name: Wanda-50"), "'Wanda-50' differ in case only"),
        (("prompts:", "models: []\nprompts:"), "line 5: `models` is set on line 3 already"),
        (("prompts:", "texts: [{id: a, source: ''}]\nprompts:"), "texts.0.source"),
        (("prompts:", "texts: [{id: a, context: 1}]\nprompts:"), "texts.0.context"),
        (("prompts:", "texts: [{id: a, stride: 0}]\nprompts:"), "texts.0.stride"),
        (
            ("prompts:", "texts: [{id: a, max_tokens: 9}]\nprompts:"),
            "`max_tokens` 9 is less than one window scores (256)",
        ),
        (("prompts:", "calibration: {seed: -1}\nprompts:"), "calibration.seed"),
        (("prompts:", f"calibration: {{seed: {2**63}}}\nprompts:"), "calibration.seed"),
        (("prompts: [", "prompts: [[["), "not valid YAML"),
        (("name: mine", "- mine"), "not valid YAML"),
        ((GOOD, "just text"), "mapping"),
        ((GOOD, "!!python/object/apply:os.system ['true']"), "not valid YAML"),
    ],
)
def test_a_wrong_study_is_refused_with_file_key_and_reason(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    assert change[0] in GOOD
    file = written(tmp_path, GOOD.replace(*change))
    with pytest.raises(InputError, match="study.yaml") as refusal:
        load_study(file)
    assert message in str(refusal.value)
    assert len(str(refusal.value).splitlines()) <= 2


def test_missing_unknown_huge_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_study(str(tmp_path / "none.yaml"))
    with pytest.raises(InputError, match="shipped are"):
        load_study("none")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(InputError, match="UTF-8"):
        load_study(str(tmp_path / "binary.yaml"))
    with pytest.raises(InputError, match="1,000,001 bytes, over"):
        load_study(written(tmp_path, "#" * 1_000_001))


def test_overrides_replace_models_and_recipes_and_keep_dense(tmp_path: Path) -> None:
    study = load_study(written(tmp_path, GOOD))
    other = study.replaced(["/data/My Model", "second=/x=y/z", "tiny"], ["soft", "attn-drop-1"])
    assert [(m.name, m.source) for m in other.models] == [
        ("my-model", "/data/My Model"),
        ("second", "/x=y/z"),
        ("tiny", "/models/tiny"),
    ]
    assert [recipe.name for recipe in other.recipes] == ["dense", "soft", "attn-drop-1", *NOISE]
    assert study.replaced([], []) == study
    assert study.subset == study.replaced(["tiny"], ["wanda-50", "soft"]).subset == ""
    assert other.subset not in {"", study.replaced([], ["soft"]).subset}
    with pytest.raises(InputError, match="NAME="):
        study.replaced(["///"], [])
    with pytest.raises(InputError, match="unknown recipe"):
        study.replaced([], ["nonsense"])


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("", NOISE),
        ("noise: []", []),
        ("noise: [batch]", ["noise-batch"]),
        ("dtype: bfloat16", ["noise-batch"]),
        ("dtype: float16", NOISE),
    ],
)
def test_every_study_has_the_noise_floor_by_default(tmp_path: Path, keys: str, expected: list[str]) -> None:
    study = load_study(written(tmp_path, f"{GOOD}{keys}\n"))
    assert [recipe.name for recipe in study.recipes if recipe.method == "noise"] == expected
    assert study.replaced([], [recipe.name for recipe in study.recipes]) == study
    assert study.settings_hash == load_study(written(tmp_path, GOOD + keys.partition("noise")[0])).settings_hash


def test_a_noise_recipe_that_the_study_names_itself_is_not_added_again(tmp_path: Path) -> None:
    named = "{name: rounded, method: noise, kind: bfloat16}"
    study = load_study(written(tmp_path, GOOD.replace("[dense,", f"[dense, {named},")))
    assert [recipe.name for recipe in study.recipes if recipe.method == "noise"] == ["rounded", "noise-batch"]
    with pytest.raises(InputError, match="`noise"):
        load_study(written(tmp_path, GOOD + "noise: [float8]\n"))


def test_hashes_cover_their_inputs(tmp_path: Path) -> None:
    study = load_study(written(tmp_path, GOOD))
    prompt = load_study(written(tmp_path, GOOD.replace("Why?", "How?")))
    longer = load_study(written(tmp_path, GOOD + "generation: {new_tokens: 3}\n"))
    assert study.prompts_hash != prompt.prompts_hash
    assert study.settings_hash == prompt.settings_hash
    assert study.settings_hash != longer.settings_hash
    assert study.calibration.hash == longer.calibration.hash


def test_a_studys_text_defaults_to_wikitext2_in_llama_cpps_windows(tmp_path: Path) -> None:
    study = load_study(written(tmp_path, GOOD + "texts: [{id: wiki}, {id: mine, source: a.txt, context: 9}]\n"))
    wiki, mine = study.texts
    assert (wiki.source, wiki.context, wiki.step, wiki.scored, wiki.max_tokens) == ("wikitext2", 512, 256, 256, 4096)
    assert (mine.step, mine.scored) == (4, 4)
    assert not load_study(written(tmp_path, GOOD)).texts


PROMPTS = [{"id": f"{kind}{number}", "kind": kind, "text": "?"} for number in range(3) for kind in ("maths", "open")]


def loaded(folder: Path, **keys: object) -> Study:
    fields = {"models": [{"name": "m", "source": "embedded"}], "recipes": ["dense"], "prompts": PROMPTS} | keys
    return load_study(written(folder, yaml.safe_dump(fields)))


def test_the_first_prompts_of_each_kind_are_measured_layer_by_layer(tmp_path: Path) -> None:
    assert len(loaded(tmp_path).layer_prompts) == 6
    assert loaded(tmp_path, measure={"layer_prompts": 1}).layer_prompts == ("maths0", "open0")
    asked = [*PROMPTS, *({"id": f"more{number}", "kind": "open", "text": "?"} for number in range(4))]
    assert loaded(tmp_path, prompts=asked).layer_prompts == tuple(prompt["id"] for prompt in asked[:7])
    assert len(loaded(tmp_path, prompts=asked, measure={"layer_prompts": "all"}).layer_prompts) == 10


def test_texts_end_and_are_not_sampled_unless_asked(tmp_path: Path) -> None:
    study = loaded(tmp_path)
    assert (study.generation.until, study.decoding) == ("end", None)
    spec = loaded(tmp_path, decoding={"samples": 2}).decoding
    assert spec is not None
    assert (spec.temperature, spec.top_p, spec.samples, spec.seed) == (0.7, 1.0, 2, 0)


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        ({"decoding": {"temperature": float("inf")}}, "decoding.temperature"),
        ({"decoding": {"top_p": 0}}, "decoding.top_p"),
        ({"decoding": {"seed": -1}}, "decoding.seed"),
        ({"decoding": {"top_k": 5}}, "decoding.top_k"),
        ({"prompts": [], "texts": [{"id": "t"}], "decoding": {}}, "`decoding` samples texts of `prompts`"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, keys: dict[str, object], where: str) -> None:
    with pytest.raises(InputError, match=where):
        loaded(tmp_path, **keys)


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
