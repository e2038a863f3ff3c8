"""The notebooks: what their parameter cells hold, and their execution with papermill."""

from __future__ import annotations

import ast
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from nanolab import files
from nanolab.config import ROOT, STAGES, STEPS
from nanolab.schema import UserError, to_dict

READERS: dict[
    str, dict[str, tuple[Any, str]]
] = {  # notebooks that run no stage -> parameter -> default, description
    "00_start_here": {
        "experiment": (
            "smoke",
            "the study that the map shows: one of experiments/, or the path of a YAML file",
        )
    },
    "11_compare": {
        "studies": ([], 'names such as ["smoke", "micro"]; empty: the latest ones of the store')
    },
    "12_one_chain": {
        "experiment": ("smoke", "a study of this store"),
        "step": (
            "power_eval",
            "a finished power evaluation of it: power_eval, power_eval_base, ...",
        ),
        "problem": (None, "the problem's number; None: the first that goes from wrong to right"),
        "chain": (0, "the chain's number, where a problem has several"),
    },
}
RUN_PARAMETERS = {
    "experiment": "smoke",
    "parent_run_id": "",
    "fresh": False,
}  # beside the stage's own fields


class NotebookFailed(RuntimeError):
    """A cell of a notebook raised an error: its traceback, and the one line of it that says why. The executed notebook is kept."""

    def __init__(self, text: str, line: str):
        super().__init__(text)
        self.line = line


def notebook_file(step: str) -> Path:
    """The notebook that fills a step."""
    return ROOT / "notebooks" / f"{STEPS[step].notebook}.ipynb"


def parameters(
    stage: str, config: Any, experiment: str, parent_run_id: str = "", fresh: bool = False
) -> dict[str, Any]:
    """What is injected into a stage's notebook: every field of its config, and the execution it belongs to."""
    return {
        **to_dict(config),
        "experiment": experiment,
        "parent_run_id": parent_run_id,
        "fresh": fresh,
    }


def defaults(notebook: Path) -> dict[str, Any]:
    """Names and default values of a notebook's `parameters` cell; raises UserError when there is none."""
    try:
        content = json.loads(notebook.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"no notebook {notebook.relative_to(ROOT)}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{notebook.relative_to(ROOT)} is not a notebook: {error}") from error
    cells = [cell for cell in content["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    if len(cells) != 1:
        raise UserError(
            f"{notebook.relative_to(ROOT)} must have one cell with the tag 'parameters', it has {len(cells)}"
        )
    values = {}
    for node in ast.parse("".join(cells[0]["source"])).body:
        if (
            isinstance(node, ast.Assign)
            and len(node.targets) == 1
            and isinstance(node.targets[0], ast.Name)
        ):
            values[node.targets[0].id] = ast.literal_eval(node.value)
    return values


def check_parameters(step: str) -> None:
    """Raises UserError when the notebook of a step does not hold exactly the parameters of its stage."""
    notebook = notebook_file(step)
    have = set(defaults(notebook))
    want = {field.name for field in dataclasses.fields(STAGES[STEPS[step].stage])} | set(
        RUN_PARAMETERS
    )
    for name in sorted(want - have):
        raise UserError(
            f"unknown parameter {name!r}: the parameters cell of {notebook.relative_to(ROOT)} lacks it; add it there"
        )
    for name in sorted(have - want):
        raise UserError(
            f"{notebook.relative_to(ROOT)}: its parameters cell has {name!r}, which is no setting of {STEPS[step].stage}"
        )


def execute(
    notebook: Path, output: Path, values: dict[str, Any], printed: Any = sys.stdout
) -> None:
    """Executes a notebook with injected parameters; what its kernel prints is written to `printed`; `output` is kept whatever happens.

    Raises UserError when a cell raised one, when its kernel was killed or the disk is full, NotebookFailed for any other failure.
    """
    import papermill
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.exceptions import DeadKernelError

    class LocalKernel(AsyncKernelManager):
        """A kernel reached over sockets in the file system: it opens no port."""

        def __init__(self, *arguments: Any, **options: Any):
            options.setdefault("transport", "ipc")
            super().__init__(*arguments, **options)

    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(notebook),
            str(output),
            parameters=values,
            kernel_name="python3",
            progress_bar=False,
            log_output=False,
            stdout_file=printed,
            stderr_file=printed,
            cwd=str(ROOT),
            start_timeout=120,
            execution_timeout=None,
            autosave_cell_every=30,
            kernel_manager_class=LocalKernel,
            shutdown_kernel="immediate",
        )  # all is written by then; a polite end takes seconds
    except papermill.PapermillExecutionError as error:
        if error.ename == "UserError":
            raise UserError(error.evalue) from error
        if files.is_full(error.evalue):
            raise UserError(files.full_line()) from error
        printed.write(f"{error}\n")
        raise NotebookFailed(str(error), _reason(error.ename, error.evalue)) from error
    except DeadKernelError as error:
        raise UserError(
            f"the kernel of {notebook.name} was killed, by hand or by the system (out of memory?): run the same command again, "
            "it goes on from there; with less memory at hand, lower device_batch_size and batch_rows"
        ) from error


def _reason(name: str, text: str) -> str:
    """The line that says why a cell failed: of a stage's process the last one that it printed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if name == "StageFailed" and lines:
        first = lines[0].partition("; its last lines")[0]  # how it ended
        return first if len(lines) == 1 or "ended by signal" in first else lines[-1]
    return f"{name}: {lines[0]}" if lines else name
