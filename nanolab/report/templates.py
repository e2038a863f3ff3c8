"""The templates of pages and cards (`*.html.j2`, beside the code that fills them), and the links
from a page's numbers to the MLflow runs that they stand in.
"""

import functools
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FOLDERS = (HERE, HERE.with_name("notebook"))


@functools.cache
def environment() -> Any:
    """The one jinja2 environment: what is filled in is escaped, unless it is HTML already."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(FOLDERS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def macros(name: str) -> Any:
    """The macros of NAME.html.j2 as functions that return HTML."""
    return environment().get_template(f"{name}.html.j2").module


class Links:
    """Links to the runs of an execution: `origins` as nanolab/report/provenance.py gives them,
    `server` the address of MLflow.
    """

    def __init__(self, origins: dict[str, dict[str, Any]], server: str):
        self._origins = origins
        self.server = server.rstrip("/")
        self._experiment = next((origin["experiment_id"] for origin in origins.values()), "")

    def of(self, step: str, text: str, key: str = "") -> str:
        """`text` as a link to the run of `step`; as it is where the step has none, or there is
        nothing to say.
        """
        origin = self._origins.get(step)
        if origin is None:
            return text
        title = f"run {origin['name']} ({origin['run_id']})" + (f", {key}" if key else "")
        return self.to(origin["run_id"], text, title)

    def to(self, run_id: str, text: str, title: str = "") -> str:
        """`text` as a link to a run of this study."""
        if text == "-":
            return text
        address = f"{self.server}/#/experiments/{self._experiment}/runs/{run_id}"
        return macros("elements").run(text, address, title or f"run {run_id}")
