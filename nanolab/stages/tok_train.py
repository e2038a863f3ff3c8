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
    """Final metrics: vocab_size, max_chars (asked for), characters (read), compression_ratio (held-out bytes a token), data.

    Leaves the tokenizer in job.folder / "tokenizer". Rank 0 alone works; the text is read once. Raises UserError when the text yields
    fewer tokens than asked for.
    """
    if world.rank != 0:
        return {}
    config, source = job.config, open_source(job.study.data)
    run.dataset("text", source.describe("text"), sha256_text(source.identity()), "training")
    print(f"tokenizer: {config.vocab_size} tokens from up to {config.max_chars:,} characters ({source.describe('text')})", flush=True)
    start = time.monotonic()
    texts = LimitedText(source.documents("train"), config.max_chars)
    tokenizer = train_tokenizer(texts, config.vocab_size)
    print(f"tokenizer: trained on {texts.characters:,} characters in {time.monotonic() - start:.1f} s", flush=True)
    tokenizer.save(job.folder / "tokenizer")
    ratio = compression(tokenizer, held_out(source, config.eval_chars))
    print(f"tokenizer: {ratio:.2f} bytes a token on held-out text", flush=True)
    return {"vocab_size": tokenizer.vocab_size, "max_chars": config.max_chars, "characters": texts.characters,
            "compression_ratio": ratio, "data": source.describe("text")}


class LimitedText:
    """The texts of `documents` up to `limit` characters, the last one cut; `characters` counts those given out."""

    def __init__(self, documents: Iterable[Document], limit: int) -> None:
        self.documents, self.limit, self.characters = documents, limit, 0

    def __iter__(self) -> Iterator[str]:
        for document in self.documents:
            text = document.text[:self.limit - self.characters]
            self.characters += len(text)
            yield text
            if self.characters >= self.limit:
                return


def held_out(source: DataSource, characters: int) -> list[str]:
    """Validation texts of `characters` characters in all, or as many as there are. Raises UserError when there are none."""
    texts = list(LimitedText(source.documents("validation"), characters))
    if not any(texts):
        raise UserError(f"the validation split of {source.describe('text')} has no text; the tokenizer is evaluated on it")
    return texts


def compression(tokenizer: Tokenizer, texts: list[str]) -> float:
    """UTF-8 bytes a token."""
    return sum(len(text.encode()) for text in texts) / sum(map(len, tokenizer.encode_batch(texts)))
