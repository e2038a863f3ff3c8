"""The tasks: each is a file of nanolab/data/tasks/sets/, which is found by lying there.

Settings read this table, so no such file imports at its top what takes time.
"""

import importlib
import pkgutil

from nanolab.data.tasks import sets
from nanolab.data.tasks.task import Task

KINDS = ("choice", "problem", "program")


def _found() -> list[Task]:
    names = sorted(module.name for module in pkgutil.iter_modules(sets.__path__))
    modules = [importlib.import_module(f"{sets.__name__}.{name}") for name in names]
    return [task for module in modules for task in module.TASKS]


# by name; in the order of settings and reports: the usual ones, then by kind
TASKS: dict[str, Task] = {
    task.name: task
    for task in sorted(_found(), key=lambda task: (not task.usual, KINDS.index(task.kind)))
}


def usual(kind: str | None = None) -> tuple[str, ...]:
    """The names of the usual tasks, of all kinds or of one."""
    return tuple(name for name, task in TASKS.items() if task.usual and kind in (None, task.kind))
