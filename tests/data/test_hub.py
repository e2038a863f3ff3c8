"""The hub, imitated by a server on loopback: pinned revisions, whole files checked by size and hash, cuts resumed, text in ranges."""

import hashlib
import http.server
import io
import json
import shutil
import threading
import time
import zipfile
from pathlib import Path

import pytest

from nanolab.__main__ import main
from nanolab.config import CHAT_TASKS, DataConfig
from nanolab.data import bundle, download, hub
from nanolab.data.batches import chat_conversations, mixture_notes
from nanolab.data.contamination import benchmarks, training_corpora
from nanolab.data.published import CHAT, TASKS, TEXT
from nanolab.data.sources import open_source
from nanolab.data.text_kinds import text_kinds
from nanolab.schema import UserError

TEXTS = [
    f"Document {number} of the imitated hub. " + "More of it. " * (number % 7)
    for number in range(90)
]


class Hub(http.server.ThreadingHTTPServer):
    """Serves `files` (repository, path -> bytes) as the hub does; `cuts` are bytes after which the next answers break off."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.cuts, self.lies = {}, [], [], set()
        self.bundle = b""

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.bundle)))
        self.end_headers()

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range")))
        _, *parts = self.path.split("/")
        if parts[:2] == ["api", "datasets"]:  # /api/datasets/OWNER/NAME/tree/REVISION/FOLDER
            repository, folder = "/".join(parts[2:4]), "/".join(parts[6:])
            listed = [
                {
                    "type": "file",
                    "path": path,
                    "size": len(data),
                    "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
                    "lfs": {
                        "oid": "0" * 64
                        if path in self.server.lies
                        else hashlib.sha256(data).hexdigest(),
                        "size": len(data),
                        "pointerSize": 134,
                    },
                }
                for (owner, path), data in self.server.files.items()
                if owner == repository and path.startswith(folder + "/")
            ]
            return self.answer(json.dumps(listed).encode(), 200)
        data = (
            self.server.bundle
            if parts == ["bundle.zip"]
            else self.server.files["/".join(parts[1:3]), "/".join(parts[5:])]
        )
        span = self.headers.get("Range")
        if span is None:
            return self.answer(data, 200)
        first, _, last = span.removeprefix("bytes=").partition("-")
        return self.answer(data[int(first) : int(last) + 1 if last else None], 206)

    def answer(self, body, status):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts and "/resolve/" in self.path else None
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
    for published in TASKS.values():
        folder = f"{published.repository}/{published.config}"
        for split, name in (("train", "train"), ("validation", "validation"), ("test", "test")):
            source = Path(__file__).parent / "rows" / folder / f"{split}.jsonl"
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
    threading.Thread(target=served.serve_forever, daemon=True).start()
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", served.address)
    monkeypatch.setattr(bundle, "ADDRESS", served.address + "/bundle.zip")
    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setattr(hub, "VALIDATION_DOCUMENTS", 10)
    yield served
    served.shutdown()
    served.server_close()


@pytest.fixture
def source(tmp_path):
    return open_source(DataConfig(source="hub", root=str(tmp_path / "kept")))


def offline(server, monkeypatch):
    server.shutdown()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nothing listens


def test_tasks_and_chats_come_from_pinned_revisions_once(server, source, rows_of):
    assert source.task("gsm8k", "train") == rows_of("openai/gsm8k/main/train")
    assert source.task("mmlu", "train") == rows_of("cais/mmlu/all/dev")
    assert [row["messages"] for row in source.chats("train")] == [
        row["messages"] for row in rows_of("chat/own_chats/train")
    ]
    paths = [path for path, _ in server.asked]
    assert all(TASKS["gsm8k"].revision in path for path in paths if "gsm8k" in path) and any(
        "auxiliary_train" in path for path in paths
    )
    source.task("gsm8k", "train")
    source.chats("train")
    assert len(server.asked) == len(paths)  # nothing is asked for twice
    assert source.describe("gsm8k") == f"hub openai/gsm8k@{TASKS['gsm8k'].revision[:12]}"
    with pytest.raises(UserError, match="no split 'train'; it has test"):
        source.task("humaneval", "train")
    with pytest.raises(UserError, match=r"has no file data/test-.*it has data/train-00000"):
        source.chats("test")


def test_a_download_that_is_cut_off_goes_on_where_it_stopped(server, source, rows_of):
    server.cuts = [700, 900]
    assert source.task("arc_easy", "train") == rows_of("allenai/ai2_arc/ARC-Easy/train")
    assert [span for path, span in server.asked if "/resolve/" in path] == [
        None,
        "bytes=700-",
        "bytes=1600-",
    ]


def test_a_later_process_goes_on_with_the_part_that_an_earlier_one_left(server, source, rows_of):
    server.cuts = [500, *[0] * 50]
    with pytest.raises(
        UserError, match=r"500 of [\d,]+ bytes are here: run the command again"
    ) as caught:
        source.task("arc_easy", "test")
    assert "\n" not in str(caught.value)
    folder = source.root / "allenai" / "ai2_arc" / "ARC-Easy"
    assert not list(folder.glob("*.parquet")) and not source._marker()  # nothing that looks whole
    server.cuts, server.asked = [], []
    assert open_source(DataConfig(source="hub", root=str(source.root))).task(
        "arc_easy", "test"
    ) == rows_of("allenai/ai2_arc/ARC-Easy/test")
    assert [span for path, span in server.asked if "/resolve/" in path] == ["bytes=500-"]
    assert [path.name for path in folder.iterdir()] == ["test.parquet"]


def test_a_wrong_hash_is_refused_and_leaves_nothing(server, source):
    server.lies.add("main/test-00000-of-00001.parquet")
    with pytest.raises(
        UserError, match=r"test-00000-of-00001\.parquet is damaged: .* expected"
    ) as caught:
        source.task("gsm8k", "test")
    assert "\n" not in str(caught.value)
    assert not [path for path in source.root.rglob("*") if path.is_file() and path.name != ".lock"]


def test_a_file_that_was_altered_is_brought_again_and_a_foreign_one_is_never_overwritten(
    server, source, rows_of, to_parquet
):
    rows = source.task("gsm8k", "test")
    path = source.root / "openai" / "gsm8k" / "main" / "test.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    assert source.task("gsm8k", "test") == rows
    foreign = source.root / "openai" / "openai_humaneval" / "openai_humaneval" / "test.parquet"
    to_parquet(foreign, rows_of("openai/openai_humaneval/openai_humaneval/test"))
    foreign.write_bytes(before := foreign.read_bytes() + b" ")
    with pytest.raises(UserError, match="did not come from the hub"):
        source.task("humaneval", "test")
    assert foreign.read_bytes() == before


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
        UserError, match=r"000_00000\.parquet cannot be read.*could not be read \(.*\)"
    ) as caught:
        blocks.block(0)
    assert "\n" not in str(caught.value)


def test_fetched_text_is_the_streamed_text_and_needs_no_network_afterwards(
    server, source, monkeypatch
):
    first = source.fetch_text(1)
    assert [path.name for path in first] == ["train-00000-of-00003.parquet"]
    asked = len(server.asked)
    assert source.fetch_text(1) == first and len(server.asked) == asked
    every = source.fetch_text(10**9)
    assert (
        len(every) == 3 and sum("000_00000" in path for path, _ in server.asked) == 1
    )  # the first shard is not brought again
    offline(server, monkeypatch)
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
    shutil.copytree(source.root, tmp_path / "elsewhere")
    assert (
        source.identity()
        == before
        == open_source(DataConfig(source="hub", root=str(tmp_path / "elsewhere"))).identity()
    )


def core_zip(broken=False):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        made.writestr(
            "eval_bundle/core.yaml",
            "icl_tasks:\n- label: pick\n  dataset_uri: own/pick.jsonl\n  num_fewshot: [3]\n"
            "  icl_task_type: multiple_choice\n- label: gone\n  dataset_uri: own/gone.jsonl\n  num_fewshot: [0]\n"
            "  icl_task_type: language_modeling\n  continuation_delimiter: ''\n",
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
    assert not list((source.root / "core").iterdir())
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
    monkeypatch.setattr(download, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(
        download.socket, "create_connection", lambda *_: time.sleep(30) or download.socket.socket()
    )
    for name in ("HTTPS_PROXY", "https_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    start = time.monotonic()
    with pytest.raises(UserError, match="cannot be reached"):
        download.require_hub("use another")
    assert time.monotonic() - start < 5
