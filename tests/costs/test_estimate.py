"""Claims: the plan counts what training does exactly, reproduces the published run it is calibrated
on, and follows finished steps.
"""

import json
import time
from pathlib import Path

import pytest

from nanolab import files
from nanolab.__main__ import main
from nanolab.costs import estimate
from nanolab.costs.hardware import machine_named
from nanolab.costs.work import chain_tokens, checkpoint_bytes, step_work
from nanolab.errors import UserError
from nanolab.settings.config import STEPS
from nanolab.settings.schema import to_dict
from nanolab.settings.study_file import load_study


def on(name, machine, *overrides):
    study = load_study(name, list(overrides))
    return {
        row.step: row
        for row in estimate.plan_costs(study, machine_named(machine, study.hourly_rates, 1280))
    }


def test_the_published_run_takes_the_time_that_its_reports_state():
    """nanochat's depth-20 run: 21,400 steps of 524,288 tokens in 170 to 175 minutes on 8 H100,
    560,988,160 parameters.
    """
    study = load_study(
        "speedrun_powersample",
        ["base_train.steps=21400", "base_train.batch_size=256", "base_train.eval_every=21400"],
    )
    row = on(
        "speedrun_powersample",
        "8xH100",
        "base_train.steps=21400",
        "base_train.batch_size=256",
        "base_train.eval_every=21400",
        "base_train.compile=false",
    )["base_train"]
    assert row.parameters == 560_988_160 and row.tokens_trained == 11_219_763_200
    assert 170 < row.hours * 60 < 175
    assert row.memory_gib == pytest.approx(75_422 / 1024, rel=0.15)  # the peak those reports state
    assert (
        step_work(study, "base_train", "cuda", 8).memory_bytes
        < step_work(study, "base_train", "cpu", 8).memory_bytes
    )


def test_training_counts_what_the_loop_does():
    row = on("smoke", "cpu")["base_train"]
    assert (
        row.tokens_trained == 300 * 16 * 256
        and row.tokens_read == 6 * 12288
        and row.tokens_generated == 0
    )
    assert on("smoke", "cpu", "base_train.steps=600")["base_train"].flops == pytest.approx(
        2 * row.flops, rel=0.02
    )


def test_eight_devices_train_eight_times_as_fast_and_cost_the_same():
    one, eight = (
        on("speedrun_powersample", "1xH100")["base_train"],
        on("speedrun_powersample", "8xH100")["base_train"],
    )
    start = (20 + 60) / 3600
    assert one.hours - start == pytest.approx(8 * (eight.hours - start))
    assert eight.dollars == pytest.approx(24 * eight.hours) and one.dollars == pytest.approx(
        3 * one.hours
    )


@pytest.mark.parametrize(
    "steps, restart, blocks, expected",
    [(0, 0.5, 1, 50), (10, 0.0, 1, 300), (10, 1.0, 1, 550), (2, 1.0, 2, 200)],
)
def test_a_chain_decodes_half_of_its_answer_a_step_or_all_of_it(steps, restart, blocks, expected):
    """Two blocks with restarts: 50 tokens, then 2 steps of 25 and 2 of 50."""
    assert chain_tokens(50, steps, restart, blocks) == pytest.approx(expected)


def test_every_step_of_every_study_has_a_row_and_the_total_is_their_sum():
    for name in (
        "smoke",
        "micro",
        "local_real",
        "power_ablation",
        "trap",
        "laptop",
        "speedrun_powersample",
    ):
        study = load_study(name)
        for machine in ("cpu", "1xH100", "8xH200"):
            rows = estimate.plan_costs(study, machine_named(machine, study.hourly_rates, 96))
            assert [row.step for row in rows] == [step for step in study.steps if step != "report"]
            assert all(row.hours > 0 and row.memory_gib > 0 for row in rows)
            assert estimate.total(rows).hours == pytest.approx(sum(row.hours for row in rows))


def test_a_model_from_outside_has_no_estimate():
    row = on("smoke", "cpu", "power_eval.source=hf:somewhere/else")["power_eval"]
    assert row.hours is None and row.parameters is None


def finish(root, study, step, took, attempts=1, **said):
    folder = root / "work" / study.experiment / step / "0123456789ab"
    config = to_dict(study.stage(STEPS[step].stage))
    files.write_json(
        folder / "job.json", {"step": step, "study": to_dict(study), "config": config, "inputs": {}}
    )
    files.write_json(
        folder / "result.json",
        {
            "step": step,
            "metrics": {},
            "started": time.time() - took,
            "ended": time.time(),
            "device": "cpu",
            **said,
        },
    )
    files.write_json(
        folder / "attempts.json",
        [{"started": 0.0, "seconds": took, "status": "FINISHED"}] * attempts,
    )


def test_a_finished_step_of_this_store_stands_before_the_table(tmp_path):
    study, machine = load_study("smoke"), machine_named("cpu", {}, 96)
    table = {row.step: row for row in estimate.plan_costs(study, machine)}
    start = machine.speeds.start
    finish(
        tmp_path, study, "sft", start + 3 * (table["sft"].hours * 3600 - start)
    )  # three times as slow
    own = estimate.finished_steps(tmp_path)
    measured = {row.step: row for row in estimate.plan_costs(study, machine, own)}
    assert (
        measured["sft"].basis == "1 finished" and measured["mid_train"].basis == "1 finished"
    )  # both train on conversations
    assert measured["sft"].hours * 3600 - start == pytest.approx(
        3 * (table["sft"].hours * 3600 - start), rel=1e-3
    )
    assert measured["base_train"] == table["base_train"]
    wide = load_study("smoke", ["base_train.width=512", "base_train.heads=8"])
    assert estimate.own_ratio(step_work(wide, "sft", "cpu", 1), own) == (
        1.0,
        0,
    )  # five times as wide: nothing like it


@pytest.mark.parametrize(
    "overrides, took, attempts",
    [([], 4.0, 1), ([], 60.0, 2), (["sft.steps=5"], 60.0, 1)],
    ids=["hardly longer than its start", "the rest of an earlier attempt", "too small"],
)
def test_what_says_nothing_of_the_speed_is_left_out(tmp_path, overrides, took, attempts):
    study = load_study("smoke", overrides)
    finish(tmp_path, study, "sft", took, attempts)
    path = tmp_path / "work" / "smoke" / "mid_train" / "0123456789ab"
    files.write_json(
        path / "job.json",
        {
            "step": "mid_train",
            "study": to_dict(study) | {"colour": "red"},
            "config": {},
            "inputs": {},
        },
    )
    files.write_json(
        path / "result.json", {"step": "mid_train", "metrics": {}, "started": 0.0, "ended": 100.0}
    )
    assert estimate.finished_steps(tmp_path) == []


@pytest.mark.parametrize(
    "device, launch, counts",
    [
        ("cpu", "auto", True),
        ("cuda", "auto", False),
        (None, "auto", False),
        (None, "cpu", True),
        (None, "cuda", False),
    ],
)
def test_only_steps_that_ran_on_a_cpu_say_how_fast_it_is(tmp_path, device, launch, counts):
    finish(tmp_path, load_study("smoke", [f"launch.device={launch}"]), "sft", 60.0)
    path = next(tmp_path.rglob("result.json"))
    result = files.read_json(path)
    files.write_json(
        path,
        {key: value for key, value in result.items() if key != "device"}
        | ({"device": device} if device else {}),
    )
    assert bool(estimate.finished_steps(tmp_path)) == counts


@pytest.mark.parametrize("gone", ["result.json", "job.json"])
def test_a_step_that_is_set_aside_meanwhile_does_not_count(tmp_path, monkeypatch, gone):
    """Another study's --fresh renames its folders: a file may go between its listing and its
    reading.
    """
    finish(tmp_path, load_study("smoke"), "sft", 60.0)
    read_text = Path.read_text

    def vanishing(path, **how):
        if path.name == gone:
            path.unlink()
        return read_text(path, **how)

    monkeypatch.setattr(Path, "read_text", vanishing)
    assert estimate.finished_steps(tmp_path) == []


def test_notes_say_where_the_speeds_come_from_and_what_does_not_fit():
    study = load_study("speedrun_powersample", ["base_train.device_batch_size=64"])
    machine = machine_named("8xH100", {}, 1280)
    text = "\n".join(estimate.notes(study, machine, estimate.plan_costs(study, machine)))
    assert "nothing here was measured with this code on a GPU" in text and "no hourly rate" in text
    assert "base_train: about" in text and "lower device_batch_size" in text


def test_a_note_says_when_the_study_would_not_use_the_machine():
    def noted(machine, *overrides):
        study = load_study("speedrun_powersample", list(overrides))
        found = machine_named(machine, {}, 1280)
        return [
            note
            for note in estimate.notes(study, found, estimate.plan_costs(study, found))
            if "launch.nproc" in note
        ]

    assert (
        noted("8xH100")
        == noted("16xH100", "launch.nnodes=2", "launch.rdzv_endpoint=first:29500")
        == noted("cpu")
        == []
    )
    assert noted("8xH100", "launch.nproc=1") == [
        "launch.nproc x launch.nnodes = 1, a GPU each: the study uses 8xH100 only with 8"
    ]
    assert noted("1xH100")


def test_models_of_another_study_are_said_to_be_guessed():
    study, machine = load_study("power_ablation"), machine_named("cpu", {}, 96)
    assert any(
        "models of smoke are taken" in note
        for note in estimate.notes(study, machine, estimate.plan_costs(study, machine))
    )


@pytest.mark.parametrize("name", ["8xFoo", "0xH100", "x", "2xcpu", "8"])
def test_an_unknown_machine_is_a_users_mistake(name):
    with pytest.raises(UserError, match="is not in the table"):
        machine_named(name, {}, 96)


def test_a_checkpoint_is_as_large_as_measured():
    """The default study's base training left 16.5 MB in three checkpoints."""
    work = step_work(load_study("smoke"), "base_train", "cpu", 1)
    assert 3 * checkpoint_bytes(work.model) == pytest.approx(16.5e6, rel=0.05)


def test_the_command_prints_a_table_or_json(capsys):
    assert main(["plan", "speedrun_powersample", "--hardware", "8xH100"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "speedrun_powersample on 8xH100, $24.00 an hour" and lines[1].split()[
        :2
    ] == ["step", "parameters"]
    assert lines[4].startswith("base_train") and "560,988,160" in lines[4] and "6.29B" in lines[4]
    assert main(["plan", "speedrun_powersample", "--hardware", "8xH100", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["steps"]) == 10 and found["total"]["dollars"] == pytest.approx(
        24 * found["total"]["hours"]
    )
    assert main(["plan", "smoke", "--json"]) == 2


def test_a_study_of_several_seeds_costs_as_often(capsys):
    """`run` does every step anew for each seed."""

    def planned(*arguments):
        assert main(["plan", "speedrun_powersample", "--hardware", "8xH100", *arguments]) == 0
        return capsys.readouterr().out

    alone, both = (
        json.loads(planned("--json", "--set", f"seeds={seeds}")) for seeds in ("[]", "[0,4]")
    )
    assert (
        both["seeds"] == [0, 4]
        and both["steps"] == alone["steps"]
        and both["one_seed"] == alone["total"] == alone["one_seed"]
    )
    for key in ("hours", "dollars", "flops", "tokens_trained", "disk_gib"):
        assert both["total"][key] == pytest.approx(2 * alone["total"][key])
    assert (
        both["total"]["memory_gib"] == alone["total"]["memory_gib"]
        and both["total"]["parameters"] == alone["total"]["parameters"]
    )
    lines = planned("--set", "seeds=[0,4]").splitlines()
    one, two = (
        next(line.split() for line in lines if line.startswith(name))
        for name in ("one seed", "2 seeds ")
    )
    assert float(two[-1]) == pytest.approx(2 * float(one[-1]), abs=0.02)
    assert "- 2 seeds: every step 2 times; the rows are of one seed" in lines and not any(
        line.startswith("total") for line in lines
    )


def test_all_examples_of_core_are_counted_where_no_number_is_set():
    some, every = (
        step_work(load_study("smoke", [f"base_eval.core_examples={count}"]), "base_eval", "cpu", 1)
        for count in (100, "null")
    )
    assert every.tokens_read - some.tokens_read == 60 * (5 * 20)  # five of the six have 120 rows


def outside(machine, *overrides):
    """The row of a power evaluation of a model of seven billion parameters, in bfloat16."""
    given = ["source=hf:Qwen/Qwen2.5-7B", "dtype=bfloat16", "temperature=0.25", "restart_prob=0"]
    given += ["max_new_tokens=3072", "num_blocks=16", "max_examples=500", "batch_rows=256"]
    settings = [f"power_eval.{one}" for one in given]
    return on("speedrun_powersample", machine, *settings, *overrides)["power_eval"]


def test_a_model_from_outside_is_planned_by_its_shape_with_answers_at_their_longest():
    """Its chains, counted block by block: an extension, then ten proposals from a cut anywhere."""
    row = outside("1xH100")
    assert row.parameters == 7_615_616_512 and row.hours > 0
    chain = 0.0
    for block in range(1, 17):
        longest = 192 * block
        chain += 192 + 10 * sum(range(1, longest + 1)) / longest
    others = 3072 * (2 + 11)  # greedy, low temperature, best of 11
    assert row.tokens_generated == pytest.approx(500 * (chain + others), rel=1e-3)
    # 14.2 GiB of weights, and 56 KiB of cache a position
    positions = 256 * (3072 + 95)
    assert row.memory_gib == pytest.approx(1 + (2 * row.parameters + positions * 57_344) / 2**30)
    assert outside("1xH100", "power_eval.dtype=float32").memory_gib > 79.6


def test_a_chain_is_no_shorter_on_eight_gpus():
    """Chains share GPUs, but the steps of one follow each other: dollars rise."""
    one, eight = outside("1xH100"), outside("8xH100")
    assert one.hours / 8 < eight.hours < one.hours and eight.dollars > one.dollars
    assert eight.tokens_generated == one.tokens_generated


def test_a_plan_of_an_outside_model_says_that_it_is_a_bound_and_what_was_not_measured():
    def noted(name, *overrides):
        study = load_study(name, list(overrides))
        machine = machine_named("1xH100", study.hourly_rates, 96)
        return "\n".join(estimate.notes(study, machine, estimate.plan_costs(study, machine)))

    only = ["steps=[power_eval]", "power_eval.source=hf:Qwen/Qwen2.5-0.5B"]
    text = noted("smoke", *only)
    assert "power_eval: tokens are an upper bound" in text and "nothing here was measured" in text
    assert "narrower than" not in text and "narrower than" in noted("smoke")
    assert "an upper bound" not in noted("smoke")
    unknown = noted("smoke", "power_eval.source=hf:somewhere/else")
    assert "power_eval: nothing is known of the time" in unknown
    assert "an upper bound" not in unknown


@pytest.mark.parametrize(
    "name", ["reasoning_with_sampling", "reasoning_with_sampling_math", "qwen_half_billion"]
)
def test_the_anchor_studies_are_planned_whole_and_fit_on_one_gpu(name):
    """Without their models' files: no table, note or total leaves a step out."""
    study = load_study(name)
    assert study.power_eval.temperature == 1 / study.power_eval.alpha
    assert study.power_eval.max_new_tokens == 192 * study.power_eval.num_blocks
    for machine in ("1xH100", "8xH100"):
        found = machine_named(machine, study.hourly_rates, 96)
        rows = estimate.plan_costs(study, found)
        assert len(rows) == len(study.steps) - 1
        assert all(row.hours > 0 and row.dollars > 0 and row.memory_gib < 79.6 for row in rows)
        notes = "\n".join(estimate.notes(study, found, rows))
        assert "nothing is known" not in notes and "vLLM: planned at these same speeds" in notes


def test_the_study_of_a_published_model_ends_within_forty_minutes_on_two_cores():
    study = load_study("smollm2")
    rows = estimate.plan_costs(study, machine_named("cpu", {}, 96))
    assert {row.parameters for row in rows} == {134_515_008}
    assert estimate.total(rows).hours < 40 / 60


def test_a_finished_step_of_an_outside_model_says_how_fast_this_machine_is(tmp_path):
    study = load_study(
        "smoke", ["power_eval.source=hf:HuggingFaceTB/SmolLM2-135M", "power_eval.max_examples=9"]
    )
    machine = machine_named("cpu", {}, 96)
    table = {row.step: row for row in estimate.plan_costs(study, machine)}["power_eval"]
    start = machine.speeds.start
    finish(tmp_path, study, "power_eval", start + 0.5 * (table.hours * 3600 - start))
    own = estimate.finished_steps(tmp_path)
    measured = {row.step: row for row in estimate.plan_costs(study, machine, own)}
    assert measured["power_eval"].basis == "1 finished"
    assert measured["power_eval"].hours == pytest.approx(table.hours / 2, rel=0.01)
    assert measured["rl"].basis == "table", "a model trained here is another engine's"
