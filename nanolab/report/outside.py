"""Models from outside in a report: which steps are of one, the columns that they have, what they
are, and how each step asked them. A study of models trained here alone has none of it.
"""

import json
from collections.abc import Mapping
from typing import Any

from nanolab import wording
from nanolab.report.blocks import Block, Grid, Item, Part, Text, grid
from nanolab.report.sections import SUMMARY_COLUMNS
from nanolab.results import Score, select
from nanolab.settings.model_source import SOURCE_STEPS, is_outside, title
from nanolab.wording import METHODS, TASKS, decimals, is_missing, or_dash, share

Values = dict[str, Any]
Steps = Mapping[str, Values]

TRAINING = {"tok_train", *SOURCE_STEPS.values()}
# steps whose model is asked as it is -> what follows its name where another of them is of it too
ASKED = {"chat_eval_hf": "", "base_eval": " as text"}
# model trained here -> the step that asks it
OWN = {"base": "base_eval", "mid": "chat_eval_mid", "sft": "chat_eval_sft", "rl": "chat_eval_rl"}
# settings that say nothing of a model from outside
NOT_OF_OUTSIDE = ("model_tag", "step")
OF_TOOLS = ("tool_timeout", "tool_max_output_tokens")
CHOICES = {
    "letter": "the likeliest letter after the question and its choices",
    "line": "the likeliest line among those of the choices (trout=B)",
    "continuation": "the likeliest choice as the text goes on, without the choices being named",
}
# shares that say how far an accuracy is that of the model, and not of the way it was asked
WARNINGS = {
    "cut_share": "answers cut at the limit",
    "no_answer_share": "answers in which nothing could be graded",
    "commonest_choice_share": "answers that are the commonest letter",
}

SPEEDS = {"tokens_per_second": "answer tokens/s", "positions_per_second": "positions/s"}
OF_SPEED = (
    "Seconds are those of the work with its grading; positions are those forwarded. A dash: a part"
    " whose records do not count them."
)


def source_of(values: Values) -> str:
    """The model from outside that a step's values are of; "" for one trained here."""
    source = values.get("source")
    return source if isinstance(source, str) and is_outside(source) else ""


def names(steps: Steps) -> dict[str, str]:
    """Source -> what the model is called: its short name, or the whole source where two would be
    called alike.
    """
    sources = list(dict.fromkeys(filter(None, map(source_of, steps.values()))))
    short = [title(source) for source in sources]
    return {
        source: name if short.count(name) == 1 else source for source, name in zip(sources, short)
    }


def facts_of(values: Values) -> Values:
    """What a step says of its model from outside (nanolab/evals/model_facts.py); a store has it as
    text.
    """
    found = values.get("model") or {}
    return json.loads(found) if isinstance(found, str) else found


def engine_of(values: Values) -> str:
    """What decoded a step's answers."""
    found = values.get("engine")
    return "nanolab" if is_missing(found) else str(found)


def is_left_out(step: str, values: Values) -> bool:
    """Whether a step has no section: it was not run, the study does not list it, and it trains
    nothing, so that the form of a training's report is not its own.
    """
    listed = values.get("listed")
    steps = values["steps"]
    if step in steps or listed is None or TRAINING & {*listed, *steps}:
        return False
    return step not in listed


# ---- columns


def asked(steps: Steps) -> dict[str, str]:
    """Model -> the step that asked it as it is: base, mid, sft, rl, then those from outside by
    their names.
    """
    own = {model: step for model, step in OWN.items() if step in steps}
    called = names(steps)
    found = {model: step for model, step in own.items() if not source_of(steps[step])}
    outside = {step: source_of(steps.get(step, {})) for step in ASKED}
    for step, source in outside.items():
        if source:
            several = list(outside.values()).count(source) > 1
            found[called[source] + (ASKED[step] if several else "")] = step
    return found


def columns(steps: Steps) -> dict[str, str]:
    """Heading -> step of the summary's columns: the form's five; with models from outside those of
    them that there are, then each such model's own, and that of power sampling on it.
    """
    called = names(steps)
    if not called:
        return SUMMARY_COLUMNS
    found = {
        heading: step
        for heading, step in SUMMARY_COLUMNS.items()
        if step in steps and not source_of(steps[step])
    }
    found |= {model: step for model, step in asked(steps).items() if source_of(steps[step])}
    for step, values in steps.items():
        if step.startswith("power_eval") and (source := source_of(values)):
            other = step.removeprefix("power_eval").replace("_", " ")
            found[f"{called[source]} POWER{other}"] = step
    return found


# ---- what the model is, and how it was asked


def identity(steps: Steps) -> list[Block]:
    """A section for each model from outside: which one it is."""
    blocks: list[Block] = []
    for source, name in names(steps).items():
        own = [step for step, values in steps.items() if source_of(values) == source]
        step = next((one for one in own if facts_of(steps[one])), own[0])
        facts = facts_of(steps[step])
        items = [Item("source", source)]
        if facts:
            items += [
                Item("weights", facts["files"]),
                Item("architecture", facts["architecture"]),
                Item("parameters", f"{facts['parameters']:,}"),
                Item("vocabulary", f"{facts['vocabulary']:,} tokens"),
                Item("context", f"{facts['context']:,} positions"),
            ]
        items.append(Item("trained by this study", "no"))
        blocks.append(Part(f"Model {name}", tuple(items), step=step))
    return blocks


def lines(own: dict[str, str], values: Values) -> dict[str, str]:
    """The lines of a section that say something of a model from outside: of tasks those asked."""
    silent = {*NOT_OF_OUTSIDE, *(task for task in TASKS if is_missing(values.get(task)))}
    if not facts_of(values).get("has_tools", True):
        silent |= {*OF_TOOLS}
    kept = {key: label for key, label in own.items() if key not in silent}
    if "beyond_context" in kept:
        kept["beyond_context"] = "answers beyond the positions that it serves"
    return kept


def how_asked(step: str, values: Values, rows: list[Score]) -> list[Block]:
    """How a step asked its model from outside, with the shares that warn, its speed and memory;
    nothing for a model trained here.
    """
    facts = facts_of(values)
    if not facts:
        return []
    items = [
        Item("engine", f"{facts['engine']} ({facts['runs_on']}), {facts['dtype']}"),
        Item("prompt", _prompt(facts)),
        Item("system prompt", _system(facts)),
        Item("an answer ends", _end(facts)),
    ]
    generates = bool(values.get("task")) or any(row.task and not row.chance for row in rows)
    if facts["note"] and generates:
        items.append(Item("line below each problem", facts["note"]))
    if any(row.chance for row in rows):
        form = facts["choice_form"]
        items.append(Item("the answer to a choice", CHOICES.get(form, form)))
    if not facts["has_tools"]:
        items.append(Item("tools", "none: its tokenizer has no tool tokens"))
    items += _warnings(rows)
    items += [
        Item(label, decimals(1)(values[key]), key)
        for key, label in SPEEDS.items()
        if not is_missing(values.get(key))
    ]
    if not is_missing(values.get("peak_gib")):
        items.append(Item("peak memory", f"{decimals(2)(values['peak_gib'])} GiB"))
    parts = [speed(values["speed"], step), Text(OF_SPEED)] if values.get("speed") else []
    return [Part("How the model was asked", tuple(items), 3, step), *parts]


def in_words(values: Values) -> list[str]:
    """Which model from outside a step asked, and how, in some words; nothing for one trained
    here.
    """
    facts = facts_of(values)
    if not facts:
        return []
    size = wording.short(facts["parameters"])
    return [
        f"model: {facts['name']}, {size} parameters",
        f"asked in {_prompt(facts)}, {facts['dtype']}, {facts['engine']} ({facts['runs_on']})",
    ]


def _prompt(facts: Values) -> str:
    shots = facts["num_shots"]
    return facts["prompt"] + (f", after {shots} solved examples" if shots else "")


def _system(facts: Values) -> str:
    if facts["system_prompt"]:
        return facts["system_prompt"]
    return "none" if facts["prompt"] == "plain text" else "none given; its template may add one"


def _end(facts: Values) -> str:
    ends = " or ".join(facts["stop_tokens"])
    return f"at {ends}, at the latest after {facts['max_new_tokens']} tokens"


def _warnings(rows: list[Score]) -> list[Item]:
    return [
        Item(" ".join(filter(None, (_of(row), label))), share(row.value), row.name)
        for metric, label in WARNINGS.items()
        for row in select(rows, metric=metric)
    ]


def _of(row: Score) -> str:
    """What a share is of: a task, a method on it."""
    task, method = TASKS.get(row.task, row.task), METHODS.get(row.method, row.method)
    return ", ".join(filter(None, (task, method)))


def speed(parts: list[Values], step: str) -> Grid:
    """How long each part of a step took."""
    header = ["part", "problems", "seconds", *SPEEDS.values()]
    whole = decimals(1)
    rows = [
        [
            part["part"],
            wording.whole(part["problems"]),
            whole(part["seconds"]),
            *(
                or_dash(None if part[key] is None else part[key] / part["seconds"], whole)
                for key in ("tokens", "positions")
            ),
        ]
        for part in parts
        if part["seconds"]
    ]
    return grid(header, rows, step)
