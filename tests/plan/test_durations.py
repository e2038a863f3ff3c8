"""Claim: a step that will ask a model from outside for long says so, and what to lower."""

import pytest

from nanolab import files
from nanolab.__main__ import main
from nanolab.plan import durations, fingerprint
from nanolab.plan.steps import JOB, RESULT, layout
from nanolab.settings.schema import to_dict
from nanolab.settings.study_file import load_study

SOURCE = "hf:HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MLRUNS", tmp_path)
    monkeypatch.setattr(fingerprint, "device_kind", lambda wanted: "cpu")
    monkeypatch.setattr(durations, "device_kind", lambda wanted: "cpu")


def said(*overrides, source=SOURCE):
    study = load_study("micro", [f"power_eval.source={source}", *overrides])
    steps = layout(study, ["power_eval"])
    return durations.long_steps(study, list(steps.values())), steps


@pytest.mark.parametrize("examples, lines", [(2, 0), (400, 1)])
def test_only_a_long_step_is_announced(examples, lines):
    sizes = ["power_eval.max_new_tokens=128", "power_eval.num_steps=10"]
    found, _ = said(f"power_eval.max_examples={examples}", *sizes)
    assert len(found) == lines
    if lines:
        assert found[0].startswith("power_eval: about ") and "tokens/s on this CPU" in found[0]
        assert "lower power_eval.max_examples" in found[0]


def test_a_longer_answer_takes_longer():
    def hours(tokens):
        (line,), _ = said("power_eval.max_examples=400", f"power_eval.max_new_tokens={tokens}")
        return float(line.split()[2])

    assert hours(512) > 1.8 * hours(256)


def test_a_finished_step_and_a_gpu_are_not_announced(monkeypatch):
    many = ["power_eval.max_examples=400", "power_eval.max_new_tokens=512"]
    found, steps = said(*many)
    assert len(found) == 1
    folder = steps["power_eval"].folder
    files.write_json(folder / RESULT, {"metrics": {}})
    assert said(*many)[0] == []
    monkeypatch.setattr(durations, "device_kind", lambda wanted: "cuda")
    assert said(*many, "power_eval.seed=1")[0] == []


def test_an_earlier_run_with_these_settings_stands_before_the_table(tmp_path):
    many = ["power_eval.max_examples=400", "power_eval.max_new_tokens=512"]
    _, steps = said(*many)
    step = steps["power_eval"]
    folder = tmp_path / "work" / "another" / "power_eval" / "0123456789ab"
    files.write_json(folder / RESULT, {"metrics": {}, "started": 0.0, "ended": 7200.0})
    files.write_json(folder / JOB, {"config": to_dict(step.config)})
    files.write_json(
        folder / durations.ATTEMPTS, [{"started": 0.0, "seconds": 7200.0, "status": "FINISHED"}]
    )
    (line,), _ = said(*many)
    assert "about 2.0 h at" in line and "or less" not in line


def test_a_model_trained_here_and_one_of_unknown_shape_say_nothing():
    assert said("power_eval.max_examples=400", source="hf:somewhere/else")[0] == []
    study = load_study("micro", ["power_eval.max_examples=400"])
    assert durations.long_steps(study, list(layout(study, ["power_eval"]).values())) == []


def test_a_dry_run_says_it_below_its_table(capsys):
    sizes = ["power_eval.max_examples=400", "power_eval.max_new_tokens=512"]
    given = [f"power_eval.source={SOURCE}", "steps=[power_eval]", *sizes]
    arguments = [word for one in given for word in ("--set", one)]
    assert main(["run", "micro", "--dry-run", *arguments]) == 0
    assert "\npower_eval: about " in capsys.readouterr().out
    assert main(["run", "micro", "--dry-run", "--json", *arguments]) == 0
    assert '"event": "note"' in capsys.readouterr().out
