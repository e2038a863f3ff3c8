"""The tokens of a text, block by block: made once by any process, mapped into memory by all."""

import io
import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nanolab.data.sources.blocks import Blocks
from nanolab.data.sources.published import Document
from nanolab.data.tokens.tokenizer import LONGEST_BLANKS, Tokenizer, Unencodable, pieces
from nanolab.files import file_lock, write_atomic


class TokenBlocks:
    """The tokens of each block of documents, `<|bos|>` before each document.

    With a `folder` that all processes see, a block's tokens are a file there (uint16, or uint32 for
    a vocabulary above 65,536 tokens). `size` processes share the work: the one of number `rank`
    that misses block n goes through blocks n .. n + size - 1, from the one that is its turn, makes
    those that no other is making, and waits for block n. A process that is killed leaves a free
    lock, so the work passes to another. `folder` belongs to one text and one tokenizer. Without a
    folder everything is made here.
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
        self._blocks, self._tokenizer, self._folder = blocks, tokenizer, folder
        self._rank, self._size = rank, size
        self._type = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32

    def tokens(self, number: int) -> np.ndarray:
        """The tokens of block `number`; none behind the last block."""
        if self._folder is None:
            return self._encode(number)
        path = self._folder / f"{number:07d}.npy"
        if not path.is_file():
            for ahead in range(self._size):
                self._make(number + (self._rank + ahead) % self._size, wait=0)
            self._make(number, wait=-1)
        return np.load(path, mmap_mode="r")

    def _make(self, number: int, wait: float) -> None:
        path = self._folder / f"{number:07d}.npy"
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
        try:
            encoded = self._tokenizer.encode_batch([document.text for document in documents])
        except Unencodable as error:
            raise Unencodable(
                f"document {first_unencodable(self._tokenizer, documents)}: {error}"
            ) from error
        for document in documents:
            if len(pieces(document.text)) > 1:
                print(
                    f"text: document {document.id} has over {LONGEST_BLANKS:,} blanks in a row, "
                    "tokenised in pieces of so many",
                    flush=True,
                )
        bos = [self._tokenizer.bos]
        return np.fromiter(itertools.chain.from_iterable(bos + ids for ids in encoded), self._type)


def first_unencodable(tokenizer: Tokenizer, documents: Iterable[Document]) -> str:
    """The id of the first document that a tokenizer cannot take; "unknown" without one."""
    for document in documents:
        try:
            tokenizer.encode(document.text)
        except Unencodable:
            return document.id
    return "unknown"
