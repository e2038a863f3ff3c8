"""What a study asks of its data is checked when it is planned: before anything starts, and without
a network.
"""

import pytest

from nanolab import files
from nanolab.data.sources.requirements import check_data, requirements
from nanolab.data.sources.source import open_source
from nanolab.errors import UserError
from nanolab.plan.steps import plan
from nanolab.settings.config import StudyConfig
from nanolab.settings.study_file import study_from_dict

STEPS = [step for step in StudyConfig().steps if step != "report"]


@pytest.fixture
def mlruns(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MLRUNS", tmp_path / "mlruns")


def study(source, root=None, **stages):
    base = {"mid_train": {"share_programs": 0.0}, "sft": {"share_programs": 0.0}}
    return study_from_dict(
        {"data": {"source": source, "root": root and str(root)}, **base, **stages}
    )


@pytest.mark.parametrize(
    "stages, words",
    [
        (
            {"power_eval": {"split": "tests"}},
            r"power_eval.split: the data \(hub\) has no gsm8k tests; it has train, test",
        ),
        (
            {"power_ablation": {"split": "validation"}},
            r"power_ablation.split: .* no gsm8k validation",
        ),
        ({"power_eval": {"subset": "socratic"}}, "gsm8k has no subset 'socratic'; it has main"),
        (
            {"power_eval": {"task": "humaneval", "split": "train"}},
            "no humaneval train; it has test",
        ),
        (
            {"sft": {"share_programs": 0.1}},
            "sft.share_programs: .* no humaneval train; it has test: set sft.share_programs to 0",
        ),
    ],
)
def test_a_wrong_task_split_or_subset_is_refused_when_the_study_is_planned(stages, words, mlruns):
    with pytest.raises(UserError, match=words):
        plan(study("hub", **stages))


def test_a_study_that_asks_for_what_there_is_is_planned(own_folder, mlruns):
    assert plan(study("hub")) and plan(study("embedded"))
    with pytest.raises(
        UserError, match=r"step base_eval: the data \(local\) has no core test; it has none of it"
    ):
        plan(study("local", own_folder))
    without = [step for step in STEPS if step != "base_eval"]
    assert plan(study("local", own_folder, steps=without))


def test_a_tokenizer_evaluation_reads_what_there_is_of_benchmarks_and_chats(own_folder, mlruns):
    """So that `data fetch` brings it; a folder without it is measured all the same."""
    config = study("hub")
    needed = {
        (need.what, need.split)
        for need in requirements(config, ["tok_eval"], open_source(config.data))
        if need.optional
    }
    assert {
        ("chat", "test"),
        ("chat", "train"),
        ("core", "test"),
        ("humaneval", "test"),
        ("mmlu", "train"),
        ("gsm8k", "train"),
    } <= needed
    config = study("hub", tokenizer={"overlap_chars": 0})
    needed = {
        (need.what, need.split)
        for need in requirements(config, ["tok_eval"], open_source(config.data))
        if need.optional
    }
    assert needed == {("chat", "test"), ("humaneval", "test")}
    local = study("local", own_folder)
    assert ("core", "test") not in {
        (need.what, need.split)
        for need in requirements(local, ["tok_eval"], open_source(local.data))
    }
    check_data(local, ["tok_eval"], open_source(local.data))


def test_a_local_folder_is_asked_for_the_splits_that_its_steps_read(own_folder):
    config = study("local", own_folder)
    source = open_source(config.data)
    needed = {
        (need.what, need.split) for need in requirements(config, ["sft", "chat_eval_sft"], source)
    }
    assert ("mmlu", "train") not in needed and (
        "mmlu",
        "test",
    ) in needed  # no auxiliary_train: the choices come from ARC
    assert {
        ("chat", "train"),
        ("gsm8k", "train"),
        ("arc_easy", "train"),
        ("arc_challenge", "validation"),
    } <= needed
    (own_folder / "openai" / "gsm8k" / "main" / "train.parquet").unlink()
    with pytest.raises(
        UserError,
        match=r"sft.share_problems: .* no gsm8k train; it has test: set sft.share_problems to 0",
    ):
        check_data(config, ["sft"], source)
    check_data(config, ["chat_eval_sft"], source)
