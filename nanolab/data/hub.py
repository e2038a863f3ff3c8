"""The published sets at pinned revisions: brought into a folder when first asked for, in the layout of the local source.

FETCHED.json in that folder names every file that came from the hub, with repository, revision, size and hash: only those are taken
for the published sets. A folder that was filled ahead (data/fetch.py) needs no network afterwards, neither as `hub` nor as `local`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nanolab import files
from nanolab.data.blocks import Blocks, ParquetBlocks, documents_of
from nanolab.data.bundle import ADDRESS, fetch_bundle
from nanolab.data.download import HubFile, RemoteFile, download, list_files
from nanolab.data.local import folder_digest, read_core, read_parquet
from nanolab.data.published import (
    CHAT,
    SCHEMAS,
    TASK_SPLITS,
    TASKS,
    TEXT,
    CoreTask,
    Document,
    Published,
    checked,
    published_task,
    split_name,
)
from nanolab.schema import UserError

VALIDATION_DOCUMENTS = 1000  # the first documents of the text, never trained on
MARKER = "FETCHED.json"


class HubSource:
    """The published sets, kept in `root`; text shards that were not fetched are streamed."""

    exchangeable = False  # the public sets are ordered

    def __init__(self, root: Path) -> None:
        self.root = root

    def blocks(self, split: str) -> Blocks:
        """The text: the first thousand documents are validation, the rest train."""
        if split not in ("train", "validation"):
            raise UserError(f"the hub text has train and validation, not {split!r}")
        fetched = self._fetched(f"text/{split}")
        if fetched and split == "validation":
            return ParquetBlocks(
                [(path.name, lambda path=path: path) for path in fetched], "fetched"
            )
        if fetched:
            return self._mixed_blocks({path.name: path for path in fetched})
        shards = [(file.path, lambda file=file: RemoteFile(file)) for file in text_shards()]
        limits: dict[str, int] = (
            {"stop": VALIDATION_DOCUMENTS}
            if split == "validation"
            else {"skip": VALIDATION_DOCUMENTS}
        )
        return ParquetBlocks(shards, "streamed", **limits)

    def _mixed_blocks(self, here: dict[str, Path]) -> Blocks:
        """All the training text in the published order: shards that are here from their files, the others streamed once reached."""
        total = int(next(iter(here))[: -len(".parquet")].rpartition("-of-")[2])

        def remote(number: int) -> RemoteFile:
            try:
                return RemoteFile(text_shards()[number])
            except UserError as error:
                raise UserError(
                    f"{len(here)} of {total} shards of the training text are here and the run needs shard {number + 1}: "
                    f"{error}, or bring more with data fetch where there is a network"
                ) from error

        shards: list[tuple[str, Callable[[], Any]]] = []
        for number in range(total):
            name = f"train-{number:05d}-of-{total:05d}.parquet"
            shards.append(
                (name, lambda path=here[name]: path)
                if name in here
                else (f"streamed {name}", lambda number=number: remote(number))
            )
        first_is_divided = f"train-{0:05d}-of-{total:05d}.parquet" in here
        return ParquetBlocks(shards, "fetched", 0 if first_is_divided else VALIDATION_DOCUMENTS)

    def documents(self, split: str) -> Iterator[Document]:
        """One pass over the text of a split."""
        return documents_of(self.blocks(split))

    def task(self, name: str, split: str, subset: str | None = None) -> list[dict]:
        """Rows of the public set."""
        published = published_task(name, subset)
        if split not in TASK_SPLITS[name]:
            raise UserError(
                f"hub {published.repository} has no split {split!r}; it has {', '.join(TASK_SPLITS[name])}"
            )
        return checked(
            self._rows(published, split_name(name, split)),
            SCHEMAS[name],
            f"hub {published.repository}",
        )

    def task_splits(self, name: str) -> tuple[str, ...]:
        """The splits of the public set."""
        published_task(name)
        return TASK_SPLITS[name]

    def has(self, what: str, split: str) -> bool:
        """Whether the published sets have a split; says nothing of the network."""
        known = {"text": ("train", "validation"), "chat": ("train", "test"), "core": (split,)}
        return split in (known.get(what) or self.task_splits(what))

    def chats(self, split: str) -> list[dict]:
        """Conversations of train or test."""
        if split not in ("train", "test"):
            raise UserError(f"hub {CHAT.repository} has no split {split!r}; it has train, test")
        return [{"messages": row["messages"]} for row in self._rows(CHAT, split, ["messages"])]

    def core(self) -> list[CoreTask]:
        """The CORE bundle, brought into root/core when it is not there."""
        self.fetch_core()
        return read_core(self.root / "core")

    def identity(self) -> str:
        """The pinned revisions, and a CORE folder of the person's own. The same before and after the data is here."""
        core = self.root / "core"
        own = (
            folder_digest(core)
            if (core / "tasks.json").is_file() and not (core / "BUNDLE.json").is_file()
            else ADDRESS
        )
        return f"hub core={own} " + " ".join(
            f"{p.repository}@{p.revision[:12]}" for p in (TEXT, CHAT, *TASKS.values())
        )

    def describe(self, what: str) -> str:
        """Repository and revision; the bundle, or "local", for CORE."""
        if what == "core":
            return f"hub {ADDRESS}" if (self.root / "core" / "BUNDLE.json").is_file() else "local"
        published = {"text": TEXT, "chat": CHAT}.get(what) or published_task(what)
        return f"hub {published.repository}@{published.revision[:12]}"

    # ---- bringing files

    def fetch(self, published: Published, split: str) -> list[Path]:
        """The files of a split, downloaded where they are not here; UserError of one line when they cannot be had."""
        group = f"{published.repository}/{published.folder}/{split}"
        folder = (
            self.root
            / ("chat" if published is CHAT else "")
            / published.repository
            / (published.config or "")
        )
        if published is CHAT:
            folder = self.root / "chat" / published.repository.split("/")[1]
        if found := self._fetched(group):
            return found
        with files.file_lock(self.root / ".lock"):  # one process brings it, the others find it
            if found := self._fetched(group):
                return found
            listed = list_files(published.repository, published.revision, published.folder)
            parts = [
                file
                for file in listed
                if re.fullmatch(
                    rf"{re.escape(split)}(-\d+-of-\d+)?\.parquet", file.path.rpartition("/")[2]
                )
            ]
            if not parts:
                have = ", ".join(file.path for file in listed) or "no file there"
                raise UserError(
                    f"hub {published.repository}@{published.revision[:12]} has no file {published.folder}/{split}-*.parquet; "
                    f"it has {have}"
                )
            for number, file in enumerate(parts):
                name = (
                    f"{split}.parquet"
                    if len(parts) == 1
                    else f"{split}-{number:05d}-of-{len(parts):05d}.parquet"
                )
                self._bring(file, folder / name, group, published, len(parts))
        return self._fetched(group)

    def fetch_text(self, characters: int) -> list[Path]:
        """Whole shards of the training text, from the first, until they hold `characters` characters; the first gives the validation too.

        Raises UserError when the hub cannot be read. Shards that are here are not brought again.
        """
        with files.file_lock(self.root / ".lock"):
            fetched, have = self._fetched("text/train"), self._text_bytes()
            number = len(fetched)
            if have >= characters or (
                fetched and fetched[-1].stem.endswith(f"-of-{number:05d}")
            ):  # enough, or all there are
                return fetched
            shards = text_shards()
            while have < characters and number < len(shards):
                target = self.root / "text" / f"train-{number:05d}-of-{len(shards):05d}.parquet"
                if number == 0:
                    self._divide_first(shards[0], target)
                else:
                    self._bring(shards[number], target, "text/train", TEXT, 0)
                have, number = self._text_bytes(), number + 1
        return self._fetched("text/train")

    def fetch_core(self) -> None:
        """The CORE bundle in root/core."""
        if not (self.root / "core" / "tasks.json").is_file():
            with files.file_lock(self.root / ".lock"):
                if not (self.root / "core" / "tasks.json").is_file():
                    fetch_bundle(self.root / "core")

    def _divide_first(self, shard: HubFile, target: Path) -> None:
        """Bring the first shard and write its text as the validation file and the first training file."""
        import pyarrow.parquet

        whole, validation = (
            target.with_name(".first-shard.parquet"),
            target.with_name("validation-00000-of-00001.parquet"),
        )
        if not whole.exists():  # else an earlier attempt was killed while it wrote the two
            self._refuse_foreign(target, validation)
            download(shard, whole)
        names = {
            target: ("train", VALIDATION_DOCUMENTS, None),
            validation: ("validation", 0, VALIDATION_DOCUMENTS),
        }
        for path, (_, skip, stop) in names.items():
            temporary, number = path.with_name(f".{path.name}.tmp"), 0
            blocks = ParquetBlocks([(whole.name, lambda: whole)], "first", skip, stop)
            with pyarrow.parquet.ParquetWriter(
                temporary, pyarrow.schema([("text", pyarrow.string())]), compression="zstd"
            ) as writer:
                while (documents := blocks.block(number)) is not None:
                    writer.write_table(
                        pyarrow.table({"text": [document.text for document in documents]})
                    )
                    number += 1
            temporary.replace(path)
        for path, (split, _, _) in names.items():
            self._mark(path, f"text/{split}", TEXT, shard, files.sha256_file(path))
        whole.unlink()

    def _rows(
        self, published: Published, split: str, columns: list[str] | None = None
    ) -> list[dict]:
        return [row for path in self.fetch(published, split) for row in read_parquet(path, columns)]

    def _text_bytes(self) -> int:
        """UTF-8 bytes of the training text that is here, by the files' own footers: at least as many as its characters."""
        import pyarrow.parquet

        total = 0
        for path in self._fetched("text/train"):
            data = pyarrow.parquet.ParquetFile(path)
            column = data.schema_arrow.names.index("text")
            total += sum(
                data.metadata.row_group(group).column(column).total_uncompressed_size
                for group in range(data.num_row_groups)
            )
        return total

    def _bring(
        self, file: HubFile, target: Path, group: str, published: Published, parts: int
    ) -> None:
        if not (
            target.is_file() and file.sha256 and files.sha256_file(target) == file.sha256
        ):  # else brought before
            self._refuse_foreign(target)
            download(file, target)
        self._mark(target, group, published, file, file.sha256 or files.sha256_file(target), parts)

    def _refuse_foreign(self, *targets: Path) -> None:
        marker = files.read_json(self.root / MARKER) if (self.root / MARKER).is_file() else {}
        for target in targets:
            if target.exists() and str(target.relative_to(self.root)) not in marker:
                raise UserError(
                    f"{target} is there but did not come from the hub ({MARKER} does not name it): set data.root to another "
                    "folder, or read this one with data.source: local"
                )

    def _mark(
        self,
        path: Path,
        group: str,
        published: Published,
        file: HubFile,
        sha256: str,
        parts: int = 0,
    ) -> None:
        facts = {
            "group": group,
            "parts": parts,
            "repository": published.repository,
            "revision": published.revision,
            "file": file.path,
            "bytes": path.stat().st_size,
            "sha256": sha256,
        }
        marker = files.read_json(self.root / MARKER) if (self.root / MARKER).is_file() else {}
        files.write_json(self.root / MARKER, marker | {str(path.relative_to(self.root)): facts})

    def _marker(self) -> dict[str, dict[str, Any]]:
        """The files of the pinned revisions that are here in full size."""
        if not (self.root / MARKER).is_file():
            return {}
        pinned = {p.repository: p.revision for p in (TEXT, CHAT, *TASKS.values())}
        return {
            name: facts
            for name, facts in files.read_json(self.root / MARKER).items()
            if pinned.get(facts["repository"]) == facts["revision"]
            and (self.root / name).is_file()
            and (self.root / name).stat().st_size == facts["bytes"]
        }

    def _fetched(self, group: str) -> list[Path]:
        """The files of a group in order, if all are here."""
        found = {
            name: facts for name, facts in sorted(self._marker().items()) if facts["group"] == group
        }
        return (
            [self.root / name for name in found]
            if all(len(found) >= facts["parts"] for facts in found.values())
            else []
        )


def text_shards() -> list[HubFile]:
    """The shards of the published text in order."""
    return [
        file
        for file in list_files(TEXT.repository, TEXT.revision, TEXT.folder)
        if file.path.endswith(".parquet")
    ]
