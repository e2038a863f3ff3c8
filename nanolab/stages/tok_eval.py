"""Step tok_eval: how the vocabulary serves held-out text and other kinds of text, and what training
text shares with the benchmarks.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas
from matplotlib.figure import Figure

from nanolab.artefacts import TOKENIZER, verified
from nanolab.data.checks.overlap import overlap
from nanolab.data.checks.text_kinds import public_encodings, text_kinds
from nanolab.data.sources.source import DataSource, open_source
from nanolab.data.tasks.task import Question
from nanolab.data.tokens.tokenizer import SPECIAL_TOKENS, Tokenizer, encode_texts
from nanolab.figures import style
from nanolab.figures.tokenizer import OURS, bytes_per_token
from nanolab.files import sha256_text
from nanolab.results import Score, StepResult, scalars
from nanolab.settings.config import Job, TokenizerConfig
from nanolab.settings.evaluation_stages import CHAT_TASKS
from nanolab.stages.tok_train import held_out
from nanolab.tracking.journal import Run

if TYPE_CHECKING:  # this stage needs no torch
    from nanolab.dist import World

FIXED_SAMPLES = [
    "She has 1,234 apples and 56.5 kg of flour.",
    "48/2=24",
    "def add(a, b):\n    return a + b\n",
    "naïve café ☕ 東京",
    Question("Which of these is a bird?", ["trout", "robin"], ["A", "B"], "B").text,
    "<|bos|> in a text is plain text",
]
SAMPLE_DOCUMENTS, SAMPLE_CHARACTERS = 4, 200
SHARES = {  # of token lengths: place and colour of the bar, and its label
    "vocabulary": (-0.2, style.PALE, "of the vocabulary"),
    "held_out_tokens": (0.2, style.BLUE, "of held-out tokens"),
}


def run(job: Job, world: World, run: Run) -> StepResult:
    """What `measure` says, bytes per token of each kind of text, and what was compared; figures,
    samples, and tables.
    """
    if world.rank != 0:
        return StepResult()
    config, source = job.config, open_source(job.study.data)
    tokenizer = Tokenizer.load(verified(job.inputs["tok_train"], TOKENIZER))
    run.dataset("text", source.describe("text"), sha256_text(source.identity()), "evaluation")
    texts = held_out(source, config.eval_chars)
    counts = Counter(token for ids in tokenizer.encode_batch(texts) for token in ids)
    found = measure(tokenizer, texts, counts)
    line = ", ".join(f"{key}: {value:.3f}" for key, value in found.items() if key != "tokens_used")
    print(line, flush=True)
    for name, (figure, data) in figures(tokenizer, counts).items():
        run.figure(figure, f"plots/{name}.png", data)
    samples = [text[:SAMPLE_CHARACTERS] for text in texts[:SAMPLE_DOCUMENTS]] + FIXED_SAMPLES
    run.table([sample_row(tokenizer, text) for text in samples], "tokenisations.json")
    kinds, compared = measure_kinds(tokenizer, source, texts, run)
    facts = {"compared_with": compared, **compare_with_benchmarks(config, source, run)}
    rows = scalars(**found) + kinds + scalars(eval_chars=sum(map(len, texts)))
    return StepResult(rows, facts | {"data": source.describe("text")})


def measure_kinds(
    tokenizer: Tokenizer, source: DataSource, held_out: list[str], run: Run
) -> tuple[list[Score], str]:
    """Bytes per token of ours by kind of text, and the public tokenizers that its table and figure
    are compared with, or which were not at hand.
    """
    public, missing = public_encodings()
    encoders = {OURS: tokenizer.encode_batch} | {
        name: partial(encode_texts, encoding) for name, encoding in public.items()
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
    parts = [", ".join(public)] if public else []
    if missing:
        where = "no such files in tiktoken's cache (TIKTOKEN_CACHE_DIR)"
        parts.append(f"{' and '.join(missing)} not at hand: {where}")
    compared = "; ".join(parts)
    print(f"tokenizer: compared with {compared}", flush=True)
    run.table(rows, "bytes_per_token.json")
    figure, data = bytes_per_token(rows)
    run.figure(figure, "plots/bytes_per_token.png", data)
    own = [
        Score("bytes_per_token", row["bytes_per_token"], part=row["kind"].replace(" ", "_"))
        for row in rows
        if row["encoding"] == OURS
    ]
    return own, compared


def compare_with_benchmarks(
    config: TokenizerConfig, source: DataSource, run: Run
) -> dict[str, str]:
    """Records the table of test items that share a run of words with training data
    (data/checks/overlap.py); what was read of each corpus, and what is not at hand. There is no
    total: some benchmarks hold the questions of others.
    """
    if not config.overlap_chars:
        return {}
    rows, corpora, missing = overlap(source, CHAT_TASKS, config.overlap_chars)
    run.table(rows, "overlap.json")
    facts = {}
    for corpus in corpora:
        end = "where overlap_chars ends" if corpus.cut else "all there is"
        read = f"{corpus.characters:,} characters of {corpus.documents:,} documents"
        facts[f"overlap/{corpus.name}"] = f"{read}, {end}"
    if missing:
        absent = [f"{name} ({reason})" for name, reason in missing.items()]
        facts["overlap/missing"] = "; ".join(absent)
    for row in rows:
        if row["any_13"]:
            found = f"{row['any_13']} of {row['items']} items of {row['benchmark']}"
            print(f"data: {found} share a run of 13 words with training data", flush=True)
    return facts


def measure(tokenizer: Tokenizer, texts: list[str], counts: Counter[int]) -> dict[str, float]:
    """The figures of merit on `texts`, whose tokens are counted in `counts`.

    bits_per_char: what a model that knew only how frequent each token is would need. coverage:
    percent of the characters that begin in a token longer than one byte. compression_ratio: bytes a
    token. vocabulary_use: percent of the ordinary tokens that occur.
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
    length_figure, (axis,) = style.new_figure()
    for of, (shift, colour, label) in SHARES.items():
        places, heights = lengths["bytes"] + shift, lengths[f"share_of_{of}"]
        axis.bar(places, heights, width=0.4, color=colour, label=label)
    axis.set_xlabel("bytes of a token")
    style.percent_axis(axis, "share")
    style.set_title(axis, "Token lengths")
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
    frequency_figure, (axis,) = style.new_figure()
    axis.loglog(frequencies["rank"], frequencies["share"], color=style.BLUE, linewidth=1.5)
    axis.set_xlabel("rank of the token")
    axis.set_ylabel("share of held-out tokens")
    style.set_title(axis, "Token frequencies")
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
