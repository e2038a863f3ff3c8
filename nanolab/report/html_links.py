"""Elements of a page, and the links from its numbers to the MLflow runs that they stand in."""

from __future__ import annotations

from html import escape
from typing import Any

VOID = ("img", "meta", "br")


def tag(name: str, content: str = "", **attributes: str | None) -> str:
    """An element around `content`, which is HTML; an attribute's value is text, None leaves it out, class_ is class."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value, quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{given}>" + ("" if name in VOID else f"{content}</{name}>")


class Links:
    """Links to the runs of an execution: `origins` as nanolab/report/provenance.py gives them, `server` the address of MLflow."""

    def __init__(self, origins: dict[str, dict[str, Any]], server: str):
        self._origins, self.server = origins, server.rstrip("/")
        self._experiment = next((origin["experiment_id"] for origin in origins.values()), "")

    def of(self, step: str, text: str, key: str = "") -> str:
        """`text` as a link to the run of `step`; plain where the step has none, or there is nothing to say."""
        origin = self._origins.get(step)
        if origin is None or text == "-":
            return escape(text)
        return self.to(
            origin["run_id"],
            text,
            f"run {origin['name']} ({origin['run_id']})" + (f", {key}" if key else ""),
        )

    def to(self, run_id: str, text: str, title: str = "") -> str:
        """`text` as a link to a run of this study."""
        if text == "-":
            return escape(text)
        return tag(
            "a",
            escape(text),
            class_="run",
            href=f"{self.server}/#/experiments/{self._experiment}/runs/{run_id}",
            title=title or f"run {run_id}",
            target="_blank",
            rel="noopener",
        )
