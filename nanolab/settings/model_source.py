"""Models from outside of the lab: which one `source: hf:...` means, and what identifies it.

`hf:FOLDER` is a folder that `save_pretrained` wrote; `hf:NAME` or `hf:NAME@REVISION` a model of the
Hugging Face hub ("main" without a revision: a finished step is not run again when a branch moves).
An existing folder goes before a hub name.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from nanolab.errors import UserError
from nanolab.files import sha256_file

SOURCE_STEPS = {"base": "base_train", "mid": "mid_train", "sft": "sft", "rl": "rl"}  # model: maker
HF = "hf:"
INSTALL = "install it with: pip install -e '.[hf]'"
# what a model and its tokenizer are read from
READ = (".json", ".safetensors", ".bin", ".txt", ".model", ".jinja")
HASHED_BYTES = 1 << 30  # larger files count by name and size alone: hashing takes too long to plan


class HubModel(NamedTuple):
    """A model of the hub."""

    name: str
    revision: str


def is_outside(source: str | None) -> bool:
    """Whether a `source` names a model that no step of a study makes."""
    return source is not None and source.startswith(HF)


def locate(source: str, root: Path) -> Path | HubModel:
    """The folder (a relative one below `root`), or the hub name, that `hf:...` means."""
    text = source.removeprefix(HF)
    try:
        folder = root / Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"source = {source!r}: the home folder that ~ stands for is not known "
            "here; give the whole path"
        ) from error
    if folder.is_dir():
        return folder.resolve()
    if text.startswith(("/", ".", "~")) or text.count("/") > 1:
        raise UserError(
            f"source = {source!r}: there is no folder {folder}; give one that save_pretrained"
            " wrote, or a name of the hub"
        )
    name, _, revision = text.partition("@")
    return HubModel(name, revision or "main")


def identity(source: str, root: Path) -> str:
    """A text that changes when the model may change: names, sizes and contents of its files (from
    1 GiB on not the contents), or hub name and revision; and the version of transformers.
    """
    import importlib.metadata  # which is slow to import, and needed for such a model only

    try:
        version = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f"source = {source!r} needs the package transformers; {INSTALL}") from error
    found = locate(source, root)
    if isinstance(found, HubModel):
        return json.dumps(["hub", *found, version])
    if not (found / "config.json").is_file():
        raise UserError(
            f"source = {source!r}: {found} has no config.json; it must be a folder that"
            " save_pretrained wrote"
        )
    facts = []
    for path in sorted(path for path in found.iterdir() if path.suffix in READ and path.is_file()):
        size, modified = path.stat().st_size, path.stat().st_mtime_ns
        facts.append(
            [path.name, size, _digest(path, size, modified) if size < HASHED_BYTES else ""]
        )
    return json.dumps(["folder", facts, version])


@lru_cache(maxsize=1000)
def _digest(path: Path, size: int, modified: int) -> str:
    """SHA-256 of a file, read once while its size and time of writing stay."""
    return sha256_file(path)
