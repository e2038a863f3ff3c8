"""A study's YAML file, with overrides from the command line, read into a checked StudyConfig. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from nanolab.config import ROOT, StudyConfig, study_from_dict
from nanolab.schema import UserError


def find_study(name: str) -> Path:
    """The YAML file of `name`: a path, or the name of a file in experiments/. Raises UserError when there is none."""
    for path in (Path(name), ROOT / name, ROOT / "experiments" / f"{name}.yaml"):
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return path.resolve()
    have = ", ".join(sorted(p.stem for p in (ROOT / "experiments").glob("*.yaml")))
    raise UserError(f"no experiment file {name!r}; experiments/ has: {have}")


def load_study(name: str, overrides: list[str] | None = None) -> StudyConfig:
    """The study of a YAML file, with `overrides` such as "power_eval.alpha=8" applied.

    Raises UserError for a missing file, bad YAML, and everything `study_from_dict` checks.
    """
    path = find_study(name)
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path.name} must be a mapping of settings")
    values.setdefault("experiment", path.stem)
    for override in overrides or []:
        _apply_override(values, override)
    return study_from_dict(values)


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"--set {override!r} must have the form stage.key=value, for example power_eval.alpha=8")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {override!r}: {parent} is not a group of settings")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override!r}: {text!r} is not a valid value") from error
