"""Writes docs/settings.md from the config classes; with --check it only says whether the page is current."""

import argparse
import dataclasses
import sys
import typing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nanolab import grid
from nanolab.config import ROOT, STAGES, STEPS, DataConfig, LaunchConfig, StudyConfig
from nanolab.schema import to_dict

PAGE = ROOT / "docs" / "settings.md"
START = """# Every setting of a study

*Written by `python scripts/write_settings_page.py` from `nanolab/config.py`; a test holds it to that.*

A study is a YAML file in `experiments/`. What it leaves out has the default below; a key that is not here is refused, with the
nearest valid one.
`--set STAGE.KEY=VALUE` changes a setting for one run. Paths are relative to the repository.

```yaml
experiment: my-study
description: A wider model, sharper sampling.
base_train: {width: 128, heads: 4}
power_eval: {alpha: 8.0, max_examples: 100}
steps: [tok_train, base_train, mid_train, sft, power_eval, report]
```

Steps that are not listed but needed run too. `experiments/smoke.yaml` spells every setting out.
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
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(hint))
    if typing.get_origin(hint) in (list, dict):
        return {list: "list", dict: "mapping"}[typing.get_origin(hint)]
    parts = typing.get_args(hint)
    return " or ".join("null" if part is type(None) else kind(part) for part in parts)


def limits(metadata: dict) -> str:
    """The range of a number."""
    parts = [
        ("from {}", metadata["minimum"]),
        ("above {}", metadata["above"]),
        ("to {}", metadata["maximum"]),
    ]
    return " ".join(text.format(value) for text, value in parts if value is not None)


def table(cls: type) -> str:
    """The settings of a config class."""
    hints, values = typing.get_type_hints(cls), to_dict(cls())
    rows = []
    for field in dataclasses.fields(cls):
        if field.metadata:
            what = f"{kind(hints[field.name])} {limits(field.metadata)}".strip()
            rows.append(
                f"| `{field.name}` | {shown(values[field.name])} | {what} | {field.metadata['description']} |"
            )
    return "\n".join(
        ["| setting | default | kind | what it is |", "| --- | --- | --- | --- |", *rows]
    )


def page() -> str:
    """The whole page."""
    parts = [
        START,
        f"## The study itself\n\n{table(StudyConfig)}\n",
        f"## data\n\n{DataConfig.__doc__}\n\n{table(DataConfig)}\n",
        f"## launch\n\n{LaunchConfig.__doc__} [cluster.md](cluster.md) has examples.\n\n{table(LaunchConfig)}\n",
    ]
    for name, cls in STAGES.items():
        steps = ", ".join(f"`{step}`" for step, spec in STEPS.items() if spec.stage == name)
        parts.append(f"## {name}\n\n{cls.__doc__.strip()} Steps: {steps}.\n\n{table(cls)}\n")
    samplers = "\n".join(
        f"| `{name}` | {', '.join(f'`{key}`' for key in keys)} |"
        for name, keys in grid.SAMPLERS.items()
    )
    parts.append(
        "### The grid of power_ablation\n\nEach entry is a product of value lists, and entries are joined: "
        "`{sampler: [power], alpha: [1, 4], temperature: [0.7]}` is two points. A setting that an entry leaves out has the "
        f"stage's own value.\n\n| sampler | settings of a point |\n| --- | --- |\n{samplers}\n"
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
            f"error: {PAGE.relative_to(ROOT)} is not what the settings are now; run this script without --check"
        )
