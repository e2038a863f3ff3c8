"""Claims about the steps tok_train and tok_eval, on a source of own texts."""

import math
from collections import Counter
from types import SimpleNamespace

import pytest

from nanolab.config import Job, StudyConfig, TokenizerConfig
from nanolab.data.sources import Document
from nanolab.data.tokenizer import Tokenizer, train_tokenizer
from nanolab.journal import NullRun
from nanolab.schema import UserError
from nanolab.stages import tok_eval, tok_train

WORLD = SimpleNamespace(rank=0, size=1)
TEXTS = {"train": [f"Item {i}: the red box holds {i * 7} small pens and the blue box {i * 3}." for i in range(200)],
         "validation": [f"The blue box holds {i} pens, naïve." for i in range(50)]}


class OwnSource:
    def documents(self, split):
        return (Document(str(i), text) for i, text in enumerate(TEXTS[split]))

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


def test_training_reads_max_chars_and_leaves_a_tokenizer(job):
    run = NullRun()
    metrics = tok_train.run(job, WORLD, run)
    tokenizer = Tokenizer.load(job.folder / "tokenizer")
    assert metrics["vocab_size"] == tokenizer.vocab_size == 330
    assert metrics["max_chars"] == metrics["characters"] == 5000 and metrics["data"] == "local"
    joined = [text.text for text in OwnSource().documents("train")]
    assert tokenizer.digest == train_tokenizer(tok_train.LimitedText(OwnSource().documents("train"), 5000), 330).digest
    assert tokenizer.digest != train_tokenizer(joined, 330).digest
    assert run.datasets[0]["context"] == "training"
    assert metrics["documents"] == sum(1 for _ in tok_train.LimitedText(OwnSource().documents("train"), 5000))
    assert metrics["documents_with_unk"] == 0
    marked = tok_train.LimitedText([Document("0", "A <unk> word."), Document("1", "A word.")], 100)
    assert len(list(marked)) == 2 and (marked.documents_read, marked.with_unk) == (2, 1)
    texts = tok_train.held_out(OwnSource(), 600)
    assert sum(map(len, texts)) == 600
    assert metrics["compression_ratio"] == sum(len(t.encode()) for t in texts) / sum(len(tokenizer.encode(t)) for t in texts) > 1.5


def test_evaluation_agrees_with_a_count_by_hand(job):
    trained = tok_train.run(job, WORLD, NullRun())
    run = NullRun()
    metrics = tok_eval.run(job, WORLD, run)
    tokenizer, texts = Tokenizer.load(job.folder / "tokenizer"), tok_train.held_out(OwnSource(), 600)
    counts = Counter(token for text in texts for token in tokenizer.encode(text))
    total = sum(counts.values())
    bits = sum(-math.log2(counts[token] / total) for text in texts for token in tokenizer.encode(text))
    assert metrics["bits_per_char"] == pytest.approx(bits / 600)
    covered = 0
    for text in texts:
        length_at = [len(tokenizer.piece(token)) for token in tokenizer.encode(text) for _ in tokenizer.piece(token)]  # by byte
        covered += sum(length_at[len(text[:i].encode())] > 1 for i in range(len(text)))
    assert metrics["coverage"] == pytest.approx(100 * covered / 600)
    assert metrics["compression_ratio"] == pytest.approx(trained["compression_ratio"]) and metrics["eval_chars"] == 600
    assert set(run.figures) == {"plots/token_length.png", "plots/token_frequency.png"}
    lengths = run.figures["plots/token_length.png"][1]
    assert lengths["share_of_vocabulary"].sum() == pytest.approx(1) and lengths["share_of_held_out_tokens"].sum() == pytest.approx(1)
    assert list(run.figures["plots/token_frequency.png"][1]["count"]) == sorted(counts.values(), reverse=True)
    for row in run.tables["tokenisations.json"]:
        assert row["count"] >= 1 and (not row["text"].isascii() or row["tokens"].replace("|", "") == row["text"].replace("|", ""))


def test_more_ranks_work_once(job):
    assert tok_train.run(job, SimpleNamespace(rank=1, size=2), NullRun()) == {}
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
        tok_eval.run(job, WORLD, NullRun())
