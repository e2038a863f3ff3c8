"""Writes the notebook of a new step: `python scripts/new_notebook.py STEP`, once STEP stands in
STEPS of nanolab/settings/config.py.

Its parameters cell holds the fields of the stage's config class; the rest is yours to write: what
it does, figures, how to read them.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nanolab.files import ROOT
from nanolab.plan import notebook_files
from nanolab.settings.config import STAGES, STEPS
from nanolab.settings.schema import to_dict

PATTERN = ROOT / "notebooks" / "02_base_train.ipynb"  # what all notebooks share is taken from it

GUIDE = """## How to read this

- What is good here, and what is chance?
- What does it not show?"""


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
    stage = STEPS[step].stage
    config, number = STAGES[stage], STEPS[step].notebook[:2]
    pattern = json.loads(PATTERN.read_text(encoding="utf-8"))
    parameters, run, result = [
        "".join(given["source"]) for given in pattern["cells"] if given["cell_type"] == "code"
    ][:3]
    of_a_run = [
        line
        for line in parameters.splitlines()
        if line.split(" = ")[0] in notebook_files.RUN_PARAMETERS
    ]
    values = to_dict(config())
    own = [
        f"{field.name} = {values[field.name]!r}  # {field.metadata['description']}"
        for field in dataclasses.fields(config)
    ]
    title = f"# {number} {stage.replace('_', ' ').capitalize()}"
    about = f"{title}\n\n{config.__doc__}\n\n[The map](00_start_here.ipynb)"
    cells = [
        cell("markdown", f"{number}-title", about),
        cell("code", f"{number}-parameters", "\n".join([*own, *of_a_run]), ["parameters"]),
        cell("code", f"{number}-run", run.replace("base_train", stage)),
        cell("code", f"{number}-result", result),
        cell("markdown", f"{number}-guide", GUIDE),
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
