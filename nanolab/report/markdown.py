"""Values of a study -> the blocks of its report, and their text in Markdown.

The renderer prints and never derives: every figure stands in the values it is given. A format belongs to a section
and a key, never to the Python type of the value, since MLflow gives parameters as text and metrics as floats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nanolab.report import data_section
from nanolab.report.blocks import Block, Grid, Item, Part, Picture, Text, grid, to_markdown
from nanolab.report.formats import (
    decimals,
    hours,
    is_missing,
    or_dash,
    plain_float,
    ratio,
    scientific,
    text,
    whole,
)
from nanolab.samplers.diagnostics import convergence

Values = dict[str, Any]

# label of a task in the report: name in configs and metrics
TASK_LABELS = {
    "ARC-Easy": "arc_easy",
    "ARC-Challenge": "arc_challenge",
    "MMLU": "mmlu",
    "GSM8K": "gsm8k",
    "HumanEval": "humaneval",
}
SUMMARY_LABELS = {**TASK_LABELS, "CORE": "CORE", "ChatCORE metric": "chat_core"}
SUMMARY_COLUMNS = {
    "BASE": "base_eval",
    "MID": "chat_eval_mid",
    "SFT": "chat_eval_sft",
    "POWER": "power_eval",
    "RL": "chat_eval_rl",
}
METHOD_LABELS = {
    "greedy": "greedy",
    "low_temperature": "low temperature",
    "plain": "plain sample",
    "best_of": "best of n",
    "majority": "majority vote",
    "smc": "SMC",
    "rollout": "rollouts",
    "chain_vote": "vote of chains",
    "most_likely": "most likely state",
}
EXECUTION = (
    "execution"  # stands where a step is named, for what was recorded of the execution itself
)
MODEL_LABELS = {"base": "base", "mid": "mid", "sft": "SFT", "rl": "RL"}


@dataclass(frozen=True)
class Line:
    """One line of a section: its label, the key of its value, its format, and what stands for a missing value.

    An `extra` line is one the reference report does not have: it appears only with its value.
    """

    label: str
    key: str
    format: Callable[[Any], str]
    missing: str = "-"
    extra: bool = False


def _lines(format: Callable[[Any], str], *keys: str, extra: bool = False) -> list[Line]:
    return [Line(key, key, format, extra=extra) for key in keys]


TASK_LINES = [Line(label, key, decimals(4)) for label, key in TASK_LABELS.items()]
CHAT_LINES = [*TASK_LINES, Line("ChatCORE metric", "chat_core", decimals(4))]
TRAINING_EXTRAS = [
    Line("final validation bits per byte", "validation_bits_per_byte", decimals(4), extra=True),
    *_lines(whole, "parameters", "tokens", "tokens_per_second", extra=True),
    *_lines(decimals(3), "mfu", extra=True),
]
POWER_LINES = [
    *_lines(text, "source", "model_tag"),
    Line("step", "step", whole, missing="latest"),
    *_lines(plain_float, "alpha"),
    *_lines(whole, "num_steps"),
    *_lines(plain_float, "temperature"),
    *_lines(whole, "top_k", "max_new_tokens", "seed"),
    *_lines(plain_float, "tool_timeout"),
    *_lines(whole, "tool_max_output_tokens"),
    Line("max_examples", "max_examples", whole, missing="all"),
    *_lines(text, "subset", "split"),
    Line("GSM8K", "gsm8k", decimals(4)),
    *_lines(whole, "passed", "total"),
    *_lines(plain_float, "restart_prob", extra=True),
    *_lines(whole, "num_blocks", extra=True),
    *_lines(decimals(3), "acceptance", extra=True),
    Line("effective moves", "effective_moves", decimals(3), extra=True),
    Line("early rejected", "early_rejected", decimals(3), extra=True),
    *_lines(whole, "chains", extra=True),
    Line("autocorrelation of log p at lag 1", "autocorrelation_1", decimals(3), extra=True),
    Line("effective sample size of a chain", "effective_sample_size", decimals(1), extra=True),
    Line("log p drift, nats", "log_p_drift", decimals(3), extra=True),
    Line("log p drift, standard error", "log_p_drift_se", decimals(3), extra=True),
    Line("R-hat", "r_hat", ratio, extra=True),
    Line("positions per problem", "positions_per_problem", decimals(1), extra=True),
    Line("answers beyond the context of training", "beyond_context", whole, extra=True),
    Line("largest error of a recorded log p, nats", "log_p_error", scientific, extra=True),
    *_lines(plain_float, "low_temperature", extra=True),
    *_lines(whole, "best_of", extra=True),
]
RL_LINES = [
    *_lines(text, "status"),
    *_lines(whole, "steps", extra=True),
    Line("reward of the first 3 updates", "reward_first", decimals(4), extra=True),
    Line("reward of the last 3 updates", "reward_last", decimals(4), extra=True),
]
RL_WAYS = {"greedy": "greedy", "sampled": "sampled at T = 1"}

# (heading, step, lines): the order of the report
SECTIONS: list[tuple[str, str, list[Line]]] = [
    (
        "Tokenizer training",
        "tok_train",
        [*_lines(whole, "vocab_size", "max_chars"), *_lines(decimals(2), "compression_ratio")],
    ),
    (
        "Tokenizer evaluation",
        "tok_eval",
        [
            *_lines(decimals(2), "bits_per_char"),
            *_lines(decimals(1), "coverage"),
            Line("vocabulary use, % of tokens", "vocabulary_use", decimals(1), extra=True),
            Line("compared with", "compared_with", text, extra=True),
        ],
    ),
    (
        "Base model training",
        "base_train",
        [*_lines(whole, "steps", "batch_size"), *_lines(decimals(3), "loss"), *TRAINING_EXTRAS],
    ),
    (
        "Base model loss",
        "base_loss",
        [
            *_lines(decimals(4), "CORE"),
            Line("train bits per byte", "train_bits_per_byte", decimals(4), extra=True),
            Line("validation bits per byte", "validation_bits_per_byte", decimals(4), extra=True),
        ],
    ),
    (
        "Base model evaluation",
        "base_eval",
        [
            *_lines(decimals(4), "CORE"),
            *TASK_LINES,
            Line("CORE covers", "core_covers", text, extra=True),
            Line("CORE examples cropped to the context", "core_cropped", whole, extra=True),
            Line("known faults of CORE's data", "core_faults", text, extra=True),
        ],
    ),
    (
        "Midtraining",
        "mid_train",
        [*_lines(whole, "steps"), *_lines(decimals(3), "loss"), *TRAINING_EXTRAS],
    ),
    ("Chat evaluation mid", "chat_eval_mid", CHAT_LINES),
    ("Chat SFT", "sft", [*_lines(whole, "steps"), *_lines(decimals(3), "loss"), *TRAINING_EXTRAS]),
    ("Chat evaluation sft", "chat_eval_sft", CHAT_LINES),
    ("Power sampling evaluation", "power_eval", POWER_LINES),
    ("Power sampling ablations", "power_ablation", _lines(whole, "problems", extra=True)),
    ("Chat RL", "rl", RL_LINES),
    ("Chat evaluation rl", "chat_eval_rl", CHAT_LINES),
    ("Chat evaluation of an outside model", "chat_eval_hf", [*_lines(text, "source"), *CHAT_LINES]),
]


def render(values: Values) -> str:
    """The report of one execution of a study, in Markdown with one final newline; `values` as `contents` takes them."""
    return "\n\n".join(map(to_markdown, contents(values))) + "\n"


def contents(values: Values) -> list[Block]:
    """The report of one execution of a study.

    `values` holds title, generated, environment, steps (step name -> its parameters and final metrics), and where they
    exist experiment_file, figures (step name, or "sharpening" -> [{caption, path}]), sharpening (rows of power evaluations),
    wall_clock_seconds, elapsed_seconds. A step missing from `steps` was not run.
    """
    blocks: list[Block] = [
        Part(values["title"], level=1),
        Text(f"Generated: {values['generated']}"),
        Part("Environment"),
        *_environment(values["environment"]),
    ]
    for heading, step, lines in SECTIONS:
        blocks += _section(heading, step, lines, values)
        if step == "tok_eval":
            blocks += data_section.overlap_section(values["steps"].get(step, {}))
        if step == "power_eval":
            for other in other_power_steps(values["steps"]):
                blocks += _section(
                    f"{heading} {other.removeprefix('power_eval_')}", other, lines, values
                )
            blocks += _sharpening(values)
    blocks += [
        Part("Summary", tuple(_bloat(values["environment"]["bloat"]))),
        summary_grid(values["steps"]),
    ]
    blocks.append(Text(f"Total wall clock time: {hours(values.get('wall_clock_seconds'))}"))
    if values.get("elapsed_seconds") is not None:
        blocks.append(Text(f"Elapsed time: {hours(values['elapsed_seconds'])}"))
    return blocks


def other_power_steps(steps: dict[str, Values]) -> list[str]:
    """The power evaluations besides power_eval, those of the models in the order of training first."""
    order = {f"power_eval_{model}": place for place, model in enumerate(MODEL_LABELS)}
    return sorted(
        (step for step in steps if step.startswith("power_eval_")),
        key=lambda step: (order.get(step, len(order)), step),
    )


def _environment(environment: Values) -> list[Block]:
    git, hardware, software = environment["git"], environment["hardware"], environment["software"]
    commit = (
        "-"
        if git.get("commit") is None
        else f"{git['commit'][:7]} ({'dirty' if git['dirty'] else 'clean'})"
    )
    machine = [
        Item("Platform", or_dash(hardware["platform"])),
        Item(
            "CPUs", f"{or_dash(hardware['cores'])} cores ({or_dash(hardware['logical'])} logical)"
        ),
        Item("Memory", f"{or_dash(hardware['memory_gb'], decimals(1))} GB"),
    ]
    if hardware.get("gpu_count"):
        machine += [
            Item("GPUs", f"{hardware['gpu_count']}x {hardware['gpu_name']}"),
            Item("GPU Memory", f"{or_dash(hardware['gpu_memory_gb'], decimals(1))} GB total"),
            Item("CUDA Version", or_dash(hardware.get("cuda"))),
        ]
        if hardware.get("hourly_rate") is not None:
            machine.append(Item("Hourly Rate", f"${float(hardware['hourly_rate']):.2f}/hour"))
    else:
        machine.append(Item("GPUs", "-" if hardware["gpu_count"] is None else "none"))
    groups = {
        "Git Information": [
            Item("Branch", or_dash(git["branch"])),
            Item("Commit", commit),
            Item("Message", or_dash(git["message"])),
        ],
        "Hardware": machine,
        "Software": [
            Item("Python", or_dash(software["python"])),
            Item("PyTorch", or_dash(software["torch"])),
        ],
        "Bloat": _bloat(environment["bloat"]),
    }
    return [
        Part(heading, tuple(items), level=3, step=EXECUTION) for heading, items in groups.items()
    ]


def _bloat(bloat: Values) -> list[Item]:
    def commas(value: Any) -> str:
        return f"{int(value):,}"

    return [
        Item(label, or_dash(bloat[key], commas))
        for label, key in (
            ("Characters", "characters"),
            ("Lines", "lines"),
            ("Files", "files"),
            ("Tokens (approx)", "tokens"),
            (f"Dependencies ({bloat['lock_file']} lines)", "lock_lines"),
        )
    ]


def _section(heading: str, step: str, lines: list[Line], values: Values) -> list[Block]:
    """The blocks of one section: heading with its list, a table where it has one, its figures."""
    found = values["steps"].get(step)
    if step == "base_loss":  # CORE is measured once, by the base evaluation, and shown here too
        core = {
            key: value
            for key, value in values["steps"].get("base_eval", {}).items()
            if key == "CORE"
        }
        found = {**(found or {}), **core} or None
    if found is None:
        if step in ("power_ablation", "chat_eval_hf"):
            return []
        if step == "rl":
            return [
                Part(
                    heading,
                    (
                        Item(
                            "status",
                            f"skipped (not enabled in {values.get('experiment_file', 'this study')})",
                        ),
                    ),
                )
            ]
        if step == "chat_eval_rl":
            return [Part(heading, (Item("GSM8K", "-"),))]
        return [Part(heading, tuple(Item(line.label, "-") for line in lines if not line.extra))]
    if (
        step.startswith("power_eval")
        and is_missing(found.get("gsm8k"))
        and not is_missing(found.get("humaneval"))
    ):
        lines = [
            Line("HumanEval", "humaneval", line.format) if line.key == "gsm8k" else line
            for line in lines
        ]
    shown = []
    for line in lines:
        value = found.get(line.key)
        if not is_missing(value):
            copied = "base_eval" if step == "base_loss" and line.key == "CORE" else ""
            shown.append(Item(line.label, line.format(value), line.key, copied))
        elif not line.extra:
            shown.append(Item(line.label, line.missing))
    shown += _task_details(found) + _method_lines(found) + _rl_lines(found)
    if not is_missing(found.get("data")):
        world = found.get("data.seed") if found["data"] == "embedded" else None
        shown.append(
            Item(
                "data",
                text(found["data"]) + ("" if is_missing(world) else f", world {world}"),
                "data",
            )
        )
    tables = (
        [_points_table(found["points"], found.get("baselines", []))] if found.get("points") else []
    )
    tables += [data_section.kinds_table(found["kinds"])] if found.get("kinds") else []
    return [Part(heading, tuple(shown), step=step), *tables, *_figures(step, values)]


def _figures(step: str, values: Values) -> list[Block]:
    return [
        Picture(figure["caption"], figure["path"], step)
        for figure in values.get("figures", {}).get(step, [])
    ]


def _sharpening(values: Values) -> list[Block]:
    """The section that holds power sampling on one model against training the next; nothing without rows."""
    if not values.get("sharpening"):
        return []
    tasks = {task: label for label, task in TASK_LABELS.items()}
    header = [
        "model",
        "task",
        "method",
        "accuracy",
        "passed",
        "95% interval",
        "positions per problem",
        "McNemar p, power against greedy",
    ]
    rows = [
        [
            MODEL_LABELS.get(row["model"], row["model"]),
            tasks[row["task"]],
            METHOD_LABELS.get(row["method"], row["method"]),
            decimals(4)(row["accuracy"]),
            *_counts(row),
            or_dash(row["positions_per_problem"], decimals(1)),
            or_dash(row["p_value"], lambda value: f"{float(value):.3g}"),
        ]
        for row in values["sharpening"]
    ]
    return [
        Part("Sharpening against training"),
        grid(header, rows, runs=[row.get("run_id", "") for row in values["sharpening"]]),
        *_figures("sharpening", values),
    ]


def _counts(row: Values) -> list[str]:
    """The cells "passed of total" and "low to high"."""
    return [
        "-"
        if is_missing(row.get("passed"))
        else f"{whole(row['passed'])} of {whole(row['total'])}",
        "-" if is_missing(row.get("low")) else _interval(row),
    ]


def _interval(found: Values, prefix: str = "") -> str:
    return f"{float(found[prefix + 'low']):.4f} to {float(found[prefix + 'high']):.4f}"


def _task_details(found: Values) -> list[Item]:
    """One line a task that came with its counts: passed of n, Wilson interval, chance."""
    details = []
    for label, key in TASK_LABELS.items():
        if not is_missing(found.get(f"{key}/n")):
            detail = f"{whole(found[f'{key}/passed'])} of {whole(found[f'{key}/n'])}, 95% interval {_interval(found, f'{key}/')}"
            chance = found.get(f"{key}/chance")
            detail += "" if is_missing(chance) else f", chance {float(chance):.4f}"
            details.append(Item(f"{label} passed", detail, f"{key}/passed"))
            if ks := _pass_at(found, key):
                details.append(Item(f"{label} pass@k", ks, f"{key}/pass_at_1"))
    return details


def _method_lines(found: Values) -> list[Item]:
    """Whether the chains converged, power sampling's interval, the baselines on the same problems with cost and paired test, pass@k."""
    lines = []
    if not is_missing(found.get("effective_moves")):
        lines.append(Item("convergence", convergence(found), "effective_moves"))
    if not is_missing(found.get("low")):
        label = "GSM8K" if is_missing(found.get("humaneval")) else "HumanEval"
        lines.append(Item(f"{label} 95% interval", _interval(found), "low"))
    for key, label in METHOD_LABELS.items():
        if is_missing(found.get(f"{key}/accuracy")):
            continue
        line = f"{float(found[f'{key}/accuracy']):.4f}"
        if not is_missing(found.get(f"{key}/passed")):
            line += f", {whole(found[f'{key}/passed'])} of {whole(found[f'{key}/total'])}, 95% interval {_interval(found, f'{key}/')}"
        if not is_missing(found.get(f"{key}/positions_per_problem")):
            line += f", {float(found[f'{key}/positions_per_problem']):.1f} positions per problem"
        if not is_missing(found.get(f"{key}/p_value")):
            line += f", McNemar p against power {float(found[f'{key}/p_value']):.3g}"
        lines.append(Item(label, line, f"{key}/accuracy"))
    for method in ("power", *METHOD_LABELS):
        if ks := _pass_at(found, method):
            lines.append(
                Item(f"{METHOD_LABELS.get(method, method)} pass@k", ks, f"{method}/pass_at_1")
            )
    return lines


def _pass_at(found: Values, of: str) -> str:
    """pass@k of a task or method at every k that was computed; empty without any."""
    start = f"{of}/pass_at_"
    ks = sorted(
        int(key.removeprefix(start))
        for key in found
        if key.startswith(start) and key.removeprefix(start).isdigit()
    )
    return ", ".join(f"{float(found[f'{start}{k}']):.4f} at k = {k}" for k in ks)


def _rl_lines(found: Values) -> list[Item]:
    """The model before and after reinforcement learning on the same test problems, with the paired test."""
    return [
        Item(
            label,
            f"{float(found[f'{way}/before']):.4f} before ({_interval(found, f'{way}/before_')}), "
            f"{float(found[f'{way}/after']):.4f} after ({_interval(found, f'{way}/after_')}) on {whole(found[f'{way}/n'])} "
            f"test problems, McNemar p {float(found[f'{way}/p_value']):.3g}",
            f"{way}/after",
        )
        for way, label in RL_WAYS.items()
        if not is_missing(found.get(f"{way}/before"))
    ]


def _points_table(points: list[Values], baselines: list[Values]) -> Grid:
    """The ablation grid, one row a point, and the other methods on the same problems."""
    every = [*points, *baselines]
    columns = (
        ("restart", "restart_prob", plain_float),
        ("blocks", "num_blocks", whole),
        ("ESS below", "ess_threshold", plain_float),
        ("ramp", "ramp_tokens", whole),
        ("candidates", "candidates", whole),
        ("horizon", "horizon", whole),
    )
    extra = {
        label: (key, format)
        for label, key, format in columns  # what the grid varies besides alpha and temperature
        if len({plain_float(point[key]) for point in every if not is_missing(point.get(key))}) > 1
    }
    header = [
        "method",
        "alpha",
        "T",
        *extra,
        "steps",
        "n",
        "accuracy",
        "passed",
        "95% interval",
        "acceptance",
        "positions per problem",
    ]
    rows = [
        [
            METHOD_LABELS.get(p.get("method", "power"), p.get("method", "power")),
            or_dash(p.get("alpha"), plain_float),
            or_dash(p.get("temperature"), plain_float),
            *(or_dash(p.get(key), format) for key, format in extra.values()),
            or_dash(p.get("num_steps"), whole),
            or_dash(p.get("n"), whole),
            or_dash(p.get("accuracy"), decimals(4)),
            *_counts(p),
            or_dash(p.get("acceptance"), decimals(3)),
            or_dash(p.get("positions_per_problem"), decimals(1)),
        ]
        for p in every
    ]
    return grid(header, rows, "power_ablation", [p.get("run_id", "") for p in every])


def summary_table(steps: dict[str, Values]) -> str:
    """`summary_grid` in Markdown."""
    return to_markdown(summary_grid(steps))


def summary_grid(steps: dict[str, Values]) -> Grid:
    """The table of task metrics by model: rows sorted by code point, a row only where some model has a value."""
    rows = []
    for label in sorted(SUMMARY_LABELS):
        cells = [
            or_dash(steps.get(step, {}).get(SUMMARY_LABELS[label]), decimals(4))
            for step in SUMMARY_COLUMNS.values()
        ]
        if any(cell != "-" for cell in cells):
            rows.append((label, *cells))
    return Grid(
        ("Metric", *SUMMARY_COLUMNS),
        tuple(rows),
        columns=("", *SUMMARY_COLUMNS.values()),
        widths=(15, *[8] * len(SUMMARY_COLUMNS)),
    )
