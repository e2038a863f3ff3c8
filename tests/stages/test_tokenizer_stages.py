"""Claims about the steps tok_train and tok_eval, on a source of own texts."""

import math
import re
from collections import Counter
from types import SimpleNamespace

import pytest

from nanolab import artefacts
from nanolab.data.sources.source import CoreTask, Document
from nanolab.data.tokens import tokenizer
from nanolab.data.tokens.tokenizer import Tokenizer, train_tokenizer
from nanolab.errors import UserError
from nanolab.figures import style
from nanolab.settings.config import Job, StudyConfig, TokenizerConfig
from nanolab.stages import tok_eval, tok_train
from nanolab.tracking.journal import NullRun

WORLD = SimpleNamespace(rank=0, size=1)
TEXTS = {
    "train": [
        f"Item {i}: the red box holds {i * 7} small pens and the blue box {i * 3}."
        for i in range(200)
    ],
    "validation": [f"The blue box holds {i} pens, naïve." for i in range(50)],
}

ROWS = {
    "gsm8k": {
        "train": [{"question": "How many?", "answer": "#### 1"}],
        "test": [
            {
                "question": "Today the red box holds 70 small pens and the blue box 30, how many?",
                "answer": "#### 100",
            }
        ],
    },
    "humaneval": {
        "test": [{"prompt": "def half(x):\n", "canonical_solution": "    return x / 2\n"}]
    },
}


class OwnSource:
    def documents(self, split):
        return (Document(str(i), text) for i, text in enumerate(TEXTS[split]))

    def task(self, name, split, subset=None):
        if name not in ROWS:
            raise UserError(f"no file for {name}")
        return ROWS[name][split]

    def splits(self, name):
        return tuple(ROWS.get(name, ()))

    def chats(self, split):
        return [
            {
                "messages": [
                    {"role": "user", "content": "Add."},
                    {"role": "assistant", "content": f"def add_{split}(a, b):\n"},
                ]
            }
        ]

    def core(self):
        return [
            CoreTask(
                "own",
                "schema",
                0,
                " ",
                0.5,
                [{"context_options": ["The red pen", "The blue pen"], "continuation": "is short"}],
            )
        ]

    def identity(self):
        return "own"

    def describe(self, what):
        return "local"


@pytest.fixture
def job(tmp_path, monkeypatch):
    for module in (tok_train, tok_eval):
        monkeypatch.setattr(module, "open_source", lambda data: OwnSource())
    config = TokenizerConfig(vocab_size=330, max_chars=5000, eval_chars=600)
    return Job("tok_train", StudyConfig(), config, tmp_path, {"tok_train": tmp_path})


def finished(job):
    """The metrics of the trained tokenizer, with its result written."""
    metrics = tok_train.run(job, WORLD, NullRun()).flat()
    artefacts.write_result(job.folder, "tok_train", metrics, 0.0)
    return metrics


def test_training_reads_max_chars_and_leaves_a_tokenizer(job):
    run = NullRun()
    metrics = tok_train.run(job, WORLD, run).flat()
    tokenizer = Tokenizer.load(job.folder / "tokenizer")
    assert metrics["vocab_size"] == tokenizer.vocab_size == 330
    assert metrics["max_chars"] == metrics["characters"] == 5000 and metrics["data"] == "local"
    joined = [text.text for text in OwnSource().documents("train")]
    assert (
        tokenizer.digest
        == train_tokenizer(tok_train.LimitedText(OwnSource().documents("train"), 5000), 330).digest
    )
    assert tokenizer.digest != train_tokenizer(joined, 330).digest
    assert run.datasets[0]["context"] == "training"
    assert metrics["documents"] == sum(
        1 for _ in tok_train.LimitedText(OwnSource().documents("train"), 5000)
    )
    assert metrics["documents_with_unk"] == 0
    marked = tok_train.LimitedText([Document("0", "A <unk> word."), Document("1", "A word.")], 100)
    assert len(list(marked)) == 2 and (marked.documents_read, marked.with_unk) == (2, 1)
    texts = tok_train.held_out(OwnSource(), 600)
    assert sum(map(len, texts)) == 600
    assert (
        metrics["compression_ratio"]
        == sum(len(t.encode()) for t in texts) / sum(len(tokenizer.encode(t)) for t in texts)
        > 1.5
    )


def test_a_long_run_of_blanks_is_said_and_a_panic_in_training_names_the_document(
    job, monkeypatch, capfd
):
    """Each step that tokenises takes it, the held-out text and the public tokenizers among them."""
    blanks = "red" + " " * 1_000_100 + "blue"
    monkeypatch.setitem(TEXTS, "train", [*TEXTS["train"][:9], blanks, *TEXTS["train"][9:]])
    monkeypatch.setitem(TEXTS, "validation", [blanks])
    untrained = Tokenizer([bytes([value]) for value in range(256)])
    public = {"public": untrained._encoding}
    monkeypatch.setattr(tok_eval, "public_encodings", lambda: (public, []))
    config = TokenizerConfig(vocab_size=330, max_chars=2_000_000, eval_chars=2_000_000)
    job = Job("tok_train", StudyConfig(), config, job.folder, job.inputs)
    finished(job)
    assert "document 9 has over 100,000 blanks in a row" in capfd.readouterr().out
    run = NullRun()
    assert tok_eval.run(job, WORLD, run).flat()["eval_chars"] == len(blanks)
    rows = {(row["kind"], row["encoding"]): row for row in run.tables["bytes_per_token.json"]}
    assert rows["prose", "public"]["tokens"] == len(blanks)
    monkeypatch.setattr(tokenizer, "LONGEST_BLANKS", 10**7)  # as if the library took less
    with pytest.raises(UserError, match="document 9: the training text cannot be tokenised"):
        tok_train.run(job, WORLD, NullRun())


def test_evaluation_agrees_with_a_count_by_hand(job):
    trained = finished(job)
    run = NullRun()
    metrics = tok_eval.run(job, WORLD, run).flat()
    tokenizer, texts = (
        Tokenizer.load(job.folder / "tokenizer"),
        tok_train.held_out(OwnSource(), 600),
    )
    counts = Counter(token for text in texts for token in tokenizer.encode(text))
    total = sum(counts.values())
    bits = sum(
        -math.log2(counts[token] / total) for text in texts for token in tokenizer.encode(text)
    )
    assert metrics["bits_per_char"] == pytest.approx(bits / 600)
    covered = 0
    for text in texts:
        length_at = [
            len(tokenizer.piece(token))
            for token in tokenizer.encode(text)
            for _ in tokenizer.piece(token)
        ]  # by byte
        covered += sum(length_at[len(text[:i].encode())] > 1 for i in range(len(text)))
    assert metrics["coverage"] == pytest.approx(100 * covered / 600)
    assert (
        metrics["compression_ratio"] == pytest.approx(trained["compression_ratio"])
        and metrics["eval_chars"] == 600
    )
    assert metrics["vocabulary_use"] == pytest.approx(100 * len(counts) / 321)
    assert set(run.figures) == {
        "plots/token_length.png",
        "plots/token_frequency.png",
        "plots/bytes_per_token.png",
    }
    assert all(
        figure.get_size_inches()[0] == style.SIZE[0] for figure, _ in run.figures.values()
    )  # the style of all figures
    lengths = run.figures["plots/token_length.png"][1]
    assert lengths["share_of_vocabulary"].sum() == pytest.approx(1) and lengths[
        "share_of_held_out_tokens"
    ].sum() == pytest.approx(1)
    assert list(run.figures["plots/token_frequency.png"][1]["count"]) == sorted(
        counts.values(), reverse=True
    )
    for row in run.tables["tokenisations.json"]:
        assert row["count"] >= 1 and (
            not row["text"].isascii()
            or row["tokens"].replace("|", "") == row["text"].replace("|", "")
        )


def test_bytes_per_token_are_counted_by_kind_and_missing_public_tokenizers_are_said(
    job, monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "empty"))
    finished(job)
    run = NullRun()
    metrics = tok_eval.run(job, WORLD, run).flat()
    tokenizer, rows = Tokenizer.load(job.folder / "tokenizer"), run.tables["bytes_per_token.json"]
    assert [row["kind"] for row in rows] == ["prose", "code", "numbers", "other scripts"]
    assert {row["encoding"] for row in rows} == {"this study"}
    programs = ["def half(x):\n    return x / 2\n", "def add_test(a, b):\n"]
    expected = sum(len(text.encode()) for text in programs) / sum(
        len(tokenizer.encode(text)) for text in programs
    )
    assert rows[1]["bytes_per_token"] == metrics["bytes_per_token/code"] == pytest.approx(expected)
    assert metrics["bytes_per_token/prose"] == pytest.approx(metrics["compression_ratio"])
    assert (
        metrics["compared_with"].startswith("gpt2 and cl100k_base not at hand")
        and "gpt2" in capsys.readouterr().out
    )
    assert list(run.figures["plots/bytes_per_token.png"][1]["bytes_per_token"]) == [
        row["bytes_per_token"] for row in rows
    ]


def test_shared_runs_of_words_are_counted_and_missing_benchmarks_are_said(job):
    finished(job)
    run = NullRun()
    metrics = tok_eval.run(job, WORLD, run).flat()
    by_name = {row["benchmark"]: row for row in run.tables["overlap.json"]}
    assert set(by_name) == {"gsm8k", "humaneval", "core/own"}
    assert (
        by_name["gsm8k"]["text_8"],
        by_name["gsm8k"]["text_13"],
        by_name["gsm8k"]["long_13"],
    ) == (1, 0, 1)
    assert re.fullmatch(
        r"item 0 = \d+: the red box holds 70 small pens and", by_name["gsm8k"]["example"]
    )
    assert (
        "mmlu (no file for mmlu)" in metrics["overlap/missing"] and "overlap/items" not in metrics
    )
    assert metrics["overlap/text"].endswith("of 200 documents, all there is")
    none = Job(
        job.step,
        job.study,
        TokenizerConfig(vocab_size=330, overlap_chars=0),
        job.folder,
        job.inputs,
    )
    run = NullRun()
    assert (
        not any(key.startswith("overlap") for key in tok_eval.run(none, WORLD, run).flat())
        and "overlap.json" not in run.tables
    )


def test_more_ranks_work_once(job):
    assert tok_train.run(job, SimpleNamespace(rank=1, size=2), NullRun()).flat() == {}
    assert not (job.folder / "tokenizer").exists()


def test_too_large_a_vocabulary_leaves_nothing(job):
    big = Job(job.step, job.study, TokenizerConfig(vocab_size=5000, max_chars=5000), job.folder, {})
    with pytest.raises(UserError, match="vocab_size = 5000"):
        tok_train.run(big, WORLD, NullRun())
    assert not (job.folder / "tokenizer").exists()


def test_no_held_out_text_is_a_clear_line(job, monkeypatch):
    monkeypatch.setitem(TEXTS, "validation", [])
    with pytest.raises(UserError, match="validation split"):
        tok_train.run(job, WORLD, NullRun())


def test_evaluation_without_a_tokenizer_is_a_clear_line(job):
    with pytest.raises(UserError, match="no tokenizer"):
        Tokenizer.load(job.folder / "tokenizer")
    with pytest.raises(
        UserError, match=r"has no result.json: its step is not finished; run the same command again"
    ):
        tok_eval.run(job, WORLD, NullRun())
