"""Step tok_eval: how the vocabulary serves held-out text and other kinds of text, and what training text shares with the benchmarks."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import pandas
from matplotlib.figure import Figure

from nanolab.config import CHAT_TASKS, Job, TokenizerConfig
from nanolab.data.chat import choice_text
from nanolab.data.contamination import overlap
from nanolab.data.sources import DataSource, open_source
from nanolab.data.text_kinds import public_encodings, text_kinds
from nanolab.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from nanolab.files import sha256_text
from nanolab.journal import Run
from nanolab.report import canvas
from nanolab.report.data_plots import OURS, bytes_per_token
from nanolab.stages.tok_train import held_out

if TYPE_CHECKING:  # this stage needs no torch
    from nanolab.dist import World

FIXED_SAMPLES = [
    "She has 1,234 apples and 56.5 kg of flour.",
    "48/2=24",
    "def add(a, b):\n    return a + b\n",
    "naïve café ☕ 東京",
    choice_text("Which of these is a bird?", ["trout", "robin"], ["A", "B"]),
    "<|bos|> in a text is plain text",
]
SAMPLE_DOCUMENTS, SAMPLE_CHARACTERS = 4, 200


def run(job: Job, world: World, run: Run) -> dict[str, Any]:
    """Final metrics: bits_per_char, coverage and vocabulary_use (in percent), compression_ratio, tokens_used, eval_chars, data, and
    bytes_per_token/KIND, compared_with, and what `compare_with_benchmarks` gives; figures, samples, and the tables of both.
    """
    if world.rank != 0:
        return {}
    config, source = job.config, open_source(job.study.data)
    tokenizer = Tokenizer.load(job.inputs["tok_train"] / "tokenizer")
    run.dataset("text", source.describe("text"), sha256_text(source.identity()), "evaluation")
    texts = held_out(source, config.eval_chars)
    counts = Counter(token for ids in tokenizer.encode_batch(texts) for token in ids)
    metrics = measure(tokenizer, texts, counts)
    print(
        ", ".join(
            f"{key}: {value:.3f}" for key, value in metrics.items() if isinstance(value, float)
        ),
        flush=True,
    )
    for name, (figure, data) in figures(tokenizer, counts).items():
        run.figure(figure, f"plots/{name}.png", data)
    samples = [text[:SAMPLE_CHARACTERS] for text in texts[:SAMPLE_DOCUMENTS]] + FIXED_SAMPLES
    run.table([sample_row(tokenizer, text) for text in samples], "tokenisations.json")
    metrics |= measure_kinds(tokenizer, source, texts, run) | compare_with_benchmarks(
        config, source, run
    )
    return metrics | {"eval_chars": sum(map(len, texts)), "data": source.describe("text")}


def measure_kinds(
    tokenizer: Tokenizer, source: DataSource, held_out: list[str], run: Run
) -> dict[str, Any]:
    """Records table and figure of bytes per token by kind of text, ours beside the public tokenizers at hand.

    Gives bytes_per_token/KIND of ours, and compared_with: the public tokenizers, or which were not at hand.
    """
    public, missing = public_encodings()
    encoders = {OURS: tokenizer.encode_batch} | {
        name: encoding.encode_ordinary_batch for name, encoding in public.items()
    }
    rows = []
    for kind in text_kinds(source, held_out):
        size = sum(len(text.encode()) for text in kind.texts)
        for name, encode in encoders.items():
            tokens = sum(map(len, encode(kind.texts)))
            rows.append(
                {
                    "kind": kind.name,
                    "origin": kind.origin,
                    "bytes": size,
                    "encoding": name,
                    "tokens": tokens,
                    "bytes_per_token": size / tokens,
                }
            )
    absent = (
        f"{' and '.join(missing)} not at hand: no such files in tiktoken's cache (TIKTOKEN_CACHE_DIR)"
        if missing
        else ""
    )
    compared = "; ".join(part for part in (", ".join(public), absent) if part)
    print(f"tokenizer: compared with {compared}", flush=True)
    run.table(rows, "bytes_per_token.json")
    figure, data = bytes_per_token(rows)
    run.figure(figure, "plots/bytes_per_token.png", data)
    own = {
        f"bytes_per_token/{row['kind'].replace(' ', '_')}": row["bytes_per_token"]
        for row in rows
        if row["encoding"] == OURS
    }
    return own | {"compared_with": compared}


def compare_with_benchmarks(
    config: TokenizerConfig, source: DataSource, run: Run
) -> dict[str, Any]:
    """Records the table of test items that share a run of words with training data (data/contamination.py), `overlap_chars` of each corpus.

    Gives overlap/CORPUS (what was read) and, where benchmarks or corpora are not at hand, overlap/missing. Nothing when overlap_chars is 0.
    There is no total: some benchmarks hold the questions of others.
    """
    if not config.overlap_chars:
        return {}
    rows, corpora, missing = overlap(source, CHAT_TASKS, config.overlap_chars)
    run.table(rows, "overlap.json")
    metrics: dict[str, Any] = {
        f"overlap/{corpus.name}": f"{corpus.characters:,} characters of {corpus.documents:,} documents"
        + (", where overlap_chars ends" if corpus.cut else ", all there is")
        for corpus in corpora
    }
    if missing:
        metrics["overlap/missing"] = "; ".join(
            f"{name} ({reason})" for name, reason in missing.items()
        )
    for row in rows:
        if row["any_13"]:
            print(
                f"data: {row['any_13']} of {row['items']} items of {row['benchmark']} share a run of 13 words with training data",
                flush=True,
            )
    return metrics


def measure(tokenizer: Tokenizer, texts: list[str], counts: Counter[int]) -> dict[str, float]:
    """The figures of merit on `texts`, whose tokens are counted in `counts`.

    bits_per_char: entropy of the token unigram (bits a token) times tokens a character: what a model that knew only how frequent each
    token is would need. coverage: percent of the characters that begin in a token longer than one byte. compression_ratio: bytes a token.
    vocabulary_use: percent of the ordinary tokens that occur.
    """
    total, characters = counts.total(), sum(map(len, texts))
    size = tokenizer.token_bytes()
    entropy = -sum(n / total * math.log2(n / total) for n in counts.values())
    text_bytes = sum(n * size[token] for token, n in counts.items())
    single = sum(
        n
        for token, n in counts.items()
        if size[token] == 1 and not 0x80 <= tokenizer.piece(token)[0] < 0xC0
    )
    return {
        "bits_per_char": entropy * total / characters,
        "coverage": 100 * (1 - single / characters),
        "compression_ratio": text_bytes / total,
        "tokens_used": len(counts),
        "vocabulary_use": 100 * len(counts) / (tokenizer.vocab_size - len(SPECIAL_TOKENS)),
    }


def figures(
    tokenizer: Tokenizer, counts: Counter[int]
) -> dict[str, tuple[Figure, pandas.DataFrame]]:
    """Name -> figure and its data: how long tokens are, and how frequent by rank."""
    size, total = tokenizer.token_bytes(), counts.total()
    vocabulary = Counter(length for length in size if length)
    used = Counter({length: 0 for length in vocabulary})
    for token, n in counts.items():
        used[size[token]] += n
    lengths = pandas.DataFrame(
        [
            {
                "bytes": length,
                "share_of_vocabulary": vocabulary[length] / vocabulary.total(),
                "share_of_held_out_tokens": used[length] / total,
            }
            for length in sorted(vocabulary)
        ]
    )
    length_figure, (axis,) = canvas.new_figure()
    axis.bar(
        lengths["bytes"] - 0.2,
        lengths["share_of_vocabulary"],
        width=0.4,
        color=canvas.PALE,
        label="of the vocabulary",
    )
    axis.bar(
        lengths["bytes"] + 0.2,
        lengths["share_of_held_out_tokens"],
        width=0.4,
        color=canvas.BLUE,
        label="of held-out tokens",
    )
    axis.set_xlabel("bytes of a token")
    canvas.percent_axis(axis, "share")
    canvas.set_title(axis, "Token lengths")
    axis.legend(fontsize=8, frameon=False)
    ranked = counts.most_common()
    frequencies = pandas.DataFrame(
        {
            "rank": range(1, len(ranked) + 1),
            "token": [repr(tokenizer.decode([token])) for token, _ in ranked],
            "count": [n for _, n in ranked],
            "share": [n / total for _, n in ranked],
        }
    )
    frequency_figure, (axis,) = canvas.new_figure()
    axis.loglog(frequencies["rank"], frequencies["share"], color=canvas.BLUE, linewidth=1.5)
    axis.set_xlabel("rank of the token")
    axis.set_ylabel("share of held-out tokens")
    canvas.set_title(axis, "Token frequencies")
    return {
        "token_length": (length_figure, lengths),
        "token_frequency": (frequency_figure, frequencies),
    }


def sample_row(tokenizer: Tokenizer, text: str) -> dict[str, Any]:
    """One row of the table of samples; tokens are parted by "|"."""
    ids = tokenizer.encode(text)
    return {
        "text": text,
        "bytes": len(text.encode()),
        "count": len(ids),
        "tokens": "|".join(tokenizer.decode([token]) for token in ids),
    }
