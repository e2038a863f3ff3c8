"""`bench.py data`: packing from cached tokens, what is thrown away, and what our tokenizer costs
over the libraries under it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rustbpe
import tiktoken
import torch

from nanolab.data.sources.blocks import GeneratedBlocks
from nanolab.data.sources.published import Document
from nanolab.data.sources.source import open_source
from nanolab.data.tokens import chat
from nanolab.data.tokens.batches import ChatMixture, PackedText
from nanolab.data.tokens.token_files import TokenBlocks
from nanolab.data.tokens.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer, train_tokenizer
from nanolab.settings.config import DataConfig

BATCH = 32  # rows asked for at once


def emit(**facts: object) -> None:
    print(json.dumps({"benchmark": "data", **facts}), flush=True)


def lengths(mean: int, total: int) -> list[int]:
    """Document lengths in tokens, log-normal around `mean` (most are shorter, some many times
    longer), `total` tokens in all.
    """
    drawn = (
        np.random.default_rng(0).lognormal(np.log(mean) - 0.5, 1.0, 2 * total // mean).astype(int)
        + 1
    )
    return drawn[: int(np.searchsorted(np.cumsum(drawn), total))].tolist()


def documents(mean: int, total: int, tokenizer: Tokenizer) -> list[str]:
    """Texts of about those lengths: each word is one token of every vocabulary here."""
    word = next(text for text in (" the", " a", "e") if len(tokenizer.encode(text)) == 1)
    return [word * length for length in lengths(mean, total)]


def packing(tokenizer: Tokenizer, mean: int, length: int, total: int) -> None:
    """Tokens a second on one thread from cached tokens, and the tokens of a whole pass that are in
    no row.
    """
    texts = documents(mean, total, tokenizer)
    stream = np.array(
        [token for text in texts for token in (tokenizer.bos, *tokenizer.encode(text))]
    )
    with tempfile.TemporaryDirectory() as folder:
        blocks = GeneratedBlocks(
            lambda: (Document(str(number), text) for number, text in enumerate(texts))
        )
        make = lambda: PackedText(TokenBlocks(blocks, tokenizer, Path(folder)), length)  # noqa: E731
        count = len(stream) // (BATCH * length) * BATCH
        packed = make().rows(0, count)[0].flatten().numpy()  # fills the cache too
        speeds = []
        for _ in range(3):
            rows, begun = make(), time.perf_counter()
            for first in range(0, count, BATCH):
                rows.rows(first, BATCH)
            speeds.append(count * length / (time.perf_counter() - begun))
    thrown_away = float(
        np.mean(packed != stream[: len(packed)])
    )  # a token left out would shift all behind it
    emit(
        what="pack text",
        mean_document=mean,
        sequence_length=length,
        tokens=len(packed),
        thrown_away=thrown_away,
        target_thrown_away=0.01,
        tokens_per_second=round(statistics.median(speeds)),
        target_tokens_per_second=1_000_000,
    )


def packing_chats(tokenizer: Tokenizer, mean: int, length: int) -> None:
    """Tokens of drawn conversations that come in no row (after those that still wait), and padding,
    over 200 rows.
    """
    texts = documents(mean, 600_000, tokenizer)  # more than the rows hold: one pass
    messages = [
        [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}] for text in texts
    ]
    mixture = ChatMixture({"chats": messages}, {"chats": 1.0}, tokenizer, length, (0, "bench"))
    begun = time.perf_counter()
    inputs, targets = mixture.rows(0, 200)
    seconds = time.perf_counter() - begun
    order = mixture._orders["chats"][1][: mixture._drawn["chats"]]
    drawn = sum(sum(chat.render(tokenizer, messages[index])[1]) for index in order)
    waiting = sum(token >= 0 for piece in mixture._waiting for token in piece.targets[1:])
    learned = int((targets >= 0).sum())
    cut = sum(
        max(0, len(chat.render(tokenizer, messages[index])[0]) - length - 1) for index in order
    )
    total = sum(len(chat.render(tokenizer, messages[index])[0]) for index in order)
    padding = int((inputs == tokenizer.bos).sum()) - (
        len(order) - sum(piece.piece == 0 for piece in mixture._waiting)
    )
    emit(
        what="pack chats",
        mean_document=mean,
        sequence_length=length,
        thrown_away=1 - learned / (drawn - waiting),
        would_be_cut_at_one_row=cut / total,
        padding=max(0, padding) / inputs.numel(),
        tokens_per_second=round(inputs.numel() / seconds),
    )


def ratio(
    ours: Callable[[], object], bare: Callable[[], object], repeats: int
) -> tuple[float, float, float]:
    """The least seconds of both, run in turn, and their ratio."""
    times: list[tuple[float, float]] = []
    for turn in range(repeats):
        found = {}
        for name, work in [("ours", ours), ("bare", bare)][:: 1 if turn % 2 else -1]:
            begun = time.perf_counter()
            work()
            found[name] = time.perf_counter() - begun
        times.append((found["ours"], found["bare"]))
    best = min(a for a, _ in times), min(b for _, b in times)
    return (*best, best[0] / best[1])


def tokenizer_cost(texts: list[str], vocab_size: int, repeats: int) -> None:
    """Our training over bare rustbpe's, our encoding over bare tiktoken's, on the same text with
    the same merges and threads.
    """
    characters = sum(map(len, texts))

    def bare_training() -> rustbpe.Tokenizer:
        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(
            iter(texts), vocab_size - len(SPECIAL_TOKENS), pattern=SPLIT_PATTERN
        )
        return trainer

    ours, bare, cost = ratio(
        lambda: train_tokenizer(iter(texts), vocab_size), bare_training, repeats
    )
    emit(
        what="tokenizer training",
        against="rustbpe",
        characters=characters,
        vocab_size=vocab_size,
        seconds=ours,
        bare_seconds=bare,
        cost=round(cost - 1, 4),
        target=0.05,
    )
    tokenizer = train_tokenizer(iter(texts), vocab_size)
    ranks = {bytes(token): rank for token, rank in bare_training().get_mergeable_ranks()}
    encoding = tiktoken.Encoding(
        "bare", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={}
    )
    assert tokenizer.encode_batch(texts[:50]) == encoding.encode_ordinary_batch(texts[:50])
    for threads in (1, 2):
        ours, bare, cost = ratio(
            lambda threads=threads: tokenizer.encode_batch(texts, threads),
            lambda threads=threads: encoding.encode_ordinary_batch(texts, num_threads=threads),
            2 * repeats,
        )
        emit(
            what="tokenizer encoding",
            against="tiktoken",
            threads=threads,
            characters=characters,
            seconds=ours,
            bare_seconds=bare,
            characters_per_second=round(characters / ours),
            cost=round(cost - 1, 4),
            target=0.05,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root",
        type=Path,
        metavar="FOLDER",
        help="text of a local folder; without it, of the embedded world",
    )
    parser.add_argument(
        "--characters", type=int, default=8_000_000, help="of text for the tokenizer"
    )
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=4_000_000, help="packed in each setting")
    parser.add_argument("--repeats", type=int, default=5)


def main(arguments: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    data = DataConfig(source="local", root=str(arguments.root)) if arguments.root else DataConfig()
    texts, size = [], 0
    for document in open_source(data).documents("train"):
        texts.append(document.text)
        size += len(document.text)
        if size >= arguments.characters:
            break
    tokenizer = train_tokenizer(iter(texts[:2000]), 600)
    for mean, length in itertools.product((100, 1000), (512, 2048)):
        packing(tokenizer, mean, length, arguments.tokens)
        packing_chats(tokenizer, mean, length)
    tokenizer_cost(texts, arguments.vocab_size, arguments.repeats)
    return 0
