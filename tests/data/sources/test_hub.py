"""The hub, imitated by a server on loopback: pinned revisions, whole files checked by size and
hash, cuts resumed, text in ranges, all of it in the user's cache.
"""

import dataclasses
import hashlib
import http.server
import io
import json
import threading
import time
import traceback
import urllib.parse
import zipfile
from pathlib import Path

import pytest
from huggingface_hub import constants

from nanolab.__main__ import main
from nanolab.data.checks.overlap import benchmarks, training_corpora
from nanolab.data.checks.text_kinds import text_kinds
from nanolab.data.sources import bundle, hub, network
from nanolab.data.sources.published import CHAT, PUBLISHED, TEXT
from nanolab.data.sources.source import open_source
from nanolab.data.tasks.catalogue import TASKS
from nanolab.data.tokens.batches import chat_conversations, mixture_notes
from nanolab.errors import UserError
from nanolab.settings.config import DataConfig
from nanolab.settings.evaluation_stages import CHAT_TASKS

TEXTS = [
    f"Document {number} of the imitated hub. " + "More of it. " * (number % 7)
    for number in range(90)
]

PINNED = {published.revision for published in PUBLISHED.values()}


class Hub(http.server.ThreadingHTTPServer):
    """Serves `files` (repository, path -> bytes) as the hub does; `cuts` are bytes after which the
    next answers break off, `lies` are files with a wrong hash.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.cuts, self.lies = {}, [], [], set()
        self.tokens = set()
        self.bundle = b""

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def sha256(self, path, data):
        return "0" * 64 if path in self.lies else hashlib.sha256(data).hexdigest()

    def listed(self, repository):
        return [
            {
                "type": "file",
                "path": path,
                "size": len(data),
                "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
                "lfs": {"oid": self.sha256(path, data), "size": len(data), "pointerSize": 134},
            }
            for (owner, path), data in self.files.items()
            if owner == repository
        ]


class Handler(http.server.BaseHTTPRequestHandler):
    """/api/datasets/OWNER/NAME/KIND/REVISION and /datasets/OWNER/NAME/resolve/REVISION/PATH."""

    def log_message(self, *_):
        pass

    def do_POST(self):
        repository, _, _ = self.asked_for()
        length = int(self.headers["Content-Length"])
        wanted = urllib.parse.parse_qs(self.rfile.read(length).decode())["paths"]
        listed = self.server.listed(repository)
        self.answer(json.dumps([file for file in listed if file["path"] in wanted]).encode(), 200)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        if self.path == "/bundle.zip":
            return self.answer(self.server.bundle, 200)
        repository, revision, path = self.asked_for()
        if revision not in PINNED:
            return self.answer(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
        if self.path.startswith("/api"):
            facts = {"id": repository, "sha": revision, "siblings": []}
            kind = self.path.split("/")[5]
            answer = self.server.listed(repository) if kind == "tree" else facts
            return self.answer(json.dumps(answer).encode(), 200)
        data = self.server.files.get((repository, path))
        if data is None:
            return self.answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
        facts = {"X-Repo-Commit": revision, "ETag": f'"{self.server.sha256(path, data)}"'}
        span = self.headers.get("Range")
        if span is None:
            return self.answer(data, 200, facts)
        first, _, last = span.removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1 if last else None]
        content = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        return self.answer(part, 206, facts | {"Content-Range": content})

    def asked_for(self):
        """Repository, revision and path of a request, which is noted."""
        if self.command == "GET":
            self.server.asked.append((self.path, self.headers.get("Range")))
        self.server.tokens.add(self.headers.get("Authorization"))
        _, *parts = self.path.partition("?")[0].removeprefix("/api").split("/")
        return "/".join(parts[1:3]), parts[4], "/".join(parts[5:])

    def answer(self, body, status, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = (
            self.server.cuts.pop(0) if self.server.cuts and self.path.endswith(".parquet") else None
        )
        self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True


def parquet_bytes(to_parquet, tmp_path, rows, **options):
    to_parquet(tmp_path / "made.parquet", rows, **options)
    return (tmp_path / "made.parquet").read_bytes()


@pytest.fixture
def server(tmp_path, rows_of, to_parquet, monkeypatch):
    """A hub with the own rows under the published names and three shards of text."""
    served = Hub()
    for published in (task.published for task in TASKS.values()):
        folder = str(published.local_folder)
        for split, name in published.files.items():
            path = Path(__file__).parents[1] / "rows" / folder / f"{split}{Path(name).suffix}"
            served.files[published.repository, name] = path.read_bytes()
        for split, name in (("train", "train"), ("validation", "validation"), ("test", "test")):
            source = Path(__file__).parents[1] / "rows" / folder / f"{split}.jsonl"
            if source.exists():
                data = parquet_bytes(to_parquet, tmp_path, rows_of(f"{folder}/{split}"))
                served.files[
                    published.repository, f"{published.folder}/{name}-00000-of-00001.parquet"
                ] = data
    auxiliary = parquet_bytes(to_parquet, tmp_path, rows_of("cais/mmlu/all/dev"))
    served.files["cais/mmlu", "all/auxiliary_train-00000-of-00001.parquet"] = auxiliary
    chats = rows_of("chat/own_chats/train")
    for part in range(2):
        served.files[CHAT.repository, f"data/train-0000{part}-of-00002.parquet"] = parquet_bytes(
            to_parquet, tmp_path, chats[2 * part :][:2]
        )
    for shard in range(3):
        rows = [{"id": str(number), "text": text} for number, text in enumerate(TEXTS)][
            30 * shard :
        ][:30]
        made = parquet_bytes(to_parquet, tmp_path, rows, row_group_size=8)
        served.files[TEXT.repository, f"{TEXT.folder}/000_0000{shard}.parquet"] = made
    for published in PUBLISHED.values():
        served.files[published.repository, hub.LISTING] = b"*.parquet filter=lfs\n"
    threading.Thread(target=served.serve_forever, daemon=True).start()
    use(monkeypatch, served.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bundle, "ADDRESS", served.address + "/bundle.zip")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the attempts of a download
    monkeypatch.setattr(hub, "VALIDATION_DOCUMENTS", 10)
    yield served
    served.shutdown()
    served.server_close()


def use(monkeypatch, address):
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", address)


@pytest.fixture
def source(tmp_path):
    return open_source(DataConfig(source="hub", root=str(tmp_path / "kept")))


def offline(server, monkeypatch):
    server.shutdown()
    server.server_close()
    use(monkeypatch, "http://127.0.0.1:9")  # the discard port: nothing listens


def test_tasks_and_chats_come_from_pinned_revisions_once(server, source, rows_of, monkeypatch):
    assert source.task("gsm8k", "train") == rows_of("openai/gsm8k/main/train")
    assert source.task("mmlu", "train") == rows_of("cais/mmlu/all/dev")
    assert [row["messages"] for row in source.chats("train")] == [
        row["messages"] for row in rows_of("chat/own_chats/train")
    ]
    paths = [path for path, _ in server.asked]
    assert all(PUBLISHED["gsm8k"].revision in path for path in paths if "gsm8k" in path) and any(
        "auxiliary_train" in path for path in paths
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    source.task("gsm8k", "train")
    source.chats("train")
    assert len(server.asked) == len(paths)  # nothing is asked for twice
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert source.describe("gsm8k") == f"hub openai/gsm8k@{PUBLISHED['gsm8k'].revision[:12]}"
    with pytest.raises(UserError, match="no split 'train'; it has test"):
        source.task("humaneval", "train")
    with pytest.raises(UserError, match=r"has no file data/test-.*it has data/train-00000"):
        source.chats("test")


def test_sets_whose_files_lie_bare_are_read_and_written_to_a_folder(server, source, rows_of):
    """MATH-500 and AIME 2025 as JSON lines, GPQA as CSV, AIME 2024 and MBPP as parquet."""
    names = ("math500", "aime_2024", "aime_2025", "gpqa_diamond", "mbpp")
    rows = {name: source.task(name, "test") for name in names}
    assert rows["math500"] == rows_of("HuggingFaceH4/MATH-500/test")
    assert rows["aime_2024"] == rows_of("HuggingFaceH4/aime_2024/train")
    assert rows["mbpp"] == rows_of("google-research-datasets/mbpp/sanitized/test")
    assert rows["gpqa_diamond"][0]["Incorrect Answer 2"] == "NA"
    assert rows["gpqa_diamond"][1]["Question"] == "What is left of three\nwhen one is taken?"
    for name in names:
        published = TASKS[name].published
        paths = source.fetch(published, TASKS[name].split_names.get("test", "test"))
        hub.copy_rows(paths, published, source.root)
    local = open_source(DataConfig(source="local", root=str(source.root)))
    assert {name: local.task(name, "test") for name in names} == rows
    assert {local.splits(name) for name in names} == {("test",)}
    assert all(source.splits(name) == ("test",) for name in names[:4])


def test_a_download_that_is_cut_off_goes_on_where_it_stopped(server, source, rows_of, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    server.cuts = [700, 900]
    assert source.task("arc_easy", "train") == rows_of("allenai/ai2_arc/ARC-Easy/train")
    assert [
        span for path, span in server.asked if path.endswith("train-00000-of-00001.parquet")
    ] == [
        None,
        "bytes=700-",
        "bytes=1600-",
    ]


def test_a_download_that_fails_is_one_line_and_leaves_nothing_that_looks_whole(
    server, source, rows_of
):
    server.cuts = [500, *[0] * 50]
    with pytest.raises(UserError, match=r"ai2_arc@\w+ could not be read \(.*use data.so") as caught:
        source.task("arc_easy", "test")
    assert "\n" not in str(caught.value)
    server.cuts = []
    assert source.task("arc_easy", "test") == rows_of("allenai/ai2_arc/ARC-Easy/test")


def test_a_wrong_hash_is_refused_and_leaves_nothing(server, source):
    server.lies.add("main/test-00000-of-00001.parquet")
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"test-00000-of-00001\.parquet of openai/gsm8k@\w+ is damaged: .*hash"
        ) as caught:
            source.task("gsm8k", "test")
        assert "\n" not in str(caught.value)


def test_a_revision_that_is_not_there_is_one_line(server, source, monkeypatch):
    published = dataclasses.replace(TASKS["gsm8k"].published, revision="0" * 40)
    other = dataclasses.replace(TASKS["gsm8k"], published=published)
    monkeypatch.setitem(TASKS, "gsm8k", other)
    with pytest.raises(UserError, match=r"hub openai/gsm8k@000000000000 could not be re") as caught:
        source.task("gsm8k", "test")
    assert "\n" not in str(caught.value)


def test_the_token_is_sent_to_the_hub_and_said_nowhere(server, source, monkeypatch, capfd, caplog):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    caplog.set_level("DEBUG")
    source.task("gsm8k", "test")
    server.cuts = [0] * 50
    for ask in (lambda: source.task("mmlu", "test"), lambda: source.blocks("train").block(0)):
        with pytest.raises(UserError) as caught:
            ask()
        assert "hf_secret" not in "".join(traceback.format_exception(caught.value))
    assert server.tokens == {"Bearer hf_secret"}
    assert "hf_secret" not in "".join([*capfd.readouterr(), caplog.text])


def test_a_file_that_was_altered_is_brought_again(server, source, rows_of):
    rows = source.task("gsm8k", "test")
    (path,) = source.fetch(PUBLISHED["gsm8k"], "test")
    path.write_bytes(path.read_bytes()[:-9])
    assert source.task("gsm8k", "test") == rows


def test_a_foreign_file_in_the_folder_is_never_overwritten(server, source, rows_of, to_parquet):
    folder = source.root / "openai" / "openai_humaneval" / "openai_humaneval"
    foreign = [folder / "test-00000-of-00001.parquet", source.root / "text" / "train-00000.parquet"]
    for path in foreign:
        to_parquet(path, [{"text": "Own."}])
    before = [path.read_bytes() for path in foreign]
    with pytest.raises(UserError, match="did not come from the hub"):
        hub.copy_rows(
            source.fetch(PUBLISHED["humaneval"], "test"), PUBLISHED["humaneval"], source.root
        )
    with pytest.raises(UserError, match="did not come from the hub"):
        hub.write_text(source.fetch_text(1), source.root)
    assert [path.read_bytes() for path in foreign] == before


def test_a_damaged_row_or_text_is_named_with_a_fix_that_brings_no_file_again(
    server, source, tmp_path, rows_of, to_parquet
):
    rows = rows_of("openai/gsm8k/main/test")
    bad = parquet_bytes(to_parquet, tmp_path, [rows[0], rows[1] | {"answer": "so it is 4"}])
    server.files[PUBLISHED["gsm8k"].repository, "main/test-00000-of-00001.parquet"] = bad
    line = r"main/test-0.*parquet, row 2: answer ends in 'so it is 4' .*data.source: local$"
    with pytest.raises(UserError, match=line):
        source.task("gsm8k", "test")
    bad = parquet_bytes(to_parquet, tmp_path, [{"text": "a"}, {"text": None}])
    server.files[TEXT.repository, f"{TEXT.folder}/000_00000.parquet"] = bad
    with pytest.raises(
        UserError, match=r"000_00000.parquet, row 2: text is null.*data.source: local$"
    ):
        source.documents("validation")


def test_text_is_streamed_in_ranges_and_split(server, source):
    assert [document.text for document in source.documents("train")] == TEXTS[10:]
    assert [document.text for document in source.documents("validation")] == TEXTS[:10]
    server.asked.clear()
    source.blocks("train").block(0)
    touched = {path for path, _ in server.asked if "/resolve/" in path}
    assert len(touched) == 1 and all(
        span for path, span in server.asked if "/resolve/" in path
    )  # one shard, never whole
    server.cuts = [3, 40]
    assert (
        source.blocks("train").block(1)[0].text
        == source.blocks("train").block(1)[0].text
        == TEXTS[16]
    )


def test_a_stream_that_breaks_for_good_is_one_line_with_the_reason(server, source):
    blocks = source.blocks("train")
    server.cuts = [0] * 50
    with pytest.raises(
        UserError, match=r"000_00000\.parquet cannot be read.*\(peer closed .*\)"
    ) as caught:
        blocks.block(0)
    assert "\n" not in str(caught.value)


def test_fetched_text_is_the_streamed_text_and_needs_no_network_afterwards(
    server, source, monkeypatch
):
    first = source.fetch_text(1)
    assert [path.name for path in first] == ["000_00000.parquet"]
    asked = len(server.asked)
    assert source.fetch_text(1) == first and len(server.asked) == asked
    every = source.fetch_text(10**9)
    assert (
        len(every) == 3 and sum("000_00000" in path for path, _ in server.asked) == 1
    )  # the first shard is not brought again
    hub.write_text(every, source.root)
    offline(server, monkeypatch)
    hub.write_text(every, source.root)  # what is written already stays
    local = open_source(DataConfig(source="local", root=str(source.root)))
    for kept in (source, local):
        assert [document.text for document in kept.documents("train")] == TEXTS[10:]
        assert [document.text for document in kept.documents("validation")] == TEXTS[:10]


@pytest.mark.parametrize("characters", [1, 1600])
def test_fetched_shards_are_followed_by_the_remaining_ones_and_never_taken_for_all(
    server, source, monkeypatch, characters
):
    here = len(source.fetch_text(characters))
    assert 1 <= here < 3
    assert [document.text for document in source.documents("train")] == TEXTS[10:]
    offline(server, monkeypatch)
    documents, read = source.documents("train"), []
    with pytest.raises(
        UserError, match=rf"{here} of 3 shards .* are here .*needs shard {here + 1}: .*data fetch"
    ):
        read.extend(iter(lambda: next(documents).text, None))
    assert [next(source.documents("validation")).text] == TEXTS[:1]


def test_the_identity_is_the_same_before_and_after_the_data_is_here_and_wherever_it_lies(
    server, source, tmp_path
):
    before = source.identity()
    source.task("gsm8k", "test")
    source.fetch_text(1)
    elsewhere = open_source(DataConfig(source="hub", root=str(tmp_path / "elsewhere")))
    assert source.identity() == before == elsewhere.identity()


def core_zip(broken=False):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        made.writestr(
            "eval_bundle/core.yaml",
            "icl_tasks:\n- label: pick\n  dataset_uri: own/pick.jsonl\n  num_fewshot: [3]\n "
            " icl_task_type: multiple_choice\n- label: gone\n  dataset_uri: own/gone.jsonl\n "
            " num_fewshot: [0]\n  icl_task_type: language_modeling\n  continuation_delimiter: ''\n",
        )
        made.writestr(
            "eval_bundle/eval_meta_data.csv",
            "Eval Task,Task Category,Random baseline\npick,own,50\ngone,own,0\n",
        )
        made.writestr(
            "eval_bundle/eval_data/own/pick.jsonl",
            '{"query": "Fire is", "choices": ["hot", "cold"], "gold": 0}\n',
        )
    data = bytearray(content.getvalue())
    if broken:
        data[data.index(b"Fire is")] ^= 1
    return bytes(data)


def test_the_core_bundle_becomes_the_local_layout_and_a_damaged_one_is_refused(server, source):
    server.bundle = core_zip(broken=True)
    with pytest.raises(UserError, match="damaged or not a CORE bundle"):
        source.core()
    assert not (source.root / "core").exists()
    server.bundle = core_zip()
    task, absent = source.core()
    assert (absent.name, absent.rows) == ("gone", [])
    assert (task.name, task.kind, task.num_fewshot, task.random_baseline) == (
        "pick",
        "multiple_choice",
        3,
        0.5,
    )
    assert task.rows == [{"query": "Fire is", "choices": ["hot", "cold"], "gold": 0}]
    assert source.describe("core").startswith("hub http")
    index = json.loads((source.root / "core" / "tasks.json").read_text())
    assert [(entry["name"], entry["status"]) for entry in index] == [
        ("pick", "exact"),
        ("gone", "missing"),
    ]


def test_what_fetch_brings_is_all_that_a_study_needs_without_a_network(
    server, source, monkeypatch, capsys, rows_of, to_parquet
):
    test = parquet_bytes(to_parquet, source.root.parent, rows_of("chat/own_chats/test"))
    server.files[CHAT.repository, "data/test-00000-of-00001.parquet"] = test
    server.bundle = core_zip()
    study = [
        "laptop",
        "--set",
        f"data.root={source.root}",
        "--set",
        "tokenizer.max_chars=100",
        "--set",
        "base_train.steps=1",
    ]
    assert main(["data", "fetch", *study]) == 0
    assert "ready in" in capsys.readouterr().out
    offline(server, monkeypatch)
    assert main(["data", "fetch", *study]) == 0  # nothing is missing
    for data in (source, open_source(DataConfig(source="local", root=str(source.root)))):
        assert (
            data.task("mmlu", "test") == rows_of("cais/mmlu/all/test")
            and data.task("mmlu", "train")
            and data.chats("train")
        )
        assert data.core()[0].name == "pick" and next(data.documents("validation")).text == TEXTS[0]
        assert len(chat_conversations(data, ["chats", "problems", "choices"])[0]["choices"]) == 6
        assert mixture_notes(data, ["choices"]) == []
        assert benchmarks(data, CHAT_TASKS)[1] == {} and [
            kind.name for kind in text_kinds(data, ["prose"])
        ] == ["prose", "code", "numbers", "other scripts"]
        assert all(list(corpus()) for corpus in training_corpora(data, CHAT_TASKS).values())


def test_an_unreachable_hub_is_one_line_that_names_the_other_sources_within_ten_seconds(
    monkeypatch, source
):
    for name in ("HTTPS_PROXY", "https_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    for ask in (
        lambda: source.task("gsm8k", "test"),
        lambda: source.documents("train"),
        lambda: source.chats("train"),
    ):
        with pytest.raises(
            UserError, match=r"cannot be reached; use data.source: local .* or embedded"
        ) as caught:
            ask()
        assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 10
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        source.chats("train")


def test_a_name_lookup_that_hangs_does_not_hold_up_the_probe(monkeypatch):
    monkeypatch.setattr(network, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(
        network.socket, "create_connection", lambda *_: time.sleep(30) or network.socket.socket()
    )
    for name in ("HTTPS_PROXY", "https_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    start = time.monotonic()
    with pytest.raises(UserError, match="cannot be reached"):
        network.require_hub("use another")
    assert time.monotonic() - start < 5
