"""From documents and conversations to packed rows of tokens, numbered globally.

Step s of a training is rows [s B, (s + 1) B) whatever the number of processes. What a row holds
follows from its number. No token is thrown away: what is longer than a row goes on in another.
"""

import bisect
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from nanolab import seeds
from nanolab.data.sources.requirements import KINDS
from nanolab.data.sources.source import DataSource
from nanolab.data.tasks.catalogue import TASKS
from nanolab.data.tokens import chat
from nanolab.data.tokens.token_files import TokenBlocks
from nanolab.data.tokens.tokenizer import Tokenizer
from nanolab.errors import UserError

WAITING = 32  # conversations among which a row chooses: with fewer it fills worse
# (kind, task); chats are no task
CORPORA = [(kind, task) for kind, tasks in KINDS.items() for task in tasks or (None,)]


class Rows(Protocol):
    """Training rows, numbered from 0."""

    def rows(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets (count, T) int64 of rows first .. first + count - 1; target -1 carries
        no loss.
        """

    def state(self) -> dict[str, Any]:
        """The cursor: JSON-able, enough to go on without reading the earlier rows again."""

    def restore(self, state: dict[str, Any]) -> None:
        """Set the cursor to a saved state."""


class Conversation(NamedTuple):
    """A rendered conversation, or a piece of a long one (a row and its last target at most): its
    place in the data, its ids and its targets, -1 without loss.

    A later piece starts with the last id of the piece before, without loss.
    """

    kind: str
    index: int
    piece: int
    ids: list[int]
    targets: list[int]


class PackedText:
    """Documents, each after `<|bos|>`, one after another, cut into rows; passes over them repeat
    for ever. Reading in ascending order is cheap, going back starts over at the first block.
    """

    def __init__(self, tokens: TokenBlocks, sequence_length: int) -> None:
        self._tokens, self.length = tokens, sequence_length
        self._begin()

    def _begin(self) -> None:
        self._next_row = 0  # the row that starts at the cursor
        self._place = (0, 0)  # the cursor: a block, and a token in it
        self._block: tuple[int, np.ndarray] = (-1, np.empty(0))  # the block read last

    def rows(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Rows` says."""
        if first < self._next_row:
            self._begin()
        for _ in self._next((first - self._next_row) * self.length):
            pass
        pieces = list(self._next(count * self.length))
        end = self._place
        pieces += self._next(1)  # the last target: the first input of the next row
        self._place, self._next_row = end, first + count
        ids = torch.from_numpy(np.concatenate(pieces).astype(np.int64))
        return ids[:-1].view(count, self.length), ids[1:].view(count, self.length)

    def _next(self, count: int) -> Iterator[np.ndarray]:
        """The next `count` tokens in pieces; moves the cursor."""
        while count:
            number, place = self._place
            if self._block[0] != number:
                self._block = number, self._tokens.tokens(number)
            taken = self._block[1][place : place + count]
            count, place = count - len(taken), place + len(taken)
            if len(taken):
                self._place = (number, place) if place < len(self._block[1]) else (number + 1, 0)
                yield taken
            elif number == 0:
                raise UserError("the text source has no documents")
            else:  # the end of the documents: from the beginning again
                self._place = (0, 0)

    def state(self) -> dict[str, Any]:
        """The place reached, ready for JSON."""
        return {"row": self._next_row, "place": list(self._place), "layout": self._tokens.layout}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        self._begin()
        if state["layout"] == self._tokens.layout:  # else found by its number: it is cut elsewhere
            self._next_row, self._place = state["row"], tuple(state["place"])


class Mix(NamedTuple):
    """What a mixture's rows hold: conversations of each kind by `shares`, in every row in an order
    of its own where `shuffled`; `text_share` of the rows, spread evenly, are text.
    """

    shares: dict[str, float]
    shuffled: bool = False
    text_share: float = 0.0


class ChatMixture:
    """Conversations of several kinds, packed whole into rows as a `Mix` says.

    Conversation n takes its kind at address (seed, stage, "kind", n); each kind is gone through in
    an order of its own, pass after pass. A row starts with the conversation that has waited longest
    and takes the longest ones that still fit; the rest is padding without loss. So a row as packed
    starts with a short one far more often than their share, and a prompt is asked at the start of a
    row: `shuffled` orders a row's conversations by a draw at address (seed, stage, "order", row).
    """

    def __init__(
        self,
        conversations: dict[str, list[list[dict]]],
        mix: Mix,
        tokenizer: Tokenizer,
        sequence_length: int,
        address: tuple[int, str],
        text: PackedText | None = None,
    ) -> None:  # `address` is (seed, stage)
        shares = mix.shares
        self._kinds = [kind for kind, share in shares.items() if share > 0]
        for kind in self._kinds:
            if not conversations.get(kind):
                key = f"{address[1].partition('/')[0]}.share_{kind}"
                raise UserError(
                    f"{key} = {shares[kind]}, but the data has no {kind} to train on; set {key} "
                    "to 0"
                )
        assert (text is not None) == (mix.text_share > 0)
        total = sum(shares[kind] for kind in self._kinds)
        prefixes = [self._kinds[: i + 1] for i in range(len(self._kinds))]
        self._bounds = [sum(map(shares.get, kinds)) / total for kinds in prefixes]
        self._conversations, self._tokenizer = conversations, tokenizer
        self.length, self._address = sequence_length, address
        self._text, self._text_share, self._shuffled = text, mix.text_share, mix.shuffled
        self._orders: dict[str, tuple[int, list[int]]] = {}  # kind -> a pass and its order
        self._begin()

    def _begin(self) -> None:
        self._next_row = 0
        self._drawn = dict.fromkeys(self._kinds, 0)  # conversations of each kind drawn so far
        self._waiting: list[Conversation] = []

    def _order(self, purpose: str, number: int, count: int) -> list[int]:
        return seeds.generator(*self._address, purpose, number).permutation(count).tolist()

    def _draw(self) -> list[Conversation]:
        draw = seeds.uniform(*self._address, "kind", sum(self._drawn.values()))
        kind = self._kinds[bisect.bisect(self._bounds[:-1], draw)]
        count = len(self._conversations[kind])
        turn, place = divmod(self._drawn[kind], count)
        self._drawn[kind] += 1
        if self._orders.get(kind, (-1,))[0] != turn:
            self._orders[kind] = turn, self._order(kind, turn, count)
        return self._render(kind, self._orders[kind][1][place])

    def _render(self, kind: str, index: int) -> list[Conversation]:
        ids, mask = chat.render(self._tokenizer, self._conversations[kind][index])
        targets = [token if supervised else -1 for token, supervised in zip(ids, mask)]
        pieces = []
        for piece, start in enumerate(range(0, max(1, len(ids) - 1), self.length)):
            part = slice(start, start + self.length + 1)
            pieces.append(Conversation(kind, index, piece, ids[part], [-1, *targets[part][1:]]))
        return pieces

    def _pack(self) -> tuple[list[int], list[int]]:
        waiting = self._waiting
        while len(waiting) < WAITING:
            waiting += self._draw()
        chosen, best, room = [], 0, self.length + 1
        while best is not None:
            chosen.append(waiting.pop(best))
            room -= len(chosen[-1].ids)
            fitting = (i for i, one in enumerate(waiting) if len(one.ids) <= room)
            best = max(fitting, key=lambda i: len(waiting[i].ids), default=None)  # the first such
        if self._shuffled:
            order = self._order("order", self._next_row, len(chosen))
            chosen = [chosen[place] for place in order]
        ids = [token for one in chosen for token in one.ids] + [self._tokenizer.bos] * room
        targets = [token for one in chosen for token in one.targets] + [-1] * room
        return ids[:-1], targets[1:]

    def rows(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Rows` says."""
        if first < self._next_row:
            self._begin()
        inputs, targets = [], []
        while (row := self._next_row) < first + count:
            text_row = int(row * self._text_share)
            if self._text is not None and int((row + 1) * self._text_share) > text_row:
                if row >= first:
                    x, y = self._text.rows(text_row, 1)
                    inputs += x.tolist()
                    targets += y.tolist()
            else:
                x, y = self._pack()
                if row >= first:
                    inputs.append(x)
                    targets.append(y)
            self._next_row += 1
        return torch.tensor(inputs), torch.tensor(targets)

    def state(self) -> dict[str, Any]:
        """The place reached, ready for JSON."""
        return {
            "row": self._next_row,
            "drawn": dict(self._drawn),
            "waiting": [[c.kind, c.index, c.piece] for c in self._waiting],
            "text": self._text.state() if self._text is not None else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        self._next_row, self._drawn = state["row"], dict(state["drawn"])
        waiting = state["waiting"]
        self._waiting = [self._render(kind, index)[piece] for kind, index, piece in waiting]
        if self._text is not None:
            self._text.restore(state["text"])


def mixture_notes(source: DataSource, kinds: list[str]) -> list[str]:
    """One line for each task that a mixture does without, since the source lacks its rows."""
    notes = []
    for kind in (kind for kind in KINDS if kind in kinds):
        present = [task for task in KINDS[kind] if "train" in source.splits(task)]
        notes += [
            f"{kind}: {task} has no training split in the data ({source.describe(task)}), so they"
            f" come from {', '.join(present)}"
            for task in KINDS[kind]
            if present and task not in present
        ]
    return notes


def chat_conversations(
    source: DataSource, kinds: list[str], choice_form: str = "letter"
) -> tuple[dict[str, list[list[dict]]], dict[str, list[list[dict]]]]:
    """Conversations of each kind to train on, and others held out: the task's validation split
    where the source has one, and else the last fiftieth of its training rows.
    """
    training: dict[str, list[list[dict]]] = {kind: [] for kind in kinds}
    held_out: dict[str, list[list[dict]]] = {kind: [] for kind in kinds}
    for kind, task in CORPORA:
        if kind not in kinds:
            continue
        splits = source.splits(task) if task else ()
        if task is None:
            rows = source.chats("train")
        else:
            rows = source.task(task, "train") if "train" in splits else []
        if "validation" in splits:
            others = source.task(task, "validation")
        else:
            cut = len(rows) - max(min(1, len(rows) - 1), len(rows) // 50)
            rows, others = rows[:cut], rows[cut:]
            held = {repr(row) for row in others}  # a source may hold the same row twice
            rows = [row for row in rows if repr(row) not in held]
        for found, of in ((training, rows), (held_out, others)):
            found[kind] += [
                TASKS[task].messages(row, choice_form) if task else row["messages"] for row in of
            ]
    return training, held_out
