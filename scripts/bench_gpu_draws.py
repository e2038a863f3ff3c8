"""`bench.py gpu`, power sampling: the draws and decisions against the CPU's, what was recorded
against a rescoring; seconds a problem.
"""

from __future__ import annotations

import copy
import time
from typing import Any

import numpy
import torch
from bench_gpu import Bench
from bench_gpu_decoding import DEPTHS, language_model, small_model, speed_model, texts, ways
from bench_gpu_training import memory, release

from nanolab.inference.gpt_engine import GPTScorer
from nanolab.model.gpt import GPT
from nanolab.samplers import power_mh, power_smc
from nanolab.samplers.batch import Batch, sample

# Draws are addressed, so both devices use the same uniforms: a token differs where rounding moves a
# boundary past one, about once in
# 10,000 draws, and then all that follows it in its chain does
SAME = 0.9
# nats a token: recorded while decoding from the cache, and scored afterwards by one forward. On a
# CPU 4e-6 and 0.03
FLOAT32, BFLOAT16 = 1e-4, 0.1
END = 7  # an ordinary token that ends completions here, so that some end early
MH = power_mh.PowerSettings(
    alpha=4.0, num_steps=4, temperature=0.7, top_k=50, max_new_tokens=16, restart_prob=0.2
)
SMC = power_smc.SmcSettings(
    alpha=4.0, particles=8, temperature=0.7, top_k=50, max_new_tokens=16, stretch=4
)
PROBLEMS, PROMPT, NEW, SLOTS = 32, 64, 64, 64  # of the timed runs


def drawn(model: GPT, captured: bool, prompts: list[list[int]]) -> tuple[list[Any], list[Any]]:
    """Chains and populations of every prompt."""
    lm = language_model(model, captured, 4, 60 + MH.max_new_tokens)
    lm.end_tokens = frozenset((END,))
    return sample(lm, Batch(prompts, 0, "bench", rows=16), MH), sample(
        lm, Batch(prompts, 0, "bench", rows=32), SMC
    )


def tokens(results: tuple[list[Any], list[Any]]) -> list[int]:
    """Every token of every state and particle, each padded to the limit so that places
    correspond.
    """
    rows = [state.tokens for chain in results[0] for state in chain.states]
    rows += [particle.tokens for population in results[1] for particle in population.particles]
    return [token for row in rows for token in (*row, *[-1] * (MH.max_new_tokens - len(row)))]


def decisions(results: tuple[list[Any], list[Any]]) -> list[Any]:
    """What was accepted, and who the ancestors of each particle are after each stretch."""
    accepted = [info.accepted for chain in results[0] for info in chain.infos]
    stretches, nobody = (
        -(-SMC.max_new_tokens // SMC.stretch),
        [-1] * SMC.particles,
    )  # fewer where all particles have ended
    found = [[info.ancestors for info in population.infos] for population in results[1]]
    return accepted + [
        ancestor
        for rows in found
        for row in [*rows, *[nobody] * (stretches - len(rows))]
        for ancestor in row
    ]


def share(one: list[Any], other: list[Any]) -> float:
    """The share of equal entries; those that only one has are not equal."""
    return sum(a == b for a, b in zip(one, other)) / max(len(one), len(other))


def rescored(model: GPT, prompts: list[list[int]], results: tuple[list[Any], list[Any]]) -> float:
    """The largest difference of a token's recorded log p from that of a forward of its whole
    text.
    """
    rows = [(prompts[chain.problem], state) for chain in results[0] for state in chain.states]
    rows += [
        (prompts[population.problem], particle)
        for population in results[1]
        for particle in population.particles
    ]
    ids = [[*prompt, *completion.tokens] for prompt, completion in rows]
    scores = GPTScorer(model).score(
        ids, [(len(prompt), len(row)) for (prompt, _), row in zip(rows, ids)]
    )
    recorded = numpy.array([value for _, completion in rows for value in completion.log_p])
    return float(
        numpy.abs(
            recorded - numpy.array([value for score in scores for value in score.per_token])
        ).max()
    )


def check(bench: Bench) -> None:
    """In float32 against the CPU, in bfloat16 against the same model's own rescoring, and captured
    against eager.
    """
    torch.set_float32_matmul_precision("highest")  # no TF32
    model = small_model(bench.tiny, kv_heads=2)
    prompts = texts(4 if bench.tiny else 12, 60, model.config.vocab_size)
    for dtype, tolerance in ((torch.float32, FLOAT32), (torch.bfloat16, BFLOAT16)):
        own, name = copy.deepcopy(model).to(bench.device, dtype), str(dtype).removeprefix("torch.")
        found = {way: drawn(own, captured, prompts) for way, captured in ways(bench).items()}
        for way, results in found.items():
            bench.check(
                "recorded log p against a rescoring on the device",
                rescored(own, prompts, results),
                tolerance,
                way=way,
                dtype=name,
                unit="nats, largest difference of a token",
            )
        if "captured" in found:
            for what, part in (("tokens", tokens), ("decisions", decisions)):
                bench.check(
                    f"{what} drawn captured and eager",
                    share(*map(part, found.values())),
                    1.0,
                    at_least=True,
                    dtype=name,
                    unit="share that is equal",
                )
        if dtype == torch.float32:
            against_cpu(bench, model, prompts, found)


def against_cpu(bench: Bench, model: GPT, prompts: list[list[int]], found: dict[str, Any]) -> None:
    """Tokens, decisions and log p of each way in float32, against the lab's own sampling on the
    CPU.
    """
    expected = drawn(model, False, prompts)
    accepted = decisions(expected)[: len(prompts) * MH.num_steps]
    for way, results in found.items():
        for what, part in (("tokens", tokens), ("decisions", decisions)):
            bench.check(
                f"{what} drawn, against the CPU",
                share(part(results), part(expected)),
                SAME,
                at_least=True,
                way=way,
                dtype="float32",
                unit="share that is equal",
                count=len(part(expected)),
                accepted=sum(accepted),
                proposed=len(accepted),
            )
        bench.check(
            "recorded log p against a rescoring in float32 on the CPU",
            rescored(model, prompts, results),
            FLOAT32,
            way=way,
            dtype="float32",
            unit="nats, largest difference of a token",
        )


def speed(bench: Bench) -> None:
    """A line for each depth and way: seconds a problem of Metropolis-Hastings with ten steps, in
    bfloat16.
    """
    problems, prompt, new, slots = (2, 8, 4, 4) if bench.tiny else (PROBLEMS, PROMPT, NEW, SLOTS)
    for depth in DEPTHS:
        model = speed_model(depth, bench.tiny).to(bench.device, torch.bfloat16)
        asked = (
            numpy.random.default_rng(0)
            .integers(0, model.config.vocab_size, (problems, prompt))
            .tolist()
        )
        for way, captured in ways(bench).items():
            release(bench)
            lm = language_model(model, captured, slots, prompt + new)
            warm, timed = (
                power_mh.PowerSettings(num_steps=steps, max_new_tokens=new) for steps in (1, 10)
            )
            sample(lm, Batch(asked, 0, "bench", rows=slots), warm)
            begun = time.perf_counter()
            results = sample(lm, Batch(asked, 0, "bench", rows=slots), timed)
            seconds = time.perf_counter() - begun
            bench.emit(
                what="power sampling",
                depth=depth,
                way=way,
                dtype="bfloat16",
                seconds_a_problem=seconds / problems,
                positions_a_problem=sum(result.positions for result in results) / problems,
                seconds=seconds,
                **memory(bench),
                problems=problems,
                slots=slots,
                prompt=prompt,
                new=new,
                steps=10,
                alpha=timed.alpha,
                temperature=timed.temperature,
                top_k=timed.top_k,
            )
            del lm
        del model
