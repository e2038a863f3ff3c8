"""Writes docs/settings.md from the config classes; with --check it only says whether the page is
current.
"""

import argparse
import sys
import typing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nanolab.files import ROOT
from nanolab.settings import grid
from nanolab.settings.config import STAGES, STEPS, DataConfig, LaunchConfig, StudyConfig
from nanolab.settings.kinds import range_of
from nanolab.settings.schema import own_first, to_dict

PAGE = ROOT / "docs" / "settings.md"
START = """# Every setting of a study

*Written by `python scripts/write_settings_page.py` from the classes of `nanolab/settings/`.*

A study is a YAML file in `experiments/`. What it leaves out has the default below; a key that is
not here is refused, with the nearest valid one.
`--set STAGE.KEY=VALUE` changes a setting for one run. Paths are relative to the repository.

```yaml
experiment: my-study
description: A wider model, sharper sampling.
base_train: {width: 128, heads: 4}
power_eval: {alpha: 8.0, max_examples: 100}
steps: [tok_train, base_train, mid_train, sft, power_eval, report]
```

Steps that are not listed but needed run too. `python -m nanolab plan STUDY --parameters`
prints a study with every setting.
"""


def shown(value: object) -> str:
    """A value as YAML has it, in code font."""
    text = (
        {True: "true", False: "false", None: "null"}.get(value, value)
        if isinstance(value, (bool, type(None)))
        else value
    )
    if isinstance(value, (list, dict)):
        text = str(value).replace("'", "")
    return f"`{text}`" if text != "" else "empty"


def kind(hint: object) -> str:
    """A type in words."""
    words = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    if hint in words:
        return words[hint]
    parts = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in parts)
    if origin in (list, dict):
        elements = {int: " of whole numbers", float: " to numbers"}.get(parts[-1], "")
        return {list: "list", dict: "mapping"}[origin] + elements
    return " or ".join("null" if part is type(None) else kind(part) for part in parts)


def limits(hint: object) -> str:
    """The range of a number."""
    found = range_of(hint)
    return found.words("from", "above", "to", " ") if found else ""


def table(cls: type) -> str:
    """The settings of a config class."""
    types, kinds = typing.get_type_hints(cls), typing.get_type_hints(cls, include_extras=True)
    values = to_dict(cls())
    rows = ["| setting | default | kind | what it is |", "| --- | --- | --- | --- |"]
    for field in own_first(cls):
        if field.metadata:
            name = field.name
            what = f"{kind(types[name])} {limits(kinds[name])}".strip()
            about = field.metadata["description"]
            rows.append(f"| `{name}` | {shown(values[name])} | {what} | {about} |")
    return "\n".join(rows)


def page() -> str:
    """The whole page."""
    parts = [
        START,
        f"## The study itself\n\n{table(StudyConfig)}\n",
        f"## data\n\n{DataConfig.__doc__}\n\n{table(DataConfig)}\n",
        (
            f"## launch\n\n{LaunchConfig.__doc__} [cluster.md](cluster.md) has"
            f" examples.\n\n{table(LaunchConfig)}\n"
        ),
    ]
    for name, cls in STAGES.items():
        steps = ", ".join(f"`{step}`" for step, spec in STEPS.items() if spec.stage == name)
        parts.append(f"## {name}\n\n{cls.__doc__.strip()} Steps: {steps}.\n\n{table(cls)}\n")
    samplers = "\n".join(
        f"| `{name}` | {', '.join(f'`{key}`' for key in keys)} |"
        for name, keys in grid.SAMPLERS.items()
    )
    parts.append(
        "### The grid of power_ablation\n\nEach entry is a product of value lists, and entries are"
        " joined: `{sampler: [power], alpha: [1, 4], temperature: [0.7]}` is two points. A"
        " setting that an entry leaves out has the stage's own value.\n\n| sampler | settings of a"
        f" point |\n| --- | --- |\n{samplers}\n"
    )
    return "\n".join(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
        print(PAGE.relative_to(ROOT))
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
        sys.exit(
            f"error: {PAGE.relative_to(ROOT)} is not what the settings are now; run this script"
            " without --check"
        )
