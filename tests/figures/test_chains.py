"""Claims: the figures of chains and samples count what the records say, draw with little or no
data, and answer the question asked.
"""

import math

import pytest

from nanolab.evals import base
from nanolab.figures import chains, style


def step(cut, of=10, accepted=False, moved=False):
    return {
        "cut": cut,
        "of": of,
        "accepted": accepted,
        "moved": moved,
        "early_rejected": False,
        "log_ratio": None,
        "log_u": -1.0,
    }


def chain(passed, log_p, steps=()):
    return {"passed": passed, "log_p_by_step": log_p, "steps": list(steps)}


def sample(passed, log_p):
    return {"passed": passed, "log_p": log_p}


def problem(*samples):
    return {"samples": [sample(*one) for one in samples]}


CHAINS = [
    {
        "index": 0,
        "chains": [
            chain(True, [-9.0, -5.0, -5.0], [step(0, accepted=True, moved=True), step(0)]),
            chain(False, [-9.0, -9.0, -8.0], [step(9), step(9, accepted=True)]),
        ],
    },
    {
        "index": 1,
        "chains": [
            chain(
                True,
                [-7.0, -6.0, -3.0],
                [step(4, 5, accepted=True, moved=True), step(1, 100, accepted=True)],
            )
        ],
    },
]
SAMPLES = [
    problem((True, -1.0), (False, -2.0), (False, -3.0)),
    problem((False, -4.0), (True, -5.0)),
    problem((True, -6.0), (True, -7.0)),
    problem((False, -8.0), (False, -9.0)),
]
PASS = [
    {"method": method, "k": k, "pass_at_k": 0.1 * k, "low": None, "high": None}
    for method in ("SFT, power", "SFT, plain")
    for k in (1, 2, 4)
]
MODELS = [
    {"model": model, "method": method, "accuracy": 0.4, "low": 0.3, "high": 0.5}
    for model in ("rl", "base")
    for method in ("power", "greedy")
]


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_acceptance_is_counted_by_the_share_kept_with_restarts_apart():
    figure, frame = chains.acceptance_by_cut(CHAINS)
    rows = frame.set_index("place")
    assert len(rows) == 11 and frame["steps"].sum() == 6
    assert rows.loc[
        "restart", ["steps", "accepted", "moved", "acceptance", "effective_moves"]
    ].tolist() == [2, 1, 1, 0.5, 0.5]
    assert rows.loc["0.0 to 0.1", ["steps", "accepted", "moved"]].tolist() == [
        1,
        1,
        0,
    ]  # one token kept is no restart
    assert rows.loc["0.8 to 0.9", ["steps", "accepted"]].tolist() == [
        1,
        1,
    ]  # 4 of 5: a bin holds its lower edge
    assert rows.loc["0.9 to 1.0", ["steps", "accepted", "moved"]].tolist() == [2, 1, 0]
    assert rows.loc["restart", ["low", "high"]].tolist() == pytest.approx(
        base.wilson(1, 2), abs=1e-6
    )
    assert math.isnan(rows.loc["0.3 to 0.4", "acceptance"])
    assert texts(figure) == ["state changed", "accepted"] and style.png(figure)


def test_trajectories_are_told_apart_by_how_the_chain_ends():
    figure, frame = chains.log_p_trajectories(CHAINS)
    right = frame[frame["ends"] == "right"]
    assert right["mean"].tolist() == [-8.0, -5.5, -4.0] and right["chains"].tolist() == [2, 2, 2]
    assert (right["high"] - right["mean"]).tolist() == pytest.approx(
        [1.96, 0.98, 1.96], abs=1e-3
    )  # 1.96 sd / sqrt(2), two problems
    wrong = frame[frame["ends"] == "wrong"]
    assert wrong["mean"].tolist() == [-9.0, -9.0, -8.0] and wrong["low"].isna().all()
    assert set(texts(figure)) == {"end right (2)", "end wrong (1)"}


def test_log_p_as_a_score_over_all_samples_and_within_a_problem():
    figure, frame = chains.log_p_reliability(SAMPLES)
    deciles = frame[frame["group"].str.startswith("decile")]
    assert (
        deciles["n"].sum() == 9
        and deciles["from_log_p"].is_monotonic_increasing
        and deciles["passed"].sum() == 4
    )
    rows = frame.set_index("group")
    assert rows.loc["highest log p", ["n", "passed", "accuracy", "auc"]].tolist() == [
        2,
        1,
        0.5,
        0.5,
    ]  # problem 0 yes, problem 1 no
    assert rows.loc["any sample", "accuracy"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert figure.axes[0].get_title("left") == "Is log p a score? AUC within a problem: 0.50"


def test_deciles_hold_a_tenth_of_the_samples_each():
    many = [problem(*((i >= 50, float(i)) for i in range(100)))]
    _, frame = chains.log_p_reliability(many)
    assert (
        frame["accuracy"][:10].tolist() == [0.0] * 5 + [1.0] * 5 and (frame["n"][:10] == 10).all()
    )
    assert frame["auc"].dropna().tolist() == [1.0]


def test_auc_counts_a_tie_half():
    assert chains.within_problem_auc([sample(True, -1.0), sample(False, -1.0)]) == 0.5
    assert (
        chains.within_problem_auc(
            [sample(True, -1.0), sample(False, -2.0), sample(False, 0.0), sample(False, -1.0)]
        )
        == 0.5
    )
    assert math.isnan(chains.within_problem_auc([sample(True, -1.0)]))


def test_pass_at_k_is_a_line_a_method_on_a_doubling_axis():
    figure, frame = chains.pass_at_k(PASS)
    assert texts(figure) == ["SFT, power", "SFT, plain"] and len(frame) == 6
    assert figure.axes[0].get_xscale() == "log" and [
        text.get_text() for text in figure.axes[0].get_xticklabels()
    ] == ["1", "2", "4"]


def test_bars_stand_in_the_order_of_training_with_power_last():
    figure, frame = chains.methods_by_model(MODELS)
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["base", "RL"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "greedy",
        "power",
    ] and len(frame) == 4
    bars = [container for container in axis.containers if hasattr(container, "patches")]
    assert [[bar.get_height() for bar in container.patches] for container in bars] == [
        [0.4, 0.4],
        [0.4, 0.4],
    ]


@pytest.mark.parametrize(
    "drawn",
    [
        chains.acceptance_by_cut,
        chains.log_p_trajectories,
        chains.log_p_reliability,
        chains.pass_at_k,
        chains.methods_by_model,
    ],
)
def test_an_empty_figure_says_so(drawn):
    figure, _ = drawn([])
    assert texts(figure) == ["no data"] and style.png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "drawn",
    [
        lambda: chains.acceptance_by_cut([{"chains": [chain(True, [-1.0, -1.0], [step(3)])]}]),
        lambda: chains.acceptance_by_cut([{"chains": [chain(True, [-1.0, -1.0], [step(0)])]}]),
        lambda: chains.log_p_trajectories([{"chains": [chain(False, [-1.0])]}]),
        lambda: chains.log_p_reliability([problem((True, -1.0))]),
        lambda: chains.pass_at_k(PASS[:1]),
        lambda: chains.methods_by_model([{**MODELS[0], "model": "other", "low": None}]),
    ],
)
def test_little_data_still_gives_a_figure(drawn):
    assert style.png(drawn()[0]).startswith(b"\x89PNG")


def test_models_on_different_problems_say_how_many():
    rows = [row | {"total": 400.0 if row["model"] == "rl" else 200.0} for row in MODELS]
    labels = [
        label.get_text() for label in chains.methods_by_model(rows)[0].axes[0].get_xticklabels()
    ]
    assert labels == ["base\nn = 200", "RL\nn = 400"]
    assert chains.methods_by_model(MODELS)[0].axes[0].get_xticklabels()[0].get_text() == "base"
