"""Values of a study -> the blocks of its report, and their text in Markdown.

The renderer prints and never derives: every figure stands in the values it is given. A format
belongs to a section and a key, never to the Python type of the value, since MLflow gives parameters
as text and metrics as floats.
"""

from typing import Any

from nanolab import wording
from nanolab.report import (
    data_section,
    environment_section,
    outside,
    published_figures,
    tables,
)
from nanolab.report.blocks import Block, Item, Part, Picture, Text, to_markdown
from nanolab.report.sections import (
    SECTIONS,
    UNSET,
    Lines,
    Section,
)
from nanolab.results import Score, accuracies, first, pass_at_k, read_flat, select
from nanolab.samplers.diagnostics import convergence
from nanolab.wording import (
    METHOD_LABELS,
    METRICS,
    MODEL_LABELS,
    RL_WAYS,
    TASK_LABELS,
    TASKS,
    is_missing,
    share,
    whole,
)

Values = dict[str, Any]
OTHER_RULES = {"accuracy_sum": "by summed log p", "accuracy_norm": "by log p a character"}


def render(values: Values) -> str:
    """The report of one execution of a study, in Markdown with one final newline; `values` as
    `contents` takes them.
    """
    return "\n\n".join(map(to_markdown, contents(values))) + "\n"


def measured_of(values: Values) -> dict[str, list[Score]]:
    """Step -> what it measured: its rows, or those behind its values."""
    known = values.get("rows", {})
    return {
        step: known[step] if step in known else read_flat(step, found)
        for step, found in values["steps"].items()
    }


def contents(values: Values) -> list[Block]:
    """The report of one execution of a study.

    `values` holds title, generated, environment, steps (step name -> its settings and final
    values), rows (step name -> what it measured; without them they are read from its values), and
    where they exist listed (the steps that the study asks for: with no training among them, steps
    that it does not list are left out), published (nanolab/report/published_figures.py),
    experiment_file, figures (step name, or "sharpening" -> [{caption, path}]),
    sharpening (rows of power evaluations), wall_clock_seconds, elapsed_seconds. A step missing from
    `steps` was not run.
    """
    rows = measured_of(values)
    blocks: list[Block] = [
        Part(values["title"], level=1),
        Text(f"Generated: {values['generated']}"),
        Part("Environment"),
        *environment_section.parts(values["environment"]),
        *outside.identity(values["steps"]),
    ]
    for section in SECTIONS:
        if outside.is_left_out(section[1], values):
            continue
        heading, step, *_ = section
        blocks += _section(section, values, rows.get(step, []))
        if step == "tok_eval":
            blocks += data_section.overlap_section(values["steps"].get(step, {}))
        if step == "power_eval":
            for other in other_power_steps(values["steps"]):
                name = f"{heading} {other.removeprefix('power_eval_')}"
                blocks += _section((name, other, *section[2:]), values, rows[other])
            blocks += _sharpening(values)
    blocks += published_figures.section(values.get("published", []))
    blocks += [
        Part("Summary", tuple(environment_section.bloat(values["environment"]["bloat"]))),
        tables.summary(values["steps"]),
        *map(Text, tables.summary_notes(values["steps"])),
    ]
    total = wording.hours_and_minutes(values.get("wall_clock_seconds"))
    blocks.append(Text(f"Total wall clock time: {total}"))
    if values.get("elapsed_seconds") is not None:
        blocks.append(Text(f"Elapsed time: {wording.hours_and_minutes(values['elapsed_seconds'])}"))
    return blocks


def other_power_steps(steps: dict[str, Values]) -> list[str]:
    """The power evaluations besides power_eval, those of the models in the order of training
    first.
    """
    order = {f"power_eval_{model}": place for place, model in enumerate(MODEL_LABELS)}
    return sorted(
        (step for step in steps if step.startswith("power_eval_")),
        key=lambda step: (order.get(step, len(order)), step),
    )


def _section(section: Section, values: Values, rows: list[Score]) -> list[Block]:
    """The blocks of one section: heading with its list, a table where it has one, its figures."""
    heading, step, reference, extra = section
    found, steps = values["steps"].get(step), values["steps"]
    source = outside.source_of(found or {})
    if step == "base_loss":  # CORE is measured once, by the base evaluation, and shown here too
        core = steps.get("base_eval", {}).get("CORE")
        found = found if core is None else {**(found or {}), "CORE": core}
    if found is None:
        return _absent(heading, step, reference, values)
    if step == "base_train" and not is_missing(
        steps.get("base_loss", {}).get("validation_bits_per_byte")
    ):  # one figure a model: the next section's
        extra = {key: label for key, label in extra.items() if not key.startswith("validation_")}
    power = accuracies(rows).get("power")
    if step.startswith("power_eval") and power and power.task != "gsm8k":
        swapped = {"gsm8k": (power.task, TASKS[power.task])}
        reference = dict(swapped.get(key, (key, label)) for key, label in reference.items())
    if source:
        heading = f"{heading} of {outside.names(steps)[source]}"
        reference, extra = (outside.lines(own, found) for own in (reference, extra))
    lines = []
    for key, label in {**reference, **extra}.items():
        value = found.get(key)
        if not is_missing(value):
            copied = "base_eval" if step == "base_loss" and key == "CORE" else ""
            lines.append(Item(label, METRICS[key].report(value), key, copied))
        elif key not in extra:
            lines.append(Item(label, UNSET.get(key, "-")))
    lines += _task_details(rows) + _method_lines(found, rows) + _chosen_lines(rows)
    lines += _rl_lines(rows)
    if not is_missing(found.get("data")):
        world = found.get("data.seed") if found["data"] == "embedded" else None
        of = "" if is_missing(world) else f", world {world}"
        lines.append(Item("data", f"{found['data']}{of}", "data"))
    blocks: list[Block] = [Part(heading, tuple(lines), step=step)]
    if found.get("points"):
        blocks.append(tables.points(found["points"], found.get("baselines", [])))
    if found.get("kinds"):
        blocks.append(data_section.kinds_table(found["kinds"]))
    blocks += outside.how_asked(step, found, rows)
    return [*blocks, *_figures(step, values)]


def _absent(heading: str, step: str, reference: Lines, values: Values) -> list[Block]:
    """The section of a step that was not run."""
    if step in ("power_ablation", "chat_eval_hf"):
        return []
    lines = {label: "-" for label in reference.values()}
    if step == "rl":
        study = values.get("experiment_file", "this study")
        lines = {"status": f"skipped (not enabled in {study})"}
    if step == "chat_eval_rl":
        lines = {"GSM8K": "-"}
    return [Part(heading, tuple(Item(*line) for line in lines.items()))]


def _figures(step: str, values: Values) -> list[Block]:
    return [
        Picture(figure["caption"], figure["path"], step)
        for figure in values.get("figures", {}).get(step, [])
    ]


def _sharpening(values: Values) -> list[Block]:
    """The section that holds power sampling on one model against training the next; nothing without
    rows.
    """
    if not values.get("sharpening"):
        return []
    return [
        Part("Sharpening against training"),
        tables.sharpening(values["sharpening"]),
        *_figures("sharpening", values),
    ]


def _counted(row: Score) -> str:
    """ "40 of 100, 95% interval 0.3000 to 0.5000"."""
    return f"{wording.passed_of(row)}, 95% interval {wording.interval(row)}"


def _positions(row: Score) -> str:
    return f"{tables.POSITIONS(row.positions)} positions per problem"


def _task_details(rows: list[Score]) -> list[Item]:
    """One line a task that came with its counts: passed of n, Wilson interval, chance; pass@k."""
    items = []
    for label, task in TASK_LABELS.items():
        row = first(rows, metric="accuracy", task=task, suite="", part="", method="")
        if row is None or row.n is None:
            continue
        chance = "" if row.chance is None else f", chance {share(row.chance)}"
        items.append(Item(f"{label} passed", _counted(row) + chance, f"{row.name}/passed"))
        items += _by_other_rules(label, select(rows, task=task, suite=""))
        items += _pass_at_k(label, pass_at_k(rows, task=task, method=""))
    return items


def _by_other_rules(label: str, rows: list[Score]) -> list[Item]:
    """The accuracy of a task of choices by other rules than the one that counts."""
    return [
        Item(f"{label} {rule}", f"{share(row.value)}, {_counted(row)}", row.name)
        for metric, rule in OTHER_RULES.items()
        for row in select(rows, metric=metric)
    ]


def _pass_at_k(label: str, rows: list[Score]) -> list[Item]:
    """pass@k at every k that was computed; nothing without any."""
    said = ", ".join(f"{share(row.value)} at k = {row.k}" for row in rows)
    return [Item(f"{label} pass@k", said, rows[0].name)] if rows else []


def _method_lines(found: Values, rows: list[Score]) -> list[Item]:
    """Whether the chains converged, power sampling's interval, the baselines on the same problems
    with cost and paired test, pass@k.
    """
    items = []
    if first(rows, metric="effective_moves"):
        items.append(Item("convergence", convergence(found), "effective_moves"))
    by_method = accuracies(select(rows, suite=""))
    power = by_method.get("power")
    if power and power.low is not None:
        items.append(Item(f"{TASKS[power.task]} 95% interval", wording.interval(power), "low"))
    for method, label in METHOD_LABELS.items():
        if method not in by_method:
            continue
        row = by_method[method]
        parts = [share(row.value)]
        parts += [] if row.passed is None else [_counted(row)]
        parts += [] if row.positions is None else [_positions(row)]
        if row.p_value is not None:
            parts.append(f"McNemar p against power {wording.p_value(row.p_value)}")
        items.append(Item(label, ", ".join(parts), row.name))
    for method in ("power", *METHOD_LABELS):
        items += _pass_at_k(METHOD_LABELS.get(method, method), pass_at_k(rows, method=method))
    return items


def _chosen_lines(rows: list[Score]) -> list[Item]:
    """The best point of an ablation, chosen among how many, and the best baseline at no more
    cost.
    """
    items = []
    among = {key: first(rows, metric=f"{key}_among") for key in ("best", "baseline")}
    for key, label in (("best", "points"), ("baseline", "baselines at no more cost")):
        row = first(rows, chosen=key)
        if row is None:
            continue
        line = (
            f"{METHOD_LABELS.get(row.method, row.method)}{_setting(row)}, {share(row.value)}, 95%"
            f" interval {wording.interval(row)}, {_positions(row)}"
        )
        if row.p_value is not None:
            line += (
                f", McNemar p {wording.p_value(row.p_value)}; both were chosen on these problems"
            )
        items.append(Item(f"best of {whole(among[key].value)} {label}", line, row.name))
    if items and among["baseline"] and among["baseline"].value == 0:
        none = "none: each costs more than the best point"
        items.append(Item("baselines at no more cost", none, "baseline_among"))
    return items


def _setting(row: Score) -> str:
    """The setting of a chosen point in brackets, "(alpha 4, T 0.7, 5 steps)", where known."""
    forms = {"alpha": "alpha {:g}", "temperature": "T {:g}", "num_steps": "{:g} steps"}
    forms["n"] = "n = {:g}"
    said = [form.format(row.settings[key]) for key, form in forms.items() if key in row.settings]
    return f" ({', '.join(said)})" if said else ""


def _rl_lines(rows: list[Score]) -> list[Item]:
    """The model before and after reinforcement learning on the same test problems, with the paired
    test.
    """
    items = []
    for way, label in RL_WAYS.items():
        old, new = (first(rows, method=way, moment=moment) for moment in ("before", "after"))
        if old and new:
            line = (
                f"{share(old.value)} before ({wording.interval(old)}), {share(new.value)} after"
                f" ({wording.interval(new)}) on {whole(new.n)} test problems, McNemar p"
                f" {wording.p_value(new.p_value)}"
            )
            items.append(Item(label, line, new.name))
    return items
