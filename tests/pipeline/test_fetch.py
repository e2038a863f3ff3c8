"""`data fetch`: what a study needs is asked of the hub, once; other data needs nothing."""

import pytest

from nanolab.data.sources import hub
from nanolab.data.sources.hub import HubSource
from nanolab.errors import UserError
from nanolab.pipeline.fetch import fetch, text_bytes
from nanolab.settings.config import DataConfig
from nanolab.settings.study_file import load_study, study_from_dict


@pytest.fixture
def brought(monkeypatch):
    """What is brought, instead of bringing it. The transfer itself is tested against a server in
    tests/data/sources/test_hub.py.
    """
    found = []
    monkeypatch.setattr(
        HubSource,
        "fetch",
        lambda self, published, split: found.append(
            (published.repository, published.config, split)
        ),
    )
    monkeypatch.setattr(HubSource, "fetch_text", lambda self, size: found.append(("text", size)))
    monkeypatch.setattr(HubSource, "fetch_core", lambda self: found.append("core"))
    monkeypatch.setattr(hub, "copy_rows", lambda paths, published, root: None)
    monkeypatch.setattr(hub, "write_text", lambda shards, root: None)
    return found


def test_a_study_on_hub_data_brings_each_split_it_reads_once(brought, tmp_path):
    study = load_study("laptop", [f"data.root={tmp_path}"])
    assert study.data.source == "hub" and 4 <= study.base_train.depth <= 6
    lines = []
    fetch(study, say=lines.append)
    assert len(brought) == len(set(brought))
    assert {
        ("openai/gsm8k", "main", "test"),
        ("openai/gsm8k", "main", "train"),
        ("cais/mmlu", "all", "auxiliary_train"),
        ("allenai/ai2_arc", "ARC-Challenge", "train"),
        ("openai/openai_humaneval", "openai_humaneval", "test"),
        ("HuggingFaceTB/smol-smoltalk", None, "train"),
        "core",
        ("text", text_bytes(study)),
    } <= set(brought)
    assert lines[-1].startswith(f"ready in {tmp_path}") and "set data.root to it" in lines[-1]


def test_only_the_steps_of_the_study_count_and_text_is_sized_by_the_longest_training(
    brought, tmp_path
):
    study = study_from_dict(
        {"data": {"source": "hub", "root": str(tmp_path)}, "steps": ["tok_train", "rl"]}
    )
    fetch(study, ["tok_train"], lambda line: None)
    assert brought == [("text", 300 * 16 * 256 * 6)] and text_bytes(study) == 300 * 16 * 256 * 6


def test_other_data_needs_no_network_and_a_wrong_split_is_refused_first(brought):
    lines = []
    fetch(study_from_dict({"data": {"source": DataConfig().source}}), say=lines.append)
    assert not brought and "embedded data needs no network" in lines[0]
    with pytest.raises(UserError, match="no gsm8k dev"):
        fetch(
            study_from_dict(
                {"data": {"source": "hub"}, "steps": ["power_eval"], "power_eval": {"split": "dev"}}
            )
        )
    assert not brought
