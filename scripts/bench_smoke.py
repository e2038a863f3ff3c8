"""`python scripts/bench.py smoke`: the default study, once a seed: wall time, memory, and the
targets of its science.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from nanolab.files import MLRUNS, ROOT

CHAT_TASKS = ("arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval")


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def emit(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def peak_memory_gib(process: psutil.Process, stop: threading.Event, peak: list[float]) -> None:
    """Sample the resident memory of `process` and its descendants (shared pages counted in each: an
    upper bound) into peak[0], GiB.
    """
    while not stop.wait(1.0):
        total = 0
        for member in [process, *process.children(recursive=True)]:
            try:
                total += member.memory_info().rss
            except psutil.NoSuchProcess:
                continue  # it ended between the listing and the reading
        peak[0] = max(peak[0], total / 2**30)


def run_study(experiment: str, seed: int, overrides: list[str]) -> dict[str, object]:
    """Run the default study anew under its own name; wall seconds, peak GiB and every step's final
    metrics.
    """
    command = [sys.executable, "scripts/run_all.py", "experiments/smoke.yaml", "--fresh"]
    command += [
        part
        for setting in (f"seed={seed}", f"experiment={experiment}", *overrides)
        for part in ("--set", setting)
    ]
    start = time.time()
    process = subprocess.Popen(command, cwd=ROOT)
    stop, peak = threading.Event(), [0.0]
    sampler = threading.Thread(
        target=peak_memory_gib, args=(psutil.Process(process.pid), stop, peak), daemon=True
    )
    sampler.start()
    code = process.wait()
    stop.set()
    steps = {}
    for result in (MLRUNS / "work" / experiment).glob("*/*/result.json"):
        if result.stat().st_mtime >= start:
            steps[result.parent.parent.name] = json.loads(result.read_text())
    wall = round(time.time() - start, 1)
    return {
        "seed": seed,
        "exit_code": code,
        "wall_seconds": wall,
        "peak_memory_gib": round(peak[0], 2),
        "steps": steps,
    }


def metrics_of(study: dict, step: str) -> dict:
    """Final metrics of a step; none for a step that did not finish, so that its targets count as
    missed.
    """
    return study["steps"][step]["metrics"] if step in study["steps"] else {}


def targets(study: dict) -> dict[str, dict[str, object]]:
    """Each target of the default study: whether it is met, and the figures it was judged by."""
    sft, power, rl = (metrics_of(study, step) for step in ("chat_eval_sft", "power_eval", "rl"))
    judged: dict[str, dict[str, object]] = {
        "wall_at_most_360_s": {
            "met": study["exit_code"] == 0 and study["wall_seconds"] <= 360,
            "wall_seconds": study["wall_seconds"],
        },
        "memory_at_most_4_gib": {
            "met": study["peak_memory_gib"] <= 4,
            "peak_memory_gib": study["peak_memory_gib"],
        },
    }
    for task in CHAT_TASKS:
        facts = {
            key: sft.get(f"{task}/{key}") for key in ("n", "passed", "low", "high", "chance")
        } | {"accuracy": sft.get(task)}
        met = (
            None not in facts.values() and facts["low"] > facts["chance"] and facts["accuracy"] < 1
        )
        judged[f"sft_{task}_above_chance_below_one"] = {"met": bool(met), **facts}
    greedy = sft.get("gsm8k")
    judged["sft_gsm8k_greedy_between_0.20_and_0.75"] = {
        "met": greedy is not None and 0.20 <= greedy <= 0.75,
        "accuracy": greedy,
    }
    names = {
        "power": "gsm8k",
        "plain": "plain/accuracy",
        "p_value": "plain/p_value",
        "total": "total",
    }
    facts = {name: power.get(key) for name, key in names.items()}
    met = (
        None not in facts.values()
        and facts["power"] > facts["plain"]
        and facts["p_value"] < 0.05
        and facts["total"] >= 400
    )
    judged["power_above_plain"] = {"met": bool(met), **facts}
    for way in ("greedy", "sampled"):
        facts = {key: rl.get(f"{way}/{key}") for key in ("before", "after", "p_value", "n")}
        met = (
            None not in facts.values()
            and facts["after"] > facts["before"]
            and facts["p_value"] < 0.05
        )
        judged[f"rl_above_sft_{way}"] = {"met": bool(met), **facts}
    return judged


def keep_report(experiment: str, folder: Path) -> None:
    """Copy the newest report of a study as text, page and CSV, with its figures and their data, to
    `folder`.
    """
    reports = sorted(
        (MLRUNS / "work" / experiment / "report").glob("*/report.md"),
        key=lambda path: path.stat().st_mtime,
    )
    if not reports:
        print(
            f"error: no report of a study {experiment} in {MLRUNS}: run it first, with"
            " scripts/run_all.py",
            file=sys.stderr,
        )
        sys.exit(2)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("report.md", "report.html", "results.csv"):
        shutil.copy(reports[-1].with_name(name), folder / name)
    shutil.copytree(reports[-1].parent / "figures", folder / "figures", dirs_exist_ok=True)


def smoke(seeds: int, overrides: list[str]) -> int:
    commit = git("rev-parse", "HEAD")
    dirty = bool(git("status", "--porcelain", "--untracked-files=no"))
    studies = []
    for seed in range(seeds):
        study = run_study(f"bench-smoke-{seed}", seed, overrides)
        study["targets"] = targets(study)
        studies.append(study)
        emit(
            benchmark="smoke",
            seed=seed,
            wall_seconds=study["wall_seconds"],
            peak_memory_gib=study["peak_memory_gib"],
            **study["targets"],
        )
    held = {
        name: sum(study["targets"][name]["met"] for study in studies)
        for name in studies[0]["targets"]
    }
    emit(benchmark="smoke", seeds=seeds, targets_met_by_seeds=held)
    folder = ROOT / "experiments" / "results" / "smoke"
    keep_report("bench-smoke-0", folder)
    given = "".join(f" --set {setting}" for setting in overrides)
    record = {
        "command": f"python scripts/bench.py smoke --seeds {seeds}{given}",
        "commit": commit,
        "dirty": dirty,
    }
    record |= {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "seeds": seeds}
    record |= {"targets_met_by_seeds": held, "studies": studies}
    (folder / "targets.json").write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(count * 3 >= 2 * seeds for count in held.values()) else 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Seeds and settings."""
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="as for run_all.py"
    )


def main(arguments: argparse.Namespace) -> int:
    """Runs the study once a seed and keeps what came of it; 1 where a target was missed by too many
    seeds.
    """
    return smoke(arguments.seeds, arguments.set)
