"""The processes that scripts/bench_power.py times: one implementation each, pinned alike, all with
the same random-weight model shape.

    python scripts/bench_workers.py ours|fork|nanochat|official|core-DTYPE [CHECKOUT]

A worker reads one JSON object a line from standard input, {"work": ..., "threads": ..., ...}, and
answers each with one line. Peers are imported from their CHECKOUT; what they print goes to standard
error. d4: 4 layers, width 256, 4 heads, vocabulary 4,096.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from bench_models import NEVER, PlainTokens, randomise

VOCAB, DEPTH, WIDTH, HEADS = 4096, 4, 256, 4
Facts = dict[str, Any]


def prompts(count: int, length: int) -> list[list[int]]:
    """Random token rows, the same for every implementation."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, VOCAB, (count, length), generator=generator).tolist()


@contextlib.contextmanager
def counted(found: Facts, cores: int):
    """Adds to `found` the CPU seconds of this process and the wall seconds of the block; `seconds`
    is CPU on one core, else wall.
    """
    processor, wall = time.process_time(), time.perf_counter()
    yield
    found["cpu_seconds"], found["wall_seconds"] = (
        time.process_time() - processor,
        time.perf_counter() - wall,
    )
    found["seconds"] = found["cpu_seconds"] if cores == 1 else found["wall_seconds"]


def peak_bytes() -> int:
    """The largest resident memory of this process so far (Linux's VmHWM: getrusage would include
    the parent's before exec).
    """
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


class Measured:
    """Counts what the scheduler asks of a model: decode calls, their rows, and the seconds spent in
    prefill.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.decodes, self.rows, self.prefill_seconds = model, 0, 0, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def decode(self, rows: list[int], tokens: list[list[int]]) -> torch.Tensor:
        self.decodes += 1
        self.rows += len(rows)
        return self.model.decode(rows, tokens)

    def prefill(self, prompts: list[list[int]]) -> list[int]:
        started = time.process_time()
        rows = self.model.prefill(prompts)
        self.prefill_seconds += time.process_time() - started
        return rows


def ours(_: str) -> dict[str, Callable[[Facts], Facts]]:
    """The production sampler and generator."""
    from nanolab.inference.gpt_engine import GPTLanguageModel
    from nanolab.inference.proposal import Sampling
    from nanolab.model.gpt import GPT
    from nanolab.model.scaling import GPTConfig
    from nanolab.samplers.baselines import generate
    from nanolab.samplers.batch import Batch, sample
    from nanolab.samplers.power_mh import PowerSettings

    bare = psutil.Process().memory_info().rss
    small = GPT(GPTConfig(VOCAB, 512, 1, 32, 1, 1))
    warm = [GPTLanguageModel(small, PlainTokens(VOCAB), rows=8, max_length=48)]
    generate(
        warm.pop(),
        Batch(prompts(8, 32), 0, "warm"),
        Sampling(temperature=0.7, top_k=50, max_new_tokens=4),
    )
    imported = (
        psutil.Process().memory_info().rss
    )  # the libraries' code, read from disk at its first use, is theirs
    model = GPT(GPTConfig(VOCAB, 512, DEPTH, WIDTH, HEADS, HEADS))
    randomise(model)

    def language_model(slots: int, length: int, of: GPT = model) -> Measured:
        return Measured(GPTLanguageModel(of, PlainTokens(VOCAB), rows=slots, max_length=length))

    def power(ask: Facts) -> Facts:
        settings = PowerSettings(
            alpha=4.0,
            num_steps=10,
            temperature=0.7,
            top_k=50,
            max_new_tokens=ask["new"],
            num_blocks=ask["blocks"],
        )
        measured, found = (
            language_model(
                ask["slots"], ask["prompt"] + ask["new"], small if ask.get("small") else model
            ),
            {},
        )
        with counted(found, ask["threads"]):
            results = sample(
                measured,
                Batch(prompts(ask["problems"], ask["prompt"]), 0, "bench", rows=ask["slots"]),
                replace(settings, early_rejection=False),
            )
        positions = sum(result.positions for result in results) / len(results)
        return found | {
            "positions": positions,
            "occupancy": measured.rows / (measured.decodes * ask["slots"]),
            "decodes": measured.decodes,
        }

    def decode(ask: Facts) -> Facts:
        measured, found = language_model(ask["rows"], ask["prompt"] + ask["new"]), {}
        with counted(found, ask["threads"]):
            generate(
                measured,
                Batch(prompts(ask["rows"], ask["prompt"]), 0, "bench", rows=ask["rows"]),
                Sampling(
                    temperature=ask["temperature"], top_k=ask["top_k"], max_new_tokens=ask["new"]
                ),
            )
        return found | {"prefill_seconds": measured.prefill_seconds}

    def memory(ask: Facts) -> Facts:
        """Peak resident bytes above the imports' own, beside the bytes of the weights and of the
        keys and values of all rows.
        """
        work = {"power": power, "decode": decode}[ask["of"]]
        work(ask)
        peak = peak_bytes() - imported
        weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        rows = (
            2 * ask["slots"] if ask["of"] == "power" else ask["rows"]
        )  # a chain keeps its state and its proposal
        cached = rows * (ask["prompt"] + ask["new"]) * DEPTH * 2 * WIDTH * 4
        return {
            "peak_bytes": peak,
            "weights_bytes": weights,
            "cache_bytes": cached,
            "library_bytes": imported - bare,
            "ratio": peak / (weights + cached),
        }

    return {"power": power, "decode": decode, "memory": memory, "early": early_rejection}


def early_rejection(ask: Facts) -> Facts:
    """Power sampling of a finished study's SFT model on its word problems, with and without early
    rejection.
    """
    from nanolab.data.sources.source import open_source
    from nanolab.data.tasks.catalogue import TASKS
    from nanolab.data.tokens import chat
    from nanolab.data.tokens.tokenizer import Tokenizer
    from nanolab.inference.gpt_engine import GPTLanguageModel
    from nanolab.model import checkpoint
    from nanolab.samplers.batch import Batch, sample
    from nanolab.samplers.power_mh import PowerSettings
    from nanolab.sandbox.programs import Tools
    from nanolab.settings.config import DataConfig

    study = Path(ask["checkpoint"])
    study = study if study.is_dir() else Path("mlruns/work") / study
    job = json.loads(
        max(study.glob("power_eval/*/job.json"), key=lambda path: path.stat().st_mtime).read_text()
    )
    folder = max(study.glob("tok_train/*/tokenizer"), key=lambda path: path.stat().st_mtime)
    weights = max(study.glob("sft/*/checkpoints"), key=lambda path: path.stat().st_mtime)
    tokenizer = Tokenizer.load(folder)
    model, _ = checkpoint.load_model(weights, None, "cpu", tokenizer.digest)
    rows = open_source(DataConfig(**job["study"]["data"])).task("gsm8k", "test")[: ask["problems"]]
    asked = [chat.render_prompt(tokenizer, TASKS["gsm8k"].messages(row)[:-1]) for row in rows]
    config = job["config"]
    keys = ("alpha", "num_steps", "temperature", "top_k", "max_new_tokens", "restart_prob")
    settings = PowerSettings(**{key: config[key] for key in keys})
    found: dict[bool, Facts] = {True: {}, False: {}}
    runs = {}
    for on in (True, False, True, False):  # the first of each pair warms up
        language_model = GPTLanguageModel(
            model,
            tokenizer,
            Tools("calculator", 1.0),
            rows=64,
            max_length=max(map(len, asked)) + settings.max_new_tokens,
        )
        with counted(found[on], ask["threads"]):
            runs[on] = sample(
                language_model, Batch(asked, 0, "bench"), replace(settings, early_rejection=on)
            )
    decisions = [
        [[info.accepted for info in result.infos] for result in runs[on]] for on in (True, False)
    ]
    finals = [[result.final.tokens for result in runs[on]] for on in (True, False)]
    facts = {
        f"{key}_{'with' if on else 'without'}": value
        for on in runs
        for key, value in (
            ("positions", sum(result.positions for result in runs[on]) / len(asked)),
            ("seconds", found[on]["seconds"] / len(asked)),
        )
    }
    differing = sum(a != b for a, b in zip(*decisions))
    return facts | {
        "problems": len(asked),
        "chains_with_differing_decisions": differing,
        "same_samples": finals[0] == finals[1],
    }


class Special:
    """A peer's tokenizer as far as its engine asks for one: no special token can be drawn, no text
    is made.
    """

    def encode_special(self, name: str) -> int:
        return NEVER + len(name)

    def get_bos_token_id(self) -> int:
        return NEVER

    def decode(self, ids: list[int]) -> str:
        return ""


def fork(checkout: str) -> dict[str, Callable[[Facts], Facts]]:
    """The reference study's fork of nanochat: one problem at a time through its own sampler."""
    sys.path.insert(0, checkout)
    from nanochat.engine import Engine
    from nanochat.gpt import GPT, GPTConfig

    model = GPT(
        GPTConfig(
            sequence_len=512,
            vocab_size=VOCAB,
            n_layer=DEPTH,
            n_head=HEADS,
            n_kv_head=HEADS,
            n_embd=WIDTH,
        )
    )
    model.init_weights()
    randomise(model)
    engine, positions = Engine(model.eval(), Special()), [0]
    forward = model.forward

    def counting(ids, *arguments, **options):
        positions[0] += ids.numel()
        return forward(ids, *arguments, **options)

    model.forward = counting

    def power(ask: Facts) -> Facts:
        positions[0], found = 0, {}
        with counted(found, ask["threads"]):
            for i, prompt in enumerate(prompts(ask["problems"], ask["prompt"])):
                engine.power_sample_tool_aware(
                    prompt,
                    max_tokens=ask["new"],
                    alpha=4.0,
                    num_steps=10,
                    temperature=0.7,
                    top_k=50,
                    seed=1000 * i,
                    return_metadata=True,
                )
        return found | {"positions": positions[0] / ask["problems"]}

    return {"power": power}


def nanochat(checkout: str) -> dict[str, Callable[[Facts], Facts]]:
    """nanochat's engine: many samples of one prompt."""
    sys.path.insert(0, checkout)
    os.environ["NANOCHAT_DTYPE"] = "float32"
    from nanochat.engine import Engine
    from nanochat.gpt import GPT, GPTConfig

    model = GPT(
        GPTConfig(
            sequence_len=512,
            vocab_size=VOCAB,
            n_layer=DEPTH,
            n_head=HEADS,
            n_kv_head=HEADS,
            n_embd=WIDTH,
            window_pattern="L",
        )
    )
    model.init_weights()
    randomise(model)
    engine = Engine(model.eval(), Special())

    def decode(ask: Facts) -> Facts:
        found: Facts = {}
        (prompt,) = prompts(1, ask["prompt"])
        with counted(found, ask["threads"]):
            engine.generate_batch(
                prompt,
                num_samples=ask["rows"],
                max_tokens=ask["new"],
                temperature=ask["temperature"],
                top_k=ask["top_k"],
                seed=0,
            )
        return found

    return {"decode": decode}


def official(checkout: str) -> dict[str, Callable[[Facts], Facts]]:
    """Karan and Du's code over a Llama of the same shape."""
    sys.path.insert(0, str(Path(checkout) / "llm_experiments"))
    from power_samp_utils import AutoregressiveSampler, mcmc_power_samp
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=DEPTH,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=512,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    )
    randomise(model)
    positions = [0]
    model.model.embed_tokens.register_forward_pre_hook(
        lambda _, inputs: positions.__setitem__(0, positions[0] + inputs[0].numel())
    )
    sampler = AutoregressiveSampler(
        model.eval(), type("Tokens", (), {"eos_token_id": NEVER})(), torch.device("cpu")
    )

    def power(ask: Facts) -> Facts:
        positions[0], found = 0, {}
        with counted(found, ask["threads"]), torch.no_grad():
            for prompt in prompts(ask["problems"], ask["prompt"]):
                mcmc_power_samp(
                    sampler,
                    prompt,
                    temp=0.25,
                    mcmc_steps=10,
                    max_new_tokens=ask["new"],
                    block_num=ask["blocks"],
                )
        return found | {"positions": positions[0] / ask["problems"]}

    return {"power": power}


def main() -> None:
    name = sys.argv[1]
    if name.startswith("core-"):
        from bench_core import timing_worker

        make = functools.partial(timing_worker, dtype=name.removeprefix("core-"))
    else:
        make = {"ours": ours, "fork": fork, "nanochat": nanochat, "official": official}[name]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a peer prints is not an answer
    works = make(sys.argv[2] if len(sys.argv) > 2 else "")
    for line in sys.stdin:
        ask = json.loads(line)
        torch.set_num_threads(ask["threads"])
        answers.write(json.dumps(works[ask["work"]](ask)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
