"""Ways of drawing an answer, compared on the same problems: single samples, n samples, and the power samplers.

Every method keeps one record a problem, so each can be resumed by itself and any two can be paired. A graded completion is
{passed, answer, expected, text, tokens, log_p (nats), positions (token positions forwarded for it)}.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanolab import sandbox
from nanolab.calculator import CALL
from nanolab.data import chat
from nanolab.data.tokenizer import Tokenizer
from nanolab.dist import World
from nanolab.evals.base import Done, Record, Tell, mcnemar, run_examples, wilson
from nanolab.evals.chat_tasks import grade_problem
from nanolab.evals.programs import check_of
from nanolab.generation import Completion
from nanolab.samplers import baselines, power_mh, power_rollout, power_smc

STRETCH = 16  # batches of samples between two writes of records: little is lost to a kill, little to half-empty batches
OF_A_LIFE = (
    "first",
    "steps",
    "log_p_by_step",
    "ids",
    "forced",
    "token_log_p",
)  # kept under a record's chains only
PROGRAMS = 64  # completions whose programs are run together


@dataclass(frozen=True)
class Problems:
    """The problems of a comparison and the model that is asked; `stage` and `seed` address every random number."""

    world: World
    folder: Path
    tokenizer: Tokenizer
    language_model: Any  # generation.LanguageModel
    rows: Sequence[dict[str, Any]]
    prompts: Sequence[list[int]]
    stage: str
    seed: int
    max_new_tokens: int
    batch_rows: int
    say: Callable[[str], None]
    task: str = "gsm8k"  # gsm8k: the final number counts; humaneval: the row's tests are run
    plain: bool = (
        False  # asked in plain text (a base model): the answer ends at the first empty line
    )
    tool_timeout: float = 5.0  # seconds that a test program may run
    workers: int = 2  # test programs run at once
    progress: Tell = lambda *told: None
    verdicts: dict[tuple[int, str], bool] = field(
        default_factory=dict
    )  # of programs already run, by problem and text

    def grade(self, pairs: Sequence[tuple[int, Completion]]) -> list[Record]:
        """Graded completions of (problem number, completion) pairs, in order."""
        if self.task == "gsm8k":
            return [
                grade_problem(self.tokenizer, self.rows[index], completion, self.plain)
                | {"positions": completion.positions}
                for index, completion in pairs
            ]
        texts = [chat.completion_text(self.tokenizer, completion.tokens) for _, completion in pairs]
        keys = [(index, text) for (index, _), text in zip(pairs, texts)]
        new = list(dict.fromkeys(key for key in keys if key not in self.verdicts))
        checks = [check_of(self.rows[index], text) for index, text in new]
        results = sandbox.run_many(checks, self.tool_timeout, workers=self.workers)
        self.verdicts.update((key, result.passed) for key, result in zip(new, results, strict=True))
        return [
            {
                "passed": self.verdicts[key],
                "answer": text.strip(),
                "expected": None,
                "text": text,
                "tokens": len(completion.tokens),
                "log_p": completion.sum_log_p,
                "positions": completion.positions,
            }
            for key, text, (_, completion) in zip(keys, texts, pairs)
        ]

    def run(self, method: str, evaluate: Callable[[list[int], _Lot], None]) -> list[Record]:
        """The records of a method on every problem, those on disk included; `evaluate` hands each problem's completions to the lot."""

        def graded(indexes: list[int], done: Done) -> None:
            lot = _Lot(self, done)
            evaluate(indexes, lot)
            lot.grade()

        return run_examples(
            self.world, self.folder, method, len(self.rows), graded, self.say, self.progress
        )

    def generate(
        self,
        indexes: Sequence[int],
        temperature: float,
        top_k: int | None,
        samples: int = 1,
        **more: Any,
    ) -> Any:
        """Completions of the problems `indexes` from the engine."""
        return baselines.generate(
            self.language_model,
            [self.prompts[i] for i in indexes],
            temperature=temperature,
            top_k=top_k,
            seed=self.seed,
            max_new_tokens=self.max_new_tokens,
            stage=self.stage,
            samples_per_prompt=samples,
            batch_rows=self.batch_rows,
            examples=list(indexes),
            **more,
        )

    def shared(self, indexes: Sequence[int]) -> dict[str, Any]:
        """What every power sampler is called with besides its settings."""
        return dict(
            model=self.language_model,
            prompts=[self.prompts[i] for i in indexes],
            seed=self.seed,
            stage=self.stage,
            batch_rows=self.batch_rows,
            examples=list(indexes),
        )


class _Lot:
    """Completions that wait to be graded: at once where that is cheap, together where programs are run."""

    def __init__(self, problems: Problems, done: Done) -> None:
        self.problems, self.done = problems, done
        self.waiting: list[tuple[int, Sequence[Completion], Callable[[list[Record]], Record]]] = []

    def add(
        self,
        index: int,
        completions: Sequence[Completion],
        record: Callable[[list[Record]], Record],
    ) -> None:
        """`record` makes the record of problem `index` of the graded completions."""
        self.waiting.append((index, completions, record))
        if (
            self.problems.task == "gsm8k"
            or sum(len(completions) for _, completions, _ in self.waiting) >= PROGRAMS
        ):
            self.grade()

    def grade(self) -> None:
        """Grade what waits."""
        waiting, self.waiting = self.waiting, []
        graded = iter(
            self.problems.grade(
                [
                    (index, completion)
                    for index, completions, _ in waiting
                    for completion in completions
                ]
            )
        )
        for index, completions, record in waiting:
            self.done({"index": index} | record([next(graded) for _ in completions]))


def single(problems: Problems, method: str, temperature: float, top_k: int | None) -> list[Record]:
    """One completion a problem (temperature 0: greedy); a record is the graded completion."""

    def evaluate(indexes: list[int], lot: _Lot) -> None:
        problems.generate(
            indexes,
            temperature,
            top_k,
            on_done=lambda place, completions: lot.add(
                indexes[place], completions, lambda graded: graded[0]
            ),
        )

    return problems.run(method, evaluate)


def several(
    problems: Problems, method: str, temperature: float, top_k: int | None, count: int
) -> list[Record]:
    """`count` samples a problem; a record is the first one graded, with all of them in drawing order under "samples".

    Sample 0 is the first state of the power-sampling chain with the same temperature and top_k: results are paired.
    """

    def evaluate(indexes: list[int], lot: _Lot) -> None:
        stretch = math.ceil(STRETCH * problems.batch_rows / count)
        for first in range(0, len(indexes), stretch):
            chosen = indexes[first : first + stretch]
            for index, completions in zip(
                chosen, problems.generate(chosen, temperature, top_k, count)
            ):
                lot.add(index, completions, lambda graded: graded[0] | {"samples": graded})

    return problems.run(method, evaluate)


def best_of(records: Sequence[Record], n: int) -> list[Record]:
    """Of the first n samples of each problem, the one with the highest log p; it costs what all n cost."""
    chosen = []
    for record in records:
        samples = record["samples"][:n]
        best = max(samples, key=lambda sample: sample["log_p"])  # the first of equals
        chosen.append(
            {"index": record["index"]}
            | best
            | {"positions": sum(sample["positions"] for sample in samples)}
        )
    return chosen


def majority(records: Sequence[Record], n: int, of: str = "samples") -> list[Record]:
    """The most frequent answer of the first n samples (or "chains") of each problem; those without an answer do not vote."""
    chosen = []
    for record in records:
        samples = record[of][:n]
        answer = baselines.majority([sample["answer"] for sample in samples])
        passed = answer is not None and next(
            sample["passed"] for sample in samples if sample["answer"] == answer
        )
        chosen.append(
            {
                "index": record["index"],
                "answer": answer,
                "expected": record["expected"],
                "passed": passed,
                "positions": sum(sample["positions"] for sample in samples),
            }
        )
    return chosen


def power(
    problems: Problems,
    method: str,
    settings: power_mh.PowerSettings,
    read: Sequence[int] = (),
    chains: int = 1,
) -> list[Record]:
    """Metropolis-Hastings, `chains` independent chains a problem; a record is the first chain's graded last state, with
    "chains" (each its graded last state and its life, see `_life`), "most_likely" (the first chain's most likely state, another
    estimator) and "states" (after each number of steps in `read`, by text key: JSON has no other), each with the positions spent.
    """

    def evaluate(indexes: list[int], lot: _Lot) -> None:
        found: dict[int, list[power_mh.ChainResult]] = {}

        def finished(place: int, result: power_mh.ChainResult) -> None:
            results = found.setdefault(place, [])
            results.append(result)
            if len(results) == chains:
                results.sort(key=lambda one: one.chain)
                first = results[0]
                states = [first.states[steps] for steps in read]
                completions = [one.final for one in results] + [first.most_likely] + states
                lot.add(
                    indexes[place],
                    completions,
                    lambda graded: _power_record(problems, found.pop(place), graded, read),
                )

        power_mh.sample(
            settings=settings, chains=chains, on_done=finished, **problems.shared(indexes)
        )

    return problems.run(method, evaluate)


def _power_record(
    problems: Problems,
    results: list[power_mh.ChainResult],
    graded: list[Record],
    read: Sequence[int],
) -> Record:
    lives = [
        one | {"positions": result.positions} | _life(problems.tokenizer, result)
        for one, result in zip(graded, results)
    ]
    rest = graded[len(results) :]
    states = {
        str(steps): one | {"positions": results[0].positions_by_step[steps]}
        for steps, one in zip(read, rest[1:], strict=True)
    }
    return {key: value for key, value in lives[0].items() if key not in OF_A_LIFE} | {
        "chains": lives,
        "most_likely": rest[0] | {"positions": results[0].positions},
        "states": states,
    }


def _life(tokenizer: Tokenizer, result: power_mh.ChainResult) -> Record:
    """ "log_p_by_step": log p of the state after 0 .. n steps of the last block, which began with the text "first"; "steps": of every
    step the cut and the length before, the text kept, the proposal's log p, text and tool calls from the cut on, the log ratio
    (null: -inf), log u, the decision and the positions forwarded; "ids", "forced" and "token_log_p": the last state token by token.
    """
    steps, final = [], result.final
    for info, tokens in zip(result.infos, result.lengths, strict=True):
        finite, text = (
            math.isfinite(info.log_ratio),
            chat.completion_text(tokenizer, info.proposal.tokens[info.cut :]),
        )
        steps.append(
            {
                "cut": info.cut,
                "of": tokens,
                "log_p": info.log_p_new,
                "log_ratio": info.log_ratio if finite else None,
                "log_u": info.log_u,
                "accepted": bool(info.accepted),
                "moved": bool(info.moved),
                "early_rejected": bool(info.early_rejected),
                "positions": info.positions,
                "kept": chat.completion_text(tokenizer, info.proposal.tokens[: info.cut]),
                "proposal": text,
                "tool_calls": CALL.findall(text),
            }
        )
    first = chat.completion_text(tokenizer, result.states[0].tokens)
    return {
        "log_p_by_step": [state.sum_log_p for state in result.states],
        "first": first,
        "steps": steps,
        "ids": final.tokens,
        "forced": final.forced,
        "token_log_p": final.log_p,
    }


def smc(problems: Problems, method: str, settings: power_smc.SmcSettings) -> list[Record]:
    """Sequential Monte Carlo: a record is the graded particle that was drawn, with "log_z", "resamplings" and "least_share" (the
    smallest effective number of particles met, as a share).
    """

    def evaluate(indexes: list[int], lot: _Lot) -> None:
        def finished(place: int, result: power_smc.SmcResult) -> None:
            least = min(info.effective_sample_size for info in result.infos) / settings.particles
            lot.add(
                indexes[place],
                [result.final],
                lambda graded: (
                    graded[0]
                    | {
                        "log_z": result.log_z,
                        "resamplings": sum(info.resampled for info in result.infos),
                        "least_share": least,
                    }
                ),
            )

        power_smc.sample(settings=settings, on_done=finished, **problems.shared(indexes))

    return problems.run(method, evaluate)


def rollout(
    problems: Problems, method: str, settings: power_rollout.RolloutSettings
) -> list[Record]:
    """The autoregressive approximation: a record is the graded completion, with "weighed" (its tokens that were a choice)."""

    def evaluate(indexes: list[int], lot: _Lot) -> None:
        def finished(place: int, result: power_rollout.RolloutResult) -> None:
            lot.add(
                indexes[place],
                [result.final],
                lambda graded: (
                    graded[0] | {"weighed": sum(len(info.ids) > 1 for info in result.infos)}
                ),
            )

        power_rollout.sample(settings=settings, on_done=finished, **problems.shared(indexes))

    return problems.run(method, evaluate)


def state_records(records: Sequence[Record], steps: int) -> list[Record]:
    """The records of `power` as their first chains stood after `steps` steps of the last block."""
    return [
        {
            "index": record["index"],
            "accepted": [one["accepted"] for one in last_block(record["chains"][0])[:steps]],
        }
        | record["states"][str(steps)]
        for record in records
    ]


def last_block(chain: Record) -> list[Record]:
    """The steps of a chain's last block, whose target is p^alpha itself."""
    count = len(chain["log_p_by_step"]) - 1
    return chain["steps"][len(chain["steps"]) - count :]


def most_likely(records: Sequence[Record]) -> list[Record]:
    """The most likely state that each first chain visited: another estimator, not a sample of p^alpha."""
    return [{"index": record["index"]} | record["most_likely"] for record in records]


def acceptance(records: Sequence[Record]) -> float | None:
    """Share of the proposals accepted, of `state_records`; None when none was made."""
    decisions = [accepted for record in records for accepted in record["accepted"]]
    return sum(decisions) / len(decisions) if decisions else None


def summary(records: Sequence[Record], against: Sequence[Record] | None = None) -> dict[str, float]:
    """accuracy, passed, total, low, high (95% Wilson), positions_per_problem; p_value (exact McNemar) against another method."""
    passed, total = sum(record["passed"] for record in records), len(records)
    low, high = wilson(passed, total)
    values = {
        "accuracy": passed / max(1, total),
        "passed": passed,
        "total": total,
        "low": low,
        "high": high,
        "positions_per_problem": sum(record["positions"] for record in records) / max(1, total),
    }
    if against is not None:
        values["p_value"] = mcnemar(
            [record["passed"] for record in records], [record["passed"] for record in against]
        )
    return values


def no_tool_share(records: Sequence[Record]) -> float | None:
    """Share of the answers that were written without a tool call; None for a method that has no text of its own (majority)."""
    texts = [record["text"] for record in records if "text" in record]
    return sum("<<" not in text for text in texts) / len(texts) if texts else None
