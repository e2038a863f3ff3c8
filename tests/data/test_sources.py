"""Embedded, local and hub sources: the same schemas, one clear line for what is missing. Local rows are written here."""

import gzip
import itertools
import json
import subprocess
import sys
import time

import pyarrow
import pyarrow.parquet
import pytest

from nanolab.config import DataConfig
from nanolab.data import sources
from nanolab.data.sources import SCHEMAS, TASKS, open_source
from nanolab.schema import UserError

ROWS = {
    "openai/gsm8k/main/train": [{"question": "Rina has 3 plums and eats 1. How many are left?", "answer": "3-1=<<3-1=2>>2\n#### 2"}],
    "openai/gsm8k/main/test": [{"question": "Odo has 2 mats and buys 2. How many?", "answer": "2+2=<<2+2=4>>4\n#### 4"}] * 2,
    "allenai/ai2_arc/ARC-Easy/test": [{"id": "x_1", "question": "Which is hot?", "answerKey": "2",
                                       "choices": {"text": ["ice", "fire", "snow"], "label": ["1", "2", "3"]}}],
    "cais/mmlu/all/auxiliary_train": [{"question": "1+1?", "subject": "sums", "choices": ["1", "2", "3", "4"], "answer": 1}],
    "cais/mmlu/all/test": [{"question": "2+1?", "subject": "sums", "choices": ["1", "2", "3", "4"], "answer": 2}],
    "openai/openai_humaneval/openai_humaneval/test": [{"task_id": "T/0", "prompt": "def f(x):\n", "canonical_solution": "    return x\n",
                                                       "test": "def check(f):\n    assert f(1) == 1\n", "entry_point": "f"}],
    "text/train-00000-of-00002": [{"text": "First."}, {"text": "Second."}],
    "text/train-00001-of-00002": [{"text": "Third."}],
    "text/validation-00000-of-00001": [{"text": "Held out."}],
    "chat/two/train": [{"messages": [{"role": "user", "content": "B?"}, {"role": "assistant", "content": "b"}]}],
    "chat/one/train": [{"messages": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "a"}], "source": "own"}],
}
CORE = [{"name": "pick", "file": "data/pick.jsonl.gz", "icl_task_type": "multiple_choice", "num_fewshot": 1, "continuation_delimiter": " ",
         "random_baseline": 50.0}, {"name": "gone", "file": None, "icl_task_type": "schema", "num_fewshot": 0, "random_baseline": 50.0}]


@pytest.fixture
def folder(tmp_path):
    for name, rows in ROWS.items():
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    (tmp_path / "core" / "data").mkdir(parents=True)
    (tmp_path / "core" / "tasks.json").write_text(json.dumps(CORE))
    with gzip.open(tmp_path / "core" / "data" / "pick.jsonl.gz", "wt") as file:
        file.write(json.dumps({"query": "Fire is", "choices": ["hot", "cold"], "gold": 0}) + "\n")
    return tmp_path


@pytest.fixture
def local(folder):
    return open_source(DataConfig(source="local", root=str(folder)))


def test_local_tasks_give_the_rows_of_their_files(local):
    assert local.task("gsm8k", "train") == ROWS["openai/gsm8k/main/train"]
    assert local.task("gsm8k", "test", "main") == ROWS["openai/gsm8k/main/test"]
    assert local.task("arc_easy", "test") == ROWS["allenai/ai2_arc/ARC-Easy/test"]
    assert local.task("mmlu", "train") == ROWS["cais/mmlu/all/auxiliary_train"]
    assert local.task("humaneval", "test")[0]["entry_point"] == "f"
    assert local.task_splits("mmlu") == ("train", "test") and local.task_splits("humaneval") == ("test",)
    assert local.describe("gsm8k") == "local"


def test_local_text_is_one_pass_in_the_order_of_the_files_with_distinct_ids(local):
    documents = list(local.documents("train"))
    assert [d.text for d in documents] == ["First.", "Second.", "Third."]
    assert len({d.id for d in documents}) == 3
    assert [d.text for d in local.documents("validation")] == ["Held out."]


def test_local_chats_join_the_folders_in_order_and_keep_only_messages(local):
    assert [row["messages"][0]["content"] for row in local.chats("train")] == ["A?", "B?"]
    assert all(set(row) == {"messages"} for row in local.chats("train"))


def test_local_core_gives_tasks_without_a_file_no_rows_and_baselines_as_shares(local):
    task, absent = local.core()
    assert (absent.name, absent.rows) == ("gone", [])
    assert (task.name, task.kind, task.num_fewshot, task.random_baseline) == ("pick", "multiple_choice", 1, 0.5)
    assert task.rows == [{"query": "Fire is", "choices": ["hot", "cold"], "gold": 0}]


def test_local_identity_changes_with_a_file(local, folder):
    before = local.identity()
    assert before == local.identity()
    other = pyarrow.Table.from_pylist([{"text": "Another, longer text."}])
    pyarrow.parquet.write_table(other, folder / "text" / "train-00001-of-00002.parquet")
    assert local.identity() != before


@pytest.mark.parametrize("ask, names", [
    (lambda s: s.task("gsm8k", "validation"), "openai/gsm8k/main/validation.parquet.*has test, train"),
    (lambda s: s.task("humaneval", "train"), "openai_humaneval/train.parquet"),
    (lambda s: s.task("arc_challenge", "test"), "ARC-Challenge/test.parquet.*no split"),
    (lambda s: s.task("gsm8k", "test", "socratic"), "no subset 'socratic'"),
    (lambda s: s.task("gsm9k", "test"), "unknown task 'gsm9k'"),
    (lambda s: s.documents("test"), "text/test-"),
    (lambda s: s.chats("test"), "chat/NAME/test.parquet"),
])
def test_what_is_missing_is_named_with_its_file(local, ask, names):
    with pytest.raises(UserError, match=names) as caught:
        ask(local)
    assert "\n" not in str(caught.value)


def test_broken_files_are_named(local, folder):
    (folder / "openai" / "gsm8k" / "main" / "test.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(UserError, match=r"test\.parquet is not a readable parquet"):
        local.task("gsm8k", "test")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"words": "x"}]), folder / "text" / "validation-00000-of-00001.parquet")
    with pytest.raises(UserError, match="column text"):
        list(local.documents("validation"))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"question": "x"}]), folder / "openai" / "gsm8k" / "main" / "train.parquet")
    with pytest.raises(UserError, match="lacks column answer"):
        local.task("gsm8k", "train")
    (folder / "core" / "data" / "pick.jsonl.gz").unlink()
    with pytest.raises(UserError, match=r"pick.jsonl.gz of CORE task pick"):
        local.core()


def test_local_needs_a_folder_and_the_variable_supplies_only_a_missing_one(folder, monkeypatch):
    monkeypatch.delenv("NANOLAB_DATA", raising=False)
    with pytest.raises(UserError, match=r"set data.root, or the variable NANOLAB_DATA"):
        open_source(DataConfig(source="local"))
    with pytest.raises(UserError, match="is not a folder"):
        open_source(DataConfig(source="local", root=str(folder / "nowhere")))
    monkeypatch.setenv("NANOLAB_DATA", str(folder))
    assert open_source(DataConfig(source="local")).root == folder
    monkeypatch.setenv("NANOLAB_DATA", "/nowhere")
    assert open_source(DataConfig(source="local", root=str(folder))).root == folder


def test_embedded_gives_every_task_in_the_public_schema():
    source = open_source(DataConfig())
    for name in TASKS:
        for split in source.task_splits(name):
            assert set(source.task(name, split)[0]) >= SCHEMAS[name]
    documents = list(itertools.islice(source.documents("train"), 3000))
    assert len({d.id for d in documents}) == 3000
    assert len(source.core()) == 6 and source.chats("train")
    assert source.describe("text") == "embedded"
    assert source.identity() != open_source(DataConfig(seed=1)).identity() != open_source(DataConfig(short_guesses=0.5)).identity()
    with pytest.raises(UserError, match="no subset"):
        source.task("gsm8k", "test", "socratic")


def test_an_unreachable_hub_is_one_line_that_names_the_other_sources_within_ten_seconds(monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "HF_HUB_OFFLINE", "NANOLAB_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nothing listens
    source = open_source(DataConfig(source="hub"))
    start = time.monotonic()
    for ask in (lambda: source.task("gsm8k", "test"), lambda: source.documents("train"), lambda: source.chats("train")):
        with pytest.raises(UserError, match=r"cannot be reached; use data.source: local .* or embedded") as caught:
            ask()
        assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 10


def test_a_name_lookup_that_hangs_does_not_hold_up_the_probe(monkeypatch):
    monkeypatch.setattr(sources, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(sources.socket, "create_connection", lambda *_: time.sleep(30) or sources.socket.socket())
    for name in ("HTTPS_PROXY", "https_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    start = time.monotonic()
    with pytest.raises(UserError, match="cannot be reached"):
        sources.require_hub("use another")
    assert time.monotonic() - start < 5


class FakeStream(list):
    def take(self, count):
        return self[:count]

    def skip(self, count):
        return self[count:]


def test_the_hub_is_asked_for_pinned_revisions_and_its_text_is_split(monkeypatch):
    asked = []

    def fake_load(self, published, split, streaming=False):
        asked.append((published.repository, published.config, split, len(published.revision), streaming))
        if streaming:
            return FakeStream({"text": f"Text {i}."} for i in range(sources.HUB_VALIDATION_DOCUMENTS + 2))
        return {"cais/mmlu": ROWS["cais/mmlu/all/test"], "HuggingFaceTB/smol-smoltalk": ROWS["chat/one/train"]}[published.repository]

    monkeypatch.setattr(sources.HubSource, "_load", fake_load)
    source = open_source(DataConfig(source="hub"))
    assert source.task("mmlu", "train") == ROWS["cais/mmlu/all/test"]
    assert source.chats("train") == [{"messages": ROWS["chat/one/train"][0]["messages"]}]
    assert [d.text for d in source.documents("train")] == ["Text 1000.", "Text 1001."]
    assert len(list(source.documents("validation"))) == 1000
    assert asked[0] == ("cais/mmlu", "all", "auxiliary_train", 40, False)
    assert asked[2] == ("HuggingFaceFW/fineweb-edu", "sample-100BT", "train", 40, True)
    assert source.describe("gsm8k").startswith("hub openai/gsm8k@")
    with pytest.raises(UserError, match="no split 'train'; it has test"):
        source.task("humaneval", "train")


def test_the_hub_needs_a_local_folder_for_core_only(folder, monkeypatch):
    monkeypatch.delenv("NANOLAB_DATA", raising=False)
    with pytest.raises(UserError, match="CORE tasks have no hub set"):
        open_source(DataConfig(source="hub")).core()
    assert open_source(DataConfig(source="hub", root=str(folder))).core()[0].name == "pick"


def test_opening_a_source_imports_neither_torch_nor_the_data_libraries():
    code = ("import sys; from nanolab.config import DataConfig; from nanolab.data.sources import open_source; "
            "open_source(DataConfig()).task('gsm8k', 'test'); "
            "print([m for m in ('torch', 'datasets', 'pyarrow', 'numpy') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
