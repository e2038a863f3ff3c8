"""A study's YAML file, with overrides from the command line, read into a checked StudyConfig. Imports no torch."""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from nanolab import files, grid
from nanolab.config import CHAT_TASKS, ROOT, SOURCE_STEPS, STEPS, StudyConfig
from nanolab.model_source import check_sources
from nanolab.schema import UserError, build, to_dict

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # of a study, which names a folder


class StrictLoader(yaml.SafeLoader):
    """YAML in which a key stands once: of two equal ones plain YAML takes the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise UserError(
                    f"{key!r} stands twice, again in line {key_node.start_mark.line + 1}: leave one of them out"
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def find_study(name: str) -> Path:
    """The YAML file of `name`: a path, the name of a file in experiments/, or of a study of this store, as it last ran.

    Raises UserError when there is none.
    """
    for path in (Path(name), ROOT / name, ROOT / "experiments" / f"{name}.yaml"):
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return path.resolve()
    ran = (
        (files.MLRUNS / "work").glob(f"{name}/executions/*/study.yaml")
        if re.fullmatch(NAME, name)
        else ()
    )
    if newest := max(ran, key=lambda path: path.stat().st_mtime, default=None):
        return newest
    have = ", ".join(sorted(p.stem for p in (ROOT / "experiments").glob("*.yaml")))
    raise UserError(f"no experiment file {name!r}; experiments/ has: {have}")


def load_study(name: str, overrides: list[str] | None = None) -> StudyConfig:
    """The study of a YAML file, with `overrides` such as "power_eval.alpha=8" applied.

    Raises UserError for a missing file, bad YAML, and everything `study_from_dict` checks.
    """
    path = find_study(name)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), StrictLoader)
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not UTF-8 text: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}") from error
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from error
    if not isinstance(values, dict):
        raise UserError(
            f"{path.name} must be a mapping of settings"
            + (", it is empty" if values is None else "")
        )
    values.setdefault("experiment", path.stem)
    for override in overrides or []:
        _apply_override(values, override)
    study = study_from_dict(values)
    power = {step: STEPS[step].fixed for step in study.steps if STEPS[step].stage == "power_eval"}
    for (
        step,
        fixed,
    ) in (
        power.items()
    ):  # not in study_from_dict: the notebook of such a step hands over its own source
        config = to_dict(study.power_eval) | fixed
        for other, more in power.items():
            if (
                other != step
                and len(more) >= len(fixed)
                and all(config[key] == value for key, value in more.items())
            ):
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
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override!r}: {text!r} is not a valid value") from error


def study_from_dict(values: dict[str, Any]) -> StudyConfig:
    """A checked StudyConfig; raises UserError for what a single field cannot see (steps, horizons, source steps)."""
    study = build(StudyConfig, values)
    if len(set(study.seeds)) < len(study.seeds) or min(study.seeds, default=0) < 0:
        raise UserError(f"seeds = {study.seeds} must be different whole numbers, each at least 0")
    if study.seeds and study.seed not in study.seeds:
        study = replace(
            study, seed=study.seeds[0]
        )  # what plan, export and a notebook mean when they do not name a seed
    for step in study.steps:
        if step not in STEPS:
            near = difflib.get_close_matches(step, STEPS, 1, 0.0)[0]
            raise UserError(f"unknown step {step!r} in steps; the nearest valid step is {near!r}")
    check_sources(study, SOURCE_STEPS)
    guesses = study.data.short_guesses + study.data.rambling_guesses
    if guesses > 1:
        raise UserError(
            f"data.short_guesses = {study.data.short_guesses} and data.rambling_guesses = {study.data.rambling_guesses} are "
            f"shares of the same solutions: they sum to {guesses:g}, which must be at most 1"
        )
    if study.power_eval.particles == 1:
        raise UserError(
            "power_eval.particles = 1 is a plain sample: give 0 (left out) or at least 2"
        )
    base = study.base_train
    if (base.steps is None) == (base.tokens_per_parameter is None):
        raise UserError(
            "base_train: give exactly one of steps and tokens_per_parameter "
            f"(steps = {base.steps}, tokens_per_parameter = {base.tokens_per_parameter})"
        )
    for name in ("mid_train", "sft"):
        stage = study.stage(name)
        total = (
            stage.share_chats + stage.share_problems + stage.share_choices + stage.share_programs
        )
        if total <= 0:
            raise UserError(
                f"{name}: the shares of conversations sum to {total}; at least one must be above 0"
            )
    for name in ("base_eval", "chat_eval"):
        if not study.stage(name).tasks:
            raise UserError(f"{name}.tasks is empty; leave the step out of steps instead")
        for task in study.stage(name).tasks:
            if task not in CHAT_TASKS:
                raise UserError(
                    f"unknown task {task!r} in {name}.tasks; valid tasks are {', '.join(CHAT_TASKS)}"
                )
    ablation = study.power_ablation
    for key, least in (("num_steps", 0), ("best_of", 1)):
        values = getattr(ablation, key)
        if not values or min(values) < least:
            raise UserError(
                f"power_ablation.{key} = {values} must have at least one value, each at least {least}"
            )
    blocks = {"power_eval": study.power_eval.num_blocks}
    blocks["power_ablation"] = max(
        (point.get("num_blocks", 1) for point in grid.expand(ablation.grid, ablation)), default=0
    )
    if not blocks["power_ablation"]:
        raise UserError(f"power_ablation.grid = {ablation.grid} must have at least one value")
    for name, count in blocks.items():
        if count > study.stage(name).max_new_tokens:
            raise UserError(
                f"{name}.num_blocks = {count} must be at most max_new_tokens = {study.stage(name).max_new_tokens}"
            )
    if not re.fullmatch(NAME, study.experiment):
        raise UserError(
            f"experiment = {study.experiment!r} names a folder: use letters, digits, '.', '_' and '-' only"
        )
    if study.launch.node_rank >= study.launch.nnodes:
        raise UserError(
            f"launch.node_rank = {study.launch.node_rank} is the number of a machine, from 0 to launch.nnodes - 1 = "
            f"{study.launch.nnodes - 1}"
        )
    if study.launch.nnodes > 1 and not study.launch.rdzv_endpoint:
        raise UserError(
            f"launch.nnodes = {study.launch.nnodes} needs launch.rdzv_endpoint: host:port of machine 0"
        )
    return study
