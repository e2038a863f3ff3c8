"""From documents and conversations to packed rows of tokens, numbered globally.

Step s of a training is rows [s B, (s + 1) B) whatever the number of processes; each takes its slice. What a row holds follows from
its number: rows are made in order, and a saved cursor goes on where it stood. No token is thrown away but the tail of a conversation
longer than a row.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch

from nanolab import seeds
from nanolab.data import chat
from nanolab.data.sources import DataSource
from nanolab.data.tokenizer import Tokenizer
from nanolab.schema import UserError

DOCUMENTS_AT_ONCE = 256  # documents encoded together
WAITING = 32  # conversations among which a row chooses: with fewer it fills worse
CHAT_FORMS: list[tuple[str, str | None, Callable[..., list[dict]]]] = [  # (kind, task, a row's conversation)
    ("chats", None, lambda row: row["messages"]), ("problems", "gsm8k", chat.gsm8k_messages), ("choices", "arc_easy", chat.arc_messages),
    ("choices", "arc_challenge", chat.arc_messages), ("choices", "mmlu", chat.mmlu_messages),
    ("programs", "humaneval", chat.program_messages)]


class Rows(Protocol):
    """Training rows, numbered from 0."""

    def rows(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets (count, T) int64 of rows first .. first + count - 1; target -1 carries no loss."""

    def state(self) -> dict[str, Any]:
        """The cursor: JSON-able, enough to go on without reading the earlier rows again."""

    def restore(self, state: dict[str, Any]) -> None:
        """Set the cursor to a saved state."""


class Conversation(NamedTuple):
    """A rendered conversation: its place in the data, its ids and its targets (-1 without loss), both at most a row long."""

    kind: str
    index: int
    ids: list[int]
    targets: list[int]


class PackedText:
    """Documents, each after `<|bos|>`, one after another, cut into rows: a row starts at a document or at its continuation.

    `documents()` starts a pass over the documents from the beginning; passes repeat for ever. Rows are read in ascending order (a
    process skips the rows of the others); going back before the cursor starts over.
    """

    def __init__(self, documents: Callable[[], Iterator[str]], tokenizer: Tokenizer, sequence_length: int) -> None:
        self._documents, self._tokenizer, self.length = documents, tokenizer, sequence_length
        self._begin()

    def _begin(self) -> None:
        self._pass, self._read = 0, 0  # passes finished; documents read in this pass
        self._next_row = 0  # the row that the buffer starts with
        self._buffer: list[int] = []
        self._stream = self._documents()

    def _fill(self) -> None:
        batch = list(islice(self._stream, DOCUMENTS_AT_ONCE))
        if not batch:
            if self._read == 0:
                raise UserError("the text source has no documents")
            self._pass, self._read, self._stream = self._pass + 1, 0, self._documents()
            return
        self._read += len(batch)
        for ids in self._tokenizer.encode_batch(batch):
            self._buffer.append(self._tokenizer.bos)
            self._buffer += ids

    def rows(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        if first < self._next_row:
            self._begin()
        self._drop(first)
        while len(self._buffer) < count * self.length + 1:
            self._fill()
        ids = torch.tensor(self._buffer[:count * self.length + 1])
        self._drop(first + count)
        return ids[:-1].view(count, self.length), ids[1:].view(count, self.length)

    def _drop(self, row: int) -> None:
        """Drop the tokens before `row`; the last token of a row is the first of the next one's inputs, so it stays."""
        while self._next_row < row:
            while len(self._buffer) <= self.length:
                self._fill()
            whole = min(row - self._next_row, (len(self._buffer) - 1) // self.length)
            del self._buffer[:whole * self.length]
            self._next_row += whole

    def state(self) -> dict[str, Any]:
        return {"pass": self._pass, "read": self._read, "row": self._next_row, "buffer": list(self._buffer)}

    def restore(self, state: dict[str, Any]) -> None:
        self._begin()
        self._pass, self._read, self._next_row = state["pass"], state["read"], state["row"]
        self._buffer = list(state["buffer"])
        next(islice(self._stream, self._read, self._read), None)  # pass over what was read, without encoding it


class ChatMixture:
    """Conversations of several kinds by their shares, packed whole into rows; `text_share` of the rows, spread evenly, are text.

    Conversation n takes its kind at address (seed, stage, "kind", n); each kind is gone through in an order of its own, pass after pass.
    A row starts with the conversation that has waited longest and takes the longest waiting ones that still fit; the rest of the row is
    padding without loss. One conversation longer than a row is cut. Every process packs all rows, so they do not depend on the world.

    Short conversations fit last and so wait longest: a row as packed starts with a short one far more often than their share, and a prompt
    is asked at the start of a row. `shuffled` puts the conversations of a row in an order drawn at address (seed, stage, "order", row).
    """

    def __init__(self, conversations: dict[str, list[list[dict]]], shares: dict[str, float], tokenizer: Tokenizer, sequence_length: int,
                 seed: int, stage: str, text: PackedText | None = None, text_share: float = 0.0, shuffled: bool = False) -> None:
        self._kinds = [kind for kind, share in shares.items() if share > 0]
        for kind in self._kinds:
            if not conversations.get(kind):
                raise UserError(f"share_{kind} = {shares[kind]}, but the data has no {kind} to train on; set share_{kind} to 0")
        assert (text is not None) == (text_share > 0)
        total = sum(shares[kind] for kind in self._kinds)
        self._bounds = [sum(shares[kind] for kind in self._kinds[:i + 1]) / total for i in range(len(self._kinds))]
        self._conversations, self._tokenizer, self.length = conversations, tokenizer, sequence_length
        self._seed, self._stage, self._text, self._text_share = seed, stage, text, text_share
        self._shuffled = shuffled
        self._orders: dict[tuple[str, int], list[int]] = {}  # (kind, pass) -> the order of that pass
        self._begin()

    def _begin(self) -> None:
        self._next_row = 0
        self._drawn = dict.fromkeys(self._kinds, 0)  # conversations of each kind drawn so far
        self._waiting: list[Conversation] = []

    def _draw(self) -> Conversation:
        number = sum(self._drawn.values())
        kind = self._kinds[bisect.bisect(self._bounds[:-1], seeds.uniform(self._seed, self._stage, "kind", number))]
        turn, place = divmod(self._drawn[kind], len(self._conversations[kind]))
        self._drawn[kind] += 1
        if (kind, turn) not in self._orders:
            order = seeds.generator(self._seed, self._stage, kind, turn).permutation(len(self._conversations[kind]))
            self._orders = {key: value for key, value in self._orders.items() if key[0] != kind} | {(kind, turn): order.tolist()}
        return self._render(kind, self._orders[kind, turn][place])

    def _render(self, kind: str, index: int) -> Conversation:
        ids, mask = chat.render(self._tokenizer, self._conversations[kind][index])
        targets = [token if supervised else -1 for token, supervised in zip(ids, mask)]
        return Conversation(kind, index, ids[:self.length + 1], targets[:self.length + 1])

    def _pack(self) -> tuple[list[int], list[int]]:
        """Inputs and targets of the next row of conversations."""
        self._waiting += [self._draw() for _ in range(WAITING - len(self._waiting))]
        chosen, room = [self._waiting.pop(0)], self.length + 1
        room -= len(chosen[0].ids)
        while fitting := [i for i, conversation in enumerate(self._waiting) if len(conversation.ids) <= room]:
            best = max(fitting, key=lambda i: (len(self._waiting[i].ids), -i))
            room -= len(self._waiting[best].ids)
            chosen.append(self._waiting.pop(best))
        if self._shuffled:
            order = seeds.generator(self._seed, self._stage, "order", self._next_row).permutation(len(chosen))
            chosen = [chosen[place] for place in order]
        ids = [token for conversation in chosen for token in conversation.ids] + [self._tokenizer.bos] * room
        targets = [token for conversation in chosen for token in conversation.targets] + [-1] * room
        return ids[:-1], targets[1:]

    def _text_rows_before(self, row: int) -> int:
        return int(row * self._text_share)

    def rows(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
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
        return {"row": self._next_row, "drawn": dict(self._drawn), "waiting": [[c.kind, c.index] for c in self._waiting],
                "text": self._text.state() if self._text is not None else None}

    def restore(self, state: dict[str, Any]) -> None:
        self._next_row, self._drawn = state["row"], dict(state["drawn"])
        self._waiting = [self._render(kind, index) for kind, index in state["waiting"]]
        if self._text is not None:
            self._text.restore(state["text"])


def chat_conversations(source: DataSource, kinds: list[str],
                       choice_form: str = "letter") -> tuple[dict[str, list[list[dict]]], dict[str, list[list[dict]]]]:
    """Conversations of each kind (chats, problems, choices, programs) to train on, and others held out for validation.

    Held out is the task's validation split where the source has one, and else the last fiftieth of its training rows.
    """
    training: dict[str, list[list[dict]]] = {kind: [] for kind in kinds}
    held_out: dict[str, list[list[dict]]] = {kind: [] for kind in kinds}
    for kind, task, messages in CHAT_FORMS:
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
        training[kind] += [messages(row, **form) for row in rows]
        held_out[kind] += [messages(row, **form) for row in others]
    return training, held_out
