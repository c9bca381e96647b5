"""Tests of calibration statistics against a slow pass over the same tokens."""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import polars as pl
import pytest
import torch
from pydantic import ValidationError

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.corpora.hub_datasets import split_source
from prunescope.pipelines.corpora.text_sources import contents_hash, read_documents
from prunescope.pipelines.models import module_calls
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.calibration.statistics import calibrate, calibration_tokens
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import CalibrationSpec
from tests.pipelines.models.recorded import inputs_of
from tests.tiny_models import SHORT_TEXT, save_tiny, tiny_tokenizer

SPEC = CalibrationSpec(source=SHORT_TEXT, sequences=5, length=24, seed=3)


def test_moments_equal_a_slow_pass_in_float64(decoder: Decoder) -> None:
    found = calibrate(decoder, SPEC, "tiny").activation_stats
    modules = decoder.model.named_modules()
    linear = [name for name, module in modules if isinstance(module, torch.nn.Linear) and name != "lm_head"]
    inputs = inputs_of(decoder, linear, *calibration_tokens(decoder.tokenizer, SPEC)[:, None])
    assert set(found["module"]) == set(inputs)
    for row in found.iter_rows(named=True):
        x = inputs[row["module"]]
        assert row["tokens"] == len(x) == 5 * 24
        torch.testing.assert_close(torch.tensor(row["second_moment"]).double(), x.pow(2).mean(0), rtol=1e-5, atol=1e-9)
        assert row["rms"] == pytest.approx(float(x.pow(2).mean().sqrt()), rel=1e-5)
        assert row["kurtosis"] == pytest.approx(float(x.pow(4).mean() / x.pow(2).mean() ** 2), rel=1e-4)
        assert row["max_abs"] == pytest.approx(float(x.abs().max()), rel=1e-5)


def test_every_matrix_of_a_layer_multiplies_by_the_fast_product(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, plain = list[int](), module_calls.product
    monkeypatch.setattr(module_calls, "product", lambda *args: count.append(1) or plain(*args))
    calibrate(decoder, SPEC, "tiny")
    # Five sequences pass each layer in two batches.
    assert len(count) == 2 * len(decoder.matrices)


def test_influence_is_the_mean_cosine_defect_and_orders_the_drops(decoder: Decoder) -> None:
    found = calibrate(decoder, SPEC, "tiny").block_influence
    streams: list[list[torch.Tensor]] = [[] for _ in decoder.layers]
    handles = [
        layer.module.register_forward_hook(
            lambda _, args, kwargs, out, index=index: streams[index].append((args[0][0], out[0])), with_kwargs=True
        )
        for index, layer in enumerate(decoder.layers)
    ]
    for sequence in calibration_tokens(decoder.tokenizer, SPEC):
        decoder.hidden(sequence[None])
    for handle in handles:
        handle.remove()
    blocks = found.filter(pl.col("unit") == "block").sort("layer")
    for row, pairs in zip(blocks.iter_rows(named=True), streams, strict=True):
        before, after = (torch.cat(each).double() for each in zip(*pairs, strict=True))
        defect = 1 - torch.nn.functional.cosine_similarity(before, after, dim=-1)
        assert row["influence"] == pytest.approx(float(defect.mean()), rel=1e-4)
    for unit in ("attn", "mlp", "block"):
        ordered = found.filter(pl.col("unit") == unit).sort("drop_order")
        assert ordered["drop_order"].to_list() == [1, 2, 3]
        assert ordered["influence"].is_sorted()


def test_tokens_are_windows_of_the_source_and_follow_the_seed(decoder: Decoder, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("Ünïcode and words. " * 50, encoding="utf-8")
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"text": "some words " * 9}) for _ in range(9)))
    (tmp_path / "t.json").write_text(json.dumps(["plain strings " * 9] * 9))
    for name in ("t.txt", "t.jsonl", "t.json"):
        spec = CalibrationSpec(source=str(tmp_path / name), sequences=4, length=16)
        tokens = calibration_tokens(decoder.tokenizer, spec)
        assert tokens.shape == (4, 16)
        assert torch.equal(tokens, calibration_tokens(decoder.tokenizer, spec))
    other = calibration_tokens(decoder.tokenizer, SPEC.model_copy(update={"seed": 4}))
    assert not torch.equal(other, calibration_tokens(decoder.tokenizer, SPEC))


def test_sources_that_give_no_text_are_refused(decoder: Decoder, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("few")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "keys.jsonl").write_text('{"body": "x"}')
    for name, message in (
        ("none.txt", "No such file"),
        ("short.txt", "fewer than one window"),
        ("bad.json", "not valid JSON"),
        ("keys.jsonl", "not text"),
    ):
        with pytest.raises(InputError, match=message):
            calibration_tokens(decoder.tokenizer, CalibrationSpec(source=str(tmp_path / name)))
    with pytest.raises(InputError, match="context of 128"):
        calibrate(decoder, CalibrationSpec(length=129), "tiny")


def test_nan_activations_fail_with_the_module(tiny_folder: Path) -> None:
    broken = load_decoder(tiny_folder)
    with torch.no_grad():
        broken.layers[1].mlp.mixers[0].up_proj.weight[0, 0] = float("nan")
    with pytest.raises(ComputationError, match="NaN or infinite"):
        calibrate(broken, SPEC, "tiny")


def test_moments_of_an_expert_are_those_of_the_tokens_routed_to_it(tiny_decoder: Callable[[str], Decoder]) -> None:
    experts = tiny_decoder("mixtral")
    found = calibrate(experts, SPEC, "tiny").activation_stats
    block = experts.layers[1].mlp.mixers[0].experts
    routed: list[tuple[torch.Tensor, torch.Tensor]] = []
    handle = block.register_forward_pre_hook(lambda _, args: routed.append((args[0], args[1])))
    for sequence in calibration_tokens(experts.tokenizer, SPEC):
        experts.hidden(sequence[None])
    handle.remove()
    states, chosen = (torch.cat(each) for each in zip(*routed, strict=True))
    for expert in range(4):
        x = states[(chosen == expert).any(dim=-1)].double()
        gate, up = (x @ block.gate_up_proj[expert].double().T).chunk(2, dim=-1)
        for key, given in (("gate_up_proj", x), ("down_proj", torch.nn.functional.silu(gate) * up)):
            row = found.row(by_predicate=pl.col("module") == f"model.layers.1.mlp.experts.{key}[{expert}]", named=True)
            assert row["tokens"] == len(given)
            assert row["in_features"] == given.shape[1]
            moment = torch.tensor(row["second_moment"]).double()
            torch.testing.assert_close(moment, given.pow(2).mean(0), rtol=1e-4, atol=1e-9)


def test_an_unreached_expert_has_no_row_and_wanda_names_it(tmp_path: Path) -> None:
    experts = load_decoder(save_tiny(tmp_path / "many", "mixtral", num_local_experts=40))
    few = calibrate(experts, CalibrationSpec(source=SHORT_TEXT, sequences=1, length=16), "tiny").activation_stats
    seen = set(few["module"])
    unseen = next(name for name in experts.matrices if name not in seen)
    assert "experts" in unseen
    tokens = calibration_tokens(experts.tokenizer, CalibrationSpec(source=SHORT_TEXT, sequences=1, length=16))
    with pytest.raises(InputError, match=r"no calibration token reached model.layers.0.mlp.experts.*raise calibration"):
        prune(experts, parse_recipe("wanda-50"), tokens=tokens)


@pytest.mark.parametrize("architecture", ["gpt_oss", "jamba", "recurrent_gemma", "opt", "gpt2", "falcon_h1"])
def test_every_matrix_of_every_kind_of_mixer_has_its_statistics(
    architecture: str, tiny_decoder: Callable[[str], Decoder]
) -> None:
    decoder = tiny_decoder(architecture)
    stats = calibrate(decoder, SPEC, "tiny").activation_stats
    assert set(stats["module"]) == set(decoder.matrices)
    for module, inputs in zip(stats["module"], stats["in_features"], strict=True):
        assert inputs == decoder.matrices[module].weight.shape[1]
    variant = prune(decoder, parse_recipe("wanda-2of4"), tokens=calibration_tokens(decoder.tokenizer, SPEC))
    assert set(variant.masks) == set(decoder.matrices)
    assert all(int(mask.sum()) * 2 == mask.numel() for mask in variant.masks.values())


def test_windows_stay_inside_documents_unless_joined(decoder: Decoder, tmp_path: Path) -> None:
    documents = [
        f"{letter} " * count for letter, count in zip("abcdefgh", (3, 100, 5, 80, 90, 2, 120, 70), strict=True)
    ]
    (tmp_path / "set.json").write_text(json.dumps([{"text": text} for text in documents]))
    spec = CalibrationSpec(source=str(tmp_path / "set.json"), sequences=40, length=60, documents="single")
    tokens = calibration_tokens(decoder.tokenizer, spec)
    assert tokens.shape == (40, 60)
    letters = {decoder.tokenizer.decode(row).replace(" ", "") for row in tokens}
    assert {len(set(text)) for text in letters} == {1}, "a window left its document"
    assert {text[0] for text in letters} == set("bdegh"), "a long document was never drawn"
    assert torch.equal(tokens, calibration_tokens(decoder.tokenizer, spec))
    other = spec.model_copy(update={"seed": 1})
    assert not torch.equal(tokens, calibration_tokens(decoder.tokenizer, other))
    joined = calibration_tokens(decoder.tokenizer, spec.model_copy(update={"documents": "joined"}))
    assert max(len(set(decoder.tokenizer.decode(row).split())) for row in joined) > 1
    with pytest.raises(InputError, match=r"longest document has \d+ tokens.*set `documents: joined`"):
        calibration_tokens(decoder.tokenizer, spec.model_copy(update={"length": 500}))


@pytest.mark.parametrize("documents", ["joined", "single"])
def test_a_template_makes_every_document_a_user_message(decoder: Decoder, tmp_path: Path, documents: str) -> None:
    (tmp_path / "set.json").write_text(json.dumps(["one two"] * 20))
    spec = CalibrationSpec(
        source=str(tmp_path / "set.json"), sequences=3, length=12, documents=documents, template=True
    )
    text = "<|start|>user\none two<|end|>\n"
    whole = decoder.tokenizer(text * (20 if documents == "joined" else 1), add_special_tokens=False).input_ids
    windows = {tuple(whole[start : start + 12]) for start in range(len(whole) - 11)}
    for row in calibration_tokens(decoder.tokenizer, spec).tolist():
        assert tuple(row) in windows
    bare = tiny_tokenizer()
    bare.chat_template = None
    with pytest.raises(InputError, match="no chat template; set it to false"):
        calibration_tokens(bare, spec)


def test_the_hash_follows_every_setting() -> None:
    changes = [{"documents": "single"}, {"template": True}, {"dtype": "bfloat16"}, {"seed": 1}, {"source": "wikitext2"}]
    assert len({SPEC.hash, *(SPEC.model_copy(update=change).hash for change in changes)}) == len(changes) + 1


def test_a_data_set_has_one_form_of_name() -> None:
    assert split_source("hf:allenai/c4:en:train") == ("allenai/c4", "en", "train", "text")
    assert split_source("hf:name:test") == ("name", None, "test", "text")
    assert split_source("hf:./folder::train:content") == ("./folder", None, "train", "content")
    for source in ("hf:", "hf:name", "hf::en:train", "hf:a:b:c:d:e", "hf:a:b:"):
        with pytest.raises(ValidationError, match="does not have the form"):
            CalibrationSpec(source=source)


def test_data_sets_in_folders_and_files_give_documents_and_a_hash(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"words of document {number} " * 20 for number in range(6)]
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": texts, "n": [1] * 6})}).save_to_disk(
        tmp_path / "saved"
    )
    (tmp_path / "files").mkdir()
    pl.DataFrame({"content": texts}).write_parquet(tmp_path / "files" / "train.parquet")
    for source in (f"hf:{tmp_path}/saved:train", f"hf:{tmp_path}/files::train:content"):
        assert read_documents(source, "source") == tuple(texts)
        spec = CalibrationSpec(source=source, sequences=4, length=16, documents="single")
        assert calibration_tokens(decoder.tokenizer, spec).shape == (4, 16)
    assert contents_hash(f"hf:{tmp_path}/saved:train", "source") == contents_hash(
        f"hf:{tmp_path}/files::train:content", "source"
    )
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("read again"))
    for source in (f"hf:{tmp_path}/saved:train", f"hf:{tmp_path}/files::train:content") * 2:
        contents_hash(source, "source")
    monkeypatch.undo()
    for source in (f"hf:{tmp_path}/saved:test", f"hf:{tmp_path}/files:train", f"hf:{tmp_path}/saved::train:n"):
        with pytest.raises(InputError, match="source hf:"):
            read_documents(source, "source")
