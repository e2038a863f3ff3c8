"""Claims: every row has one flat name, comes back from JSON as it was, and the flat values of
versions that kept no rows are read as the same rows.
"""

import json

import pytest

from nanolab.results import Score, StepResult, flat, from_json, plain, read_flat, scalars, to_json

COUNTS = {"n": 100, "passed": 50, "low": 0.4, "high": 0.6}
SAMPLED = {**COUNTS, "positions": 95.0}
STEPS = {
    "base_train": [
        Score("loss", 2.0, n=30, standard_error=0.1, tokens=900),
        Score("bits_per_byte", 1.5, split="validation", n=8, standard_error=0.2, tokens=96),
        *scalars(steps=300, tokens_per_second=99.5),
    ],
    "tok_eval": [Score("bytes_per_token", 1.5, part="other_scripts"), *scalars(coverage=99.0)],
    "base_eval": [
        Score("CORE", 0.1),
        Score("accuracy", 0.5, "arc_easy", "core", chance=0.25, **COUNTS),
        Score("accuracy", 0.5, "arc_easy", chance=0.25, **COUNTS),
        Score("macro", 0.4, "mmlu"),
        Score("accuracy", 0.25, "mmlu", part="zoology"),
        Score("pass_at_k", 0.7, "gsm8k", k=4),
    ],
    "power_eval": [
        Score("accuracy", 0.5, "gsm8k", method="power", **SAMPLED),
        Score("log_p_drift", 0.2, standard_error=0.3),
        Score(
            "accuracy",
            0.5,
            "gsm8k",
            method="greedy",
            p_value=0.25,
            against="power",
            **SAMPLED,
        ),
        Score("no_tool_share", 0.1, "gsm8k", method="power"),
        Score("no_tool_share", 0.2, "gsm8k", method="greedy"),
        Score("pass_at_k", 0.7, "gsm8k", method="plain", k=2, low=0.6, high=0.8),
    ],
    "power_ablation": [
        *scalars(points=4, baseline_among=2),
        Score(
            "accuracy",
            0.5,
            method="power",
            chosen="best",
            settings={"alpha": 4.0, "num_steps": 5},
            low=0.4,
            high=0.6,
            positions=90.0,
        ),
        Score(
            "accuracy",
            0.4,
            method="best of 4",
            chosen="baseline",
            low=0.3,
            high=0.5,
            positions=80.0,
            p_value=0.5,
        ),
    ],
    "rl": [
        Score("accuracy", 0.5, "gsm8k", method="greedy", moment="before", **COUNTS),
        Score(
            "accuracy",
            0.7,
            "gsm8k",
            method="greedy",
            moment="after",
            p_value=0.01,
            against="before",
            **COUNTS,
        ),
    ],
}


@pytest.mark.parametrize("step", STEPS)
def test_rows_come_back_from_json_and_from_flat_values(step):
    rows = STEPS[step]
    assert from_json(json.loads(json.dumps(to_json(rows)))) == rows
    values = dict(sorted(flat(rows).items()))  # a store may give them in another order
    again = read_flat(step, values)
    assert sorted(again, key=repr) == sorted(rows, key=repr)


def test_flat_names_are_those_of_the_charts():
    names = {key for rows in STEPS.values() for key in flat(rows)}
    assert names >= {
        "loss_se",
        "loss_tokens",
        "loss_steps",
        "validation_bits_per_byte_se",
        "validation_tokens",
        "validation_rows",
        "bytes_per_token/other_scripts",
        "core/arc_easy/chance",
        "arc_easy/passed",
        "mmlu/macro",
        "mmlu/subject/zoology",
        "gsm8k/pass_at_4",
        "gsm8k",
        "passed",
        "total",
        "positions_per_problem",
        "greedy/accuracy",
        "greedy/p_value",
        "log_p_drift_se",
        "no_tool_share",
        "greedy/no_tool_share",
        "plain/pass_at_2_low",
        "best_alpha",
        "baseline_method",
        "baseline_p_value",
        "greedy/before_low",
        "greedy/after",
        "greedy/n",
    }


def test_facts_stand_beside_the_rows_and_a_point_of_a_grid_needs_no_name():
    result = StepResult(scalars(steps=3), {"data": "embedded"})
    assert result.flat() == {"steps": 3, "data": "embedded"}
    assert plain(STEPS["power_eval"][2]) == {
        "accuracy": 0.5,
        "passed": 50,
        "total": 100,
        "low": 0.4,
        "high": 0.6,
        "positions_per_problem": 95.0,
        "p_value": 0.25,
    }


def test_a_row_of_a_later_version_is_read_without_what_is_new():
    assert from_json([{"metric": "loss", "value": 1.0, "colour": "red"}]) == scalars(loss=1.0)
