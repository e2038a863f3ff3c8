"""Claims: a result reads as key numbers, tables and samples; every metric stays in reach; what was
not recorded is said.
"""

import json
from types import SimpleNamespace

import pytest

from nanolab import files
from nanolab.notebook import records, stage_results

POWER = {
    "gsm8k": 0.585,
    "passed": 234,
    "total": 400,
    "low": 0.536,
    "high": 0.632,
    "positions_per_problem": 404.3,
    "acceptance": 0.6,
    "greedy/accuracy": 0.555,
    "greedy/passed": 222,
    "greedy/total": 400,
    "greedy/low": 0.506,
    "greedy/high": 0.603,
    "greedy/positions_per_problem": 95.2,
    "greedy/p_value": 0.0227,
    "data": "embedded",
}
TABLES = {
    "samples.json": [
        {
            "task": "gsm8k",
            "index": 0,
            "prompt": "1 < 2?",
            "completion": "<<1+1=2>>\n#### 2",
            "expected": "2",
            "passed": True,
        }
    ],
    "problems.json": [
        {
            "index": index,
            "question": "How many?",
            "expected": "7",
            "power_answer": "7",
            "power_passed": True,
            "greedy_answer": None,
            "greedy_passed": False,
            "plain_text": "#### 7",
        }
        for index in range(30)
    ],
    "overlap.json": [{"corpus": "text", "share": 0.12345, "clean": True, "words": "a\nb"}],
}


@pytest.fixture
def result(monkeypatch, tmp_path):
    def artifact(run_id, name):
        path = tmp_path / name.rpartition("/")[2]
        if name in TABLES:
            rows = TABLES[name]
            path.write_text(
                json.dumps({"columns": list(rows[0]), "data": [list(row.values()) for row in rows]})
            )
        elif name == "report.md":
            path.write_text("# Report\n\n![Loss](figures/loss.png)\n\nText ![no](x) stays.\n")
        else:
            path.write_bytes(b"\x89PNG")
        return path

    monkeypatch.setattr(stage_results.run_reader, "artifact", artifact)
    monkeypatch.setattr(
        stage_results.run_reader,
        "artifact_names",
        lambda run_id, folder="": [*TABLES, "plots/drawn.png", "figures/tasks.png"],
    )
    monkeypatch.setattr(
        records,
        "run_address",
        lambda run_id: f"http://127.0.0.1:5000/#/experiments/1/runs/{run_id}?workflow",
    )
    steps = {
        "power_eval": POWER,
        "report": {"summary": "| Metric |\n| --- |"},
        "rl": {
            "steps": 30,
            "reward_first": 0.54,
            "reward_last": 0.85,
            "greedy/before": 0.555,
            "greedy/after": 0.855,
            "greedy/n": 200,
            "greedy/p_value": 5.9e-15,
            "greedy/before_low": 0.48,
            "greedy/before_high": 0.62,
            "greedy/after_low": 0.8,
            "greedy/after_high": 0.9,
        },
    }
    return SimpleNamespace(
        metrics=steps,
        own=["power_eval"],
        reused={"power_eval"},
        run_ids=dict.fromkeys(steps, "abc"),
        folders={step: files.ROOT / "mlruns" / step for step in steps},
    )


def test_a_summary_shows_the_key_numbers_and_keeps_every_metric_behind_a_click(result):
    html = stage_results.summary(result).data
    for words in (
        "reused",
        "58.5%",
        "404.3",
        "mlruns/power_eval",
        "/runs/abc",
        "data: embedded",
        f"all {len(POWER)} metrics",
        "greedy/p_value",
    ):
        assert words in html, words
    assert html.index("58.5%") < html.index("<details") < html.index("greedy/p_value")


def test_a_tile_has_its_number_of_problems_its_error_or_its_interval():
    tiles = dict(
        stage_results.headlines(
            "chat_eval_sft", {"gsm8k": 0.785, "gsm8k/n": 400.0, "chat_core": 0.5}
        )
    )
    assert tiles == {"ChatCORE": "0.5000", "GSM8K, 400 problems": "78.5%"}
    tiles = dict(
        stage_results.headlines(
            "base_loss",
            {
                "validation_bits_per_byte": 0.4539,
                "validation_bits_per_byte_se": 0.0159,
                "validation_tokens": 11992,
            },
        )
    )
    assert tiles == {"validation bits per byte": "0.4539 ± 0.0159", "validation tokens": "11,992"}
    tiles = dict(
        stage_results.headlines(
            "power_ablation",
            {"best_accuracy": 0.78, "best_low": 0.69, "best_high": 0.85, "points": 26},
        )
    )
    assert tiles == {
        "accuracy of the best point": "78.0% [69.0%, 85.0%]",
        "chosen among points": "26",
    }


def test_methods_stand_beside_power_with_interval_cost_and_p_value(result):
    html = stage_results.methods(result, "power_eval").data
    assert (
        "power sampling" in html
        and "[50.6%, 60.3%]" in html
        and "222 of 400" in html
        and "0.023" in html
        and "SMC" not in html
    )
    assert (
        "0.000" not in stage_results.before_and_after(result).data
        and "6e-15" in stage_results.before_and_after(result).data
    )


def test_the_core_tasks_are_a_row_each(result):
    result.metrics["base_eval"] = {
        "CORE": 0.1,
        "core/copy": 0.5,
        "core/copy/n": 100.0,
        "core/copy/passed": 50.0,
        "core/copy/low": 0.4,
        "core/copy/high": 0.6,
        "core/copy/chance": 0.25,
    }
    html = stage_results.core(result).data
    assert (
        html.count("<tr>") == 2
        and "[40.0%, 60.0%]" in html
        and "50 of 100" in html
        and "25.0%" in html
    )


def test_samples_and_tables_are_readable(result):
    html = stage_results.samples(result, "power_eval").data
    assert "1 &lt; 2?" in html and "✓" in html and "&lt;&lt;" in html and "expected 2" in html
    table = stage_results.table(result, "power_eval", "overlap.json").data
    assert "0.123" in table and "✓" in table and "pre-wrap" in table
    assert (
        stage_results.table(result, "power_eval", "absent.json").data
        == "*power_eval recorded no absent.json*"
    )


def test_the_problems_of_an_evaluation_are_one_row_each_the_rest_behind_a_click(result):
    html = stage_results.problems(result, "power_eval").data
    assert (
        html.count("<tr>") == 2 + 30
        and f"{30 - stage_results.ROWS} more problems" in html
        and "plain" not in html
    )


def test_figures_have_the_width_of_half_a_page_and_an_absent_one_is_said(result):
    assert (
        stage_results.artifact(result, "power_eval", "plots/drawn.png").width
        == stage_results.FIGURE_WIDTH
    )
    assert (
        stage_results.artifact(result, "power_eval", "plots/other.png").data
        == "*power_eval recorded no plots/other.png*"
    )


def test_the_report_has_its_figures_in_their_places(result):
    text = stage_results.report(result).data
    assert (
        '<img alt="Loss"' in text
        and "data:image/png;base64," in text
        and "figures/loss.png" not in text
        and "![no](x)" in text
    )
    assert (
        text.index("/runs/abc/artifacts/report.html?workflow")
        < text.index("| Metric |")
        < text.index('alt="tasks"')
    )
    assert (
        text.index('alt="tasks"')
        < text.index("<details>")
        < text.index("# Report")
        < text.index("</details>")
    )


@pytest.mark.parametrize(
    ("step", "labels"),
    [
        ("power_eval_base", ["GSM8K"]),
        ("chat_eval_sft", ["GSM8K"]),
        ("base_eval", ["GSM8K"]),
    ],
)
def test_a_step_has_the_headlines_of_its_kind(step, labels):
    assert stage_results.headlines(step, {"gsm8k": 0.5, "other": 1}) == [
        (label, "50.0%") for label in labels
    ]


def test_every_column_of_the_overlap_is_in_words():
    """Rows of data/checks/overlap.py."""
    for words in (8, 13):
        for name in ("long", "any", "text", "chats", "tasks"):
            assert stage_results.COLUMNS[f"{name}_{words}"].endswith(f"of {words} words")
