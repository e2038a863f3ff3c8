"""Writes the README's tables of steps and results from experiments/results/smoke/targets.json, its
plan of the reference study, and the tables of docs/published.md.

`python scripts/fill_readme.py`; with --check nothing is written, and the status is 1 where a page
is another.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nanolab.costs import estimate
from nanolab.costs.hardware import machine_named
from nanolab.evals import published
from nanolab.files import ROOT
from nanolab.settings.study_file import load_study
from nanolab.wording import METHODS as METHOD_LABELS
from nanolab.wording import TASKS as TASK_LABELS
from nanolab.wording import duration, short

# studies of published tables, and where they are planned
ANCHORS = ("reasoning_with_sampling", "reasoning_with_sampling_math", "qwen_half_billion")
MACHINES = ("1xH100", "8xH100")
WHAT = {
    "tok_train": "trains a byte-level BPE tokenizer (rustbpe, served by tiktoken)",
    "tok_eval": "compression, entropy, coverage on held-out text",
    "base_train": (
        "pretrains the GPT: rotary, QK-norm, ReLU², grouped-query attention, Muon + AdamW"
    ),
    "base_loss": "bits per byte on training and validation text",
    "base_eval": "CORE-style tasks and the five chat tasks in plain text",
    "mid_train": "chat format, tool use, multiple choice",
    "chat_eval_mid": "the five chat tasks",
    "sft": "supervised fine-tuning on whole conversations",
    "chat_eval_sft": "the five chat tasks",
    "power_eval": (
        "power sampling beside greedy, low temperature, plain, best-of-11 and majority, 400"
        " problems"
    ),
    "power_ablation": (
        "the samplers over alpha, temperature, steps and particles, 100 problems a point"
    ),
    "rl": "GRPO with the calculator, compared before and after",
    "chat_eval_rl": "the five chat tasks",
    "report": "the report and its figures from MLflow",
}
TASKS = {
    "arc_easy": "ARC-Easy",
    "arc_challenge": "ARC-Challenge",
    "mmlu": "MMLU",
    "gsm8k": "GSM8K greedy",
    "humaneval": "HumanEval",
}
METHODS = {
    "plain": "plain sample at the same T = 0.7",
    "greedy": "greedy",
    "low_temperature": "T = 0.25",
    "best_of": "best of 11 by log p",
    "majority": "majority of 11",
}
RL_WAYS = {"greedy": "greedy", "sampled": "T = 1"}
Study = dict[str, Any]


def metrics(study: Study, step: str) -> dict[str, Any]:
    return study["steps"][step]["metrics"]


def steps_table(study: Study) -> list[str]:
    """A row for each step of one study: what it does, and the seconds inside its stage."""
    rows = ["| step | what it does | seconds |", "| --- | --- | ---: |"]
    for step, what in WHAT.items():
        if step in study["steps"]:
            rows.append(
                f"| {step} | {what} |"
                f" {study['steps'][step]['ended'] - study['steps'][step]['started']:.0f} |"
            )
    return rows


def results_table(studies: list[Study]) -> list[str]:
    """A row for each result, a column for each seed."""
    rows = [
        "| | " + " | ".join(f"seed {study['seed']}" for study in studies) + " |",
        "| --- |" + " ---: |" * len(studies),
    ]

    def row(name: str, cell: Callable[[Study], str]) -> None:
        rows.append(f"| {name} | " + " | ".join(map(cell, studies)) + " |")

    def power(study: Study, key: str) -> Any:
        return metrics(study, "power_eval")[key]

    row(
        "wall time, s (peak memory, GiB)",
        lambda s: f"{s['wall_seconds']:.0f} ({s['peak_memory_gib']:.1f})",
    )
    for task, label in TASKS.items():

        def accuracy(study: Study, task: str = task) -> str:
            found = metrics(study, "chat_eval_sft")
            return f"{found[task]:.3f} [{found[f'{task}/low']:.3f}, {found[f'{task}/high']:.3f}]"

        row(f"SFT {label}, n = {metrics(studies[0], 'chat_eval_sft')[f'{task}/n']:.0f}", accuracy)
    row(
        f"GSM8K, power sampling (alpha 4, 10 steps), n = {power(studies[0], 'total'):.0f}",
        lambda s: f"{power(s, 'gsm8k'):.3f} at {power(s, 'positions_per_problem'):.0f} positions",
    )
    for method, label in METHODS.items():
        row(
            f"GSM8K, {label}",
            lambda s, m=method: (
                f"{power(s, f'{m}/accuracy'):.3f} at {power(s, f'{m}/positions_per_problem'):.0f} "
                f"(p {power(s, f'{m}/p_value'):.2g})"
            ),
        )
    for way, label in RL_WAYS.items():
        row(
            f"RL, GSM8K {label}, before → after, n = {metrics(studies[0], 'rl')[f'{way}/n']:.0f}",
            lambda s, w=way: (
                f"{metrics(s, 'rl')[f'{w}/before']:.3f} → {metrics(s, 'rl')[f'{w}/after']:.3f} "
                f"(p {metrics(s, 'rl')[f'{w}/p_value']:.2g})"
            ),
        )
    return rows


def put(text: str, mark: str, lines: list[str]) -> str:
    """`text` with the lines between `<!-- mark -->` and `<!-- end mark -->` replaced."""
    start, end = (
        text.index(f"<!-- {mark} -->\n") + len(f"<!-- {mark} -->\n"),
        text.index(f"<!-- end {mark} -->"),
    )
    return text[:start] + "\n".join(lines) + "\n" + text[end:]


def plan_of(study: str, machine: str) -> list[str]:
    """What `python -m nanolab plan STUDY --hardware MACHINE` prints, in a block."""
    command = [sys.executable, "-m", "nanolab", "plan", study, "--hardware", machine]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return ["```text", *done.stdout.splitlines(), "```"]


def anchor_plans() -> list[str]:
    """A row for each step of the studies of published tables: tokens, and what each machine
    needs.
    """
    header = [f"{name}: GiB a GPU, time, $" for name in MACHINES]
    rows = ["| study | step | tokens generated | " + " | ".join(header) + " |"]
    rows.append("| --- | --- | ---: |" + " ---: |" * len(MACHINES))
    for name in ANCHORS:
        study = load_study(name)
        machines = [machine_named(machine, study.hourly_rates, 96) for machine in MACHINES]
        planned = [estimate.plan_costs(study, machine) for machine in machines]
        for costs in zip(*[[*rows_of, estimate.total(rows_of)] for rows_of in planned]):
            cells = [
                f"{cost.memory_gib:.1f}, {duration(cost.hours * 3600)}, {cost.dollars:.2f}"
                for cost in costs
            ]
            start = f"| {name} | {costs[0].step} | {short(costs[0].tokens_generated)} | "
            rows.append(start + " | ".join(cells) + " |")
    return rows


def figures_table() -> list[str]:
    """A row for each published figure."""
    rows = ["| model | task | method | published | source |", "| --- | --- | --- | ---: | --- |"]
    for row in published.rows():
        settings = ", ".join(f"{key} {value:g}" for key, value in row.settings.items())
        method = METHOD_LABELS.get(row.method, row.method.upper() or "asked")
        method += f" ({settings})" if settings else ""
        source = f"[{row.source}]({row.url})" if row.url else row.source
        task, value = TASK_LABELS.get(row.task, row.task), f"{100 * row.value:.1f}%"
        rows.append(f"| {row.model} | {task} | {method} | {value} | {source} |")
    return rows


def main() -> int:
    """Rewrites README.md and docs/published.md, or says whether they are current."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; the status is 1 where a page is another",
    )
    given = parser.parse_args()
    studies = json.loads((ROOT / "experiments" / "results" / "smoke" / "targets.json").read_text())[
        "studies"
    ]
    tables = {
        "README.md": {
            "steps": steps_table(studies[0]),
            "results": results_table(studies),
            "plan": plan_of("speedrun_powersample", "8xH100"),
        },
        "docs/published.md": {
            "figures": figures_table(),
            "plans": anchor_plans(),
            "one plan": plan_of(ANCHORS[0], MACHINES[0]),
        },
    }
    status = 0
    for name, marks in tables.items():
        page = ROOT / name
        text = before = page.read_text()
        for mark, lines in marks.items():
            text = put(text, mark, lines)
        if not given.check:
            page.write_text(text)
        elif text != before:
            print(f"{name}: its tables are not what scripts/fill_readme.py writes", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
