"""`bench.py gpu`, decoding: logits against a full forward in float32 on the CPU; tokens a second,
share of the bounds, memory.
"""

from __future__ import annotations

import copy
import time

import numpy
import torch
from bench_gpu import Bench
from bench_gpu_training import memory, peak_of, release
from bench_models import PlainTokens, randomise

from nanolab.inference import decode
from nanolab.inference.gpt_engine import GPTLanguageModel
from nanolab.inference.proposal import Sampling
from nanolab.model.gpt import GPT
from nanolab.model.scaling import GPTConfig, flops_per_token
from nanolab.samplers.baselines import generate
from nanolab.samplers.batch import Batch
from nanolab.seeds import generator

# root mean square of the logits' difference, over their spread: on a CPU 9e-7 in float32, 0.01 in
# bfloat16; TF32 would make it 3e-4
FLOAT32, BFLOAT16 = 3e-5, 3e-2
TURNS = 12  # of the check: tokens appended to every row
PROMPT, NEW = 128, 128  # tokens of a timed row
DEPTHS, BATCHES = (12, 20), (1, 32, 128)


def language_model(model: GPT, captured: bool, rows: int, max_length: int) -> GPTLanguageModel:
    """The lab's own; on CUDA it captures its steps, unless it is told not to."""
    found = GPTLanguageModel(
        model, PlainTokens(model.config.vocab_size), rows=rows, max_length=max_length
    )
    if not captured:
        found.step = decode.step
    return found


def ways(bench: Bench) -> dict[str, bool]:
    """How a step is run: captured as CUDA graphs, where there are any, and operator by operator."""
    return {"captured": True, "eager": False} if bench.device == "cuda" else {"eager": False}


def small_model(tiny: bool, kv_heads: int = 1) -> GPT:
    """A model of random weights; heads of 128 as the large ones have, of 32 at tiny size."""
    model = GPT(
        GPTConfig(256, 96, 2, 64, 2, kv_heads)
        if tiny
        else GPTConfig(4096, 256, 4, 256, 2, kv_heads)
    )
    randomise(model)
    return model


def texts(count: int, longest: int, vocab_size: int) -> list[list[int]]:
    """Random prompts of 1 to `longest` tokens."""
    random = generator("bench gpu", count)
    return [
        random.integers(0, vocab_size, random.integers(1, longest + 1)).tolist()
        for _ in range(count)
    ]


def decoded(
    model: GPT, captured: bool, prompts: list[list[int]]
) -> tuple[list[torch.Tensor], list[list[list[int]]]]:
    """Logits of every turn (rows, vocab), and the texts that they follow: prefill, single tokens,
    and now and then several at once, as a tool's output comes; cut back and forked in between; in a
    cache that has to grow, past a graph's length.
    """
    lm = language_model(model, captured, len(prompts) // 4, len(prompts[-1]) + 3 * TURNS)
    random = generator("bench gpu", "turns")
    rows, logits, held = lm.prefill(prompts), [], []
    for turn in range(TURNS):
        more = [
            random.integers(0, lm.vocab_size, 3 if turn % 4 == i % 4 == 3 else 1).tolist()
            for i in range(len(rows))
        ]
        more = [[*prompt[-1:], *new] if turn == 0 else new for prompt, new in zip(prompts, more)]
        logits.append(lm.decode(rows, more).to("cpu", copy=True))  # the next call overwrites them
        held.append([list(lm.tokens[row]) for row in rows])
        if turn == TURNS // 2:
            rows = lm.fork([-1] * len(rows), rows, [len(lm.tokens[row]) - 1 for row in rows])
    return logits, held


def full_forward(model: GPT, held: list[list[list[int]]]) -> list[torch.Tensor]:
    """The logits after those texts by the forward of training: no cache, no padding seen, no packed
    weights.
    """
    found = []
    for rows in held:
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        last = torch.tensor([len(row) - 1 for row in rows])
        found.append(model.logits(model.trunk(ids)[torch.arange(len(rows)), last]).detach())
    return found


def difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Root mean square of the difference, over the spread of what was expected."""
    one, other = torch.cat(found), torch.cat(expected)
    return float((one - other).square().mean().sqrt() / other.std())


def check(bench: Bench) -> None:
    """Logits of a grouped-query model, through prefill and decode, in both dtypes and every way;
    captured against eager.
    """
    torch.set_float32_matmul_precision("highest")  # no TF32
    model = small_model(bench.tiny)
    prompts = sorted(texts(16, 60, model.config.vocab_size), key=len)
    expected: list[torch.Tensor] | None = None
    for dtype, tolerance in ((torch.float32, FLOAT32), (torch.bfloat16, BFLOAT16)):
        own, logits = copy.deepcopy(model).to(bench.device, dtype), {}
        for way, captured in ways(bench).items():
            logits[way], held = decoded(own, captured, prompts)
            expected = expected or full_forward(model, held)
            largest = float((torch.cat(logits[way]) - torch.cat(expected)).abs().max())
            bench.check(
                "logits against a full forward in float32 on the CPU",
                difference(logits[way], expected),
                tolerance,
                way=way,
                dtype=str(dtype).removeprefix("torch."),
                unit="root mean square over spread",
                largest_difference=largest,
                rows=len(prompts),
                turns=TURNS,
            )
        if "captured" in logits:
            bench.check(
                "captured against eager",
                difference(logits["captured"], logits["eager"]),
                tolerance,
                dtype=str(dtype).removeprefix("torch."),
                unit="root mean square over spread",
            )
    if bench.device == "cpu":
        bench.emit(what="captured against eager", left_out="CUDA graphs are only on CUDA")


def speed_model(depth: int, tiny: bool) -> GPT:
    """Width 64 a layer, heads of 128, vocabulary 65,536."""
    width = 32 * depth // 6 if tiny else 64 * depth
    heads = 1 if tiny else width // 128
    model = GPT(
        GPTConfig(256 if tiny else 65_536, 2048, depth // 6 if tiny else depth, width, heads, heads)
    )
    randomise(model)
    return model


def copy_speed(device: str) -> float | None:
    """Bytes a second that a large copy reads and writes; None on a CPU."""
    if device == "cpu":
        return None
    source = torch.empty(2**30, dtype=torch.uint8, device=device)
    target, start, stop = (
        torch.empty_like(source),
        torch.cuda.Event(enable_timing=True),
        torch.cuda.Event(enable_timing=True),
    )
    target.copy_(source)
    start.record()
    for _ in range(20):
        target.copy_(source)
    stop.record()
    torch.cuda.synchronize()
    return 20 * 2 * source.numel() / (start.elapsed_time(stop) / 1000)


def speed(bench: Bench) -> None:
    """A line for each depth, batch and way: tokens a second of `generate`, prefill included, in
    bfloat16.
    """
    bandwidth = copy_speed(bench.device)
    prompt, new = (8, 4) if bench.tiny else (PROMPT, NEW)
    for depth in DEPTHS:
        model = speed_model(depth, bench.tiny).to(bench.device, torch.bfloat16)
        for batch in (1, 3) if bench.tiny else BATCHES:
            for way, captured in ways(bench).items():
                release(bench)
                timed(bench, model, depth, batch, way, captured, prompt, new, bandwidth)
        del model


def timed(
    bench: Bench,
    model: GPT,
    depth: int,
    batch: int,
    way: str,
    captured: bool,
    prompt: int,
    new: int,
    bandwidth: float | None,
) -> None:
    """A line: the second run of two, as the first makes the cache and captures."""
    lm, vocab_size = language_model(model, captured, batch, prompt + new), model.config.vocab_size
    prompts = numpy.random.default_rng(0).integers(0, vocab_size, (batch, prompt)).tolist()
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        generate(
            lm,
            Batch(prompts, 0, "bench", rows=batch),
            Sampling(temperature=0.7, top_k=50, max_new_tokens=new),
        )
        seconds.append(
            time.perf_counter() - begun
        )  # the last tokens are on the host: nothing is under way
    rate, peak = batch * new / seconds[1], peak_of(bench)
    table, cached = (
        vocab_size * model.config.width,
        2 * depth * model.config.width * (prompt + new / 2),
    )
    read = 2 * (
        sum(weight.numel() for weight in model.parameters()) - table + batch * cached
    )  # bytes a step
    bench.emit(
        what="decoding",
        depth=depth,
        batch=batch,
        way=way,
        dtype="bfloat16",
        tokens_per_second=rate,
        mfu=None if peak is None else rate * flops_per_token(model.config) / 3 / peak,
        **memory(bench),
        copy_bytes_per_second=bandwidth,
        share_of_copy_speed=None if bandwidth is None else rate / batch * read / bandwidth,
        seconds=seconds[1],
        seconds_first=seconds[0],
        prompt=prompt,
        new=new,
        temperature=0.7,
        top_k=50,
    )
