"""What people read in the MLflow UI: the main result of each run in words, and its description.

Links start with "#/": the UI's address is not known when a run is recorded.
"""

import ast
from collections.abc import Iterator
from typing import Any

from nanolab import files
from nanolab.results import FINAL, Score, answered, first, read_flat, read_plain
from nanolab.settings.config import STEPS
from nanolab.settings.model_source import is_outside
from nanolab.tracking import comparable, run_reader, run_writer
from nanolab.tracking.run_reader import RunRecord
from nanolab.wording import (
    METHOD_LABELS,
    METRICS,
    TASKS,
    model_label,
    p_value,
    rough_duration,
    share,
)

TRAINED = ["validation_bits_per_byte", "loss", "steps"]
RESULTS = {  # file of nanolab/stages/ -> groups of flat names; the first known group leads
    "tok_train": ["compression_ratio", "vocab_size"],
    "tok_eval": ["bits_per_char", "compression_ratio", "coverage"],
    "base_train": TRAINED,
    "mid_train": TRAINED,
    "sft": TRAINED,
    "base_loss": ["validation_bits_per_byte", "train_bits_per_byte"],
    "base_eval": ["CORE", *TASKS],
    "chat_eval": ["chat_core", *TASKS],
    "power_eval": [*TASKS, "greedy/accuracy"],
    "power_ablation": ["best_accuracy points problems best_low best_high baseline_accuracy"],
    "rl": ["greedy/before greedy/after greedy/n", "sampled/before sampled/after"],
    "report": ["steps_reported"],
    "point": ["accuracy", "acceptance"],
}
MODELS = {
    "base": "base_eval",
    "mid": "chat_eval_mid",
    "sft": "chat_eval_sft",
    "power": "power_eval",
    "rl": "chat_eval_rl",
    "outside": "chat_eval_hf",
}

# ---- results in words


def result_of(kind: str, values: dict[str, Any]) -> str:
    """The main result of a step, or of a "point" of a grid, from its flat values."""
    rows = [row for group in _groups(kind, values) for row in group.values()]
    return ", ".join(f"{_label(row)}{_details(row)}" for row in rows if row)


def headline(kind: str, values: dict[str, Any]) -> str:
    """The first numbers of `result_of`, for one line of a terminal; "" where there are none. Of a
    loss and of a chosen value it says how sure they are.
    """
    rows = next(_groups(kind, values), {}).values()
    measured = [row for row in rows if row]
    return ", ".join(
        _label(row) + (_details(row) if row.tokens or row.chosen else "") for row in measured
    )


def headline_keys(kind: str, values: dict[str, Any]) -> list[str]:
    """The flat names behind `headline`."""
    return [name for name in next(_groups(kind, values), {}) if name in values]


def _groups(kind: str, values: dict[str, Any]) -> Iterator[dict[str, Score | None]]:
    rows = read_flat(kind, values) + (read_plain(values) if kind == "point" else [])
    known = {row.name or row.metric: row for row in rows}
    for names in RESULTS.get(kind) or RESULTS.get(_module(kind), []):
        group = {name: known.get(name) for name in names.split()}
        if any(group.values()):
            yield group


def _module(step: str) -> str:
    """The file of nanolab/stages/ that runs a step."""
    return (STEPS[step].module if step in STEPS else "") or step


def _label(row: Score) -> str:
    metric = METRICS.get(row.name) or METRICS[row.metric]
    if row.moment:
        label = f"{TASKS[row.task]} {metric.label}"
    elif row.name in METRICS:
        label = metric.label
    else:
        label = METHOD_LABELS.get(row.method, metric.label)
    return f"{label} {metric.report(row.value)}{metric.unit if metric.unit == '%' else ''}"


def _details(row: Score) -> str:
    said = "" if row.low is None else f" [{share(row.low)}, {share(row.high)}]"
    if row.positions is not None:
        said += f" at {row.positions:.0f} positions"
    notes = []
    if row.standard_error is not None:
        notes.append(f"± {share(row.standard_error)}")
    if row.tokens is not None:
        notes.append(f"{row.tokens:,.0f} tokens")
    if row.n is not None and row.metric == "accuracy":
        notes.append(f"n = {row.n:.0f}")
    if row.p_value is not None:
        notes.append(f"p {p_value(row.p_value)}")
    notes += [f"{key} {value:g}" for key, value in row.settings.items()]
    return f"{said} ({', '.join(notes)})" if notes else said


def word_problems(steps: dict[str, RunRecord]) -> str:
    """GSM8K of every model and of power sampling, with the number of problems."""
    said, asked = [], []
    for name, row in _word_problems(steps).items():
        params = steps[MODELS[name]].params
        problems = comparable.asked_of(row, params)
        count = f" (n = {problems.n})" if problems else ""
        said.append(f"{_called(name, params.get('source', ''))} {share(row.value)}{count}")
        asked.append(problems)
    if why := comparable.difference(asked):
        said.append(why)
    return f"GSM8K: {', '.join(said)}" if said else ""


def _called(name: str, source: str) -> str:
    """What a model of MODELS is called: one from outside by its name."""
    if not is_outside(source):
        return name
    return model_label(source) + (" power" if name == "power" else "")


def _word_problems(steps: dict[str, RunRecord]) -> dict[str, Score]:
    rows = {name: answered(_rows(steps, step), "gsm8k") for name, step in MODELS.items()}
    return {name: row for name, row in rows.items() if row}


def _main_metrics(steps: dict[str, RunRecord]) -> dict[str, float]:
    """What the UI compares executions by."""
    found = {f"gsm8k/{name}": row for name, row in _word_problems(steps).items()}
    for step, name in (("base_eval", "CORE"), ("base_loss", "validation_bits_per_byte")):
        found[name] = first(_rows(steps, step), name=name)
    return {key: row.value for key, row in found.items() if row}


def _rows(steps: dict[str, RunRecord], step: str) -> list[Score]:
    return read_flat(step, _final(steps[step])) if step in steps else []


def _final(run: RunRecord) -> dict[str, float]:
    return run_reader.under(FINAL, run.metrics)


# ---- descriptions


def link(run: RunRecord, text: str = "", artifact: str = "") -> str:
    """A Markdown link to a run's page, or to one of its artifacts."""
    place = f"/artifacts/{artifact}" if artifact else ""
    page = f"#/experiments/{run.experiment_id}/runs/{run.id}{place}"
    return f"[{text or run.name}]({page}?workflowType=machine_learning)"


def about(step: str) -> str:
    """What a step does, as the file that runs it says at its top; "" for one of no study."""
    path = files.ROOT / "nanolab" / "stages" / f"{_module(step)}.py"
    if step not in STEPS:
        return ""
    told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    _, own, line = told.partition(f"Step {step}: ")  # where a file runs several, a line is of each
    said = line.partition("\nStep ")[0] if own else told.partition(": ")[2]
    words = " ".join(said.partition("\n\n")[0].split())
    return words[:1].upper() + words[1:]


def describe_step(run: RunRecord, report: str = "") -> None:
    """Writes a finished step's result and description; `report` is a link to the report."""
    step, links = run.tags["step"], [report]
    for name in run_reader.artifact_names(run.id, "notebook"):
        if name.endswith(".html"):
            links.append(link(run, "executed notebook", name))
    for _, folder in sorted(run_reader.under("input.", run.tags).items()):
        parts = folder.split("/")  # work/STUDY/STEP/FINGERPRINT
        if len(parts) == 4:
            found = run_reader.find_finished(*parts[1:])
            links += [f"reads {link(found)}"] if found else []
    said = result_of(step, _final(run))
    model = _model(run)
    # the result before the rest, which the UI hides after some lines
    parts = [_joined(" · ", links), said and f"**{said}**", model, about(step)]
    _describe(run.id, _joined("\n\n", parts), said)


def _model(run: RunRecord) -> str:
    """Which model from outside a step asked, and how, in a line; "" for one trained here."""
    told = run_reader.under("model.", run.params)
    if not told:
        return ""
    return (
        f"{told['name']}: {int(told['parameters']):,} parameters ({told['files']}), asked in"
        f" {told['prompt']}, {told['engine']} ({told['runs_on']}), {told['dtype']}"
    )


def describe_point(run: RunRecord, step: RunRecord) -> None:
    """Writes a finished grid point's result and description."""
    said = result_of("point", run.metrics)
    setting = ", ".join(
        f"{key} {value.replace('_', ' ').removesuffix('.0')}" for key, value in run.params.items()
    )
    parts = [setting, said and f"**{said}**", f"a point of {link(step)}"]
    _describe(run.id, _joined(" · ", parts), said)


def describe_execution(parent: str) -> None:
    """Writes result and description of an execution and of its own steps."""
    execution, own = run_reader.record(parent), run_reader.children(parent)
    reused = [run_reader.record(run_id) for run_id in execution.reused.values()]
    finished = [run for run in reused + own if "step" in run.tags and run.status == "FINISHED"]
    steps = {run.tags["step"]: run for run in finished}
    report = _report_link(steps.get("report"))
    for run in own:
        if run.tags.get("step") in steps:
            describe_step(run, "" if run.tags["step"] == "report" else report)
    table = ["| step | main result | time |", "| --- | --- | ---: |"]
    for run in sorted(steps.values(), key=lambda run: run.name):
        seconds = ((run.end or run.start) - run.start) / 1000
        took = rough_duration(seconds + float(run.tags.get("earlier_seconds", 0)))
        took += " (reused)" if run in reused else ""
        table.append(f"| {link(run)} | {result_of(run.tags['step'], _final(run))} | {took} |")
    parts = [execution.params.get("description"), report, "\n".join(table)]
    run_writer.log_metrics(parent, _main_metrics(steps))
    said = word_problems(steps) or f"{len(steps)} steps finished"
    _describe(parent, _joined("\n\n", parts), said)


def _describe(run_id: str, description: str, result: str) -> None:
    run_writer.set_tag(run_id, "mlflow.note.content", description)
    if result:
        run_writer.set_tag(run_id, "result", result)


def _joined(separator: str, parts: list[str | None]) -> str:
    return separator.join(filter(None, parts))


def _report_link(run: RunRecord | None) -> str:
    names = run_reader.artifact_names(run.id) if run else []
    found = next((name for name in ("report.html", "report.md") if name in names), "")
    return f"**{link(run, 'report', found)}**" if run and found else ""
