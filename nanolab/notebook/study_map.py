"""The map that opens the lab: how far a study is, by notebook, and every study of the store."""

import json
import time
from typing import Any

from IPython.display import HTML, Markdown

from nanolab.files import ROOT
from nanolab.notebook import cards, records
from nanolab.notebook.stage_results import headlines
from nanolab.plan import notebook_files, parameters
from nanolab.plan.parameters import MapParameters
from nanolab.plan.steps import Step, plan, step_config
from nanolab.report import store_values
from nanolab.results import answered
from nanolab.settings.config import STEPS, StudyConfig
from nanolab.settings.study_file import find_study, load_study
from nanolab.terminal.plain import STATES, state_of
from nanolab.tracking import address, comparable, run_reader

TOOLS = ("11_compare", "12_one_chain", "13_published")  # they read records and run no stage
GSM8K = {  # column -> step
    "SFT": "chat_eval_sft",
    "power": "power_eval",
    "RL": "chat_eval_rl",
    "outside": "chat_eval_hf",
}
# colours of an execution; red: failed
PILLS = {"FINISHED": cards.GREEN, "RUNNING": cards.BLUE, "KILLED": cards.ORANGE}


def stages(experiment: str) -> HTML:
    """Every notebook with how far its steps of a study are; above, the next one to run."""
    parameters.check(MapParameters, {"experiment": experiment})
    study = load_study(experiment)
    planned = plan(study)
    html = cards.html("study_map")
    rows = []
    for notebook in dict.fromkeys([*(STEPS[step].notebook for step in study.steps), *TOOLS]):
        steps = [step for step in study.steps if STEPS[step].notebook == notebook]
        states = html.lines([_state(study, planned.get(step), step) for step in steps])
        results = html.lines([_result(planned.get(step)) for step in steps])
        link = cards.html().link(notebook, f"{notebook}.ipynb")
        rows.append([link, html.description(_what(notebook)), states, results])
    header = ["notebook", "what it does", f"steps of {study.experiment}", "result"]
    file = cards.relative(find_study(experiment))
    return HTML(_next(study, planned, file) + cards.html().table(header, rows, left=4))


def studies() -> HTML | Markdown:
    """Every study that has run in this store, with its latest execution and key results."""
    html, link, score = cards.html("study_map"), cards.html().link, cards.html().score
    rows, differing = [], []
    for name in records.studies():
        executions, (_, runs) = run_reader.executions(name), records.latest(name)
        last = executions[0]
        started = time.strftime("%d %b %H:%M", time.localtime(last.start / 1000))
        run = records.run_link(last.id, started)
        state = html.execution(last.status.lower(), PILLS.get(last.status, cards.RED), run)
        found = {column: step for column, step in GSM8K.items() if step in runs}
        values = {column: store_values.final_values(runs[step]) for column, step in found.items()}
        differing += comparable.differing(values, {name: "gsm8k"})
        page = link(name, records.run_address(last.id).rpartition("/")[0])
        measured = {column: store_values.rows_of(runs[step]) for column, step in found.items()}
        scores = [records.bits_per_byte(runs, "base_train")]
        scores += [answered(measured.get(column, []), "gsm8k") for column in GSM8K]
        rows.append([page, len(executions), state, len(runs), *map(score, scores)])
    if not rows:
        return Markdown(records.NOTHING)
    header = ["study", "executions", "latest execution", "finished steps", "base bits per byte"]
    header += [f"{column} GSM8K" for column in GSM8K]
    notes = html.notes(address.server_address(), differing)
    return HTML(cards.html().table(header, rows, left=3) + notes)


def _next(study: StudyConfig, planned: dict[str, Step], file: str) -> str:
    """What is to be run next: a button to its notebook, or the commands."""
    html, name = cards.html("study_map"), study.experiment
    missing = [step for step in study.steps if step in planned and not planned[step].finished]
    if not missing:
        notebook = STEPS["report"].notebook
        settings = {} if _is_held(notebook, file) else {"experiment": name}
        button = html.button(notebook, settings)
        if "report" in study.steps and not _reports(study):
            return html.reportless(name, button)
        return html.finished(name, button, TOOLS)
    step, notebook = missing[0], STEPS[missing[0]].notebook
    settings = _other_values(study, step, file)
    count = len(missing) + ("report" in study.steps and not _reports(study))
    return html.missing(
        f"{count} of {len(study.steps)} steps of {name} are not finished.",
        "Go on with:" if planned[step].started else "Next:",
        file,
        step,
        "" if settings is None else html.button(notebook, settings),
        notebook,
    )


def _other_values(study: StudyConfig, step: str, file: str) -> dict[str, Any] | None:
    """What is to be set in a step's notebook; None where it holds another study's values."""
    have = notebook_files.defaults(notebook_files.notebook_file(step))
    want = notebook_files.parameters(step_config(study, step), have["experiment"])
    differing = {key: value for key, value in want.items() if have.get(key) != value}
    held = _is_held(STEPS[step].notebook, file) and set(differing) <= set(STEPS[step].fixed)
    return differing if held else None


def _is_held(notebook: str, file: str) -> bool:
    defaults = notebook_files.defaults(ROOT / "notebooks" / f"{notebook}.ipynb")
    return find_study(defaults["experiment"]) == find_study(file)


def _reports(study: StudyConfig) -> list[run_reader.RunRecord]:
    """The reports of a study, newest first; each belongs to an execution."""
    return records.finished(study.experiment, "report") if records.store_exists() else []


def _what(notebook: str) -> str:
    """The first sentence of a notebook."""
    content = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))
    paragraph = "".join(content["cells"][0]["source"]).split("\n\n")[1].replace("`", "")
    return paragraph.partition(". ")[0].rstrip(".")


def _state(study: StudyConfig, step: Step | None, name: str) -> str:
    """How a step is, how long it took and where it is recorded. The report, which has no `step`, is
    made again for each execution.
    """
    run = None
    if step is None:
        run = next(iter(_reports(study)), None)
        state = "finished" if run else "missing"
    else:
        state = state_of(step)
        # finished with other settings, or by an older version of the code
        if state == "missing" and any(step.folder.parent.glob("*/result.json")):
            state = "outdated"
        if step.finished and records.store_exists():
            run = run_reader.find_finished(study.experiment, name, step.fingerprint)
    symbol, colour = STATES[state]
    took = store_values.seconds(run) if run and step else None
    link = records.run_link(run.id) if run else ""
    return cards.html("study_map").step(state, symbol, cards.COLOURS[colour], name, took, link)


def _result(step: Step | None) -> str:
    finished = step is not None and step.finished
    shown = headlines(step.name, step.result())[:2] if finished else []
    return cards.html("study_map").results(shown)
