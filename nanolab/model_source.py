"""Models from outside of the lab, `source: hf:NAME-or-folder`: what a study may ask of them, which one is meant, and what identifies
it. Imports no torch.

`hf:FOLDER` is a folder that `save_pretrained` wrote; relative paths start at the repository root. `hf:NAME` or `hf:NAME@REVISION` is a
model of the Hugging Face hub (REVISION a branch, tag or commit; "main" without one: a step that is finished is not run again when a
branch moves). An existing folder goes before a hub name.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from nanolab.schema import UserError

HF = "hf:"
INSTALL = "install it with: pip install -e '.[hf]'"
READ = (
    ".json",
    ".safetensors",
    ".bin",
    ".txt",
    ".model",
    ".jinja",
)  # what a model and its tokenizer are read from
HASHED_BYTES = (
    1 << 30
)  # larger files count by name and size alone: hashing them would take longer than planning may


class HubModel(NamedTuple):
    """A model of the hub."""

    name: str
    revision: str


def is_outside(source: str | None) -> bool:
    """Whether a `source` names a model that no step of a study makes."""
    return source is not None and source.startswith(HF)


def check_sources(study: Any, trained: Iterable[str]) -> None:
    """Raises UserError for a source that is neither one of the `trained` models nor hf:..., and for hf:... where it has no meaning."""
    for name in ("chat_eval", "power_eval", "power_ablation", "rl"):
        stage = study.stage(name)
        if stage.source in trained:
            continue
        if not is_outside(stage.source) or stage.source == HF:
            raise UserError(
                f"{name}.source = {stage.source!r} must be one of {', '.join(trained)}, or {HF}NAME-or-folder"
            )
        if name == "rl":
            raise UserError(
                f"rl.source = {stage.source!r}: only a model trained here can be trained further; choose one of "
                f"{', '.join(trained)}"
            )
        if stage.step is not None or stage.model_tag != "default":
            raise UserError(
                f"{name}: step and model_tag choose a checkpoint of a study; leave them out with source = {stage.source!r}"
            )
    if "chat_eval_hf" in study.steps and study.chat_eval.source in trained:
        raise UserError(
            f"step chat_eval_hf needs chat_eval.source = {HF}NAME-or-folder, not {study.chat_eval.source!r}"
        )


def locate(source: str, root: Path) -> Path | HubModel:
    """The folder (a relative one below `root`), or the hub name, that `hf:...` means.

    Raises UserError for a path to a folder that does not exist.
    """
    text = source.removeprefix(HF)
    folder = root / Path(text).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if text.startswith(("/", ".", "~")) or text.count("/") > 1:
        raise UserError(
            f"source = {source!r}: there is no folder {folder}; give one that save_pretrained wrote, or a name of the hub"
        )
    name, _, revision = text.partition("@")
    return HubModel(name, revision or "main")


def identity(source: str, root: Path) -> str:
    """A text that changes when the model may change: names, sizes and contents of its files, or hub name and revision; and the
    version of transformers. Nothing is downloaded.

    Contents of files of 1 GiB and more are not read. Raises UserError for a missing folder, one without config.json, and when
    transformers is not installed.
    """
    try:
        version = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f"source = {source!r} needs the package transformers; {INSTALL}") from error
    found = locate(source, root)
    if isinstance(found, HubModel):
        return json.dumps(["hub", *found, version])
    if not (found / "config.json").is_file():
        raise UserError(
            f"source = {source!r}: {found} has no config.json; it must be a folder that save_pretrained wrote"
        )
    facts = []
    for path in sorted(path for path in found.iterdir() if path.suffix in READ and path.is_file()):
        stat = path.stat()
        facts.append(
            [
                path.name,
                stat.st_size,
                _digest(path, stat.st_size, stat.st_mtime_ns)
                if stat.st_size < HASHED_BYTES
                else "",
            ]
        )
    return json.dumps(["folder", facts, version])


@lru_cache(maxsize=1000)
def _digest(path: Path, size: int, modified: int) -> str:
    """SHA-256 of a file, read once while its size and time of writing stay."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
