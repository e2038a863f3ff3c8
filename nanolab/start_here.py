"""The map that opens the lab: the notebooks in their order, where one study stands in them, and every study of the store."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from IPython.display import HTML, Markdown

from nanolab import notebooks, tracking
from nanolab.config import ROOT, STEPS, StudyConfig
from nanolab.experiment import find_study, load_study
from nanolab.plan import Step, plan, step_config
from nanolab.report import cards, collect, records
from nanolab.report.cards import Markup
from nanolab.report.view import headlines
from nanolab.terminal import STATES, state_of
from nanolab.tracking import RunRecord

TOOLS = ("11_compare", "12_one_chain")  # notebooks that read records and run no stage
RESULTS = {
    "base bits per byte": ("base_train", "validation_bits_per_byte"),
    "SFT GSM8K": ("chat_eval_sft", "gsm8k"),
    "power GSM8K": ("power_eval", "gsm8k"),
    "RL GSM8K": ("chat_eval_rl", "gsm8k"),
}  # column -> step, metric
BUTTON = f"background:{cards.BLUE};color:white;border-radius:6px;padding:5px 14px;text-decoration:none;font-weight:600"


def stages(experiment: str) -> HTML:
    """Every notebook with what it does, which of the study's steps it fills, and how far they are; above, the next one to run."""
    study = load_study(experiment)
    planned = plan(study)
    rows = []
    for notebook in dict.fromkeys(STEPS[step].notebook for step in study.steps):
        steps = [step for step in study.steps if STEPS[step].notebook == notebook]
        rows.append(
            [
                cards.link(notebook, f"{notebook}.ipynb"),
                _what(notebook),
                _lines([_state(study, planned.get(step), step) for step in steps]),
                _lines([_result(planned.get(step)) for step in steps]),
            ]
        )
    rows += [
        [cards.link(notebook, f"{notebook}.ipynb"), _what(notebook), "", ""] for notebook in TOOLS
    ]
    path = find_study(experiment)
    file = os.path.relpath(path, ROOT) if path.is_relative_to(ROOT) else str(path)
    header = ["notebook", "what it does", f"steps of {study.experiment}", "result"]
    return HTML(_next(study, planned, file) + cards.table(header, rows, left=4))


def studies() -> HTML | Markdown:
    """Every study that has run in this store: its latest execution, how many steps are finished, its key results."""
    rows = []
    for name in records.studies():
        executions, (_, runs) = tracking.executions(name), records.latest(name)
        last = executions[0]
        state = cards.pill(
            last.status.lower(),
            {"FINISHED": cards.GREEN, "RUNNING": cards.BLUE}.get(last.status, cards.RED),
        )
        rows.append(
            [
                _experiment(name, last.id),
                str(len(executions)),
                Markup(
                    f"{state} {records.run_link(last.id, time.strftime('%d %b %H:%M', time.localtime(last.start / 1000)))}"
                ),
                str(len(runs)),
                *(_score(runs, *where) for where in RESULTS.values()),
            ]
        )
    if not rows:
        return Markdown(records.NOTHING)
    header = ["study", "executions", "latest execution", "finished steps", *RESULTS]
    note = cards.muted(
        Markup(f"The links lead to {tracking.server_address()}, which <code>make ui</code> serves.")
    )
    return HTML(f'{cards.table(header, rows, left=3)}<div style="font-size:12px">{note}</div>')


# ---- cells of the map


def _next(study: StudyConfig, planned: dict[str, Step], file: str) -> str:
    """The first step that is missing: a button to its notebook, or the commands that run it where the notebook holds other values."""
    missing = [
        step
        for step in study.steps
        if not (planned[step].finished if step in planned else _reports(study))
    ]
    everything = f"or all of them in a terminal: {_code(f'scripts/run_all.py {file}')}"
    report = STEPS["report"].notebook
    read = _button(report) + _setting(
        {} if _is_held(report, file) else {"experiment": study.experiment}
    )
    if not missing:
        parts = [
            f"Every step of {cards.escape(study.experiment)} is finished. Read its report: {read}"
        ]
        parts.append("Then: " + " · ".join(cards.link(tool, f"{tool}.ipynb") for tool in TOOLS))
    elif missing == ["report"]:
        parts = [
            f"Every step of {cards.escape(study.experiment)} but its report is finished. Next: {read}"
        ]
    else:
        step, said = (
            missing[0],
            f"{len(missing)} of {len(study.steps)} steps of {cards.escape(study.experiment)} are not finished. ",
        )
        said += "Go on with:" if planned[step].started else "Next:"
        other = _other_values(study, step, file)
        if other is None:
            parts = [
                f"{said} {_code(f'scripts/run_all.py {file} --only {step}')}",
                everything,
                f"The notebooks' parameters cells hold the values of another study. To run one with the values of {file}: "
                + _code(f"-m nanolab plan {file} --parameters {step} > parameters.yaml")
                + ", then "
                + f"<code>.venv/bin/papermill notebooks/{STEPS[step].notebook}.ipynb out.ipynb -f parameters.yaml</code>",
            ]
        else:
            parts = [f"{said} {_button(STEPS[step].notebook)}{_setting(other)}", everything]
    small = "".join(
        f'<div style="font-size:12px;margin-top:6px">{part}</div>' for part in parts[1:]
    )
    return f'<div style="{cards.FONT};margin:8px 0 14px">{parts[0]}{small}</div>'


def _other_values(study: StudyConfig, step: str, file: str) -> dict[str, Any] | None:
    """What is to be set in a step's notebook before it is run: what the step fixes; None where it holds another study's values."""
    have = notebooks.defaults(notebooks.notebook_file(step))
    want = notebooks.parameters(STEPS[step].stage, step_config(study, step), have["experiment"])
    differing = {key: value for key, value in want.items() if have.get(key) != value}
    return (
        differing
        if _is_held(STEPS[step].notebook, file) and set(differing) <= set(STEPS[step].fixed)
        else None
    )


def _is_held(notebook: str, file: str) -> bool:
    """Whether a notebook names the study of this file."""
    return find_study(
        notebooks.defaults(ROOT / "notebooks" / f"{notebook}.ipynb")["experiment"]
    ) == find_study(file)


def _setting(values: dict[str, Any]) -> str:
    """What is to be set in a notebook's parameters cell first."""
    said = ", ".join(
        f"<code>{key} = {cards.escape(json.dumps(value))}</code>" for key, value in values.items()
    )
    return f" with {said}" if said else ""


def _reports(study: StudyConfig) -> list[RunRecord]:
    """The reports of a study, newest first; each belongs to an execution."""
    condition = "tags.step = 'report' and attributes.status = 'FINISHED'"
    return tracking.search(study.experiment, condition) if records.store_exists() else []


def _button(notebook: str) -> str:
    return f'<a style="{BUTTON}" href="{notebook}.ipynb">{notebook}</a>'


def _code(arguments: str) -> str:
    """A command line of Python as it is typed in the repository."""
    return f"<code>.venv/bin/python {cards.escape(arguments)}</code>"


def _what(notebook: str) -> Markup:
    """The first sentence of a notebook."""
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))[
        "cells"
    ]
    text = (
        "".join(cells[0]["source"]).split("\n\n")[1].replace("`", "").partition(". ")[0].rstrip(".")
    )
    return Markup(
        f'<div style="min-width:240px;max-width:340px;font-size:12px">{cards.escape(text)}</div>'
    )


def _lines(pieces: list[str]) -> Markup:
    return Markup(
        "".join(f'<div style="white-space:nowrap">{piece or "&nbsp;"}</div>' for piece in pieces)
    )


def _state(study: StudyConfig, step: Step | None, name: str) -> str:
    if step is None:  # the report, which is made again for each execution
        made = _reports(study)
        return f"{_sign('finished' if made else 'missing')} {name} {records.run_link(made[0].id) if made else ''}"
    earlier = any(
        step.folder.parent.glob("*/result.json")
    )  # finished with other settings, or by an older version of the code
    state = "outdated" if earlier and state_of(step) == "missing" else state_of(step)
    run = (
        tracking.find_finished(study.experiment, step.name, step.fingerprint)
        if step.finished and records.store_exists()
        else None
    )
    when = (
        f" {cards.muted(cards.duration(collect.seconds(run)))} {records.run_link(run.id)}"
        if run
        else ""
    )
    return f"{_sign(state)} {name}{when}"


def _sign(state: str) -> str:
    sign, colour = STATES[state]
    return f'<span style="color:{cards.COLOURS[colour]}" title="{state}">{sign}</span>'


def _result(step: Step | None) -> str:
    if step is None or not step.finished:
        return ""
    return " · ".join(
        f"{cards.muted(label)} {value}" for label, value in headlines(step.name, step.result())[:2]
    )


def _experiment(name: str, run_id: str) -> Markup:
    return cards.link(name, records.run_address(run_id).rpartition("/runs/")[0] + "/runs")


def _score(runs: dict[str, Any], step: str, key: str) -> str:
    value = collect.final_values(runs[step]).get(key) if step in runs else None
    if not isinstance(value, float):
        return "–"
    return cards.number(value) if key.endswith("per_byte") else cards.percent(value)
