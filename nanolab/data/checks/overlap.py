"""How much of the benchmarks stands in the training text.

An item is contaminated at n when any run of n words of one of its fields stands in the training
text, letter case and punctuation aside. 13 words is the customary length (Brown et al. 2020,
"Language models are few-shot learners", appendix C), 8 a stricter one. Shorter items cannot be
found. A 64-bit hash finds candidates, and each is then compared word by word.
"""

import contextlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy

from nanolab.data.sources.source import CoreTask, DataSource, Document
from nanolab.data.tasks.catalogue import TASKS
from nanolab.data.tasks.rows import DamagedData
from nanolab.data.tokens.chat import parts_of
from nanolab.errors import UserError

SIZES = (8, 13)  # words
WORD = re.compile(r"\w+")
BATCH_WORDS = 1_000_000  # words of training text compared at once
FILTER_BITS = 24  # of a hash, for the table that most training n-grams are dismissed by
MULTIPLIER, MIX = numpy.uint64(0x9E3779B97F4A7C15), numpy.uint64(0xD6E8FEB86659FD93)  # odd


Found = dict[int, dict[int, str]]  # n -> n-gram number -> id of the first document that has it


class Corpus(NamedTuple):
    """A training corpus that was compared: what of it was read."""

    name: str
    documents: int
    characters: int
    cut: bool  # the budget ended before the corpus did


class Grams(NamedTuple):
    """The n-grams of one length."""

    hashes: numpy.ndarray  # (m,) uint64 in order
    first: numpy.ndarray  # (m,) a position of each
    of: numpy.ndarray  # (positions,) the number of the n-gram that starts there, or -1
    table: numpy.ndarray  # (2^FILTER_BITS,) bool: some hash starts with these bits


# ---- what is compared


def item_fields(task: str, row: dict[str, Any]) -> list[str]:
    """The texts of a chat task's row in which a run of words may be found: question, choices,
    solution.
    """
    form = TASKS[task].form
    if TASKS[task].kind != "choice":
        return [row[column] for column in form.columns[:2]]
    question = form.read(row)
    return [question.question, *question.choices]


def core_fields(task: CoreTask, row: dict[str, Any]) -> list[str]:
    """As `item_fields`: the question with its right answer, then the wrong ones."""
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
    """The fields of every test item by benchmark (a CORE task as core/NAME), and why others are
    missing.
    """
    found: dict[str, list[list[str]]] = {}
    missing: dict[str, str] = {}
    for task in tasks:
        with noted(missing, task):
            found[task] = [item_fields(task, row) for row in source.task(task, "test")]
    with noted(missing, "core"):
        for task in source.core():
            found[f"core/{task.name}"] = [core_fields(task, row) for row in task.rows]
    return found, missing


@contextlib.contextmanager
def noted(missing: dict[str, str], what: str) -> Iterator[None]:
    """Goes on without data that is absent, its reason in `missing`; not past damaged data."""
    try:
        yield
    except DamagedData:
        raise
    except UserError as error:
        missing[what] = str(error)


def training_corpora(
    source: DataSource, tasks: Sequence[str]
) -> dict[str, Callable[[], Iterable[Document]]]:
    """What opens each corpus: the text, the chats, and the training rows of the tasks in turn."""

    def chats() -> Iterator[Document]:
        for i, row in enumerate(source.chats("train")):
            parts = [part["text"] for message in row["messages"] for part in parts_of(message)]
            yield Document(f"chat/train/{i}", "\n".join(parts))

    def rows() -> Iterator[Document]:
        present = [task for task in tasks if "train" in source.splits(task)]
        trained = {task: source.task(task, "train") for task in present}
        for i, turn in enumerate(itertools.zip_longest(*trained.values())):
            for task, row in zip(trained, turn):
                if row is not None:
                    yield Document(f"{task}/train/{i}", "\n".join(item_fields(task, row)))

    return {"text": lambda: source.documents("train"), "chats": chats, "tasks": rows}


# ---- the comparison


class Index:
    """The n-grams of benchmarks (name -> items -> fields), and which of them texts hold."""

    def __init__(
        self, benchmarks: dict[str, list[list[str]]], sizes: Sequence[int] = SIZES
    ) -> None:
        self.sizes = sorted(sizes)
        counts = [len(items) for items in benchmarks.values()]
        self.starts = numpy.cumsum([0, *counts])
        # word -> number from 1 on; 0 is any other word, and parts fields
        self.words: dict[str, int] = {}
        number, ids, item_of = self.words, [], []
        for i, fields in enumerate(fields for items in benchmarks.values() for fields in items):
            before = len(ids)
            for field in fields:
                words = WORD.findall(field.lower())
                ids += [number.setdefault(word, len(number) + 1) for word in words]
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

    def scan(self, documents: Iterable[Document], characters: int) -> tuple[Found, int, int, bool]:
        """What of `documents` up to `characters` (the last one whole) is in the index; also the
        documents and characters read, and whether there were more.
        """
        found: Found = {n: {} for n in self.sizes}
        ids, names, ends = [], [], []  # of a batch: words, documents, and where each of them ends
        count = read = 0
        cut = False
        for document in documents:
            if cut := read >= characters:
                break
            ids += [self.words.get(word, 0) for word in WORD.findall(document.text.lower())] + [0]
            names.append(document.id)
            ends.append(len(ids))
            read += len(document.text)
            count += 1
            if len(ids) >= BATCH_WORDS:
                self._compare(ids, names, ends, found)
                ids, names, ends = [], [], []
        self._compare(ids, names, ends, found)
        return found, count, read, cut

    def _compare(self, ids: list[int], names: list[str], ends: list[int], found: Found) -> None:
        text = numpy.array(ids, dtype=numpy.uint32)
        for n, grams in self.grams.items():
            hashes, places = _hashes(text, n)
            likely = grams.table[hashes >> numpy.uint64(64 - FILTER_BITS)]
            hashes, places = hashes[likely], places[likely]
            if not len(grams.hashes) or not len(hashes):
                continue
            numbers = numpy.searchsorted(grams.hashes, hashes) % len(grams.hashes)
            same = grams.hashes[numbers] == hashes
            numbers, places = numbers[same], places[same]
            span = numpy.arange(n)
            own = self.ids[grams.first[numbers][:, None] + span]
            exact = (own == text[places[:, None] + span]).all(-1)
            owners = numpy.searchsorted(ends, places[exact], side="right")
            for number, owner in zip(numbers[exact].tolist(), owners.tolist()):
                found[n].setdefault(number, names[owner])

    def _items(self, marked: numpy.ndarray) -> list[int]:
        items = numpy.unique(self.item_of[marked])
        return numpy.diff(numpy.searchsorted(items, self.starts)).tolist()

    def hits(self, n: int, found: dict[int, str]) -> tuple[list[int], list[str]]:
        """By benchmark, the items that hold an n-gram of `found`, and an example of one ("" for
        none).
        """
        of = self.grams[n].of
        marked = numpy.zeros(len(self.grams[n].hashes) + 1, dtype=bool)  # the last: no n-gram
        marked[list(found)] = True
        places = numpy.flatnonzero(marked[of])
        text = {number: word for word, number in self.words.items()} if len(places) else {}
        examples = []
        for start, end in zip(self.starts, self.starts[1:]):
            own = places[(self.item_of[places] >= start) & (self.item_of[places] < end)]
            example = ""
            if len(own):
                place = own[0]
                words = " ".join(text[int(word)] for word in self.ids[place : place + n])
                example = f"item {self.item_of[place] - start} = {found[int(of[place])]}: {words}"
            examples.append(example)
        return self._items(marked[of]), examples


def _hashes(ids: numpy.ndarray, n: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The hashes (m,) uint64 of the runs of n words without a 0, and where they start (m,)."""
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
    """Rows by benchmark, the corpora compared, and why others are missing.

    A row has benchmark, items, long_N (items with a run of N words), CORPUS_N (items of which a run
    of N words stands in the corpus; None without the corpus), any_N (in any corpus) and example (of
    the longest run). `characters` limits what is read of each corpus.
    """
    tests, missing = benchmarks(source, tasks)
    index = Index(tests)
    rows = [{"benchmark": name, "items": len(items)} for name, items in tests.items()]
    for n in index.sizes:
        for row, count in zip(rows, index.long_enough(n)):
            row[f"long_{n}"] = count
    corpora: list[Corpus] = []
    anywhere: Found = {n: {} for n in index.sizes}
    for name, documents in training_corpora(source, tasks).items():
        hits = {n: [None] * len(rows) for n in index.sizes}
        with noted(missing, f"training {name}"):
            found, count, read, cut = index.scan(documents(), characters)
            corpora.append(Corpus(name, count, read, cut))
            hits = {n: index.hits(n, found[n])[0] for n in index.sizes}
            anywhere = {n: found[n] | anywhere[n] for n in index.sizes}
        for n, counts in hits.items():
            for row, items in zip(rows, counts):
                row[f"{name}_{n}"] = items
    for row in rows:
        row["example"] = ""
    for n in index.sizes:
        for row, hits, example in zip(rows, *index.hits(n, anywhere[n])):
            row[f"any_{n}"] = hits
            row["example"] = example or row["example"]  # sizes rise
    return rows, corpora, missing
