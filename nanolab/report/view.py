"""What the notebooks of the stages show of a result, read from MLflow's records: key numbers, figures, tables, samples.

`result` is what `pipeline.run_stage` gives: metrics, run_ids, folders, reused and own (the stage's own steps), by step name.
Figures and pandas are imported when they are drawn: a notebook's stage starts without them.
"""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

from IPython.display import HTML, Image, Markdown

from nanolab import files, tracking
from nanolab.report import cards, collect, records
from nanolab.report.cards import Markup
from nanolab.report.markdown import METHOD_LABELS, RL_WAYS, TASK_LABELS

FIGURE_WIDTH = 560  # pixels on the screen; the files have more
ROWS = 12  # of a table that are shown; a click shows the rest
LONG = 60  # characters of a cell that are shown as they are; longer texts may break
FIRST = ("tasks", "accuracy_by_positions")  # figures of the report
TASKS = {task: label for label, task in TASK_LABELS.items()}

Headline = tuple[str, str]  # label, key of the metric
TRAINING: list[Headline] = [
    ("loss, nats a token", "loss"),
    ("validation bits per byte", "validation_bits_per_byte"),
    ("steps", "steps"),
    ("tokens", "tokens"),
    ("tokens/s", "tokens_per_second"),
    ("parameters", "parameters"),
    ("MFU", "mfu"),
]
POWER: list[Headline] = [
    ("acceptance", "acceptance"),
    ("effective moves a step", "effective_moves"),
    ("drift of log p, nats", "log_p_drift"),
    ("its standard error", "log_p_drift_se"),
    ("effective samples a chain", "effective_sample_size"),
    ("R-hat", "r_hat"),
    ("largest error of log p, nats", "log_p_error"),
]
ASKED: list[Headline] = [
    (TASKS[task], task) for task in sorted(TASKS, key=lambda task: task != "gsm8k")
]  # word problems first
HEADLINES: dict[str, list[Headline]] = {  # step, or the start of its name -> what its tiles show
    "tok_train": [
        ("tokens", "vocab_size"),
        ("bytes a token", "compression_ratio"),
        ("characters read", "characters"),
    ],
    "tok_eval": [
        ("bits a character", "bits_per_char"),
        ("coverage, %", "coverage"),
        ("bytes a token", "compression_ratio"),
        ("vocabulary use, %", "vocabulary_use"),
    ],
    "base_train": TRAINING,
    "mid_train": TRAINING,
    "sft": TRAINING,
    "base_loss": [
        ("train bits per byte", "train_bits_per_byte"),
        ("validation bits per byte", "validation_bits_per_byte"),
    ],
    "base_eval": [("CORE", "CORE"), *ASKED],
    "chat_eval": [("ChatCORE", "chat_core"), *ASKED],
    "power_eval": [
        ("GSM8K", "gsm8k"),
        ("HumanEval", "humaneval"),
        ("positions a problem", "positions_per_problem"),
        *POWER,
    ],
    "power_ablation": [
        ("best accuracy", "best_accuracy"),
        ("at alpha", "best_alpha"),
        ("T", "best_temperature"),
        ("steps", "best_num_steps"),
        ("points", "points"),
        ("problems a point", "problems"),
    ],
    "rl": [
        ("greedy before", "greedy/before"),
        ("greedy after", "greedy/after"),
        ("sampled before", "sampled/before"),
        ("sampled after", "sampled/after"),
        ("updates", "steps"),
        ("reward, first 3 updates", "reward_first"),
        ("reward, last 3 updates", "reward_last"),
    ],
}
OVERLAP = {
    "long": "items",
    "any": "in any, runs",
    "text": "in text, runs",
    "chats": "in chats, runs",
    "tasks": "in task rows, runs",
}
COLUMNS = {
    "count": "tokens",
    **{
        f"{name}_{words}": f"{said} of {words} words"
        for words in (8, 13)
        for name, said in OVERLAP.items()
    },
}
SETTINGS = {"best_alpha", "best_temperature", "best_num_steps"}
SHARES = {*TASKS, "best_accuracy", "reward_first", "reward_last", "mfu", "acceptance"}


def summary(result: Any) -> HTML:
    """The key numbers of the stage's own steps, where their records lie, and every metric behind a click."""
    return HTML("".join(_step(result, step) for step in result.own))


def _step(result: Any, step: str) -> str:
    metrics = result.metrics[step]
    reused = step in result.reused
    state = cards.pill("reused" if reused else "finished", cards.GREY if reused else cards.GREEN)
    where = (
        f"{records.run_link(result.run_ids[step])} · {cards.muted(short(result.folders[step]))}"
        if result.run_ids.get(step)
        else ""
    )
    note = " " + cards.muted(f"data: {metrics['data']}") if metrics.get("data") else ""
    rows = [
        [key, _said(key, value)]
        for key, value in metrics.items()
        if not isinstance(value, (dict, list))
    ]
    return (
        f'<div style="{cards.FONT};margin:8px 0"><b style="font-size:15px">{step}</b> {state} '
        f'<span style="font-size:12px">{where}{note}</span>{cards.tiles(headlines(step, metrics))}'
        f"{cards.fold(f'all {len(rows)} metrics', cards.table(['metric', 'value'], rows))}</div>"
    )


def headlines(step: str, metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """(label, value) of a step's key numbers, those that it measured."""
    name = max((name for name in HEADLINES if step.startswith(name)), key=len, default="")
    return [
        (label, _said(key, metrics[key]))
        for label, key in HEADLINES.get(name, [])
        if metrics.get(key) is not None
    ]


def _said(key: str, value: Any) -> str:
    if key in SETTINGS:
        return f"{value:g}"
    name = key.rpartition("/")[2]
    share = (
        key in SHARES
        or name in ("accuracy", "before", "after", "chance", "low", "high")
        or key.startswith("core/")
    )
    return (
        cards.percent(value)
        if share and isinstance(value, float) and name not in ("n", "passed")
        else cards.number(value)
    )


def short(folder: Path) -> str:
    """A folder as seen from the repository."""
    return (
        os.path.relpath(folder, files.ROOT)
        if Path(folder).is_relative_to(files.ROOT)
        else str(folder)
    )


# ---- tables


def rows_of(run_id: str, name: str) -> list[dict[str, Any]]:
    """The rows of a table that a run recorded, such as "samples.json"; none where it recorded none."""
    if name not in tracking.artifact_names(run_id):
        return []
    content = json.loads(tracking.artifact(run_id, name).read_text())
    return [dict(zip(content["columns"], row)) for row in content["data"]]


def table(result: Any, step: str, name: str) -> HTML | Markdown:
    """The first rows of a table that a step recorded, the others behind a click."""
    rows = rows_of(result.run_ids[step], name)
    if not rows:
        return Markdown(f"*{step} recorded no {name}*")
    header, cells = (
        [COLUMNS.get(name, name) for name in rows[0]],
        [[_cell(value) for value in row.values()] for row in rows],
    )
    rest = (
        cards.fold(
            f"{len(cells) - ROWS} more rows", cards.table(header, cells[ROWS:500], len(header))
        )
        if len(cells) > ROWS
        else ""
    )
    return HTML(cards.table(header, cells[:ROWS], len(header)) + rest)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return mark(value)
    text = (
        cards.number(value)
        if isinstance(value, float)
        else str(value)
        if value is not None
        else "–"
    )
    if len(text) <= LONG and "\n" not in text:
        return text
    return Markup(
        f'<div style="white-space:pre-wrap;min-width:200px;max-width:420px">{cards.escape(text)}</div>'
    )


def problems(result: Any, step: str) -> HTML:
    """The first problems of a power evaluation, with the answer of every method and whether it was right."""
    rows = rows_of(result.run_ids[step], "problems.json")
    methods = [name for name in ("power", *METHOD_LABELS) if f"{name}_passed" in rows[0]]
    cells = [
        [
            str(row["index"]),
            _cell(row["question"]),
            _cell(row["expected"]),
            *(
                Markup(
                    f"{mark(row[f'{name}_passed'])} {cards.escape(_short_answer(row[f'{name}_answer']))}"
                )
                for name in methods
            ),
        ]
        for row in rows
    ]
    header = ["", "question", "expected", *(METHOD_LABELS.get(name, "power") for name in methods)]
    rest = (
        cards.fold(
            f"{len(cells) - ROWS} more problems", cards.table(header, cells[ROWS:500], len(header))
        )
        if len(cells) > ROWS
        else ""
    )
    return HTML(cards.table(header, cells[:ROWS], len(header)) + rest)


def _short_answer(answer: str | None) -> str:
    return "" if answer is None or len(answer) > LONG / 4 else answer


def mark(right: bool) -> Markup:
    """A tick or a cross."""
    return Markup(
        f'<b style="color:{cards.GREEN if right else cards.RED}">{"✓" if right else "✗"}</b>'
    )


def samples(result: Any, step: str) -> HTML | Markdown:
    """The samples that an evaluation recorded: what was asked, what came, whether it was right."""
    rows = rows_of(result.run_ids[step], "samples.json")
    if not rows:
        return Markdown(f"*{step} recorded no samples*")
    return HTML("".join(_sample(row) for row in rows))


def _sample(row: dict[str, Any]) -> str:
    expected = f" · expected {row['expected']}" if row.get("expected") else ""
    lines = "white-space:pre-wrap;margin:2px 0;font-size"
    return (
        f'<div style="{cards.FONT};margin:8px 0;padding-left:10px;border-left:3px solid {cards.GREEN if row["passed"] else cards.RED}">'
        f'<div style="font-size:12px">{mark(row["passed"])} {cards.muted(TASKS.get(row["task"], row["task"]) + expected)}</div>'
        f'<pre style="{lines}:12px;color:{cards.GREY}">{cards.escape(row["prompt"])}</pre>'
        f'<pre style="{lines}:13px">{coloured(row["completion"])}</pre></div>'
    )


def coloured(text: str, before: str = "") -> Markup:
    """A completion with its tool calls (blue) and their outputs (orange) marked, as `<<call=output>>`; `before` is what precedes it."""
    inside = before.rfind("<<") > before.rfind(">>")
    colour = (
        "" if not inside else cards.ORANGE if "=" in before[before.rfind("<<") :] else cards.BLUE
    )
    pieces = []
    for piece in re.split("(<<|=|>>)", text):
        if piece == "<<" or (piece == ">>" and colour):
            pieces.append(_bold(piece, cards.BLUE))
            colour = cards.BLUE if piece == "<<" else ""
            continue
        if piece == "=" and colour:
            colour = cards.ORANGE
        pieces.append(_bold(piece, colour) if colour and piece else cards.escape(piece))
    return Markup("".join(pieces))


def _bold(text: str, colour: str) -> str:
    return f'<b style="color:{colour}">{cards.escape(text)}</b>'


def methods(result: Any, step: str) -> HTML:
    """Power sampling beside the methods that the step ran: accuracy, 95% interval, cost, and McNemar's p-value against power."""
    return HTML(methods_table(result.metrics[step]))


def methods_table(values: dict[str, Any]) -> str:
    """The same from the plain metrics of a power evaluation."""
    task = "gsm8k" if values.get("gsm8k") is not None else "humaneval"
    rows = []
    for name, label in {"power": "power sampling", **METHOD_LABELS}.items():
        prefix = "" if name == "power" else f"{name}/"
        accuracy = values.get(task if name == "power" else f"{name}/accuracy")
        if accuracy is not None:
            numbers = {
                key: values.get(prefix + key)
                for key in ("passed", "total", "low", "high", "positions_per_problem", "p_value")
            }
            rows.append(
                [
                    Markup(f"<b>{label}</b>") if name == "power" else label,
                    cards.percent(accuracy),
                    *interval(numbers),
                    cards.number(numbers["positions_per_problem"]),
                    _p_value(numbers["p_value"]),
                ]
            )
    return cards.table(
        [
            TASKS[task],
            "accuracy",
            "95% interval",
            "passed",
            "positions a problem",
            "p against power",
        ],
        rows,
    )


def interval(numbers: dict[str, Any]) -> list[str]:
    """The cells "[low, high]" and "passed of total"."""
    if numbers.get("low") is None:
        return ["–", "–"]
    total = numbers.get("total", numbers.get("n"))
    return [
        f"[{cards.percent(numbers['low'])}, {cards.percent(numbers['high'])}]",
        f"{float(numbers['passed']):.0f} of {float(total):.0f}" if total is not None else "–",
    ]


def _p_value(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def before_and_after(result: Any, step: str = "rl") -> HTML:
    """The model before and after reinforcement learning on the same test problems, with McNemar's exact test."""
    values, rows = result.metrics[step], []
    for way, label in RL_WAYS.items():
        if values.get(f"{way}/before") is not None:
            shares = [
                f"{cards.percent(values[f'{way}/{when}'])} [{cards.percent(values[f'{way}/{when}_low'])}, "
                f"{cards.percent(values[f'{way}/{when}_high'])}]"
                for when in ("before", "after")
            ]
            rows.append(
                [
                    label,
                    *shares,
                    cards.number(values[f"{way}/n"]),
                    _p_value(values[f"{way}/p_value"]),
                ]
            )
    return HTML(cards.table(["GSM8K", "before", "after", "problems", "p"], rows))


def points(result: Any) -> HTML:
    """The points of an ablation, the most accurate first."""
    power, others, _ = collect.grid_points(tracking.record(result.run_ids["power_ablation"]))
    keys = ("alpha", "temperature", "num_steps", "n")
    rows = [
        [
            METHOD_LABELS.get(p.get("method", "power"), "power sampling"),
            *(_setting(p, key) for key in keys),
            cards.percent(p["accuracy"]),
            *interval(p),
            cards.percent(p.get("acceptance")),
            cards.number(p.get("positions_per_problem")),
        ]
        for p in sorted([*power, *others], key=lambda p: -p["accuracy"])
    ]
    header = [
        "method",
        "alpha",
        "T",
        "steps",
        "n",
        "accuracy",
        "95% interval",
        "passed",
        "acceptance",
        "positions a problem",
    ]
    return HTML(cards.table(header, rows))


def _setting(point: dict[str, Any], key: str) -> str:
    return f"{float(point[key]):g}" if point.get(key) is not None else ""


def core(result: Any, step: str = "base_eval") -> HTML:
    """The CORE tasks of a base evaluation: accuracy, 95% interval and chance."""
    values = result.metrics[step]
    names = [
        key.removeprefix("core/")
        for key in values
        if key.startswith("core/") and key.count("/") == 1
    ]
    rows = [
        [
            name,
            cards.percent(values[f"core/{name}"]),
            *interval(
                {key: values.get(f"core/{name}/{key}") for key in ("low", "high", "passed", "n")}
            ),
            cards.percent(values.get(f"core/{name}/chance")),
        ]
        for name in names
    ]
    return HTML(cards.table(["CORE task", "accuracy", "95% interval", "passed", "chance"], rows))


# ---- figures


def shown(figure: Any) -> Image:
    """A figure at the width of half a page."""
    from nanolab.report import plots

    return Image(data=plots.png(figure), width=FIGURE_WIDTH)


def artifact(result: Any, step: str, name: str) -> Image | Markdown:
    """A figure that a step recorded, or a line that says that it had nothing to draw in it."""
    if name not in tracking.artifact_names(result.run_ids[step], str(Path(name).parent)):
        return Markdown(f"*{step} recorded no {name}*")
    return Image(
        data=tracking.artifact(result.run_ids[step], name).read_bytes(), width=FIGURE_WIDTH
    )


def curves(result: Any, step: str) -> Image:
    """The curves of a training step: loss and validation, or the reward."""
    from nanolab.report import plots

    history = collect.curves(tracking.record(result.run_ids[step]))
    return shown(
        (
            plots.reward_curve(history)
            if "train/reward" in history
            else plots.training_curves(history, step)
        )[0]
    )


def tasks(result: Any, step: str) -> Image:
    """The chat tasks of one evaluation, with 95% Wilson intervals and chance."""
    from nanolab.report import plots

    return shown(
        plots.task_bars(
            collect.task_results({step: tracking.record(result.run_ids[step])}),
            f"Chat tasks: {step}",
        )[0]
    )


def report(result: Any) -> Markdown:
    """The report in short: where its page is, the summary, the two figures to look at first; all of it behind a click."""
    run_id, folder = result.run_ids["report"], result.folders["report"]

    def inline(found: re.Match[str]) -> str:
        content = base64.b64encode(tracking.artifact(run_id, found[2]).read_bytes()).decode()
        return (
            f'<img alt="{found[1]}" width="{FIGURE_WIDTH}" src="data:image/png;base64,{content}">'
        )

    text = re.sub(
        r"^!\[(.*)\]\((.*\.png)\)$",
        inline,
        tracking.artifact(run_id, "report.md").read_text(),
        flags=re.MULTILINE,
    )
    page = records.run_address(run_id).replace("?", "/artifacts/report.html?", 1)
    links = [
        f"[**The report as a page**]({page}) (`make ui` serves it)",
        f"as files in `{short(folder)}`",
    ]
    drawn = tracking.artifact_names(run_id, "figures")
    first = [f"![{name}](figures/{name}.png)" for name in FIRST if f"figures/{name}.png" in drawn]
    shown = [
        " · ".join(links),
        result.metrics["report"].get("summary", ""),
        *(re.sub(r"!\[(.*)\]\((.*)\)", inline, one) for one in first),
    ]
    return Markdown(
        "\n\n".join(
            [
                *filter(None, shown),
                f"<details><summary>the whole report</summary>\n\n{text}\n\n</details>",
            ]
        )
    )
