"""Power sampling of a published model beside the code of its first paper, one prompt at a time and
with several chains a prompt.

`--against` is a checkout of Karan and Du's repository (reasoning-with-sampling), whose
`mcmc_power_samp` is run as it is. Sides take turns, prompt by prompt; seconds are of the processor.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

QUESTIONS = [
    "Tom has 3 boxes with 4 pens each. How many pens does he have?",
    "A bus has 40 seats and 27 people sit in it. How many seats are free?",
    "Ana reads 12 pages a day. How many pages does she read in a week?",
    "A rope of 18 metres is cut into 3 equal parts. How long is each part?",
    "Ben had 50 dollars and spent 18. How much is left?",
    "A farmer has 6 rows of 7 trees. How many trees are there?",
    "Lea is 9 and her brother is 4 years older. How old is he?",
    "There are 24 apples for 8 children. How many apples does each get?",
    "A train needs 2 hours for 160 km. How far does it go in one hour?",
    "Sam bakes 5 cakes with 3 eggs each. How many eggs does he need?",
    "A shop sold 35 books on Monday and 28 on Tuesday. How many in all?",
    "A box holds 10 pencils. How many boxes do 90 pencils need?",
]
ALPHA, TEMPERATURE, CHAINS = 4.0, 0.25, 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py public`."""
    parser.add_argument("--model", required=True, help="hf:FOLDER, wheel:NAME or gguf:FILE")
    parser.add_argument("--against", required=True, type=Path, metavar="CHECKOUT")
    parser.add_argument("--prompts", type=int, default=len(QUESTIONS))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)


def main(given: argparse.Namespace) -> int:
    """Prints a line for each prompt and for each side, and the ratios."""
    import torch

    torch.set_num_threads(1)
    from nanolab.evals.subject import outside_subject

    subject = outside_subject(given.model, torch.device("cpu"))
    prompts = [
        subject.render([{"role": "user", "content": text}]) for text in QUESTIONS[: given.prompts]
    ]
    theirs = public_sampler(subject, given)
    sides: dict[str, Callable[[list[int], int], list[tuple[float, float]]]] = {
        "public": lambda prompt, number: [theirs(prompt)],
        "alone": lambda prompt, number: own_chains(subject, prompt, number, 1, given),
        "together": lambda prompt, number: own_chains(subject, prompt, number, CHAINS, given),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number, prompt in enumerate(prompts):
        for name, side in sides.items():
            started = time.process_time()
            chains = side(prompt, number)
            seconds[name].append((time.process_time() - started) / len(chains))
            found[name] += chains
        took = {name: each[-1] for name, each in seconds.items()}
        print(json.dumps({"prompt": number, "seconds_a_chain": took}), flush=True)
    for name in sides:
        print(json.dumps({"side": name} | summary(found[name], seconds[name])), flush=True)
    whole = {name: sum(each) for name, each in seconds.items()}
    ratios = {f"public_over_{name}": whole["public"] / whole[name] for name in sides}
    print(json.dumps(ratios | {"prompts": len(prompts), **settings_of(given)}), flush=True)
    return 0


def settings_of(given: argparse.Namespace) -> dict[str, Any]:
    """What was asked."""
    return {
        "model": given.model,
        "alpha": ALPHA,
        "temperature": TEMPERATURE,
        "steps": given.steps,
        "tokens": given.tokens,
        "chains_together": CHAINS,
    }


def summary(chains: list[tuple[float, float]], seconds: list[float]) -> dict[str, float]:
    """Of (final log p in nats, acceptance) of chains: means with standard errors."""
    log_p, accepted = zip(*chains)
    return {
        "seconds_a_chain": fmean(seconds),
        "log_p": fmean(log_p),
        "log_p_se": stdev(log_p) / len(log_p) ** 0.5,
        "acceptance": fmean(accepted),
        "chains": len(chains),
    }


def own_chains(
    subject: Any, prompt: list[int], number: int, count: int, given: argparse.Namespace
) -> list[tuple[float, float]]:
    """`count` chains of ours on one prompt."""
    from nanolab.inference.hf_engine import HFLanguageModel
    from nanolab.samplers.batch import Batch, sample
    from nanolab.samplers.power_mh import PowerSettings

    settings = PowerSettings(
        alpha=ALPHA,
        num_steps=given.steps,
        temperature=TEMPERATURE,
        top_k=None,
        max_new_tokens=given.tokens,
        restart_prob=0.0,
    )
    model = HFLanguageModel(
        subject.model, subject.tokenizer, rows=count, max_length=len(prompt) + given.tokens
    )
    batch = Batch([prompt], 0, f"bench/{number}", copies=count, rows=count)
    return [
        (chain.final.sum_log_p, fmean(info.accepted for info in chain.infos))
        for chain in sample(model, batch, settings)
    ]


def public_sampler(
    subject: Any, given: argparse.Namespace
) -> Callable[[list[int]], tuple[float, float]]:
    """The public code's chain on a prompt, one block: (final log p, acceptance)."""
    sys.path.insert(0, str(given.against / "llm_experiments"))
    public = importlib.import_module("power_samp_utils")
    sampler = public.AutoregressiveSampler(subject.model, subject.tokenizer.inner, "cpu")

    def chain(prompt: list[int]) -> tuple[float, float]:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            _, _, powered, accepted = public.mcmc_power_samp(
                sampler, prompt, TEMPERATURE, given.steps, given.tokens, block_num=1
            )
        return sum(powered) * TEMPERATURE, accepted  # it keeps log p / T

    return chain
