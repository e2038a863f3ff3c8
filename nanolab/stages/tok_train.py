"""Step tok_train: learn the vocabulary from the training documents."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from nanolab.data.sources.source import DataSource, Document, open_source
from nanolab.data.tokens.token_files import first_unencodable
from nanolab.data.tokens.tokenizer import (
    LONGEST_BLANKS,
    Tokenizer,
    Unencodable,
    pieces,
    train_tokenizer,
)
from nanolab.errors import UserError
from nanolab.files import sha256_text
from nanolab.results import StepResult, scalars
from nanolab.settings.config import Job
from nanolab.tracking.journal import Run

if TYPE_CHECKING:  # this stage needs no torch
    from nanolab.dist import World


def run(job: Job, world: World, run: Run) -> StepResult:
    """What was asked for and read, and compression_ratio: held-out bytes a token; leaves the
    tokenizer in job.folder / "tokenizer".

    Raises UserError when the text yields fewer tokens than asked for.
    """
    if world.rank != 0:
        return StepResult()
    config, source = job.config, open_source(job.study.data)
    run.dataset("text", source.describe("text"), sha256_text(source.identity()), "training")
    print(
        f"tokenizer: {config.vocab_size} tokens from up to {config.max_chars:,} characters"
        f" ({source.describe('text')})",
        flush=True,
    )
    start = time.monotonic()
    texts = LimitedText(source.documents("train"), config.max_chars)
    tokenizer = _trained(texts, config.vocab_size, source)
    print(
        f"tokenizer: trained on {texts.characters:,} characters in"
        f" {time.monotonic() - start:.1f} s",
        flush=True,
    )
    if texts.cut:
        print(
            f"tokenizer: document {texts.cut[0]} has over {LONGEST_BLANKS:,} blanks in a row, read "
            f"in pieces of so many ({len(texts.cut)} such documents)",
            flush=True,
        )
    if texts.with_unk:
        print(
            f"tokenizer: {texts.with_unk} of {texts.documents_read} documents have <unk> marks,"
            " which are kept",
            flush=True,
        )
    tokenizer.save(job.folder / "tokenizer")
    ratio = compression(tokenizer, held_out(source, config.eval_chars))
    print(f"tokenizer: {ratio:.2f} bytes a token on held-out text", flush=True)
    rows = scalars(
        vocab_size=tokenizer.vocab_size,
        max_chars=config.max_chars,
        characters=texts.characters,
        documents=texts.documents_read,
        documents_with_unk=texts.with_unk,
        compression_ratio=ratio,
    )
    return StepResult(rows, {"data": source.describe("text")})


def _trained(texts: LimitedText, vocab_size: int, source: DataSource) -> Tokenizer:
    """The tokenizer trained on `texts`; an Unencodable names the document."""
    try:
        return train_tokenizer(texts, vocab_size)
    except Unencodable as error:
        untrained = Tokenizer([bytes([value]) for value in range(256)])  # splits text the same way
        documents = islice(source.documents("train"), texts.documents_read)
        name = first_unencodable(untrained, documents)
        raise Unencodable(f"document {name}: {error}") from error


class LimitedText:
    """The texts of `documents` up to `limit` characters, the last one cut, counted as they are
    given out: `with_unk` those with the mark of a left out word; `cut` are the ids of those whose
    runs of blanks are tokenised in pieces.
    """

    def __init__(self, documents: Iterable[Document], limit: int) -> None:
        self.documents, self.limit = documents, limit
        self.characters = self.documents_read = self.with_unk = 0
        self.cut: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for document in self.documents:
            text = document.text[: self.limit - self.characters]
            self.characters += len(text)
            self.documents_read += 1
            self.with_unk += "<unk>" in text
            self.cut += [document.id] if len(pieces(text)) > 1 else []
            yield text
            if self.characters >= self.limit:
                return


def held_out(source: DataSource, characters: int) -> list[str]:
    """Validation texts of `characters` characters in all; UserError when there are none."""
    texts = list(LimitedText(source.documents("validation"), characters))
    if not any(texts):
        raise UserError(
            f"the validation split of {source.describe('text')} has no text; the tokenizer is"
            " evaluated on it"
        )
    return texts


def compression(tokenizer: Tokenizer, texts: list[str]) -> float:
    """UTF-8 bytes a token."""
    return sum(len(text.encode()) for text in texts) / sum(map(len, tokenizer.encode_batch(texts)))
