"""The published sets at pinned revisions, in the user's own cache of the hub.

huggingface_hub finds and brings the files, so HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE
mean here what they mean everywhere; `datasets` reads their rows (local.py). A pinned revision never
changes: what is in the cache is not asked for again and needs no network.

`load_dataset` gets the files of a split, not the repository: offline it would take the revision
cached last, and online ask the hub at each call. Text is read shard by shard, since a stream of
`datasets` that is left early can end the process with an error. An interrupted file starts over:
huggingface_hub 2.4 gives each attempt a partial file of its own.
"""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from nanolab import files
from nanolab.data.sources.blocks import Blocks, DataSource, ParquetBlocks, text_bytes
from nanolab.data.sources.bundle import ADDRESS, fetch_bundle
from nanolab.data.sources.local import folder_digest, read_core, read_rows
from nanolab.data.sources.network import ADVICE, endpoint, offline, reason_of, require_hub
from nanolab.data.sources.published import (
    CHAT,
    PUBLISHED,
    TEXT,
    CoreTask,
    Published,
    published_task,
    split_name,
)
from nanolab.data.tasks.catalogue import TASKS
from nanolab.errors import UserError

# besides those of the tasks
SPLITS = {"text": ("train", "validation"), "chat": ("train", "test"), "core": ("test",)}
VALIDATION_DOCUMENTS = 1000  # the first documents of the text, never trained on
LISTING = ".gitattributes"  # in each repository: what is downloaded to have its files listed
MEND = (
    "the file is as published: have `data fetch` write it to a data.root, correct it there and"
    " read it with data.source: local"
)


class HubSource(DataSource):
    """The published sets; `root` is where the CORE bundle lies, which is not on the hub."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def blocks(self, split: str) -> Blocks:
        """The first thousand documents are validation. Shards in the cache are read there, the
        others in ranges from the hub once they are reached.
        """
        _check_split(TEXT, split, SPLITS["text"])
        names = file_names(TEXT)
        cached = {name: _cached(TEXT, name) for name in names}

        def remote(name: str) -> Any:
            try:
                return _remote_file(TEXT, name)
            except UserError as error:
                here = sum(path is not None for path in cached.values())
                raise UserError(
                    f"{here} of {len(names)} shards of the training text are here and the run "
                    f"needs shard {names.index(name) + 1}: {error}, or bring more where there is a"
                    " network: python -m nanolab data fetch STUDY"
                ) from error

        places = [(name, cached[name] or partial(remote, name)) for name in names]
        cut = VALIDATION_DOCUMENTS
        skip, stop = (cut, None) if split == "train" else (0, cut)
        return ParquetBlocks(places, "hub", skip, stop, MEND)

    def task(self, name: str, split: str, subset: str | None = None) -> list[dict]:
        published = published_task(name, subset)
        _check_split(published, split, TASKS[name].splits)
        return read_rows(self.fetch(published, split_name(name, split)), name, split, MEND)

    def splits(self, what: str) -> tuple[str, ...]:
        return SPLITS[what] if what in SPLITS else TASKS[what].splits

    def chats(self, split: str) -> list[dict]:
        _check_split(CHAT, split, SPLITS["chat"])
        return read_rows(self.fetch(CHAT, split), "chat", split, MEND)

    def core(self) -> list[CoreTask]:
        self.fetch_core()
        return read_core(self.root / "core")

    def identity(self) -> str:
        """The pinned revisions and a person's own CORE folder: no other once the data is here."""
        core = self.root / "core"
        foreign = (core / "tasks.json").is_file() and not (core / "BUNDLE.json").is_file()
        own = folder_digest(core) if foreign else ADDRESS
        return " ".join([f"hub core={own}", *map(str, PUBLISHED.values())])

    def describe(self, what: str) -> str:
        if what == "core":
            return f"hub {ADDRESS}" if (self.root / "core" / "BUNDLE.json").is_file() else "local"
        return f"hub {PUBLISHED.get(what) or published_task(what)}"

    # ---- bringing files

    def fetch(self, published: Published, split: str) -> list[Path]:
        """The files of a split in the cache; UserError of one line when they cannot be had."""
        if split in published.files:
            return [bring(published, published.files[split])]
        every = file_names(published)
        part = re.compile(re.escape(f"{published.folder}/{split}") + r"(-\d+-of-\d+)?\.parquet")
        if names := [name for name in every if part.fullmatch(name)]:
            return [bring(published, name) for name in names]
        raise UserError(
            f"hub {published} has no file {published.folder}/{split}-*.parquet; it has"
            f" {', '.join(every) or 'no file there'}"
        )

    def fetch_text(self, characters: int) -> list[Path]:
        """Whole shards of the training text until they hold at least so many characters."""
        shards, have = [], 0
        for name in file_names(TEXT):
            if have >= characters:
                break
            shards.append(_cached(TEXT, name) or bring(TEXT, name))
            have += text_bytes(shards[-1])
        return shards

    def fetch_core(self) -> None:
        """The CORE bundle in root/core."""
        index = self.root / "core" / "tasks.json"
        if not index.is_file():
            with files.file_lock(self.root / ".lock"):  # one process brings it
                if not index.is_file():
                    fetch_bundle(self.root / "core")


def _check_split(published: Published, split: str, known: tuple[str, ...]) -> None:
    if split not in known:
        raise UserError(
            f"hub {published.repository} has no split {split!r}; it has {', '.join(known)}"
        )


# ---- huggingface_hub


def file_names(published: Published) -> list[str]:
    """The parquet files of a set's folder, in order; asked of the hub once for a revision."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    where = {"repo_type": "dataset", "revision": published.revision}
    try:
        listed = get_cached_repo_tree(published.repository, **where)
    except CachedRepoTreeNotFoundError:
        with _reached(published):
            snapshot_download(
                published.repository, **where, allow_patterns=LISTING, endpoint=endpoint()
            )
            listed = get_cached_repo_tree(published.repository, **where)
    folder = published.folder + "/"
    names = [file.path for file in listed if file.path.startswith(folder)]
    return sorted(name for name in names if name.endswith(".parquet"))


def bring(published: Published, name: str) -> Path:
    """A file in the cache, downloaded where it is not there or was altered."""
    from huggingface_hub import hf_hub_download

    path = _cached(published, name)
    if path and _is_intact(path):
        return path
    where = {"repo_type": "dataset", "revision": published.revision, "endpoint": endpoint()}
    with _reached(published):
        again = path is not None
        path = Path(hf_hub_download(published.repository, name, **where, force_download=again))
    if not _is_intact(path):
        path.resolve().unlink()
        path.unlink()
        raise UserError(
            f"{name} of {published} is damaged: it has another hash than published; it was thrown"
            " away, run the command again"
        )
    return path


def _cached(published: Published, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    where = {"repo_type": "dataset", "revision": published.revision}
    path = try_to_load_from_cache(published.repository, name, **where)
    return Path(path) if isinstance(path, str) else None


def _is_intact(path: Path) -> bool:
    """Whether a file of the cache has its hash, which huggingface_hub compares the size of alone.

    The hash is the name of the blob that a snapshot links to: SHA-256, or git's SHA-1 of a small
    file. Where the system has no links there is none.
    """
    if not path.is_symlink():
        return True
    published = Path(os.readlink(path)).name
    if len(published) == 64:
        return files.sha256_file(path) == published
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == published


def _remote_file(published: Published, name: str) -> Any:
    """A file of the hub that is read in ranges: only what a parquet reader asks for is sent."""
    from huggingface_hub import HfFileSystem

    with _reached(published):
        system = HfFileSystem(endpoint=endpoint())
        address = f"datasets/{published.repository}@{published.revision}/{name}"
        return system.open(address, "rb")


@contextlib.contextmanager
def _reached(published: Published) -> Iterator[None]:
    """Around a request: refused at once without a network, and its failure said in a line."""
    if offline():
        raise UserError(
            f"HF_HUB_OFFLINE is set and {published.repository} was not fetched before; {ADVICE}"
        )
    require_hub()
    try:
        yield
    except Exception as error:  # of huggingface_hub, its HTTP client and the system alike
        raise UserError(
            f"hub {published} could not be read ({reason_of(error)}); {ADVICE}"
        ) from error


# ---- a folder for data.source: local


def copy_rows(paths: list[Path], published: Published, root: Path) -> None:
    """Copy the files of a split to where the local source looks for them below `root`."""
    is_chat = published is CHAT
    folder = Path("chat", published.repository.split("/")[1]) if is_chat else published.local_folder
    splits = {Path(name).name: split for split, name in published.files.items()}
    for path in paths:
        own = path.name not in splits
        target = root / folder / (path.name if own else splits[path.name] + path.suffix)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{path.name}.tmp")
            shutil.copyfile(path, temporary)
            temporary.replace(target)
        elif files.sha256_file(target) != files.sha256_file(path):
            raise _foreign(target)


def write_text(shards: list[Path], root: Path) -> None:
    """Write the text of shards, the first one first, as root/text/train-* and validation-*."""
    first = [(shards[0].name, shards[0])]
    validation = ParquetBlocks(first, "", 0, VALIDATION_DOCUMENTS)
    _write_blocks(validation, root / "text" / "validation-00000.parquet")
    for number, shard in enumerate(shards):
        training = ParquetBlocks([(shard.name, shard)], "", 0 if number else VALIDATION_DOCUMENTS)
        _write_blocks(training, root / "text" / f"train-{number:05d}.parquet")


def _write_blocks(blocks: ParquetBlocks, target: Path) -> None:
    import pyarrow.parquet

    made_of = {b"nanolab": f"{TEXT} {blocks.layout}".encode()}
    schema = pyarrow.schema([("text", pyarrow.string())], metadata=made_of)
    if target.exists():
        if not made_of.items() <= (pyarrow.parquet.read_schema(target).metadata or {}).items():
            raise _foreign(target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    number = 0
    with pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        while documents := blocks.block(number):
            writer.write_table(pyarrow.table([[document.text for document in documents]], schema))
            number += 1
    temporary.replace(target)


def _foreign(target: Path) -> UserError:
    return UserError(
        f"{target} is there but did not come from the hub: set data.root to another folder, or"
        " read this one with data.source: local"
    )
