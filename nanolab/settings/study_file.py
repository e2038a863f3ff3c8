"""A study's YAML file, with overrides from the command line, read into a checked StudyConfig."""

import itertools
import re
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from nanolab import files
from nanolab.errors import UserError
from nanolab.files import ROOT
from nanolab.settings.config import STEPS, StudyConfig
from nanolab.settings.kinds import NAME
from nanolab.settings.model_source import anchored, is_outside
from nanolab.settings.schema import build, to_dict


class StrictLoader(yaml.SafeLoader):
    """YAML in which a key stands once: of two equal ones plain YAML takes the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise UserError(f"{key!r} in line {line} cannot be a key: a key is a name")
            if key in seen:
                raise UserError(
                    f"{key!r} stands twice, again in line {line}: leave one of them out"
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def find_study(name: str) -> Path:
    """The YAML file of `name`: a path, the name of a file in experiments/, or of a study of this
    store, as it last ran.

    A step's job.json is one too: of its study as it ran, with its seed alone.
    """
    if not name or "\0" in name or len(name) > 4000 or max(map(len, name.split("/"))) > 250:
        name = name if len(name) <= 60 else f"{name[:57]}..."
        raise UserError(f"{name!r} is no name of a study and no path of a YAML file")
    for path in (Path(name), ROOT / name, ROOT / "experiments" / f"{name}.yaml"):
        if (path.suffix in (".yaml", ".yml") or path.name == "job.json") and path.is_file():
            return path.resolve()
    if re.fullmatch(NAME, name):
        ran = (files.MLRUNS / "work").glob(f"{name}/executions/*/study.yaml")
        if newest := max(ran, key=lambda path: path.stat().st_mtime, default=None):
            return newest
    have = ", ".join(sorted(p.stem for p in (ROOT / "experiments").glob("*.yaml")))
    raise UserError(f"no experiment file {name!r}; experiments/ has: {have}")


def load_study(name: str, overrides: list[str] | None = None) -> StudyConfig:
    """The study of a YAML file, with `overrides` such as "power_eval.alpha=8" applied."""
    path = find_study(name)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), StrictLoader)
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not UTF-8 text: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:  # a date that does not exist, a number of thousands of digits
        raise UserError(f"{path.name}: {error}") from error
    if not isinstance(values, dict):
        empty = ", it is empty" if values is None else ""
        raise UserError(f"{path.name} must be a mapping of settings{empty}")
    if path.name == "job.json" and isinstance(values.get("study"), dict):
        step, values = values.get("step"), values["study"]
        values |= {"steps": [*values["steps"], *({step} - set(values["steps"]))], "seeds": []}
    values.setdefault("experiment", path.stem)
    for override in overrides or []:
        _apply_override(values, override)
    study = study_from_dict(values)
    # not in StudyConfig: the notebook of a step hands over its own source
    power = {step: STEPS[step].fixed for step in study.steps if STEPS[step].stage == "power_eval"}
    for (step, fixed), (other, more) in itertools.permutations(power.items(), 2):
        config = {**to_dict(study.power_eval), **fixed}
        if len(more) >= len(fixed) and config == {**config, **more}:
            raise UserError(
                f"steps {step} and {other} are the same: power_eval has {more} too; leave one out"
            )
    return study


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(
            f"--set {override!r} must have the form stage.key=value, for example power_eval.alpha=8"
        )
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {override!r}: {parent} is not a group of settings")
    try:
        value = yaml.load(text, StrictLoader)
    except UserError as error:
        raise UserError(f"--set {override!r}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"--set {override!r}: {text!r} is not a valid value") from error
    values[last] = anchored(value) if last == "source" and is_outside(value) else value


def study_from_dict(values: dict[str, Any]) -> StudyConfig:
    """A checked StudyConfig; raises UserError for what it cannot have."""
    study = build(StudyConfig, values)
    if study.seeds and study.seed not in study.seeds:
        # what plan, export and a notebook mean when they do not name a seed
        return replace(study, seed=study.seeds[0])
    return study
