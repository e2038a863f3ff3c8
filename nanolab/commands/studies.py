"""The studies of experiments/ and of the store, each with its state: `run --list`."""

from __future__ import annotations

import json
import sys

from nanolab import files, terminal
from nanolab.config import ROOT, StudyConfig
from nanolab.experiment import load_study
from nanolab.pipeline import is_running
from nanolab.plan import plan
from nanolab.schema import UserError
from nanolab.study import per_seed


def show_studies(as_json: bool) -> int:
    """Prints each study with its state in this store and its description."""
    names = sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml"))
    stored = {
        path.parents[2].name for path in (files.MLRUNS / "work").glob("*/executions/*/study.yaml")
    }
    rows = [_row(name, "") for name in names] + [
        _row(name, "(of this store) ") for name in sorted(stored - set(names))
    ]
    if as_json:
        for state, name, description, finished, steps in rows:
            print(
                json.dumps(
                    {
                        "event": "study",
                        "study": name,
                        "state": state,
                        "description": description,
                        "finished": finished,
                        "steps": steps,
                    },
                    ensure_ascii=False,
                )
            )
        return 0
    cells = [
        [state, name, state, f"{finished}/{steps}" if steps else "-", text]
        for state, name, text, finished, steps in rows
    ]
    if terminal.is_live(sys.stdout):
        from nanolab.terminal_live import show, state_table

        show(state_table(["study", "state", "steps", "description"], cells))
    else:
        for _, name, state, steps, description in cells:
            print(f"{name:22} {state:11} {steps:>6}  {description}".rstrip())
    return 0


def _row(name: str, note: str) -> tuple[str, str, str, int, int]:
    """(state, name, description, finished steps, steps); what cannot be planned here says why."""
    study: StudyConfig | None = None
    try:
        study = load_study(name)
        steps = [step for each in per_seed(study) for step in plan(each).values()]
    except UserError as error:
        return "problem", name, f"{note}{error}", 0, 0
    finished = sum(step.finished for step in steps)
    state = (
        "finished"
        if finished == len(steps)
        else "to continue"
        if finished or any(step.started for step in steps)
        else "missing"
    )
    return (
        "running" if is_running(study.experiment) else state,
        name,
        note + study.description,
        finished,
        len(steps),
    )
