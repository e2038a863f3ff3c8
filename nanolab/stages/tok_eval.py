"""Step tok_eval: how the vocabulary serves held-out text."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import pandas
from matplotlib.figure import Figure

from nanolab.config import Job
from nanolab.data.chat import choice_text
from nanolab.data.sources import open_source
from nanolab.data.tokenizer import Tokenizer
from nanolab.files import sha256_text
from nanolab.journal import Run
from nanolab.stages.tok_train import held_out

if TYPE_CHECKING:  # this stage needs no torch
    from nanolab.dist import World

FIXED_SAMPLES = ["She has 1,234 apples and 56.5 kg of flour.", "48/2=24", "def add(a, b):\n    return a + b\n", "naïve café ☕ 東京",
                 choice_text("Which of these is a bird?", ["trout", "robin"], ["A", "B"]), "<|bos|> in a text is plain text"]
SAMPLE_DOCUMENTS, SAMPLE_CHARACTERS = 4, 200


def run(job: Job, world: World, run: Run) -> dict[str, Any]:
    """Final metrics: bits_per_char, coverage (in percent), compression_ratio, tokens_used, eval_chars, data; figures and samples."""
    if world.rank != 0:
        return {}
    config, source = job.config, open_source(job.study.data)
    tokenizer = Tokenizer.load(job.inputs["tok_train"] / "tokenizer")
    run.dataset("text", source.describe("text"), sha256_text(source.identity()), "evaluation")
    texts = held_out(source, config.eval_chars)
    counts = Counter(token for ids in tokenizer.encode_batch(texts) for token in ids)
    metrics = measure(tokenizer, texts, counts)
    print(", ".join(f"{key}: {value:.3f}" for key, value in metrics.items() if isinstance(value, float)), flush=True)
    for name, (figure, data) in figures(tokenizer, counts).items():
        run.figure(figure, f"plots/{name}.png", data)
    samples = [text[:SAMPLE_CHARACTERS] for text in texts[:SAMPLE_DOCUMENTS]] + FIXED_SAMPLES
    run.table([sample_row(tokenizer, text) for text in samples], "tokenisations.json")
    return metrics | {"eval_chars": sum(map(len, texts)), "data": source.describe("text")}


def measure(tokenizer: Tokenizer, texts: list[str], counts: Counter[int]) -> dict[str, float]:
    """The figures of merit on `texts`, whose tokens are counted in `counts`.

    bits_per_char: entropy of the token unigram (bits a token) times tokens a character: what a model that knew only how frequent each
    token is would need. coverage: percent of the characters that begin in a token longer than one byte. compression_ratio: bytes a token.
    """
    total, characters = counts.total(), sum(map(len, texts))
    size = tokenizer.token_bytes()
    entropy = -sum(n / total * math.log2(n / total) for n in counts.values())
    text_bytes = sum(n * size[token] for token, n in counts.items())
    single = sum(n for token, n in counts.items() if size[token] == 1 and not 0x80 <= tokenizer.piece(token)[0] < 0xC0)
    return {"bits_per_char": entropy * total / characters, "coverage": 100 * (1 - single / characters),
            "compression_ratio": text_bytes / total, "tokens_used": len(counts)}


def figures(tokenizer: Tokenizer, counts: Counter[int]) -> dict[str, tuple[Figure, pandas.DataFrame]]:
    """Name -> figure and its data: how long tokens are, and how frequent by rank."""
    size, total = tokenizer.token_bytes(), counts.total()
    vocabulary = Counter(length for length in size if length)
    used = Counter({length: 0 for length in vocabulary})
    for token, n in counts.items():
        used[size[token]] += n
    lengths = pandas.DataFrame([{"bytes": length, "share_of_vocabulary": vocabulary[length] / vocabulary.total(),
                                 "share_of_held_out_tokens": used[length] / total} for length in sorted(vocabulary)])
    length_figure = Figure(figsize=(6.4, 4))
    axes = length_figure.subplots()
    axes.bar(lengths["bytes"] - 0.2, lengths["share_of_vocabulary"], width=0.4, label="of the vocabulary")
    axes.bar(lengths["bytes"] + 0.2, lengths["share_of_held_out_tokens"], width=0.4, label="of held-out tokens")
    axes.set(xlabel="bytes of a token", ylabel="share", title="Token lengths")
    axes.legend()
    ranked = counts.most_common()
    frequencies = pandas.DataFrame({"rank": range(1, len(ranked) + 1), "token": [repr(tokenizer.decode([token])) for token, _ in ranked],
                                    "count": [n for _, n in ranked], "share": [n / total for _, n in ranked]})
    frequency_figure = Figure(figsize=(6.4, 4))
    axes = frequency_figure.subplots()
    axes.loglog(frequencies["rank"], frequencies["share"])
    axes.set(xlabel="rank of the token", ylabel="share of held-out tokens", title="Token frequencies")
    return {"token_length": (length_figure, lengths), "token_frequency": (frequency_figure, frequencies)}


def sample_row(tokenizer: Tokenizer, text: str) -> dict[str, Any]:
    """One row of the table of samples; tokens are parted by "|"."""
    ids = tokenizer.encode(text)
    return {"text": text, "bytes": len(text.encode()), "count": len(ids), "tokens": "|".join(tokenizer.decode([token]) for token in ids)}
