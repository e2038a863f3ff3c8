"""What a row of each set must hold, checked where it is read.

Unchecked, a damaged value would be a wrong answer later, without a word. A fault is one line with
the file, the row (counted from 1), the value and what was expected.
"""

import math
import re
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import PurePosixPath
from typing import Any

from nanolab.data.tasks import checks
from nanolab.data.tasks.catalogue import TASKS
from nanolab.data.tasks.checks import quoted
from nanolab.data.tasks.task import Row
from nanolab.errors import UserError

MEND = "correct it or take the row out"
PARTS = ("text", "python", "output")  # of an assistant's message
# what tasks.json says of each task
CORE_ENTRY = ("name", "icl_task_type", "num_fewshot", "random_baseline")
FILE_NAME = re.compile(r"\w[\w.+-]*")  # a CORE task's records lie in a file of its name


class DamagedData(UserError):
    """A value in the data that cannot be used; unlike absent data it is never passed over."""


def checked_rows(
    rows: list[Row],
    kind: str,
    where: str,
    split: str = "",
    mend: str = MEND,
    numbers: Iterable[int] | None = None,
) -> list[Row]:
    """The rows, each of them as `kind` wants it: a task, "chat", or a kind of CORE task.

    `where` is the file, or what stands for one, in messages; `mend` what a person can do about a
    row; `numbers` are those of the rows where they do not follow from 1 on. Raises UserError for no
    rows, DamagedData for the first row that lacks a value or has a wrong one.
    """
    fields = fields_of(kind)
    if not rows:
        raise UserError(f"{where} lacks rows; its rows must have {', '.join(fields)}")
    for number, row in zip(count(1) if numbers is None else numbers, rows):
        try:
            checks.fields(row, fields)
            TASKS[kind].form.check(row, split) if kind in TASKS else OTHERS[kind][1](row)
        except checks.Fault as fault:
            raise DamagedData(f"{where}, row {number}: {fault}; {mend}") from fault
    return rows


# ---- chats


def chat(row: Row) -> None:
    """A conversation: perhaps a system message, then user and assistant in turn, with an answer."""
    messages = row["messages"]
    if not isinstance(messages, list):
        checks.refuse("messages", messages, "a list of {role, content}")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            checks.refuse(f"messages[{i}]", message, "a mapping of role and content")
    system = bool(messages) and messages[0]["role"] == "system"
    if len(messages) < 2 + system:
        raise checks.Fault(
            f"messages = {quoted(messages)} has {len(messages)} entries, "
            "it must have a user message and its answer"
        )
    in_turn = "user and assistant in turn, after one system message at most"
    for i, message in enumerate(messages):
        role, content, name = message["role"], message["content"], f"messages[{i}]"
        expected = "system" if system and i == 0 else ("user", "assistant")[(i - system) % 2]
        if role != expected:
            checks.refuse(f"{name}.role", role, f"{expected!r}: {in_turn}")
        if role != "assistant" or not isinstance(content, list):
            checks.text(f"{name}.content", content, blank=True)
            continue
        for j, part in enumerate(content):
            name = f"messages[{i}].content[{j}]"
            if not isinstance(part, dict) or part.get("type") not in PARTS:
                checks.refuse(name, part, f"a part with type {', '.join(PARTS)} and a text")
            checks.text(f"{name}.text", part.get("text"), blank=True)


# ---- CORE


def _multiple_choice(row: Row) -> None:
    checks.text("query", row["query"], blank=True)
    checks.texts("choices", row["choices"])
    checks.place("gold", row["gold"], row["choices"], "choices")


def _schema(row: Row) -> None:
    checks.texts("context_options", row["context_options"])
    checks.text("continuation", row["continuation"])
    checks.place("gold", row["gold"], row["context_options"], "context_options")


def _language_modeling(row: Row) -> None:
    checks.text("context", row["context"], blank=True)
    checks.text("continuation", row["continuation"])


def checked_tasks(entries: Any, where: str) -> list[Row]:
    """The entries of CORE's tasks.json; DamagedData for the first that has a wrong value."""
    if not isinstance(entries, list) or not entries:
        raise DamagedData(
            f"{where} must hold a list of tasks, it has {quoted(entries)}; restore it"
        )
    names: set[str] = set()
    for number, entry in enumerate(entries, 1):
        try:
            _core_entry(entry)
            if entry["name"] in names:
                checks.refuse("name", entry["name"], "another name than that of an earlier task")
        except checks.Fault as fault:
            raise DamagedData(
                f"{where}, task {number}: {fault}; correct it or take the task out"
            ) from fault
        names.add(entry["name"])
    return entries


def _core_entry(entry: Any) -> None:
    checks.fields(entry, CORE_ENTRY)
    name, kind, file = entry["name"], entry["icl_task_type"], entry.get("file")
    checks.text("name", name)
    if not FILE_NAME.fullmatch(name):
        checks.refuse("name", name, "letters, digits and . _ + - alone")
    if kind not in tuple(CORE_KINDS):  # a list has no hash
        checks.refuse("icl_task_type", kind, f"one of {', '.join(CORE_KINDS)}")
    if file is not None:
        checks.text("file", file)
        if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
            checks.refuse("file", file, "a path below the folder of tasks.json")
    shots, baseline = entry["num_fewshot"], entry["random_baseline"]
    if type(shots) is not int or shots < 0:
        checks.refuse("num_fewshot", shots, "a whole number from 0 on")
    if type(baseline) not in (int, float) or not math.isfinite(baseline) or not 0 <= baseline < 100:
        checks.refuse("random_baseline", baseline, "a percentage, at least 0 and below 100")
    published = entry.get("published_rows")
    if published is not None and (type(published) is not int or published < 0):
        checks.refuse("published_rows", published, "a whole number or null")
    checks.text("continuation_delimiter", entry.get("continuation_delimiter", " "), blank=True)
    checks.text("status", entry.get("status", "exact"))


CORE_KINDS: dict[str, tuple[tuple[str, ...], Callable[[Row], None]]] = {
    "multiple_choice": (("query", "choices", "gold"), _multiple_choice),
    "schema": (("context_options", "continuation", "gold"), _schema),
    "language_modeling": (("context", "continuation"), _language_modeling),
}
OTHERS = {"chat": (("messages",), chat), **CORE_KINDS}  # rows of no task: columns and check


def fields_of(kind: str) -> tuple[str, ...]:
    """The columns of a task, of chats or of a kind of CORE task."""
    return tuple(sorted(TASKS[kind].form.columns)) if kind in TASKS else OTHERS[kind][0]


# ---- text


def checked_text(text: Any, where: str) -> str:
    """A document's text, which may be empty; DamagedData where it is none, naming it as `where`."""
    try:
        checks.text("text", text, blank=True)
    except checks.Fault as fault:
        raise DamagedData(f"{where}: {fault}; {MEND}") from fault
    return text
