"""What the notebooks show of a stage's result: tables and figures, read from MLflow's records.

`result` is what `pipeline.run_stage` gives: metrics, run_ids and own (the stage's own steps), by step name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
from IPython.display import Image, Markdown

from nanolab import tracking
from nanolab.report import collect, plots


def metrics(result: Any) -> pandas.DataFrame:
    """The final metrics of the stage's own steps, one row each."""
    rows = [(step, key, value) for step in result.own for key, value in result.metrics[step].items()]
    return pandas.DataFrame(rows, columns=["step", "metric", "value"]).set_index(["step", "metric"])


def table(result: Any, step: str, name: str) -> pandas.DataFrame:
    """A table that a step recorded, such as "samples.json"; empty where the step had nothing to record in it."""
    if name not in tracking.artifact_names(result.run_ids[step]):
        return pandas.DataFrame()
    content = json.loads(tracking.artifact(result.run_ids[step], name).read_text())
    return pandas.DataFrame(content["data"], columns=content["columns"])


def artifact(result: Any, step: str, name: str) -> Image | Markdown:
    """A figure that a step recorded, or a line that says that it had nothing to draw in it."""
    if name not in tracking.artifact_names(result.run_ids[step], str(Path(name).parent)):
        return Markdown(f"*{step} recorded no {name}*")
    return Image(data=tracking.artifact(result.run_ids[step], name).read_bytes())


def curves(result: Any, step: str) -> Image:
    """The curves of a training step: loss and validation, or the reward."""
    history = collect.curves(tracking.record(result.run_ids[step]))
    figure, _ = plots.reward_curve(history) if "train/reward" in history else plots.training_curves(history, step)
    return Image(data=plots.png(figure))


def tasks(result: Any, step: str) -> Image:
    """The chat tasks of one evaluation, with 95% Wilson intervals and chance."""
    figure, _ = plots.task_bars(collect.task_results({step: tracking.record(result.run_ids[step])}), f"Chat tasks: {step}")
    return Image(data=plots.png(figure))


def methods(result: Any, step: str) -> pandas.DataFrame:
    """Power sampling beside the methods that the step ran: accuracy, 95% interval, cost, and McNemar's p-value against power."""
    values = result.metrics[step]
    task = next((task for task in ("gsm8k", "humaneval") if task in values), "gsm8k")
    columns = ["accuracy", "passed", "total", "low", "high", "positions_per_problem", "p_value"]
    rows = {"power": {key: values.get(task if key == "accuracy" else key) for key in columns}}
    rows |= {name: {key: values.get(f"{name}/{key}") for key in columns} for name in plots.METHOD_STYLES
             if f"{name}/accuracy" in values}
    return pandas.DataFrame.from_dict(rows, orient="index", columns=columns)


def report_text(result: Any) -> str:
    """The report in Markdown, its figures shown by `figures` instead of by their paths."""
    text = tracking.artifact(result.run_ids["report"], "report.md").read_text()
    return "\n".join(line for line in text.splitlines() if not line.startswith("!["))


def figures(result: Any) -> None:
    """Displays every figure of the report."""
    from IPython.display import display
    for name in tracking.artifact_names(result.run_ids["report"], "figures"):
        if name.endswith(".png"):
            display(Image(data=tracking.artifact(result.run_ids["report"], name).read_bytes()))
