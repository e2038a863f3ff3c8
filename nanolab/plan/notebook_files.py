"""The notebooks as files: which fills a step, and what their parameters cells hold."""

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

from nanolab.errors import UserError
from nanolab.files import ROOT
from nanolab.plan.parameters import (
    ChainParameters,
    CompareParameters,
    MapParameters,
    PublishedParameters,
    RunParameters,
    assigned,
)
from nanolab.settings.config import STAGES, STEPS
from nanolab.settings.schema import to_dict

READERS = {  # the notebooks that run no stage
    "00_start_here": MapParameters,
    "11_compare": CompareParameters,
    "12_one_chain": ChainParameters,
    "13_published": PublishedParameters,
}
RUN_PARAMETERS = to_dict(RunParameters())  # beside the stage's own fields


def notebook_file(step: str) -> Path:
    """The notebook that fills a step."""
    return ROOT / "notebooks" / f"{STEPS[step].notebook}.ipynb"


def parameters(config: Any, experiment: str, parent_run_id: str = "") -> dict[str, Any]:
    """What is injected into the notebook of a stage with this config."""
    return {**to_dict(config), **to_dict(RunParameters(experiment, parent_run_id))}


def defaults(notebook: Path) -> dict[str, Any]:
    """Names and default values of a notebook's `parameters` cell; raises UserError without one."""
    name = notebook.relative_to(ROOT)
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except FileNotFoundError as error:
        raise UserError(f"no notebook {name}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{name} is not a notebook: {error}") from error
    found = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(found) != 1:
        raise UserError(f"{name} must have one cell with the tag 'parameters', it has {len(found)}")
    values = assigned("".join(found[0]["source"]))
    return {name: ast.literal_eval(value) for name, value in values.items()}


def check_parameters(step: str) -> None:
    """Raises UserError when the notebook of a step does not hold exactly the parameters of its
    stage.
    """
    notebook, stage = notebook_file(step), STEPS[step].stage
    have = set(defaults(notebook))
    want = {field.name for field in dataclasses.fields(STAGES[stage])} | set(RUN_PARAMETERS)
    cell = f"the parameters cell of {notebook.relative_to(ROOT)}"
    if lacks := sorted(want - have):
        raise UserError(f"unknown parameter {lacks[0]!r}: {cell} lacks it; add it there")
    if other := sorted(have - want):
        raise UserError(f"{cell} has {other[0]!r}, which is no setting of {stage}: remove it there")
