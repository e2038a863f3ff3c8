"""From documents and conversations to packed rows of tokens, numbered globally.

Step s of a training is rows [s B, (s + 1) B) whatever the number of processes; each takes its slice. What a row holds follows from
its number: rows are made in order, and a saved cursor goes on where it stood. No token is thrown away: what is longer than a row goes on in
another.
"""

from __future__ import annotations

import bisect
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from nanolab import seeds
from nanolab.data import chat
from nanolab.data.requirements import KINDS
from nanolab.data.sources import DataSource
from nanolab.data.tokenizer import Tokenizer
from nanolab.data.tokens import TokenBlocks
from nanolab.schema import UserError

WAITING = 32  # conversations among which a row chooses: with fewer it fills worse
CORPORA = [
    (kind, task) for kind, tasks in KINDS.items() for task in tasks or (None,)
]  # (kind, task); chats are no task


class Rows(Protocol):
    """Training rows, numbered from 0."""

    def rows(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets (count, T) int64 of rows first .. first + count - 1; target -1 carries no loss."""

    def state(self) -> dict[str, Any]:
        """The cursor: JSON-able, enough to go on without reading the earlier rows again."""

    def restore(self, state: dict[str, Any]) -> None:
        """Set the cursor to a saved state."""


class Conversation(NamedTuple):
    """A rendered conversation, or a piece of a long one: its place in the data, its ids and its targets (-1 without loss).

    Both are at most a row and its last target long. A later piece starts with the last id of the piece before, without loss.
    """

    kind: str
    index: int
    piece: int
    ids: list[int]
    targets: list[int]


class PackedText:
    """Documents, each after `<|bos|>`, one after another, cut into rows: a row starts at a document or at its continuation.

    No token is left out, and passes over the documents repeat for ever. Reading in ascending order is cheap; going back before the
    cursor starts over at the first block.
    """

    def __init__(self, tokens: TokenBlocks, sequence_length: int) -> None:
        self._tokens, self.length = tokens, sequence_length
        self._begin()

    def _begin(self) -> None:
        self._next_row = 0  # the row that starts at the cursor
        self._place = (0, 0)  # the cursor: a block, and a token in it
        self._block: tuple[int, np.ndarray] = (-1, np.empty(0))  # the block read last

    def rows(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows first .. first + count - 1: inputs and targets, each (count, length) int64."""
        if first < self._next_row:
            self._begin()
        _, self._place = self._walk((first - self._next_row) * self.length, keep=False)
        pieces, end = self._walk(count * self.length, keep=True)
        (last, *_), _ = self._walk(
            1, keep=True, start=end
        )  # the target of the last token; the first input of the next row
        self._place, self._next_row = end, first + count
        ids = torch.from_numpy(np.concatenate([*pieces, last]).astype(np.int64))
        return ids[:-1].view(count, self.length), ids[1:].view(count, self.length)

    def _walk(
        self, count: int, keep: bool, start: tuple[int, int] | None = None
    ) -> tuple[list[np.ndarray], tuple[int, int]]:
        """The next `count` tokens from the cursor (or `start`), in pieces where they are to be kept, and the place behind them."""
        number, place = self._place if start is None else start
        pieces = []
        while count:
            if self._block[0] != number:
                self._block = number, self._tokens.tokens(number)
            block = self._block[1]
            if not len(block):  # the end of the documents: from the beginning again
                if number == 0:
                    raise UserError("the text source has no documents")
                number, place = 0, 0
                continue
            taken = min(count, len(block) - place)
            if keep:
                pieces.append(block[place : place + taken])
            count, place = count - taken, place + taken
            if place == len(block):
                number, place = number + 1, 0
        return pieces, (number, place)

    def state(self) -> dict[str, Any]:
        """The place reached, ready for JSON."""
        return {"row": self._next_row, "place": list(self._place), "layout": self._tokens.layout}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        self._begin()
        if state["layout"] == self._tokens.layout:
            self._next_row, self._place = (
                state["row"],
                tuple(state["place"]),
            )  # else found by its number: the text is cut elsewhere


class ChatMixture:
    """Conversations of several kinds by their shares, packed whole into rows; `text_share` of the rows, spread evenly, are text.

    Conversation n takes its kind at address (seed, stage, "kind", n); each kind is gone through in an order of its own, pass after pass.
    A row starts with the conversation that has waited longest and takes the longest waiting ones that still fit; the rest of the row is
    padding without loss. A conversation longer than a row goes on in another. Every process packs all rows, so they do not depend on the
    world.

    Short conversations fit last and so wait longest: a row as packed starts with a short one far more often than their share, and a prompt
    is asked at the start of a row. `shuffled` puts the conversations of a row in an order drawn at address (seed, stage, "order", row).
    """

    def __init__(
        self,
        conversations: dict[str, list[list[dict]]],
        shares: dict[str, float],
        tokenizer: Tokenizer,
        sequence_length: int,
        seed: int,
        stage: str,
        text: PackedText | None = None,
        text_share: float = 0.0,
        shuffled: bool = False,
    ) -> None:
        self._kinds = [kind for kind, share in shares.items() if share > 0]
        for kind in self._kinds:
            if not conversations.get(kind):
                raise UserError(
                    f"share_{kind} = {shares[kind]}, but the data has no {kind} to train on; set share_{kind} to 0"
                )
        assert (text is not None) == (text_share > 0)
        total = sum(shares[kind] for kind in self._kinds)
        self._bounds = [
            sum(shares[kind] for kind in self._kinds[: i + 1]) / total
            for i in range(len(self._kinds))
        ]
        self._conversations, self._tokenizer, self.length = (
            conversations,
            tokenizer,
            sequence_length,
        )
        self._seed, self._stage, self._text, self._text_share = seed, stage, text, text_share
        self._shuffled = shuffled
        self._orders: dict[
            tuple[str, int], list[int]
        ] = {}  # (kind, pass) -> the order of that pass
        self._begin()

    def _begin(self) -> None:
        self._next_row = 0
        self._drawn = dict.fromkeys(self._kinds, 0)  # conversations of each kind drawn so far
        self._waiting: list[Conversation] = []

    def _draw(self) -> list[Conversation]:
        """The next conversation, in one piece or several."""
        number = sum(self._drawn.values())
        kind = self._kinds[
            bisect.bisect(self._bounds[:-1], seeds.uniform(self._seed, self._stage, "kind", number))
        ]
        turn, place = divmod(self._drawn[kind], len(self._conversations[kind]))
        self._drawn[kind] += 1
        if (kind, turn) not in self._orders:
            order = seeds.generator(self._seed, self._stage, kind, turn).permutation(
                len(self._conversations[kind])
            )
            self._orders = {key: value for key, value in self._orders.items() if key[0] != kind} | {
                (kind, turn): order.tolist()
            }
        return self._render(kind, self._orders[kind, turn][place])

    def _render(self, kind: str, index: int) -> list[Conversation]:
        ids, mask = chat.render(self._tokenizer, self._conversations[kind][index])
        targets = [token if supervised else -1 for token, supervised in zip(ids, mask)]
        pieces = []
        for piece, start in enumerate(range(0, max(1, len(ids) - 1), self.length)):
            part = slice(start, start + self.length + 1)
            pieces.append(Conversation(kind, index, piece, ids[part], [-1, *targets[part][1:]]))
        return pieces

    def _pack(self) -> tuple[list[int], list[int]]:
        """Inputs and targets of the next row of conversations."""
        while len(self._waiting) < WAITING:
            self._waiting += self._draw()
        chosen, room = [self._waiting.pop(0)], self.length + 1
        room -= len(chosen[0].ids)
        while fitting := [
            i for i, conversation in enumerate(self._waiting) if len(conversation.ids) <= room
        ]:
            best = max(fitting, key=lambda i: (len(self._waiting[i].ids), -i))
            room -= len(self._waiting[best].ids)
            chosen.append(self._waiting.pop(best))
        if self._shuffled:
            order = seeds.generator(self._seed, self._stage, "order", self._next_row).permutation(
                len(chosen)
            )
            chosen = [chosen[place] for place in order]
        ids = [token for conversation in chosen for token in conversation.ids] + [
            self._tokenizer.bos
        ] * room
        targets = [token for conversation in chosen for token in conversation.targets] + [-1] * room
        return ids[:-1], targets[1:]

    def _text_rows_before(self, row: int) -> int:
        return int(row * self._text_share)

    def rows(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows first .. first + count - 1: inputs and targets, each (count, length) int64; target -1 carries no loss."""
        if first < self._next_row:
            self._begin()
        inputs, targets = [], []
        while self._next_row < first + count:
            row, text_row = self._next_row, self._text_rows_before(self._next_row)
            if self._text is not None and self._text_rows_before(row + 1) > text_row:
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
        self._waiting = [
            self._render(kind, index)[piece] for kind, index, piece in state["waiting"]
        ]
        if self._text is not None:
            self._text.restore(state["text"])


def mixture_notes(source: DataSource, kinds: list[str]) -> list[str]:
    """One line for each task that a mixture does without, because the source has no training rows of it."""
    notes = []
    for kind, tasks in ((kind, tasks) for kind, tasks in KINDS.items() if kind in kinds):
        present = [task for task in tasks if "train" in source.task_splits(task)]
        notes += [
            f"{kind}: {task} has no training split in the data ({source.describe(task)}), so they come from {', '.join(present)}"
            for task in tasks
            if present and task not in present
        ]
    return notes


def chat_conversations(
    source: DataSource, kinds: list[str], choice_form: str = "letter"
) -> tuple[dict[str, list[list[dict]]], dict[str, list[list[dict]]]]:
    """Conversations of each kind (chats, problems, choices, programs) to train on, and others held out for validation.

    Held out is the task's validation split where the source has one, and else the last fiftieth of its training rows.
    """
    training: dict[str, list[list[dict]]] = {kind: [] for kind in kinds}
    held_out: dict[str, list[list[dict]]] = {kind: [] for kind in kinds}
    for kind, task in CORPORA:
        if kind not in kinds:
            continue
        if task is None:
            rows, splits = source.chats("train"), ()
        else:
            splits = source.task_splits(task)
            rows = source.task(task, "train") if "train" in splits else []
        if task is not None and "validation" in splits:
            others = source.task(task, "validation")
        else:
            cut = len(rows) - max(min(1, len(rows) - 1), len(rows) // 50)
            rows, others = rows[:cut], rows[cut:]
            held = {repr(row) for row in others}  # a source may hold the same row twice
            rows = [row for row in rows if repr(row) not in held]
        form = {"form": choice_form} if kind == "choices" else {}
        for found, of in ((training, rows), (held_out, others)):
            found[kind] += [
                chat.MESSAGES[task](row, **form) if task else row["messages"] for row in of
            ]
    return training, held_out
