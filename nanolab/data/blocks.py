"""Pretraining text in numbered blocks of documents, so that processes can share the reading and the tokenising."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

from nanolab.data.published import Document
from nanolab.schema import UserError

BLOCK_DOCUMENTS = 512  # documents a block at most


class Blocks(Protocol):
    """The documents of a split, block after block; `layout` changes when blocks are cut elsewhere."""

    layout: str

    def block(self, number: int) -> list[Document] | None:
        """The documents of block `number` (at least one), or None behind the last one."""


def documents_of(blocks: Blocks) -> Iterator[Document]:
    """Every document in order; the first block is read at once, so that a missing file is said where it is asked for."""

    def rest(documents: list[Document] | None) -> Iterator[Document]:
        number = 0
        while documents is not None:
            yield from documents
            number += 1
            documents = blocks.block(number)

    return rest(blocks.block(0))


class GeneratedBlocks:
    """Blocks of documents that are generated in order; `start` begins anew."""

    kept = 32  # blocks remembered: processes take blocks in slightly different orders

    def __init__(self, start: Callable[[], Iterator[Document]]) -> None:
        self.layout = f"generated {BLOCK_DOCUMENTS}"
        self._start = start
        self._begin()

    def _begin(self) -> None:
        self._stream, self._next = self._start(), 0
        self._recent: dict[int, list[Document]] = {}

    def block(self, number: int) -> list[Document] | None:
        """Block `number`; one that is no longer remembered is generated again from the beginning."""
        if number < self._next and number not in self._recent:
            self._begin()
        while self._next <= number:
            self._recent[self._next] = list(islice(self._stream, BLOCK_DOCUMENTS))
            self._recent.pop(self._next - self.kept, None)
            self._next += 1
        return self._recent[number] or None


class ParquetBlocks:
    """Blocks of the column text of parquet files: each row group in slices. Only the files up to a block are opened, one at a time.

    `open_files` are pairs (name, function that gives a path or a file object); the first `skip` documents are left out, and
    documents from number `stop` on (both counted over all files). Raises UserError for what is no parquet file with a column text.
    """

    def __init__(
        self,
        open_files: Sequence[tuple[str, Callable[[], Any]]],
        layout: str,
        skip: int = 0,
        stop: int | None = None,
    ) -> None:
        self.layout = f"{layout} {BLOCK_DOCUMENTS} {skip} {stop} " + " ".join(
            name for name, _ in open_files
        )
        self._files, self._skip, self._stop = list(open_files), skip, stop
        self._slices: list[
            tuple[int, int, int, int]
        ] = []  # (file, row group, first row, row behind the last)
        self._indexed, self._documents = 0, 0  # files indexed, and the documents in them
        self._open: tuple[int, Any] = (-1, None)  # the file opened last
        self._group: tuple[tuple[int, int], list[str]] = ((-1, -1), [])  # the row group read last

    def block(self, number: int) -> list[Document] | None:
        """Block `number`: a slice of one row group."""
        while (
            number >= len(self._slices)
            and self._indexed < len(self._files)
            and (self._stop is None or self._documents < self._stop)
        ):
            self._index()
        if number >= len(self._slices):
            return None
        file, group, first, last = self._slices[number]
        if self._group[0] != (file, group):
            table = self._read(
                file, lambda: self._opened(file).read_row_group(group, columns=["text"])
            )
            self._group = (file, group), table["text"].to_pylist()
        name = self._files[file][0]
        return [
            Document(f"{name}:{group}:{row}", self._group[1][row]) for row in range(first, last)
        ]

    def _index(self) -> None:
        """Cut the next file's row groups into slices, from its footer alone."""
        file = self._indexed
        opened = self._read(file, lambda: self._opened(file))
        if "text" not in opened.schema_arrow.names:
            raise UserError(f"{self._files[file][0]} must be a parquet file with a column text")
        for group in range(opened.num_row_groups):
            rows = opened.metadata.row_group(group).num_rows
            first = min(rows, max(0, self._skip - self._documents))
            last = rows if self._stop is None else min(rows, max(0, self._stop - self._documents))
            self._slices += [
                (file, group, start, min(last, start + BLOCK_DOCUMENTS))
                for start in range(first, last, BLOCK_DOCUMENTS)
            ]
            self._documents += rows
        self._indexed += 1

    def _opened(self, file: int) -> Any:
        import pyarrow.parquet

        if self._open[0] != file:
            self._open = file, pyarrow.parquet.ParquetFile(self._files[file][1](), pre_buffer=True)
        return self._open[1]

    def _read(self, file: int, read: Callable[[], Any]) -> Any:
        import pyarrow

        try:
            return read()
        except (pyarrow.ArrowException, OSError, KeyError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{self._files[file][0]} cannot be read: it must be a parquet file with a column text ({reason})"
            ) from error
