"""What the notebooks may be given beside the settings of a stage, and the check of what they were.

papermill only warns about a parameter that a notebook does not have, and reads `no` as text: both
are refused here. Imports no torch.
"""

import ast
import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nanolab.errors import UserError
from nanolab.plan import interpreter
from nanolab.settings.config import STAGES, STEPS
from nanolab.settings.kinds import Distinct, Natural, Text
from nanolab.settings.schema import Settings, build, setting

PowerStep = Literal[tuple(step for step, spec in STEPS.items() if spec.stage == "power_eval")]
INJECTED = "# Parameters\n"  # begins the cell that papermill puts after the parameters cell
WORDS = (
    "papermill -p reads numbers, True, False and None, and every other word as text; "
    "-r takes text, -y takes YAML"
)


@dataclass(frozen=True)
class RunParameters(Settings):
    """What the notebook of a stage has beside the stage's settings."""

    experiment: Text = setting(
        "smoke", "the study that these values belong to; another one: see the map"
    )
    parent_run_id: str | None = setting("", "the execution these runs belong to; empty: a new one")
    fresh: bool = setting(False, "run anew, even when a finished run has the same fingerprint")


@dataclass(frozen=True)
class MapParameters(Settings):
    """Notebook 00_start_here."""

    experiment: Text = setting(
        "smoke", "the study that the map shows: one of experiments/, or a YAML file's path"
    )


@dataclass(frozen=True)
class CompareParameters(Settings):
    """Notebook 11_compare."""

    studies: Distinct[Text] = setting(
        [], 'names such as ["smoke", "micro"]; empty: the latest ones of the store'
    )


@dataclass(frozen=True)
class ChainParameters(Settings):
    """Notebook 12_one_chain."""

    experiment: Text = setting("smoke", "a study of this store")
    step: PowerStep = setting(
        "power_eval", "a finished power evaluation of it: power_eval, power_eval_base, ..."
    )
    problem: Natural | None = setting(
        None, "the problem's number; None: the first that goes from wrong to right"
    )
    chain: Natural = setting(0, "the chain's number, where a problem has several")


@dataclass(frozen=True)
class PublishedParameters(Settings):
    """Notebook 13_published."""

    models: Distinct[Text] = setting(
        [], 'names such as ["Qwen2.5-0.5B"]; empty: all that have published figures'
    )


def parameters(stage: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `run_stage` for a stage, out of a notebook's `variables`, as in
    `run_stage(**parameters("sft", globals()))`.
    """

    def of(cls: type) -> dict[str, Any]:
        return {field.name: variables[field.name] for field in dataclasses.fields(cls)}

    try:
        return {"stage": stage, "parameters": of(STAGES[stage]), **of(RunParameters)}
    except KeyError as error:
        raise UserError(f"there is no {error}: run the parameters cell first") from error


def check(
    cls: type, values: dict[str, Any], stage: str = "", settings: dict[str, Any] | None = None
) -> None:
    """Raises UserError for a value out of its kind, an unknown name, or a kernel of another clone.
    `settings` are those of the stage `stage`, whose fields are parameters too.
    """
    interpreter.check_clone()
    earlier, injected = _injection()
    classes = [STAGES[stage], cls] if stage in STAGES else [cls]
    known = [field.name for each in classes for field in dataclasses.fields(each)]
    if not earlier.isdisjoint(known):  # the parameters cell has run before it
        known += earlier
        for name in injected:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1, 0.0)[0]
                raise UserError(
                    f"unknown parameter {name!r}: this notebook has no such name; the nearest"
                    f" valid one is {near!r}"
                )
    try:
        build(cls, values)
        if settings is not None and stage in STAGES:
            build(STAGES[stage], settings, stage)
    except UserError as error:
        if injected and re.search(r"got \w+$", str(error)):
            raise UserError(f"{error} ({WORDS})") from error
        raise


def _injection() -> tuple[set[str], list[str]]:
    """The names assigned before papermill's own cell, and the names that papermill has injected.

    None outside of a kernel, and where a person is at it, whose cells are their own.
    """
    shell = interpreter.shell()
    kernel = getattr(shell, "kernel", None)
    if kernel is None or kernel.get_parent()["content"].get("allow_stdin"):
        return set(), []
    cells = list(shell.user_ns.get("In", ()))
    own = [place for place, cell in enumerate(cells) if cell.startswith(INJECTED)]
    if not own:
        return set(), []
    earlier = {name for cell in cells[: own[-1]] for name in assigned(cell)}
    return earlier, list(assigned(cells[own[-1]]))


def assigned(cell: str) -> dict[str, ast.expr]:
    """The names that a cell assigns, with what; none where it is no plain Python."""
    try:
        nodes = ast.parse(cell).body
    except SyntaxError:
        return {}
    return {
        target.id: node.value
        for node in nodes
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
