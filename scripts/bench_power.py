"""`python scripts/bench.py power`: sampling against its targets, one JSON line each, peers measured
in the same run where given.

Each implementation runs in a process of its own (scripts/bench_workers.py), on the same pinned
cores and threads; ours and the peer are measured in turn, so that their ratio is of the same
minutes. One core: CPU seconds; two: wall seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = (
    "constant of our table of peer measurements, taken on another machine at another time: "
    "no ratio below 1.3 means anything; give --against CHECKOUT to measure it in this run"
)
# positions, seconds a problem, tokens a second: as measured once at the same settings
CONSTANTS = {
    ("fork", "positions"): 2794,
    ("official", "positions"): 4532,
    ("fork", "seconds"): 3.53,
    ("official", "seconds"): 5.05,
    ("nanochat", "tokens", 0.7): 1820,
    ("nanochat", "tokens", 1.0): 1671,
}
Facts = dict[str, Any]


def emit(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def recognise(checkout: Path) -> str:
    """Which peer a checkout is, by its content."""
    if (checkout / "llm_experiments" / "power_samp_utils.py").is_file():
        return "official"
    engine = checkout / "nanochat" / "engine.py"
    if not engine.is_file():
        raise SystemExit(
            f"{checkout} is none of the peers: it has neither nanochat/engine.py nor"
            " llm_experiments/power_samp_utils.py"
        )
    return "fork" if "def power_sample_tool_aware" in engine.read_text() else "nanochat"


class Worker:
    """A process of scripts/bench_workers.py; it measures only while it is asked. `place` 0, 1, ...:
    on other cores than its neighbour.
    """

    def __init__(
        self, name: str, threads: int, checkout: Path | None = None, place: int = 0
    ) -> None:
        cores = set(
            sorted(os.sched_getaffinity(0), reverse=True)[place * threads : (place + 1) * threads]
        )
        environment = {
            "GOMP_SPINCOUNT": "10000",
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": str(ROOT),
        }
        command = [
            sys.executable,
            str(ROOT / "scripts" / "bench_workers.py"),
            name,
            *([str(checkout)] if checkout else []),
        ]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        self.name, self.threads = name, threads

    def ask(self, **work: Any) -> Facts:
        """The worker's answer."""
        self.send(**work)
        return self.answer()

    def send(self, **work: Any) -> None:
        """Lets the worker begin."""
        with contextlib.suppress(BrokenPipeError):  # a dead worker is seen when it does not answer
            self.process.stdin.write(json.dumps({"threads": self.threads, **work}) + "\n")
            self.process.stdin.flush()

    def answer(self) -> Facts:
        """What the worker found; raises SystemExit with the end of its error output when it has
        died.
        """
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker {self.name} died: {self.process.communicate()[1][-800:]}")
        return json.loads(line)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def line(
    what: str,
    setting: str,
    ours: list[float],
    target: float,
    *,
    at_most: bool,
    peer: list[float] | None = None,
    source: str = "",
    ratio_of: str = "",
    **more: Any,
) -> None:
    """Emit a result: met when the median (or, with `ratio_of`, the median of the ratios of ours and
    peer in turn) reaches the target.
    """
    facts: Facts = {
        "what": what,
        "setting": setting,
        "ours": round(statistics.median(ours), 4),
        "ours_all": [round(x, 4) for x in ours],
    }
    judged = facts["ours"]
    if peer:
        pairs = zip(ours, peer if len(peer) == len(ours) else [statistics.median(peer)] * len(ours))
        ratios = [own / other if ratio_of == "ours/peer" else other / own for own, other in pairs]
        facts |= {
            "peer": round(statistics.median(peer), 4),
            "peer_all": [round(x, 4) for x in peer],
            "ratio": round(statistics.median(ratios), 3),
            "peer_from": source,
        }
        judged = facts["ratio"] if ratio_of else judged
    met = judged <= target if at_most else judged >= target
    emit(**facts, target=("at most " if at_most else "at least ") + str(target), met=met, **more)


def turns(
    ours: Worker, peer: Worker | None, repeats: int, own: Facts, other: Facts
) -> tuple[list[Facts], list[Facts]]:
    """`repeats` measurements of each, in turn, after one of each that is not counted."""
    found: tuple[list[Facts], list[Facts]] = ([], [])
    for repeat in range(repeats + 1):
        for worker, work, kept in ((ours, own, found[0]), (peer, other, found[1])):
            if worker is not None:
                facts = worker.ask(**work)
                kept += [facts] if repeat else []
    return found


class Bench:
    """The sections; `peers` maps a peer's name to its checkout."""

    def __init__(self, peers: dict[str, Path], threads: int, quick: bool) -> None:
        self.peers, self.threads, self.repeats = peers, threads, 1 if quick else 3
        self.quick = quick

    def against(self, name: str) -> contextlib.AbstractContextManager[Worker | None]:
        """The peer's process, on one core; None where its checkout was not given."""
        return Worker(name, 1, self.peers[name]) if name in self.peers else contextlib.nullcontext()

    def source(self, name: str) -> str:
        return (
            f"{name}'s checkout, measured in turn in this run" if name in self.peers else PUBLISHED
        )

    def positions(self, name: str, blocks: int, target: float) -> None:
        """Over many problems, as the cuts are random; they do not depend on the model, so a small
        one stands for it.
        """
        setting = (
            f"prompt 64, 64 new, 10 steps a block, {blocks} block{'s' * (blocks > 1)}, no end"
            " token, early rejection off"
        )
        work = dict(work="power", prompt=64, new=64, blocks=blocks)
        with Worker("ours", 1) as ours:
            own = ours.ask(**work, slots=64, problems=1024 // blocks, small=True)
        with self.against(name) as peer:
            measured = (
                peer.ask(**work, problems=1)["positions"] if peer else CONSTANTS[name, "positions"]
            )
        line(
            "positions a problem",
            setting,
            [own["positions"]],
            target,
            at_most=True,
            peer=[measured],
            source=f"{name}: {self.source(name)}",
        )

    def seconds(self, name: str, blocks: int, own_blocks: int, target: float) -> None:
        """64 problems of ours in 64 slots, and problems of the peer one by one, on one core."""
        setting = (
            f"d4, prompt 64, 64 new, 10 steps a block, blocks: ours {own_blocks}, {name} {blocks};"
            " ours 64 problems in 64 slots"
        )
        work = dict(work="power", prompt=64, new=64)
        count = 1 if self.quick else 2
        with Worker("ours", 1) as ours, self.against(name) as peer:
            own, other = turns(
                ours,
                peer,
                self.repeats,
                {**work, "slots": 64, "problems": 64, "blocks": own_blocks},
                {**work, "problems": count, "blocks": blocks},
            )
        line(
            "seconds a problem, one core",
            setting,
            [facts["seconds"] / 64 for facts in own],
            target,
            at_most=False,
            peer=[facts["seconds"] / count for facts in other] or [CONSTANTS[name, "seconds"]],
            source=f"{name}: {self.source(name)}",
            ratio_of="peer/ours",
        )

    def two_cores(self) -> None:
        """Two threads of one process, and two processes that share the problems, as a stage's ranks
        do (launch.nproc: 2).
        """
        work = dict(work="power", prompt=64, new=64, blocks=1)
        alone = {problems: dict(work, slots=64, problems=problems) for problems in (64, 128)}
        ways = {
            "one process of two threads, 64 problems in 64 slots": (64, None),
            "two processes of a thread, 32 problems in 32 slots each": (
                64,
                dict(work, slots=32, problems=32),
            ),
            "one process of two threads, 128 problems in 64 slots": (128, None),
            "two processes of a thread, 64 problems in 64 slots each": (
                128,
                dict(work, slots=64, problems=64),
            ),
        }
        own: dict[str, list[float]] = {way: [] for way in ways}
        peer: dict[int, list[float]] = {problems: [] for problems in alone}
        with (
            Worker("ours", 2) as both,
            Worker("ours", 1) as one,
            Worker("ours", 1, place=1) as other,
        ):
            for repeat in range(self.repeats + 1):
                kept = bool(repeat)  # the first time warms up
                for problems, ask in alone.items():
                    peer[problems] += [one.ask(**ask)["wall_seconds"] / problems] * kept
                    for way, (number, half) in ways.items():
                        if number != problems:
                            continue
                        if half is None:
                            seconds = both.ask(**ask)["wall_seconds"]
                        else:
                            for worker in (one, other):
                                worker.send(**half)
                            seconds = max(
                                worker.answer()["wall_seconds"] for worker in (one, other)
                            )
                        own[way] += [seconds / problems] * kept
        for way, (problems, _) in ways.items():
            line(
                "seconds a problem, two cores",
                f"d4; {way}; wall seconds; peer: ours on one core, {problems} problems in 64 slots",
                own[way],
                1.6,
                at_most=False,
                peer=peer[problems],
                source="ours on one core, in turn",
                ratio_of="peer/ours",
            )

    def occupancy(self) -> None:
        with Worker("ours", 1) as ours:
            facts = ours.ask(work="power", prompt=64, new=64, blocks=1, slots=64, problems=320)
        line(
            "occupancy",
            "active rows a decode call over slots: 64 slots, each with a chain and 4 waiting",
            [facts["occupancy"]],
            0.85,
            at_most=False,
            seconds_a_problem=round(facts["seconds"] / 320, 4),
        )

    def decode(self, temperature: float, top_k: int | None, new: int) -> None:
        """Tokens a second of 32 different prompts, prefill included, against 32 samples of one
        prompt by nanochat's engine.
        """
        work = dict(
            work="decode", prompt=64, new=new, rows=32, temperature=temperature, top_k=top_k
        )
        with Worker("ours", 1) as ours, self.against("nanochat") as peer:
            own, other = turns(ours, peer, self.repeats, work, work)
        rates = [[32 * new / facts["seconds"] for facts in found] for found in (own, other)]
        after = [32 * new / (facts["seconds"] - facts["prefill_seconds"]) for facts in own]
        line(
            "decode tokens a second, one core",
            f"d4, 32 different prompts of 64, {new} new, T {temperature}, top-k {top_k}; whole"
            " call",
            rates[0],
            1.25,
            at_most=False,
            peer=rates[1] or [CONSTANTS["nanochat", "tokens", temperature]],
            source=f"nanochat, 32 samples of one prompt: {self.source('nanochat')}",
            ratio_of="ours/peer",
            ours_without_prefill=round(statistics.median(after), 1),
        )

    def memory(self) -> None:
        for of, work in (
            ("decode", dict(rows=32, temperature=0.7, top_k=50)),
            ("power", dict(slots=64, problems=64, blocks=1)),
        ):
            found = []
            for _ in range(self.repeats):
                with Worker("ours", 1) as ours:
                    found.append(ours.ask(work="memory", of=of, prompt=64, new=64, **work))
            line(
                "peak memory above the imports over weights + keys and values",
                f"d4, {of}, 64 + 64 tokens",
                [facts["ratio"] for facts in found],
                1.5,
                at_most=True,
                **found[0],
            )

    def early_rejection(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            emit(what="early rejection on a trained model", skipped="no --checkpoint STUDY given")
            return
        with Worker("ours", self.threads) as ours:
            emit(
                what="early rejection on a trained model",
                checkpoint=checkpoint,
                **ours.ask(work="early", checkpoint=checkpoint, problems=32 if self.quick else 200),
            )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--against",
        type=Path,
        action="append",
        default=[],
        metavar="CHECKOUT",
        help="of a peer, recognised by content",
    )
    parser.add_argument(
        "--threads", type=int, choices=(1, 2), default=1, help="2: also what a second core gives"
    )
    parser.add_argument("--quick", action="store_true", help="one repeat of everything")
    parser.add_argument(
        "--checkpoint",
        metavar="STUDY",
        help="a finished study under mlruns/work: early rejection on its SFT model",
    )


def main(arguments: argparse.Namespace) -> int:
    peers = {recognise(path): path.resolve() for path in arguments.against}
    bench = Bench(peers, arguments.threads, arguments.quick)
    bench.positions("fork", 1, 445)
    bench.positions("official", 4, 950)
    bench.seconds("fork", 1, 1, 20)
    bench.seconds("official", 4, 1, 35)
    bench.occupancy()
    for temperature, top_k in ((0.7, 50), (1.0, None)):
        for new in (64, 128):
            bench.decode(temperature, top_k, new)
    bench.memory()
    if arguments.threads == 2:
        bench.two_cores()
    bench.early_rejection(arguments.checkpoint)
    return 0
