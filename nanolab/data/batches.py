"""From documents and conversations to packed rows of tokens, numbered globally.

Step s of a training is rows [s B, (s + 1) B) whatever the number of processes; each takes its slice. A row is a pure function of its
number: `PackedText` reads its documents in order and can be set back to a saved cursor; `ChatMixture` draws each conversation at an
address. No token is thrown away but the tail of a conversation longer than a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Protocol

import torch

from nanolab import seeds
from nanolab.data import chat
from nanolab.data.sources import DataSource
from nanolab.data.tokenizer import Tokenizer
from nanolab.schema import UserError

DOCUMENTS_AT_ONCE = 256  # documents encoded together


class Rows(Protocol):
    """Training rows, numbered from 0."""

    def rows(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets (count, T) int64 of rows first .. first + count - 1; target -1 carries no loss."""

    def state(self) -> dict[str, Any]:
        """The cursor: JSON-able, enough to go on without reading the earlier rows again."""

    def restore(self, state: dict[str, Any]) -> None:
        """Set the cursor to a saved state."""


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
    """Conversations of several kinds, drawn by their shares and packed whole into rows; a row of text where `text_share` says so.

    Row r draws at addresses (seed, stage, r, ...): it does not depend on other rows, so the cursor is nothing. Conversations are
    packed until the next one does not fit; the rest of the row is padding without loss. One longer than a row is cut.
    """

    def __init__(self, conversations: dict[str, list[list[dict]]], shares: dict[str, float], tokenizer: Tokenizer, sequence_length: int,
                 seed: int, stage: str, text: PackedText | None = None, text_share: float = 0.0) -> None:
        self._kinds = [kind for kind, share in shares.items() if share > 0]
        for kind in self._kinds:
            if not conversations.get(kind):
                raise UserError(f"share_{kind} = {shares[kind]} but the data has no {kind} to train on; set share_{kind} to 0")
        total = sum(shares[kind] for kind in self._kinds)
        self._bounds = [sum(shares[kind] for kind in self._kinds[:i + 1]) / total for i in range(len(self._kinds))]
        self._conversations, self._tokenizer, self.length = conversations, tokenizer, sequence_length
        self._seed, self._stage, self._text, self._text_share = seed, stage, text, text_share
        self._rendered: dict[tuple[str, int], tuple[list[int], list[int]]] = {}

    def _is_text(self, row: int) -> bool:
        """Text rows are spread evenly, so that row r is text row number floor(r share)."""
        return int((row + 1) * self._text_share) > int(row * self._text_share)

    def _conversation(self, kind: str, index: int) -> tuple[list[int], list[int]]:
        if (kind, index) not in self._rendered:
            self._rendered[kind, index] = chat.render(self._tokenizer, self._conversations[kind][index])
        return self._rendered[kind, index]

    def _row(self, row: int) -> tuple[list[int], list[int]]:
        random = seeds.generator(self._seed, self._stage, row)
        ids: list[int] = []
        targets: list[int] = []
        while True:
            kind = self._kinds[min(sum(bound <= (u := random.random()) for bound in self._bounds), len(self._kinds) - 1)]
            more, mask = self._conversation(kind, int(random.integers(len(self._conversations[kind]))))
            if ids and len(ids) + len(more) > self.length + 1:
                break
            targets += [token if supervised else -1 for token, supervised in zip(more, mask)]
            ids += more
            if len(ids) > self.length:
                break
        ids, targets = ids[:self.length + 1], targets[:self.length + 1]
        padding = self.length + 1 - len(ids)
        return (ids + [self._tokenizer.bos] * padding)[:-1], (targets + [-1] * padding)[1:]

    def rows(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, targets = [], []
        for row in range(first, first + count):
            if self._text is not None and self._is_text(row):
                x, y = self._text.rows(int(row * self._text_share), 1)
                inputs.append(x[0])
                targets.append(y[0])
            else:
                x, y = self._row(row)
                inputs.append(torch.tensor(x))
                targets.append(torch.tensor(y))
        return torch.stack(inputs), torch.stack(targets)

    def state(self) -> dict[str, Any]:
        return {"text": self._text.state()} if self._text is not None else {}

    def restore(self, state: dict[str, Any]) -> None:
        if self._text is not None:
            self._text.restore(state["text"])


def training_conversations(source: DataSource, split: str) -> dict[str, list[list[dict]]]:
    """The chat-format conversations of a split by kind: chats, problems, choices and programs (only those the source has)."""
    def rows(task: str) -> list[dict]:
        return source.task(task, split) if split in source.task_splits(task) else []

    return {"chats": [row["messages"] for row in source.chats("train" if split == "train" else "test")],
            "problems": [chat.gsm8k_messages(row) for row in rows("gsm8k")],
            "choices": [chat.arc_messages(row) for task in ("arc_easy", "arc_challenge") for row in rows(task)]
            + [chat.mmlu_messages(row) for row in rows("mmlu")],
            "programs": [chat.program_messages(row) for row in rows("humaneval")]}
