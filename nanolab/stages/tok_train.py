"""Step tok_train: learn the vocabulary from the training documents."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from nanolab.config import Job
from nanolab.data.sources import DataSource, Document, open_source
from nanolab.data.tokenizer import Tokenizer, train_tokenizer
from nanolab.files import sha256_text
from nanolab.journal import Run
from nanolab.schema import UserError

if TYPE_CHECKING:  # this stage needs no torch
    from nanolab.dist import World


def run(job: Job, world: World, run: Run) -> dict[str, Any]:
    """Final metrics: vocab_size, max_chars (asked for), characters and documents (read), documents_with_unk, compression_ratio, data.

    documents_with_unk counts texts in which a corpus wrote <unk> for a word that it left out: they are kept as they are.
    compression_ratio is held-out bytes a token.

    Leaves the tokenizer in job.folder / "tokenizer". Rank 0 alone works; the text is read once. Raises UserError when the text yields
    fewer tokens than asked for.
    """
    if world.rank != 0:
        return {}
    config, source = job.config, open_source(job.study.data)
    run.dataset("text", source.describe("text"), sha256_text(source.identity()), "training")
    print(
        f"tokenizer: {config.vocab_size} tokens from up to {config.max_chars:,} characters ({source.describe('text')})",
        flush=True,
    )
    start = time.monotonic()
    texts = LimitedText(source.documents("train"), config.max_chars)
    tokenizer = train_tokenizer(texts, config.vocab_size)
    print(
        f"tokenizer: trained on {texts.characters:,} characters in {time.monotonic() - start:.1f} s",
        flush=True,
    )
    if texts.with_unk:
        print(
            f"tokenizer: {texts.with_unk} of {texts.documents_read} documents have <unk> marks, which are kept",
            flush=True,
        )
    tokenizer.save(job.folder / "tokenizer")
    ratio = compression(tokenizer, held_out(source, config.eval_chars))
    print(f"tokenizer: {ratio:.2f} bytes a token on held-out text", flush=True)
    return {
        "vocab_size": tokenizer.vocab_size,
        "max_chars": config.max_chars,
        "characters": texts.characters,
        "documents": texts.documents_read,
        "documents_with_unk": texts.with_unk,
        "compression_ratio": ratio,
        "data": source.describe("text"),
    }


class LimitedText:
    """The texts of `documents` up to `limit` characters, the last one cut.

    Counted as they are given out: `characters`, `documents_read` and those `with_unk`, the mark of a left out word.
    """

    def __init__(self, documents: Iterable[Document], limit: int) -> None:
        self.documents, self.limit = documents, limit
        self.characters = self.documents_read = self.with_unk = 0

    def __iter__(self) -> Iterator[str]:
        for document in self.documents:
            text = document.text[: self.limit - self.characters]
            self.characters += len(text)
            self.documents_read += 1
            self.with_unk += "<unk>" in text
            yield text
            if self.characters >= self.limit:
                return


def held_out(source: DataSource, characters: int) -> list[str]:
    """Validation texts of `characters` characters in all, or as many as there are. Raises UserError when there are none."""
    texts = list(LimitedText(source.documents("validation"), characters))
    if not any(texts):
        raise UserError(
            f"the validation split of {source.describe('text')} has no text; the tokenizer is evaluated on it"
        )
    return texts


def compression(tokenizer: Tokenizer, texts: list[str]) -> float:
    """UTF-8 bytes a token."""
    return sum(len(text.encode()) for text in texts) / sum(map(len, tokenizer.encode_batch(texts)))
