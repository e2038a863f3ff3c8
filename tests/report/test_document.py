"""Claims: the reference's values render to the reference byte for byte, and every rule of the
format holds off that path.
"""

import copy
import json
from pathlib import Path

import pytest

from nanolab.report import document, sections, tables

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture
def values():
    return json.loads((GOLDEN / "reference_values.json").read_text())


def section(report, heading):
    return report.split(f"## {heading}\n")[1].split("\n## ")[0]


def test_reference_values_render_to_the_reference_report_byte_for_byte(values):
    assert document.render(values).encode() == (GOLDEN / "reference_report.md").read_bytes()


def test_format_does_not_depend_on_the_type_of_a_value(values):
    """MLflow gives parameters back as text and metrics as floats."""
    as_text, as_float = copy.deepcopy(values), copy.deepcopy(values)
    for step, found in values["steps"].items():
        as_text["steps"][step] = {key: str(value) for key, value in found.items()}
        as_float["steps"][step] = {
            key: float(value) if isinstance(value, int) else value for key, value in found.items()
        }
    assert document.render(as_text) == document.render(as_float) == document.render(values)


def test_a_machine_without_gpu_has_no_cuda_memory_or_rate_line(values):
    values["environment"]["hardware"].update(
        gpu_count=0, gpu_name=None, gpu_memory_gb=None, cuda=None, hourly_rate=None
    )
    hardware = document.render(values).split("### Hardware\n")[1].split("\n\n")[0]
    assert hardware.splitlines() == [
        "- Platform: Linux",
        "- CPUs: 32 cores (64 logical)",
        "- Memory: 256.0 GB",
        "- GPUs: none",
    ]


def test_a_dirty_or_absent_repository_is_said(values):
    values["environment"]["git"]["dirty"] = True
    assert "- Commit: abcdef0 (dirty)\n" in document.render(values)
    values["environment"]["git"] = {"branch": None, "commit": None, "dirty": None, "message": None}
    assert "- Branch: -\n- Commit: -\n- Message: -\n" in document.render(values)


def test_a_run_rl_step_fills_its_sections_and_column(values):
    values["steps"]["rl"] = {
        "status": "finished",
        "steps": 30.0,
        "reward_first": 0.25,
        "reward_last": 0.5,
    }
    values["steps"]["chat_eval_rl"] = {**values["steps"]["chat_eval_sft"], "gsm8k": 0.1}
    report = document.render(values)
    assert section(report, "Chat RL").startswith("- status: finished\n- steps: 30\n")
    assert section(report, "Chat evaluation rl").count("\n- ") == 5
    row = next(line for line in report.splitlines() if line.startswith("| GSM8K"))
    assert row == "| GSM8K           | 0.0455   | 0.0456   | 0.0758   | 0.0875   | 0.1000   |"


def test_what_core_covers_and_its_known_faults_are_said_where_they_are_known(values):
    assert "CORE covers" not in document.render(values)
    values["steps"]["base_eval"] |= {
        "core_covers": "21 of 22 tasks; no data for coqa",
        "core_cropped": 3.0,
        "core_faults": "b: 2 rows",
    }
    lines = section(document.render(values), "Base model evaluation").splitlines()
    assert {
        "- CORE covers: 21 of 22 tasks; no data for coqa",
        "- CORE examples cropped to the context: 3",
        "- known faults of CORE's data: b: 2 rows",
    } < set(lines)


def test_a_model_has_one_figure_of_bits_per_byte_with_its_tokens_and_error(values):
    measured = {
        "validation_bits_per_byte": 0.4424,
        "validation_bits_per_byte_se": 0.0123,
        "validation_tokens": 8160.0,
    }
    values["steps"]["base_train"] |= {**measured, "loss_se": 0.0021, "loss_tokens": 122880.0}
    alone = section(document.render(values), "Base model training")
    assert alone.strip().splitlines()[2:] == [
        "- loss: 1.982",
        "- loss, standard error over its steps: 0.0021",
        "- tokens of the loss: 122880",
        "- final validation bits per byte: 0.4424",
        "- final validation bits per byte, standard error over rows: 0.0123",
        "- validation tokens: 8160",
    ]
    values["steps"]["base_loss"] = {
        "validation_bits_per_byte": 0.4539,
        "validation_bits_per_byte_se": 0.01,
        "validation_tokens": 12240.0,
    }
    report = document.render(values)
    assert "0.4424" not in report and "8160" not in report
    assert section(report, "Base model loss").strip().splitlines()[1:] == [
        "- validation bits per byte: 0.4539",
        "- validation bits per byte, standard error over rows: 0.0100",
        "- validation tokens: 12240",
    ]


def test_the_summary_says_which_numbers_are_of_the_same_problems(values):
    assert (
        tables.summary_notes(values["steps"]) == []
    )  # the reference does not say how many problems it asked
    for step, n, digest in (
        ("base_eval", 400.0, "a"),
        ("chat_eval_mid", 400.0, "a"),
        ("chat_eval_sft", 200.0, "b"),
    ):
        values["steps"][step] |= {
            "gsm8k/n": n,
            "problems.gsm8k.test": digest,
            "gsm8k/passed": 10,
            "gsm8k/low": 0.0,
            "gsm8k/high": 0.1,
        }
    values["steps"]["power_eval"]["problems.gsm8k.test"] = "c"
    line = (
        "GSM8K: BASE and MID of 400, SFT of 200, POWER of 892, not the same problems: compare only"
        " within these groups"
    )
    after = document.render(values).partition("| MMLU ")[2]
    assert after.split("\n\n")[1] == line
    assert tables.summary_table(values["steps"]).endswith(line)
    for step in ("base_eval", "chat_eval_mid", "chat_eval_sft", "power_eval"):
        values["steps"][step] |= {"gsm8k/n": 892.0, "problems.gsm8k.test": "c"}
    assert tables.summary_notes(values["steps"]) == [
        "Problems, the same in every column of a row: GSM8K 892."
    ]


def test_a_selected_point_says_of_how_many_and_what_a_baseline_gives_for_no_more(values):
    values["steps"]["power_ablation"] = {
        "points": [],
        "best_among": 26.0,
        "best_accuracy": 0.78,
        "best_low": 0.6893,
        "best_high": 0.85,
        "best_positions_per_problem": 405.2,
        "best_method": "power",
        "best_alpha": 4.0,
        "best_temperature": 0.7,
        "best_num_steps": 10.0,
        "baseline_among": 6.0,
        "baseline_accuracy": 0.76,
        "baseline_low": 0.6677,
        "baseline_high": 0.8331,
        "baseline_positions_per_problem": 214.0,
        "baseline_method": "majority of 4",
        "baseline_p_value": 0.6875,
    }
    lines = document.render(values).splitlines()
    assert (
        "- best of 26 points: power (alpha 4, T 0.7, 10 steps), 0.7800, "
        "95% interval 0.6893 to 0.8500, 405.2 positions per problem" in lines
    )
    assert (
        "- best of 6 baselines at no more cost: majority of 4, 0.7600, 95% interval 0.6677 to"
        " 0.8331, 214.0 positions per problem, McNemar p 0.688; both were chosen on these problems"
        in lines
    )
    ablation = values["steps"]["power_ablation"]
    for key in [key for key in ablation if key.startswith("baseline_")]:
        del ablation[key]
    assert "no more cost" not in document.render(values)
    ablation["baseline_among"] = 0.0
    line = "- baselines at no more cost: none: each costs more than the best point"
    assert line in document.render(values).splitlines()


def test_ablations_stand_after_power_sampling_and_only_when_run(values):
    assert "ablations" not in document.render(values)
    values["steps"]["power_ablation"] = {
        "points": [
            {
                "alpha": "4.0",
                "temperature": "0.7",
                "num_steps": "10",
                "accuracy": 0.5,
                "passed": 50.0,
                "total": 100.0,
                "low": 0.4038,
                "high": 0.5962,
            }
        ]
    }
    report = document.render(values)
    assert (
        report.index("## Power sampling evaluation")
        < report.index("## Power sampling ablations")
        < report.index("## Chat RL")
    )
    assert (
        "| power | 4.0 | 0.7 | 10 | - | 0.5000 | 50 of 100 | 0.4038 to 0.5962 | - | - |" in report
    )


def test_extra_lines_follow_the_reference_lines_and_data_is_last(values):
    values["steps"]["power_eval"].update(
        {
            "data": "embedded",
            "acceptance": 0.5,
            "low": 0.07,
            "high": 0.1,
            "greedy/accuracy": 0.2,
            "greedy/passed": 2,
            "greedy/total": 10,
            "greedy/low": 0.1,
            "greedy/high": 0.3,
            "greedy/positions_per_problem": 90.25,
            "greedy/p_value": 0.03125,
        }
    )
    lines = section(document.render(values), "Power sampling evaluation").strip().splitlines()
    assert lines.index("- total: 892") == 16
    assert lines[17] == "- acceptance: 0.500"
    assert (
        lines[-2]
        == "- greedy: 0.2000, 2 of 10, 95% interval 0.1000 to 0.3000, 90.2 positions per problem, "
        "McNemar p against power 0.0312"
    )
    assert lines[-1] == "- data: embedded"


MIXING = {
    "acceptance": 0.5,
    "effective_moves": 0.4,
    "early_rejected": 0.25,
    "chains": 4.0,
    "autocorrelation_1": 0.625,
    "effective_sample_size": 3.25,
    "log_p_drift": 1.234,
    "log_p_drift_se": 0.1,
    "r_hat": 1.42,
    "converged": 0.0,
}


def test_diagnostics_are_shown_with_the_sentence_that_says_what_they_mean(values):
    before = section(document.render(values), "Power sampling evaluation").strip().splitlines()
    values["steps"]["power_eval"].update(
        {
            **MIXING,
            "power/pass_at_1": 0.3,
            "power/pass_at_4": 0.5,
            "plain/pass_at_10": 0.6,
            "plain/pass_at_2": 0.25,
            "plain/pass_at_2_low": 0.2,
        }
    )
    lines = section(document.render(values), "Power sampling evaluation").strip().splitlines()
    assert lines[:17] == before
    assert lines[17:] == [
        "- acceptance: 0.500",
        "- effective moves: 0.400",
        "- early rejected: 0.250",
        "- chains: 4",
        "- autocorrelation of log p at lag 1: 0.625",
        "- effective sample size of a chain: 3.2",
        "- log p drift, nats: 1.234",
        "- log p drift, standard error: 0.100",
        "- R-hat: 1.42",
        (
            "- convergence: not converged: log p still rises by 1.234 +- 0.100 nats (standard"
            " error) over the second half of the steps; R-hat 1.42 over 4 chains"
        ),
        "- power pass@k: 0.3000 at k = 1, 0.5000 at k = 4",
        "- plain sample pass@k: 0.2500 at k = 2, 0.6000 at k = 10",
    ]
    values["steps"]["power_eval"]["r_hat"] = 1.7976931348623157e308
    assert "- R-hat: infinite\n" in document.render(values)


def test_other_power_evaluations_follow_in_the_order_of_training_then_sharpening(values):
    power = values["steps"]["power_eval"]
    for name in ("zebra", "code", "rl", "base", "mid"):
        values["steps"][f"power_eval_{name}"] = {**power, "source": name}
    code = values["steps"]["power_eval_code"]
    code["humaneval"] = code.pop("gsm8k")
    code.update({"low": 0.07, "high": 0.1})
    values["sharpening"] = [
        {
            "model": "sft",
            "task": "gsm8k",
            "method": method,
            "accuracy": 0.25,
            "passed": 10.0,
            "total": 40.0,
            "low": 0.1419,
            "high": 0.4019,
            "positions_per_problem": 90.25,
            "p_value": p_value,
        }
        for method, p_value in (("greedy", None), ("power", 0.03125))
    ]
    values["figures"] = {
        "sharpening": [{"caption": "c", "path": "figures/methods_by_model.png"}],
        "power_eval_rl": [{"caption": "cut", "path": "figures/cut.png"}],
    }
    report = document.render(values)
    headings = [line[3:] for line in report.splitlines() if line.startswith("## ")]
    start = headings.index("Power sampling evaluation")
    assert headings[start + 1 : start + 8] == [
        *(f"Power sampling evaluation {name}" for name in ("base", "mid", "rl", "code", "zebra")),
        "Sharpening against training",
        "Chat RL",
    ]
    lines = section(report, "Power sampling evaluation code").splitlines()
    assert "- HumanEval: 0.0875" in lines and "- HumanEval 95% interval: 0.0700 to 0.1000" in lines
    assert not any("GSM8K" in line for line in lines)
    assert section(report, "Power sampling evaluation rl").endswith("\n\n![cut](figures/cut.png)\n")
    assert section(report, "Sharpening against training").strip().splitlines()[1:] == [
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| SFT | GSM8K | greedy | 0.2500 | 10 of 40 | 0.1419 to 0.4019 | 90.2 | - |",
        "| SFT | GSM8K | power | 0.2500 | 10 of 40 | 0.1419 to 0.4019 | 90.2 | 0.0312 |",
        "",
        "![c](figures/methods_by_model.png)",
    ]


def test_the_grid_has_columns_for_restarts_and_blocks_only_where_they_vary(values):
    point = {
        "method": "power",
        "alpha": 4.0,
        "temperature": 0.7,
        "restart_prob": 0.5,
        "num_blocks": "1",
        "num_steps": 10,
        "accuracy": 0.5,
    }
    smc = {"method": "smc", "alpha": 4.0, "temperature": 0.7, "n": 16, "accuracy": 0.4}
    values["steps"]["power_ablation"] = {"points": [point], "baselines": [smc]}
    report = document.render(values)
    assert (
        "| power | 4.0 | 0.7 | 10 | - | 0.5000 |" in report
        and "| SMC | 4.0 | 0.7 | - | 16 | 0.4000 |" in report
    )
    values["steps"]["power_ablation"]["points"].append({**point, "num_blocks": "4"})
    report = document.render(values)
    assert (
        "| method | alpha | T | blocks | steps |" in report
        and "| power | 4.0 | 0.7 | 4 | 10 | - |" in report
    )
    assert "| SMC | 4.0 | 0.7 | - | - | 16 |" in report


def test_a_task_with_counts_gets_its_interval_after_the_reference_lines(values):
    values["steps"]["chat_eval_sft"].update(
        {
            "mmlu/n": 200.0,
            "mmlu/passed": 75.0,
            "mmlu/low": 0.3109,
            "mmlu/high": 0.4438,
            "mmlu/chance": 0.25,
        }
    )
    lines = section(document.render(values), "Chat evaluation sft").strip().splitlines()
    assert lines[5] == "- ChatCORE metric: 0.0884"
    assert lines[6:] == ["- MMLU passed: 75 of 200, 95% interval 0.3109 to 0.4438, chance 0.2500"]


def test_figures_follow_their_sections_list(values):
    values["figures"] = {"sft": [{"caption": "Chat SFT: loss", "path": "figures/sft.png"}]}
    assert (
        section(document.render(values), "Chat SFT")
        == "- steps: 500\n- loss: 0.742\n\n![Chat SFT: loss](figures/sft.png)\n"
    )


def test_summary_has_five_columns_and_only_rows_with_a_value(values):
    table = tables.summary_table({"base_eval": {"CORE": 0.1, "passed": 3}}).splitlines()
    assert len(table) == 3 and all(line.count("|") == 7 for line in table)
    assert table[2].startswith("| CORE            | 0.1000   | -        |")


@pytest.mark.parametrize("step", ["tok_train", "base_train", "chat_eval_mid", "sft", "power_eval"])
def test_a_step_that_was_not_run_shows_dashes(values, step):
    heading = next(heading for heading, name, *_ in sections.SECTIONS if name == step)
    del values["steps"][step]
    lines = section(document.render(values), heading).strip().splitlines()
    assert lines and all(line.startswith("- ") and line.endswith(": -") for line in lines)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(13860, "3h51m"), (59, "0h00m"), (300.9, "0h05m"), (36000, "10h00m")]
)
def test_durations_are_hours_and_minutes(values, seconds, shown):
    values.update(wall_clock_seconds=seconds, elapsed_seconds=seconds)
    assert document.render(values).endswith(
        f"\n\nTotal wall clock time: {shown}\n\nElapsed time: {shown}\n"
    )
