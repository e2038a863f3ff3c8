"""How much of the benchmarks stands in the training text: word n-grams that a test item shares with it, exactly.

An item is contaminated at n when any run of n words of one of its fields stands in the training text, letter case and punctuation
aside. 13 words is the customary length (Brown et al. 2020, "Language models are few-shot learners", appendix C), 8 a stricter one. An
item shorter than n words cannot be found, so the number of items that are long enough is counted too.

The n-grams of all benchmarks are indexed once; each training text is read once. A 64-bit hash finds candidates, and each is then compared
word by word, so that no count rests on a hash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy

from nanolab.data.sources import CoreTask, DataSource, Document
from nanolab.schema import UserError

SIZES = (8, 13)  # words
WORD = re.compile(r"\w+")
BATCH_WORDS = 1_000_000  # words of training text compared at once
FILTER_BITS = 24  # of a hash, for the table that most training n-grams are dismissed by
MULTIPLIER, MIX = numpy.uint64(0x9E3779B97F4A7C15), numpy.uint64(0xD6E8FEB86659FD93)  # odd


class Corpus(NamedTuple):
    """A training corpus that was compared: what of it was read."""

    name: str
    documents: int
    characters: int
    cut: bool  # the budget ended before the corpus did


class Grams(NamedTuple):
    """The n-grams of one length: `hashes` (m,) uint64 in order, `first` (m,) a position of each, `of` (positions,) its number or -1."""

    hashes: numpy.ndarray
    first: numpy.ndarray
    of: numpy.ndarray
    table: numpy.ndarray  # (2^FILTER_BITS,) bool: some hash starts with these bits


# ---- what is compared


def item_fields(task: str, row: dict[str, Any]) -> list[str]:
    """The texts of a chat task's row in which a run of words may be found: question, choices, solution."""
    if task == "gsm8k":
        return [row["question"], row["answer"]]
    if task == "humaneval":
        return [row["prompt"], row["canonical_solution"]]
    choices = row["choices"]["text"] if isinstance(row["choices"], dict) else row["choices"]
    return [row["question"], *choices]


def core_fields(task: CoreTask, row: dict[str, Any]) -> list[str]:
    """The texts of a CORE row: the question with its right answer, then the wrong ones."""
    join = task.continuation_delimiter
    if task.kind == "language_modeling":
        return [row["context"] + join + row["continuation"]]
    if task.kind == "schema":
        return [context + join + row["continuation"] for context in row["context_options"]]
    return [
        choice if i != row["gold"] else row["query"] + join + choice
        for i, choice in enumerate(row["choices"])
    ]


def benchmarks(
    source: DataSource, tasks: Sequence[str]
) -> tuple[dict[str, list[list[str]]], dict[str, str]]:
    """The fields of every test item by benchmark (a CORE task as core/NAME), and why each benchmark that is not at hand is missing."""
    found, missing = {}, {}
    for task in tasks:
        try:
            found[task] = [item_fields(task, row) for row in source.task(task, "test")]
        except UserError as error:
            missing[task] = str(error)
    try:
        found |= {
            f"core/{task.name}": [core_fields(task, row) for row in task.rows]
            for task in source.core()
        }
    except UserError as error:
        missing["core"] = str(error)
    return found, missing


def training_corpora(
    source: DataSource, tasks: Sequence[str]
) -> dict[str, Callable[[], Iterable[Document]]]:
    """What opens each corpus: the text, the chats, and the training rows of the tasks, a row of each task in turn."""

    def chats() -> Iterator[Document]:
        for i, row in enumerate(source.chats("train")):
            yield Document(
                f"chat/train/{i}", "\n".join(_said(message) for message in row["messages"])
            )

    def rows() -> Iterator[Document]:
        trained = {
            task: source.task(task, "train")
            for task in tasks
            if "train" in source.task_splits(task)
        }
        for i in range(max(map(len, trained.values()), default=0)):
            for task, own in trained.items():
                if i < len(own):
                    yield Document(f"{task}/train/{i}", "\n".join(item_fields(task, own[i])))

    return {"text": lambda: source.documents("train"), "chats": chats, "tasks": rows}


def _said(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


# ---- the comparison


class Index:
    """The n-grams of benchmarks (name -> items -> fields), and which of them training texts hold."""

    def __init__(
        self, benchmarks: dict[str, list[list[str]]], sizes: Sequence[int] = SIZES
    ) -> None:
        self.names, self.sizes = list(benchmarks), tuple(sorted(sizes))
        self.counts = [len(items) for items in benchmarks.values()]
        self.starts = numpy.concatenate([[0], numpy.cumsum(self.counts)]).astype(numpy.int64)
        self.words: dict[
            str, int
        ] = {}  # word -> number from 1 on; 0 is any other word, and parts fields
        number, ids, item_of = self.words, [], []
        for i, fields in enumerate(fields for items in benchmarks.values() for fields in items):
            before = len(ids)
            for field in fields:
                ids += [
                    number.setdefault(word, len(number) + 1) for word in WORD.findall(field.lower())
                ]
                ids.append(0)
            item_of += [i] * (len(ids) - before)
        self.ids = numpy.array(ids, dtype=numpy.uint32)
        self.item_of = numpy.array(item_of, dtype=numpy.int64)
        self.grams = {n: self._grams(n) for n in self.sizes}

    def _grams(self, n: int) -> Grams:
        found, places = _hashes(self.ids, n)
        hashes, first, numbers = numpy.unique(found, return_index=True, return_inverse=True)
        for k in range(n):
            assert (self.ids[places + k] == self.ids[places[first][numbers] + k]).all(), (
                f"two different runs of {n} words have one hash"
            )
        of = numpy.full(len(self.ids), -1, dtype=numpy.int64)
        of[places] = numbers
        table = numpy.zeros(1 << FILTER_BITS, dtype=bool)
        table[hashes >> numpy.uint64(64 - FILTER_BITS)] = True
        return Grams(hashes, places[first], of, table)

    def long_enough(self, n: int) -> list[int]:
        """Items with at least one run of n words, by benchmark."""
        return self._items(self.grams[n].of >= 0)

    def scan(
        self, documents: Iterable[Document], characters: int
    ) -> tuple[dict[int, dict[int, str]], int, int, bool]:
        """What of `documents` up to `characters` (the last one whole) is in the index: for each n, n-gram number -> first document's id.

        Also the documents and characters read, and whether there were more.
        """
        found: dict[int, dict[int, str]] = {n: {} for n in self.sizes}
        get, ids, names, ends, read, cut = self.words.get, [], [], [], 0, False
        count = 0
        for document in documents:
            if read >= characters:
                cut = True
                break
            ids += [get(word, 0) for word in WORD.findall(document.text.lower())]
            ids.append(0)
            names.append(document.id)
            ends.append(len(ids))
            read, count = read + len(document.text), count + 1
            if len(ids) >= BATCH_WORDS:
                self._compare(ids, names, ends, found)
                ids, names, ends = [], [], []
        self._compare(ids, names, ends, found)
        return found, count, read, cut

    def _compare(
        self, ids: list[int], names: list[str], ends: list[int], found: dict[int, dict[int, str]]
    ) -> None:
        text = numpy.array(ids, dtype=numpy.uint32)
        for n, grams in self.grams.items():
            hashes, places = _hashes(text, n)
            likely = grams.table[hashes >> numpy.uint64(64 - FILTER_BITS)]
            hashes, places = hashes[likely], places[likely]
            numbers = numpy.searchsorted(grams.hashes, hashes)
            numbers[numbers == len(grams.hashes)] = 0
            span = numpy.arange(n)
            if len(grams.hashes) and len(hashes):
                same = grams.hashes[numbers] == hashes
                numbers, places = numbers[same], places[same]
                exact = (
                    self.ids[grams.first[numbers][:, None] + span] == text[places[:, None] + span]
                ).all(-1)
                owners = numpy.searchsorted(ends, places[exact], side="right")
                for number, owner in zip(numbers[exact].tolist(), owners.tolist()):
                    found[n].setdefault(number, names[owner])

    def _items(self, marked: numpy.ndarray) -> list[int]:
        """Items that have a marked position, by benchmark."""
        items = numpy.unique(self.item_of[marked])
        return numpy.diff(numpy.searchsorted(items, self.starts)).tolist()

    def hits(self, n: int, found: dict[int, str]) -> tuple[list[int], list[str]]:
        """By benchmark, the items that hold an n-gram of `found`, and an example of one: "item 3 = document: the words" ("" for none)."""
        of = self.grams[n].of
        marked = numpy.zeros(
            len(self.grams[n].hashes) + 1, dtype=bool
        )  # the last: positions without an n-gram
        marked[list(found)] = True
        places = numpy.flatnonzero(marked[of])
        text = {number: word for word, number in self.words.items()} if len(places) else {}
        examples = []
        for start, end in zip(self.starts, self.starts[1:]):
            own = places[(self.item_of[places] >= start) & (self.item_of[places] < end)]
            examples.append(
                ""
                if not len(own)
                else f"item {self.item_of[own[0]] - start} = {found[int(of[own[0]])]}: "
                + " ".join(text[int(word)] for word in self.ids[own[0] : own[0] + n])
            )
        return self._items(marked[of]), examples


def _hashes(ids: numpy.ndarray, n: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The hashes (m,) uint64 of the runs of n words without a 0, and where they start (m,) int64."""
    count = len(ids) - n + 1
    if count <= 0:
        return numpy.empty(0, numpy.uint64), numpy.empty(0, numpy.int64)
    zeros = numpy.concatenate([[0], numpy.cumsum(ids == 0)])
    places = numpy.flatnonzero(zeros[n:] == zeros[:count])
    mixed = ids.astype(numpy.uint64) * MIX
    mixed ^= mixed >> numpy.uint64(29)
    hashes = mixed[places]
    for k in range(1, n):
        hashes = hashes * MULTIPLIER + mixed[places + k]
        hashes ^= hashes >> numpy.uint64(32)
    return hashes * MIX, places


def overlap(
    source: DataSource, tasks: Sequence[str], characters: int
) -> tuple[list[dict[str, Any]], list[Corpus], dict[str, str]]:
    """Rows by benchmark, the corpora compared, and the benchmarks and corpora that are not at hand with the reason.

    A row has benchmark, items, long_N (items with a run of N words), CORPUS_N (items of which a run of N words stands in the corpus;
    None without the corpus), any_N (in any corpus) and example (of the longest run). `characters` limits what is read of each corpus.
    """
    tests, missing = benchmarks(source, tasks)
    index = Index(tests)
    rows = [{"benchmark": name, "items": count} for name, count in zip(index.names, index.counts)]
    for n in index.sizes:
        for row, count in zip(rows, index.long_enough(n)):
            row[f"long_{n}"] = count
    corpora: list[Corpus] = []
    anywhere: dict[int, dict[int, str]] = {n: {} for n in index.sizes}
    for name, documents in training_corpora(source, tasks).items():
        try:
            found, count, read, cut = index.scan(documents(), characters)
        except UserError as error:
            missing[f"training {name}"] = str(error)
            for row in rows:
                row.update({f"{name}_{n}": None for n in index.sizes})
            continue
        corpora.append(Corpus(name, count, read, cut))
        for n in index.sizes:
            for row, hits in zip(rows, index.hits(n, found[n])[0]):
                row[f"{name}_{n}"] = hits
            anywhere[n] = found[n] | anywhere[n]
    for row in rows:
        row["example"] = ""
    for n in index.sizes:
        for row, hits, example in zip(rows, *index.hits(n, anywhere[n])):
            row[f"any_{n}"] = hits
            row["example"] = example or row["example"]  # sizes rise
    return rows, corpora, missing
