"""What the notebooks of the stages show of a result, from MLflow's records. `result` is what
`run_stage` gives. Figures are imported when they are drawn: a stage starts without them.
"""

import base64
import re
from pathlib import Path
from typing import Any

from IPython.display import HTML, Image, Markdown

from nanolab.notebook import cards, records
from nanolab.notebook.cards import interval, number, percent, written
from nanolab.report import outside, store_values
from nanolab.results import Score, accuracies, first, read_flat, select
from nanolab.tracking import run_reader
from nanolab.wording import METRICS, RL_WAYS, TASKS

FIGURE_WIDTH = 560  # pixels on the screen; the files have more
ROWS, MORE_ROWS = 12, 500  # of a table: at once, and with those behind a click
LONG = 60  # characters of a cell that stay on a line; longer texts may break
LONG_ANSWER = 15  # characters of an answer that is not told
ACCURACY = ("accuracy", "95% interval", "passed")
REPORT_FIGURES = ("tasks", "accuracy_by_positions")  # that stand above the report
OVERLAP = {
    "long": "items",
    "any": "in any, runs",
    "text": "in text, runs",
    "chats": "in chats, runs",
    "tasks": "in task rows, runs",
}
COLUMNS = {"count": "tokens"} | {
    f"{name}_{words}": f"{label} of {words} words"
    for words in (8, 13)
    for name, label in OVERLAP.items()
}
# in the order of their tiles; a step has those that it measured
HEADLINES = (
    *("bits_per_char", "coverage", "vocab_size", "compression_ratio", "characters"),
    *("vocabulary_use", "loss", "loss_tokens", "train_bits_per_byte", "train_tokens"),
    *("validation_bits_per_byte", "validation_tokens", "CORE", "chat_core"),
    *sorted(TASKS, key=lambda task: task != "gsm8k"),  # word problems first
    *("positions_per_problem", "acceptance", "effective_moves", "log_p_drift"),
    *("effective_sample_size", "r_hat", "log_p_error", "best_accuracy", "points", "best_alpha"),
    *("best_temperature", "best_num_steps", "baseline_accuracy", "problems", "greedy/before"),
    *("greedy/after", "sampled/before", "sampled/after", "steps", "reward_first", "reward_last"),
    *("tokens", "tokens_per_second", "positions_per_second", "parameters", "mfu"),
)


def headlines(step: str, metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """(label, value) of the key numbers that a step measured, with what makes them sure."""
    rows = {row.name: row for row in read_flat(step, metrics)}
    found = []
    for key in HEADLINES:
        if metrics.get(key) is None:
            continue
        label, value, row = METRICS[key].label, written(key, metrics[key]), rows.get(key)
        label += f", {METRICS[key].unit}" if METRICS[key].unit else ""
        if row and row.standard_error is not None:
            value += f" ± {written(key, row.standard_error)}"
        if row and row.chosen and row.low is not None:
            value += f" {interval(row)[0]}"
        if row and row.task and row.n is not None and not row.moment:
            label += f", {row.n:.0f} problems"
        found.append((label, value))
    return found


def summary(result: Any) -> HTML:
    """The key numbers of the stage's own steps, their records, and every metric behind a click."""
    pieces = []
    for step in result.own:
        metrics, run_id = result.metrics[step], result.run_ids.get(step)
        where = [records.run_link(run_id), cards.relative(result.folders[step])] if run_id else []
        where += [f"data: {metrics['data']}"] if "data" in metrics else []
        where += outside.in_words(metrics)
        shown, reused = headlines(step, metrics), step in result.reused
        numbers = [[key, number(v)] for key, v in metrics.items() if not isinstance(v, dict | list)]
        pieces.append(cards.html("stage_results").step(step, reused, where, shown, numbers))
    return HTML("".join(pieces))


# ---- tables


def _table(header: list[str], rows: list[list[Any]]) -> HTML:
    return HTML(cards.html().table(header, rows))


def _recorded(result: Any, step: str, name: str) -> list[dict[str, Any]]:
    return run_reader.table(result.run_ids[step], name) or []


def _absent(step: str, name: str) -> Markdown:
    return Markdown(f"*{step} recorded no {name}*")


def _rows(result: Any, step: str) -> list[Score]:
    return read_flat(step, result.metrics[step])


def _long_table(rows: list[dict[str, Any]], what: str = "rows") -> HTML:
    """Rows under their keys, some at once, the others behind a click."""
    cell, header = cards.html("stage_results").cell, list(rows[0])
    cells = [[cell(value, LONG) for value in row.values()] for row in rows]
    return HTML(cards.html("stage_results").long_table(header, cells, ROWS, MORE_ROWS, what))


def table(result: Any, step: str, name: str) -> HTML | Markdown:
    """A table that a step recorded."""
    rows = _recorded(result, step, name)
    if not rows:
        return _absent(step, name)
    return _long_table([{COLUMNS.get(key, key): row[key] for key in row} for row in rows])


def problems(result: Any, step: str) -> HTML:
    """The first problems of a power evaluation, with the answer of every method."""
    answer, shown = cards.html("stage_results").answer, []
    for row in _recorded(result, step, "problems.json"):
        cells = {"": row["index"], "question": row["question"], "expected": row["expected"]}
        for name, label in cards.METHODS.items():
            if f"{name}_passed" in row:
                text = row[f"{name}_answer"] or ""
                told = text if len(text) <= LONG_ANSWER else ""
                cells[label] = answer(row[f"{name}_passed"], told)
        shown.append(cells)
    return _long_table(shown, "problems")


def samples(result: Any, step: str) -> HTML | Markdown:
    """The samples of an evaluation: what was asked, what came, whether it was right."""
    pieces = []
    for row in _recorded(result, step, "samples.json"):
        expected = f" · expected {row['expected']}" if row.get("expected") else ""
        remark, answer = TASKS.get(row["task"], row["task"]) + expected, row["completion"]
        piece = cards.html("stage_results").sample
        pieces.append(piece(row["passed"], remark, row["prompt"], answer))
    return HTML("".join(pieces)) if pieces else _absent(step, "samples")


def methods(result: Any, step: str) -> HTML:
    """Power sampling beside the other methods: accuracy, cost, McNemar's p-value against power."""
    found = accuracies(_rows(result, step))
    known = [(label, found[name]) for name, label in cards.METHODS.items() if name in found]
    cells = [
        [label, *_accuracy(row), number(row.positions), _p_value(row.p_value)]
        for label, row in known
    ]
    task = TASKS.get(known[0][1].task, "")
    return _table([task, *ACCURACY, "positions a problem", "p against power"], cells)


def _accuracy(row: Score) -> list[str]:
    return [percent(row.value), *interval(row)]


def _p_value(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def before_and_after(result: Any, step: str = "rl") -> HTML:
    """Before and after reinforcement learning on the same problems, with McNemar's exact test."""
    found, cells = _rows(result, step), []
    for way, label in RL_WAYS.items():
        after = first(found, method=way, moment="after")
        if before := first(found, method=way, moment="before"):
            shares = [" ".join(_accuracy(row)[:2]) for row in (before, after)]
            cells.append([label, *shares, number(round(after.n)), _p_value(after.p_value)])
    return _table(["GSM8K", "before", "after", "problems", "p"], cells)


def points(result: Any) -> HTML:
    """The points of an ablation, the most accurate first."""
    power, others, _ = store_values.grid_points(run_reader.record(result.run_ids["power_ablation"]))
    settings = {"alpha": "alpha", "temperature": "T", "num_steps": "steps", "n": "n"}
    rows = [
        [
            cards.METHODS[point.get("method", "power")],
            *("" if point.get(key) is None else f"{float(point[key]):g}" for key in settings),
            percent(point["accuracy"]),
            *interval(point),
            percent(point.get("acceptance")),
            number(point.get("positions_per_problem")),
        ]
        for point in sorted([*power, *others], key=lambda point: -point["accuracy"])
    ]
    costs = ["acceptance", "positions a problem"]
    return _table(["method", *settings.values(), *ACCURACY, *costs], rows)


def core(result: Any, step: str = "base_eval") -> HTML:
    """The CORE tasks of a base evaluation."""
    rows = select(_rows(result, step), suite="core")
    cells = [[row.task, *_accuracy(row), percent(row.chance)] for row in rows]
    return _table(["CORE task", *ACCURACY, "chance"], cells)


# ---- figures


def image(figure: Any) -> Image:
    """A figure at the width of half a page."""
    from nanolab.figures import style

    return Image(data=style.png(figure), width=FIGURE_WIDTH)


def artifact(result: Any, step: str, name: str) -> Image | Markdown:
    """A figure that a step recorded."""
    run_id = result.run_ids[step]
    if name not in run_reader.artifact_names(run_id, str(Path(name).parent)):
        return _absent(step, name)
    return Image(data=run_reader.artifact(run_id, name).read_bytes(), width=FIGURE_WIDTH)


def curves(result: Any, step: str) -> Image:
    """Loss and validation of a training step, or the reward."""
    from nanolab.figures import training

    run = run_reader.record(result.run_ids[step])
    history = store_values.curves(run)
    if "train/reward" in history:
        return image(training.reward_curve(history)[0])
    return image(training.training_curves(history, step, store_values.curve_tokens(run))[0])


def tasks(result: Any, step: str) -> Image:
    """The chat tasks of one evaluation."""
    from nanolab.figures import training

    rows = store_values.task_results({step: run_reader.record(result.run_ids[step])})
    return image(training.task_bars(rows, f"Chat tasks: {step}")[0])


def report(result: Any) -> Markdown:
    """Where the report's page is, its summary and first figures; all of it behind a click."""
    run_id = result.run_ids["report"]

    def inline(found: re.Match[str]) -> str:
        content = base64.b64encode(run_reader.artifact(run_id, found[2]).read_bytes()).decode()
        source = f"data:image/png;base64,{content}"
        return f'<img alt="{found[1]}" width="{FIGURE_WIDTH}" src="{source}">'

    page = records.run_address(run_id).replace("?", "/artifacts/report.html?", 1)
    drawn = run_reader.artifact_names(run_id, "figures")
    figures = {name: f"figures/{name}.png" for name in REPORT_FIGURES}
    whole = run_reader.artifact(run_id, "report.md").read_text(encoding="utf-8")
    parts = [
        f"[**The report as a page**]({page}) (`make ui` serves it) · as files in"
        f" `{cards.relative(result.folders['report'])}`",
        result.metrics["report"].get("summary", ""),
        *(f"![{name}]({path})" for name, path in figures.items() if path in drawn),
        f"<details><summary>the whole report</summary>\n\n{whole}\n\n</details>",
    ]
    text = "\n\n".join(filter(None, parts))
    return Markdown(re.sub(r"^!\[(.*)\]\((.*\.png)\)$", inline, text, flags=re.MULTILINE))
