"""What a source of data is, and its pretraining text in numbered blocks of documents, so that
processes can share the reading and the tokenising.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from nanolab.data.sources.published import CoreTask, Document
from nanolab.data.tasks.rows import MEND, DamagedData, checked_text, quoted
from nanolab.errors import UserError

BLOCK_DOCUMENTS = 512  # documents a block at most
LOOK_BYTES = 1 << 30  # of text that is looked through whole before any of it is used: some seconds
FORM = "a parquet file with one column text"


class Blocks(Protocol):
    """The documents of a split; `layout` changes when blocks are cut elsewhere."""

    layout: str

    def block(self, number: int) -> list[Document] | None:
        """The documents of block `number` (at least one), or None behind the last one."""

    def look_through(self) -> None:
        """Raise DamagedData for a text anywhere that is none, as far as that is quickly found.
        Generated text is looked at when it is made.
        """


class DataSource(Protocol):
    """Documents, tasks, chats and CORE rows from one place, in the schemas of the public sets.

    UserError for a task, subset or split that is not there.
    """

    exchangeable = False  # a task's rows come in no order: its first rows are a fair sample

    def blocks(self, split: str) -> Blocks:
        """Texts of "train" or "validation" in blocks; embedded training text is endless."""

    def documents(self, split: str) -> Iterator[Document]:
        """The same texts one by one.

        What can be found wrong quickly is refused here, and the first block is read at once, so
        that a missing file is said where it is asked for.
        """
        blocks = self.blocks(split)
        blocks.look_through()
        first = blocks.block(0)
        others = itertools.takewhile(bool, map(blocks.block, itertools.count(1)))
        return itertools.chain(first or (), itertools.chain.from_iterable(others))

    def task(self, name: str, split: str, subset: str | None = None) -> list[dict]:
        """Rows of a task; `subset` may only be the config that this lab reads."""

    def splits(self, what: str) -> tuple[str, ...]:
        """The splits of a task, "text", "chat" or "core" (which has "test"), as far as can be told
        without a network (HumanEval has no public training split).
        """

    def has(self, what: str, split: str) -> bool:
        return split in self.splits(what)

    def chats(self, split: str) -> list[dict]:
        """Conversations {messages: [{role, content}]} of "train" or "test"."""

    def core(self) -> list[CoreTask]:
        """The CORE-style tasks, those whose data is absent among them, without rows."""

    def identity(self) -> str:
        """A text that changes when the data changes; part of every fingerprint."""

    def describe(self, what: str) -> str:
        """Where `what` (a task, "text", "chat" or "core") comes from: "embedded", "local" or "hub
        owner/name@revision".
        """


class GeneratedBlocks(Blocks):
    """Blocks of documents that are generated in order; `start` begins anew."""

    kept = 32  # blocks remembered: processes take blocks in slightly different orders

    def __init__(self, start: Callable[[], Iterator[Document]]) -> None:
        self.layout = f"generated {BLOCK_DOCUMENTS}"
        self._start = start
        self._begin()

    def _begin(self) -> None:
        self._stream = self._start()
        self._next = 0
        self._recent: dict[int, list[Document]] = {}

    def block(self, number: int) -> list[Document] | None:
        if number < self._next and number not in self._recent:
            self._begin()
        while self._next <= number:
            documents = list(itertools.islice(self._stream, BLOCK_DOCUMENTS))
            for document in documents:
                checked_text(document.text, f"document {document.id}")
            self._recent[self._next] = documents
            self._recent.pop(self._next - self.kept, None)
            self._next += 1
        return self._recent[number] or None


class ParquetBlocks(Blocks):
    """Blocks of the column text of parquet files: slices of row groups. One file is open at a time.

    `places` are pairs of a name and a path, or a function that opens what lies elsewhere. The first
    `skip` documents are left out, and those from number `stop` on (counted over all files). `mend`
    is what a person can do about a damaged value.

    Of the files that are here, what their footers tell (another type, nulls) is refused when the
    first block is asked for; the rest when it is read, or by `look_through`.
    """

    def __init__(
        self,
        places: Sequence[tuple[str, Path | Callable[[], Any]]],
        layout: str,
        skip: int = 0,
        stop: int | None = None,
        mend: str = MEND,
    ) -> None:
        names = " ".join(name for name, _ in places)
        self.layout = f"{layout} {BLOCK_DOCUMENTS} {skip} {stop} {names}"
        self._places = list(places)
        self._skip, self._stop, self._mend = skip, stop, mend
        self._here = [i for i, (_, place) in enumerate(places) if isinstance(place, Path)]
        self._footers_read = False  # of all files that are here
        self._slices: list[tuple[int, int, range]] = []  # (file, row group, rows)
        self._indexed = 0  # files whose slices are known
        self._documents = 0  # in them
        self._open: tuple[int, Any] = (-1, None)  # the file opened last
        self._group: tuple[tuple[int, int], list[str]] = ((-1, -1), [])  # the row group read last

    def block(self, number: int) -> list[Document] | None:
        if not self._footers_read:
            for file in self._here:
                self._opened(file)
            self._footers_read = True
        while (
            number >= len(self._slices)
            and self._indexed < len(self._places)
            and (self._stop is None or self._documents < self._stop)
        ):
            self._index()
        if not self._documents:
            raise UserError(f"{self._where(0)} has no rows; put documents in its column text")
        if number >= len(self._slices):
            return None
        file, group, rows = self._slices[number]
        if self._group[0] != (file, group):
            self._group = (file, group), self._column(file, group).to_pylist()
        name = self._places[file][0]
        return [Document(f"{name}:{group}:{row}", self._group[1][row]) for row in rows]

    def look_through(self) -> None:
        """Look at every value of the files that are here, unless they hold more than LOOK_BYTES."""
        groups = []
        size = 0
        for file in self._here:
            for number, group in enumerate(_row_groups(self._opened(file).metadata)):
                groups.append((file, number))
                size += group.total_byte_size
        if size <= LOOK_BYTES:
            for file, number in groups:
                self._column(file, number)

    def _index(self) -> None:
        """Cut the next file's row groups into slices, from its footer alone."""
        file = self._indexed
        for group, facts in enumerate(_row_groups(self._opened(file).metadata)):
            rows = facts.num_rows
            first = min(rows, max(0, self._skip - self._documents))
            last = rows if self._stop is None else min(rows, max(0, self._stop - self._documents))
            for start in range(first, last, BLOCK_DOCUMENTS):
                part = range(start, min(last, start + BLOCK_DOCUMENTS))
                self._slices.append((file, group, part))
            self._documents += rows
        self._indexed += 1

    def _opened(self, file: int) -> Any:
        """The open file, whose footer tells of no other type than text and of no nulls."""
        from pyarrow.parquet import ParquetFile

        if self._open[0] == file:
            return self._open[1]
        place = self._places[file][1]
        here = isinstance(place, Path)
        opened = self._read(file, lambda: ParquetFile(place if here else place(), pre_buffer=True))
        if opened.schema_arrow.names.count("text") != 1:
            raise UserError(f"{self._where(file)} must be {FORM}")
        self._open = file, opened
        fits = is_text(opened.schema_arrow.field("text").type)
        for number, group in enumerate(_row_groups(opened.metadata)):
            if group.num_rows and not (fits and _has_no_nulls(group)):
                self._column(file, number)  # names the row
        return opened

    def _column(self, file: int, number: int) -> Any:
        """The column text of a row group; DamagedData naming the first value that is no text."""
        opened = self._opened(file)
        column = self._read(file, lambda: opened.read_row_group(number, columns=["text"]))["text"]
        if (fault := text_fault(column)) is not None:
            row, said = fault
            row += sum(group.num_rows for group in _row_groups(opened.metadata)[:number])
            raise DamagedData(f"{self._where(file)}, row {row + 1}: {said}; {self._mend}")
        return column

    def _where(self, file: int) -> str:
        name, place = self._places[file]
        return str(place) if isinstance(place, Path) else name

    def _read(self, file: int, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except UserError:
            raise
        except Exception as error:  # of pyarrow, the system, or the hub's client and its HTTP
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{self._where(file)} cannot be read: it must be {FORM} ({reason})"
            ) from error


def _has_no_nulls(group: Any) -> bool:
    """By the footer, which need not count them."""
    facts = _text_column(group)
    return not (facts.is_stats_set and facts.statistics.null_count)


def _row_groups(metadata: Any) -> list[Any]:
    return [metadata.row_group(number) for number in range(metadata.num_row_groups)]


def _text_column(group: Any) -> Any:
    columns = (group.column(place) for place in range(group.num_columns))
    return next(column for column in columns if column.path_in_schema == "text")


def text_bytes(path: Path) -> int:
    """UTF-8 bytes of a file's column text, by its footer: at least as many as its characters."""
    from pyarrow.parquet import read_metadata

    groups = _row_groups(read_metadata(path))
    return sum(_text_column(group).total_uncompressed_size for group in groups)


def is_text(kind: Any) -> bool:
    """Whether a pyarrow type is one of text, as it is or in a dictionary."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def text_fault(column: Any) -> tuple[int, str] | None:
    """The place of the first value of a column that is no text, and what is wrong."""
    import pyarrow

    if len(column) and not is_text(column.type):
        row = next((row for row, value in enumerate(column) if value.is_valid), 0)
        value = quoted(column[row].as_py())
        said = f"text = {value} is of type {column.type}, it must be text (a column of strings)"
        return row, said
    if column.null_count:
        return column.is_null().to_pylist().index(True), "text is null, it must be text"
    try:
        column.validate(full=True)
    except pyarrow.ArrowInvalid:
        return first_unreadable(column), "text is no valid UTF-8, it must be text"
    return None


def first_unreadable(column: Any) -> int | None:
    """The place in a pyarrow column of the first value that is no valid UTF-8, or None."""
    for row, value in enumerate(column):
        try:
            value.as_py()
        except UnicodeDecodeError:
            return row
    return None
