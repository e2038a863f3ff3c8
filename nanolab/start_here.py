"""The map that opens the lab: the notebooks in their order, where one study stands in them, and every study of the store."""

from __future__ import annotations

import json
import time
from typing import Any

from IPython.display import HTML, Markdown

from nanolab import tracking
from nanolab.config import ROOT, STEPS, StudyConfig
from nanolab.experiment import load_study
from nanolab.plan import Step, plan
from nanolab.report import cards, collect, records
from nanolab.report.cards import Markup
from nanolab.report.view import headlines
from nanolab.terminal import STATES, state_of

TOOLS = ("11_compare", "12_one_chain")  # notebooks that read records and run no stage
RESULTS = {"base bits per byte": ("base_train", "validation_bits_per_byte"), "SFT GSM8K": ("chat_eval_sft", "gsm8k"),
           "power GSM8K": ("power_eval", "gsm8k"), "RL GSM8K": ("chat_eval_rl", "gsm8k")}  # column -> step, metric
BUTTON = f"background:{cards.BLUE};color:white;border-radius:6px;padding:5px 14px;text-decoration:none;font-weight:600"


def stages(experiment: str) -> HTML:
    """Every notebook with what it does, which of the study's steps it fills, and how far they are; above, the next one to run."""
    study = load_study(experiment)
    planned = plan(study)
    rows = []
    for notebook in dict.fromkeys(STEPS[step].notebook for step in study.steps):
        steps = [step for step in study.steps if STEPS[step].notebook == notebook]
        rows.append([cards.link(notebook, f"{notebook}.ipynb"), _what(notebook),
                     _lines([_state(study, planned.get(step), step) for step in steps]),
                     _lines([_result(planned.get(step)) for step in steps])])
    rows += [[cards.link(notebook, f"{notebook}.ipynb"), _what(notebook), "", ""] for notebook in TOOLS]
    return HTML(_next(study, planned) + cards.table(["notebook", "what it does", f"steps of {study.experiment}", "result"], rows, left=4))


def studies() -> HTML | Markdown:
    """Every study that has run in this store: its latest execution, how many steps are finished, its key results."""
    rows = []
    for name in records.studies():
        executions, (_, runs) = tracking.executions(name), records.latest(name)
        last = executions[0]
        state = cards.pill(last.status.lower(), {"FINISHED": cards.GREEN, "RUNNING": cards.BLUE}.get(last.status, cards.RED))
        rows.append([_experiment(name, last.id), str(len(executions)),
                     Markup(f"{state} {records.run_link(last.id, time.strftime('%d %b %H:%M', time.localtime(last.start / 1000)))}"),
                     str(len(runs)), *(_score(runs, *where) for where in RESULTS.values())])
    if not rows:
        return Markdown(records.NOTHING)
    header = ["study", "executions", "latest execution", "finished steps", *RESULTS]
    note = cards.muted(f"The links lead to {tracking.server_address()}, which `make ui` serves.")
    return HTML(f'{cards.table(header, rows, left=3)}<div style="font-size:12px">{note}</div>')


# ---- cells of the map

def _next(study: StudyConfig, planned: dict[str, Step]) -> str:
    """A button to the notebook whose step is the first that is missing."""
    missing = [step for step in study.steps if step in planned and not planned[step].finished]
    if not missing:
        text, step = f"Every step of {study.experiment} is finished. Read its report:", "report"
    else:
        begun = planned[missing[0]].started
        text, step = f"{len(missing)} of {len(study.steps)} steps of {study.experiment} are not finished. " + (
            "Go on with:" if begun else "Next:"), missing[0]
    notebook = STEPS[step].notebook
    command = f"<code>.venv/bin/python scripts/run_all.py {_name(study)}</code>"
    whole = f"or all of them in a terminal: {command}" if missing else "Then: " + " · ".join(
        cards.link(tool, f"{tool}.ipynb") for tool in TOOLS)
    return (f'<div style="{cards.FONT};margin:8px 0 14px">{cards.escape(text)} <a style="{BUTTON}" href="{notebook}.ipynb">'
            f'{notebook}</a><div style="font-size:12px;margin-top:6px">{whole}</div></div>')


def _name(study: StudyConfig) -> str:
    return f"experiments/{study.experiment}.yaml" if (ROOT / "experiments" / f"{study.experiment}.yaml").is_file() else "STUDY.yaml"


def _what(notebook: str) -> Markup:
    """The first sentence of a notebook."""
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "".join(cells[0]["source"]).split("\n\n")[1].replace("`", "").partition(". ")[0].rstrip(".")
    return Markup(f'<div style="min-width:240px;max-width:340px;font-size:12px">{cards.escape(text)}</div>')


def _lines(pieces: list[str]) -> Markup:
    return Markup("".join(f'<div style="white-space:nowrap">{piece or "&nbsp;"}</div>' for piece in pieces))


def _state(study: StudyConfig, step: Step | None, name: str) -> str:
    if step is None:  # the report, which is made again for each execution
        having = records.store_exists()
        made = tracking.search(study.experiment, "tags.step = 'report' and attributes.status = 'FINISHED'") if having else []
        return f'{_sign("finished" if made else "missing")} {name} {records.run_link(made[0].id) if made else ""}'
    earlier = any(step.folder.parent.glob("*/result.json"))  # finished with other settings, or by an older version of the code
    state = "outdated" if earlier and state_of(step) == "missing" else state_of(step)
    run = tracking.find_finished(study.experiment, step.name, step.fingerprint) if step.finished and records.store_exists() else None
    when = f" {cards.muted(cards.duration(collect.seconds(run)))} {records.run_link(run.id)}" if run else ""
    return f'{_sign(state)} {name}{when}'


def _sign(state: str) -> str:
    sign, colour = STATES[state]
    return f'<span style="color:{cards.COLOURS[colour]}" title="{state}">{sign}</span>'


def _result(step: Step | None) -> str:
    if step is None or not step.finished:
        return ""
    return " · ".join(f"{cards.muted(label)} {value}" for label, value in headlines(step.name, step.result())[:2])


def _experiment(name: str, run_id: str) -> Markup:
    return cards.link(name, records.run_address(run_id).rpartition("/runs/")[0] + "/runs")


def _score(runs: dict[str, Any], step: str, key: str) -> str:
    value = collect.final_values(runs[step]).get(key) if step in runs else None
    if not isinstance(value, float):
        return "–"
    return cards.number(value) if key.endswith("per_byte") else cards.percent(value)
