"""The token stream of a text, block by block: made once, by whichever process comes first, and mapped into memory by all."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from nanolab.data.blocks import Blocks
from nanolab.data.tokenizer import Tokenizer
from nanolab.files import file_lock, write_atomic


class TokenBlocks:
    """The tokens of each block of documents, `<|bos|>` before each document.

    With a `folder` that all processes see, a block's tokens are a file there (uint16, or uint32 for a vocabulary above 65,536 tokens).
    `size` processes share the work: the one of number `rank` that misses block n goes through blocks n .. n + size - 1, from the one that
    is its turn, makes those that no other is making, and waits for block n. A process that is killed leaves a free lock, so the work
    passes to another. `folder` belongs to one text and one tokenizer. Without a folder everything is made here.
    """

    def __init__(
        self,
        blocks: Blocks,
        tokenizer: Tokenizer,
        folder: Path | None = None,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        self.layout = blocks.layout
        self._blocks, self._tokenizer, self._folder, self._rank, self._size = (
            blocks,
            tokenizer,
            folder,
            rank,
            size,
        )
        self._type = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32

    def tokens(self, number: int) -> np.ndarray:
        """The tokens of block `number`; none behind the last block."""
        if self._folder is None:
            return self._encode(number)
        path = self._path(number)
        if not path.is_file():
            for ahead in range(self._size):
                self._make(number + (self._rank + ahead) % self._size, wait=False)
            self._make(number, wait=True)
        return np.load(path, mmap_mode="r")

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:07d}.npy"

    def _make(self, number: int, wait: bool) -> None:
        path = self._path(number)
        if path.is_file():
            return
        try:
            with file_lock(path.with_suffix(".lock"), wait):
                if not path.is_file():
                    content = io.BytesIO()
                    np.save(content, self._encode(number))
                    write_atomic(path, content.getvalue())
        except BlockingIOError:  # another process is making it
            assert not wait

    def _encode(self, number: int) -> np.ndarray:
        documents = self._blocks.block(number) or []
        encoded = self._tokenizer.encode_batch([document.text for document in documents])
        tokens = np.empty(sum(map(len, encoded)) + len(encoded), self._type)
        place = 0
        for ids in encoded:
            tokens[place] = self._tokenizer.bos
            tokens[place + 1 : place + 1 + len(ids)] = ids
            place += 1 + len(ids)
        return tokens
