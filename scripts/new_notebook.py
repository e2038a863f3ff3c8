"""Writes the notebook of a new step: `python scripts/new_notebook.py STEP`, once STEP stands in STEPS of nanolab/config.py.

Its parameters cell holds the fields of the stage's config class; the rest is yours to write: what it does, figures, how to read them.
"""

import argparse
import dataclasses
import json
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nanolab import notebooks
from nanolab.config import ROOT, STAGES, STEPS
from nanolab.schema import to_dict

PATTERN = (
    ROOT / "notebooks" / "02_base_train.ipynb"
)  # its last parameters and the cell that shows a result are taken as they are


def cell(kind: str, name: str, source: str, tags: list[str] | None = None) -> dict:
    """A cell of format 4.5 without outputs."""
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {
        "cell_type": kind,
        "id": name,
        "metadata": {"tags": tags} if tags else {},
        "source": source.splitlines(keepends=True),
        **code,
    }


def content(step: str) -> dict:
    """The notebook of a step, ready for JSON."""
    spec, config = STEPS[step], STAGES[STEPS[step].stage]
    number = spec.notebook[:2]
    pattern = json.loads(PATTERN.read_text(encoding="utf-8"))
    given = [one for one in pattern["cells"] if one["cell_type"] == "code"]
    shared = [
        line
        for line in "".join(given[0]["source"]).splitlines()
        if line.split(" = ")[0] in notebooks.RUN_PARAMETERS
    ]
    values = to_dict(config())
    own = [
        f"{field.name} = {values[field.name]!r}  # {field.metadata['description']}"
        for field in dataclasses.fields(config)
    ]
    names = textwrap.fill(
        ", ".join(f"{name}={name}" for name in values), 100, subsequent_indent=" " * 16
    )
    run = (
        f"from nanolab import pipeline\nfrom nanolab.report import view\n\nsettings = dict({names})\n"
        f'result = pipeline.run_stage("{spec.stage}", settings, experiment=experiment, parent_run_id=parent_run_id, fresh=fresh)'
    )
    cells = [
        cell(
            "markdown",
            f"{number}-title",
            f"# {number} {spec.stage.replace('_', ' ').capitalize()}\n\n{config.__doc__}\n\n"
            "[The map](00_start_here.ipynb)",
        ),
        cell("code", f"{number}-parameters", "\n".join([*own, *shared]), ["parameters"]),
        cell("code", f"{number}-run", run),
        {**given[2], "id": f"{number}-result"},
        cell(
            "markdown",
            f"{number}-guide",
            "## How to read this\n\n- What is good here, and what is chance?\n- What does it not show?",
        ),
    ]
    return {"cells": cells, "metadata": pattern["metadata"], "nbformat": 4, "nbformat_minor": 5}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=STEPS)
    step = parser.parse_args().step
    path = ROOT / "notebooks" / f"{STEPS[step].notebook}.ipynb"
    if path.exists():
        sys.exit(f"error: {path.relative_to(ROOT)} exists already")
    path.write_text(
        json.dumps(content(step), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    print(path.relative_to(ROOT))
