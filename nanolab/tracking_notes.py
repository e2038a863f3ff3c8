"""What people read in the MLflow UI: the main result of each run in words, and descriptions (Markdown) with links between the runs.

Links start with "#/": the UI's address is not known when a run is recorded.
"""

from __future__ import annotations

import string
from typing import Any

from nanolab import tracking
from nanolab.config import STEPS
from nanolab.tracking import RunRecord

TASKS = [
    "GSM8K {gsm8k:.3f}",
    "HumanEval {humaneval:.3f}",
    "ARC-Easy {arc_easy:.3f}",
    "ARC-Challenge {arc_challenge:.3f}",
    "MMLU {mmlu:.3f}",
]
TRAINED = [
    "{validation_bits_per_byte:.3f} bits per byte in validation",
    "loss {loss:.3f}",
    "{steps:.0f} steps",
]
POWER = [
    "GSM8K {gsm8k:.3f}",
    "HumanEval {humaneval:.3f}",
    "[{low:.3f}, {high:.3f}] at {positions_per_problem:.0f} positions",
    "greedy {greedy/accuracy:.3f} at {greedy/positions_per_problem:.0f} (p {greedy/p_value:.2g})",
]
RESULTS: dict[
    str, list[str]
] = {  # stage module or step -> parts of its main result, without those whose values are missing
    "tok_train": ["{compression_ratio:.2f} bytes per token", "{vocab_size:.0f} tokens"],
    "tok_eval": [
        "{bits_per_char:.2f} bits per character",
        "{compression_ratio:.2f} bytes per token",
        "coverage {coverage:.1f}%",
    ],
    "base_train": TRAINED,
    "mid_train": TRAINED,
    "sft": TRAINED,
    "base_loss": [
        "{validation_bits_per_byte:.3f} bits per byte in validation",
        "{train_bits_per_byte:.3f} in training",
    ],
    "base_eval": ["CORE {CORE:+.4f}", *TASKS],
    "chat_eval": ["ChatCORE {chat_core:.3f}", *TASKS],
    "power_eval": POWER,
    "power_ablation": [
        "best {best_accuracy:.3f} of {points:.0f} points on {problems:.0f} problems",
        "alpha {best_alpha:g}, T {best_temperature:g}, {best_num_steps:.0f} steps",
    ],
    "rl": [
        "GSM8K greedy {greedy/before:.3f} → {greedy/after:.3f} (p {greedy/p_value:.2g})",
        "T = 1 {sampled/before:.3f} → {sampled/after:.3f} (p {sampled/p_value:.2g})",
    ],
    "report": ["{steps_reported:.0f} steps reported"],
    "point": [
        "{accuracy:.3f}",
        "[{low:.3f}, {high:.3f}] at {positions_per_problem:.0f} positions",
        "accepted {acceptance:.2f}",
    ],
}
ABOUT = {
    "tok_train": "Trains the byte-level BPE tokenizer.",
    "tok_eval": "Measures the tokenizer on held-out text: compression, coverage, kinds of text, overlap with the benchmarks.",
    "base_train": "Pretrains the model on text.",
    "base_loss": "Bits per byte of the base model on training and validation text.",
    "base_eval": "Asks the base model the CORE tasks and the chat tasks in plain text.",
    "mid_train": "Midtraining: chat format, tool use and multiple choice.",
    "sft": "Supervised fine-tuning on whole conversations.",
    "chat_eval": "Asks a chat model the five chat tasks.",
    "power_eval": "Power sampling (Metropolis-Hastings on p^alpha) beside every baseline on the same problems, with what each costs.",
    "power_ablation": "The samplers over alpha, temperature, steps and particles; each point of the grid is a run below this one.",
    "rl": "Reinforcement learning (GRPO with the calculator), compared before and after on the same problems.",
    "report": "The report: every number of the study, from these runs alone.",
}


def link(run: RunRecord, text: str = "", artifact: str = "") -> str:
    """A Markdown link to a run's page, or to one of its artifacts."""
    page = f"#/experiments/{run.experiment_id}/runs/{run.id}{f'/artifacts/{artifact}' if artifact else ''}"
    return f"[{text or run.name}]({page}?workflowType=machine_learning)"


def result_of(kind: str, values: dict[str, Any]) -> str:
    """The main result of a step or grid point in words, from its final values by plain name."""
    return ", ".join(part.format(**values) for part in _known(kind, values)).replace(", [", " [")


def headline(kind: str, values: dict[str, Any]) -> str:
    """The first part of `result_of`, for one line of a terminal; empty where there is none."""
    return next((part.format(**values) for part in _known(kind, values)), "")


def headline_keys(kind: str, values: dict[str, Any]) -> list[str]:
    """The values that `headline` shows."""
    return next((_names(part) for part in _known(kind, values)), [])


def _known(kind: str, values: dict[str, Any]) -> list[str]:
    parts = RESULTS.get(
        kind if kind in RESULTS else STEPS[kind].module if kind in STEPS else "", []
    )
    return [
        part
        for part in parts
        if all(isinstance(values.get(name), (int, float)) for name in _names(part))
    ]


def _names(part: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(part) if name]


def say_result(run: RunRecord) -> str:
    """`result_of` a recorded run."""
    if run.tags.get("nanolab.kind") == "point":
        return result_of("point", run.metrics)
    values = {
        key.removeprefix("final/"): value
        for key, value in run.metrics.items()
        if key.startswith("final/")
    }
    return result_of(run.tags.get("step", ""), values)


def describe_step(run: RunRecord, report: str = "") -> None:
    """Writes a finished step's main result (tag `result`) and its description; `report` is a link to the report."""
    step, said = run.tags["step"], say_result(run)
    links = [report] if report else []
    links += [
        link(run, "executed notebook", name)
        for name in tracking.artifact_names(run.id, "notebook")
        if name.endswith(".html")
    ]
    for key, folder in sorted(run.tags.items()):
        if key.startswith("input."):
            found = _made_by(folder)
            links += [f"reads {link(found)}"] if found else []
    about = ABOUT.get(step) or ABOUT.get(STEPS[step].module if step in STEPS else "", "")
    lines = [
        f"**{said}**" if said else "",
        " · ".join(links),
        about,
    ]  # the UI hides what comes after some lines
    tracking.set_tag(run.id, "mlflow.note.content", "\n\n".join(line for line in lines if line))
    if said:
        tracking.set_tag(run.id, "result", said)


def describe_point(run: RunRecord, step: RunRecord) -> None:
    """Writes a finished grid point's main result and its description: setting, result, a link to its step."""
    said = say_result(run)
    setting = ", ".join(
        f"{key} {value.replace('_', ' ').removesuffix('.0')}" for key, value in run.params.items()
    )
    parts = [setting, f"**{said}**" if said else "", f"a point of {link(step)}"]
    tracking.set_tag(run.id, "mlflow.note.content", " · ".join(part for part in parts if part))
    if said:
        tracking.set_tag(run.id, "result", said)


def _made_by(folder: str) -> RunRecord | None:
    """The run that filled a work folder, given below mlruns: work/STUDY/STEP/FINGERPRINT."""
    parts = folder.split("/")
    return tracking.find_finished(*parts[1:4]) if len(parts) == 4 else None


def describe_execution(parent: str) -> None:
    """Writes the descriptions of an execution, of its own steps, and of its study, and the views of the study's runs."""
    execution, own, reused = tracking.record(parent), tracking.children(parent), []
    for key, run_id in execution.tags.items():
        if key.startswith("reused."):
            reused.append(tracking.record(run_id))
    steps = {
        run.tags["step"]: run
        for run in [*reused, *own]
        if "step" in run.tags and run.status == "FINISHED"
    }
    report = report_link(steps.get("report"))
    for run in own:
        if run.tags.get("step") in steps:
            describe_step(run, "" if run.tags["step"] == "report" else report)
    rows = [
        f"| {link(run)} | {say_result(run)} | {_seconds(run)}{' (reused)' if run in reused else ''} |"
        for run in sorted(steps.values(), key=lambda run: run.name)
    ]
    table = ["| step | main result | time |", "| --- | --- | ---: |", *rows]
    about = execution.params.get("description", "")
    tracking.set_tag(
        parent,
        "mlflow.note.content",
        "\n\n".join(part for part in (about, report, "\n".join(table)) if part),
    )
    found = main_metrics(steps)
    tracking.log_metrics(parent, found)
    said = ", ".join(
        f"{key.removeprefix('gsm8k/')} {value:.3f}"
        for key, value in found.items()
        if key.startswith("gsm8k/")
    )
    tracking.set_tag(parent, "result", f"GSM8K: {said}" if said else f"{len(steps)} steps finished")


def report_link(run: RunRecord | None) -> str:
    """A link to the report that a step recorded; the HTML one where there is one."""
    names = tracking.artifact_names(run.id) if run else []
    found = next((name for name in ("report.html", "report.md") if name in names), "")
    return f"**{link(run, 'report', found)}**" if run and found else ""


def main_metrics(steps: dict[str, RunRecord]) -> dict[str, float]:
    """The numbers by which executions of a study are compared: word problems by model and by power sampling, CORE, bits per byte."""
    wanted = {
        "gsm8k/base": ("base_eval", "gsm8k"),
        "gsm8k/mid": ("chat_eval_mid", "gsm8k"),
        "gsm8k/sft": ("chat_eval_sft", "gsm8k"),
        "gsm8k/power": ("power_eval", "gsm8k"),
        "gsm8k/rl": ("chat_eval_rl", "gsm8k"),
        "CORE": ("base_eval", "CORE"),
        "validation_bits_per_byte": ("base_loss", "validation_bits_per_byte"),
    }
    found = {
        key: steps[step].metrics.get(f"final/{name}")
        for key, (step, name) in wanted.items()
        if step in steps
    }
    return {key: value for key, value in found.items() if value is not None}


def _seconds(run: RunRecord) -> str:
    """How long a run took, in words."""
    seconds = ((run.end or run.start) - run.start) / 1000 + float(
        run.tags.get("earlier_seconds", 0)
    )
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
