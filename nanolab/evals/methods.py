"""Ways of drawing an answer, compared on the same problems: single samples, n samples, and the
power samplers.

Every method keeps one record a problem, so each can be resumed by itself and any two can be paired.
`Problems.draw` is the way of single samples, `Problems.grade` says what a graded completion is.
"""

import math
from collections.abc import Sequence
from typing import Any

from nanolab.data.tokens import chat
from nanolab.data.tokens.tokenizer import Tokenizer
from nanolab.evals import base
from nanolab.evals.base import Record, mcnemar
from nanolab.evals.problems import GradingQueue, Problems
from nanolab.inference.protocol import Draws
from nanolab.results import Score
from nanolab.samplers import baselines
from nanolab.samplers.batch import Result
from nanolab.samplers.power_mh import ChainResult, PowerSettings
from nanolab.samplers.power_rollout import RolloutSettings
from nanolab.samplers.power_smc import SmcResult, SmcSettings
from nanolab.sandbox.calculator import CALL

# full batches between two writes of n samples' records: little is lost to a kill, little to
# half-empty batches
BATCHES_A_WRITE = 16


def several(
    problems: Problems, method: str, temperature: float, top_k: int | None, count: int
) -> list[Record]:
    """`count` samples a problem; a record is the first one graded, with all of them under
    "samples". It is the first state of the power-sampling chain with the same temperature and
    top_k: results are paired.
    """
    sampling = problems.sampling(temperature, top_k)

    def evaluate(indexes: list[int], queue: GradingQueue) -> None:
        size = math.ceil(BATCHES_A_WRITE * problems.asking.batch_rows / count)
        for first in range(0, len(indexes), size):
            chosen = indexes[first : first + size]
            batch = problems.batch(chosen, count)
            found = baselines.generate(problems.language_model, batch, sampling)
            for index, completions in zip(chosen, found):
                queue.add(index, completions, lambda graded: graded[0] | {"samples": graded})

    return problems.run(method, evaluate)


def best_of(records: Sequence[Record], n: int) -> list[Record]:
    """Of the first n samples of each problem, the one with the highest log p (the first of equals);
    it costs what all n cost.
    """
    chosen = []
    for record in records:
        samples = record["samples"][:n]
        best = max(samples, key=lambda sample: sample["log_p"])
        chosen.append({"index": record["index"]} | best | {"positions": _positions(samples)})
    return chosen


def _positions(records: Sequence[Record]) -> int:
    return sum(record["positions"] for record in records)


def majority(records: Sequence[Record], n: int, of: str = "samples") -> list[Record]:
    """The most frequent answer of the first n samples (or "chains") of each problem; equal ones
    that are written in several ways ("vote") count as the first of them.
    """
    chosen = []
    for record in records:
        samples = record[of][:n]
        votes = [sample.get("vote", sample["answer"]) for sample in samples]
        answer = baselines.majority(votes)
        verdicts = [one["passed"] for one, vote in zip(samples, votes) if vote == answer]
        chosen.append(
            {
                "index": record["index"],
                "answer": answer,
                "expected": record["expected"],
                "passed": answer is not None and verdicts[0],
                "positions": _positions(samples),
            }
        )
    return chosen


def power(
    problems: Problems,
    method: str,
    settings: PowerSettings,
    read: Sequence[int] = (),
    chains: int = 1,
) -> list[Record]:
    """Metropolis-Hastings, `chains` independent chains a problem; a record is the first chain's
    graded last state, with "chains" (each with its `trajectory`) and of the first chain
    "most_likely" and "states" (after each number of steps in `read`, by text key: JSON has no
    other), each with the positions spent.
    """

    def completions(results: list[ChainResult]) -> list[Draws]:
        results.sort(key=lambda result: result.copy)
        more = [results[0].most_likely, *(results[0].states[steps] for steps in read)]
        return [result.final for result in results] + more

    def record(results: list[ChainResult], graded: list[Record]) -> Record:
        finals, best, states = graded[:chains], graded[chains], graded[chains + 1 :]
        tokenizer = problems.asking.tokenizer
        lives = [one | trajectory(tokenizer, result) for one, result in zip(finals, results)]
        return finals[0] | {
            "chains": lives,
            "most_likely": best | {"positions": results[0].positions},
            "states": dict(zip(map(str, read), states, strict=True)),
        }

    return problems.sample(method, settings, record, completions, chains)


def trajectory(tokenizer: Tokenizer, result: ChainResult) -> Record:
    """What a record keeps of a chain: log p of the state after 0 .. n steps of the last block,
    which began with the text "first"; every step, "of" the length before it, its proposal from the
    cut on, its log ratio null where it is -inf; and the last state token by token.
    """

    def text(tokens: list[int]) -> str:
        return chat.completion_text(tokenizer, tokens)

    steps = []
    for info, tokens in zip(result.infos, result.lengths, strict=True):
        proposal = text(info.proposal.tokens[info.cut :])
        steps.append(
            {
                "cut": info.cut,
                "of": tokens,
                "log_p": info.log_p_new,
                "log_ratio": info.log_ratio if math.isfinite(info.log_ratio) else None,
                "log_u": info.log_u,
                "accepted": bool(info.accepted),
                "moved": bool(info.moved),
                "early_rejected": bool(info.early_rejected),
                "positions": info.positions,
                "kept": text(info.proposal.tokens[: info.cut]),
                "proposal": proposal,
                "tool_calls": CALL.findall(proposal),
            }
        )
    return {
        "log_p_by_step": [state.sum_log_p for state in result.states],
        "first": text(result.states[0].tokens),
        "steps": steps,
        "ids": result.final.tokens,
        "forced": result.final.forced,
        "token_log_p": result.final.log_p,
    }


def smc(problems: Problems, method: str, settings: SmcSettings) -> list[Record]:
    """Sequential Monte Carlo: a record is the graded particle that was drawn, with "least_share",
    the smallest effective number of particles met, as a share.
    """

    def record(results: list[SmcResult], graded: list[Record]) -> Record:
        (result,) = results
        return graded[0] | {
            "log_z": result.log_z,
            "resamplings": sum(info.resampled for info in result.infos),
            "least_share": result.least_effective_size / settings.particles,
        }

    return problems.sample(method, settings, record)


def rollout(problems: Problems, method: str, settings: RolloutSettings) -> list[Record]:
    """The autoregressive approximation: a record is the graded completion, with "weighed", its
    tokens that were a choice.
    """

    def record(results: list[Result], graded: list[Record]) -> Record:
        return graded[0] | {"weighed": sum(len(info.ids) > 1 for info in results[0].infos)}

    return problems.sample(method, settings, record)


def state_records(records: Sequence[Record], steps: int) -> list[Record]:
    """The records of `power` as their first chains stood after `steps` steps of the last block."""

    def accepted(record: Record) -> list[bool]:
        return [one["accepted"] for one in last_block(record["chains"][0])[:steps]]

    return [
        {"index": record["index"], "accepted": accepted(record)} | record["states"][str(steps)]
        for record in records
    ]


def last_block(chain: Record) -> list[Record]:
    """The steps of a chain's last block, whose target is p^alpha itself."""
    count = len(chain["log_p_by_step"]) - 1
    return chain["steps"][len(chain["steps"]) - count :]


def most_likely(records: Sequence[Record]) -> list[Record]:
    """The most likely state that each first chain visited, which is no sample of p^alpha."""
    return [{"index": record["index"]} | record["most_likely"] for record in records]


def acceptance(records: Sequence[Record]) -> float | None:
    """Share of the proposals accepted, of `state_records`; None where there are none."""
    decisions = [accepted for record in records for accepted in record["accepted"]]
    return sum(decisions) / len(decisions) if decisions else None


def accuracy(
    records: Sequence[Record], other: Sequence[Record] | None = None, **fields: Any
) -> Score:
    """The row of a method: `base.accuracy`, what it cost, McNemar's exact test against another
    method's records; `fields` of `Score` say of what.
    """
    if other is not None:
        first, second = ([record["passed"] for record in each] for each in (records, other))
        fields["p_value"] = mcnemar(first, second)
    return base.accuracy(records, positions=_positions(records) / max(1, len(records)), **fields)


def no_tool_share(records: Sequence[Record]) -> float | None:
    """Share of the answers without a tool call; None for a method without texts (majority)."""
    texts = [record["text"] for record in records if "text" in record]
    return sum("<<" not in text for text in texts) / len(texts) if texts else None
