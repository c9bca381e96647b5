"""Keys of a study that say how texts are decoded and which prompts are measured layer by layer."""

from pathlib import Path

import pytest
import yaml

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.studies import Study, load_study

PROMPTS = [{"id": f"{kind}{number}", "kind": kind, "text": "?"} for number in range(3) for kind in ("maths", "open")]


def loaded(folder: Path, **keys: object) -> Study:
    path = folder / "s.yaml"
    fields = {"models": [{"name": "m", "source": "embedded"}], "recipes": ["dense"], "prompts": PROMPTS} | keys
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    return load_study(str(path))


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
        ({"decoding": {"temperature": 0}}, "decoding.temperature"),
        ({"decoding": {"temperature": float("inf")}}, "decoding.temperature"),
        ({"decoding": {"top_p": 0}}, "decoding.top_p"),
        ({"decoding": {"top_p": 1.1}}, "decoding.top_p"),
        ({"decoding": {"samples": 0}}, "decoding.samples"),
        ({"decoding": {"seed": -1}}, "decoding.seed"),
        ({"decoding": {"top_k": 5}}, "decoding.top_k"),
        ({"generation": {"until": "stop"}}, "generation.until"),
        ({"measure": {"layer_prompts": 0}}, "`measure.layer_prompts`: must be 1 or more or 'all'"),
        ({"measure": {"layer_prompts": "some"}}, "`measure.layer_prompts`: must be a whole number or 'all'"),
        ({"prompts": [], "texts": [{"id": "t"}], "decoding": {}}, "`decoding` samples texts of `prompts`"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, keys: dict[str, object], where: str) -> None:
    with pytest.raises(InputError, match=where):
        loaded(tmp_path, **keys)
