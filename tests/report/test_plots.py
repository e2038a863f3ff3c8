"""Claims: every figure carries the numbers it shows, draws with little or no data, and keeps its labels apart."""

import itertools

import pytest

from nanolab.report import plots

POINTS = [{"alpha": alpha, "temperature": temperature, "num_steps": steps, "accuracy": 0.3 + 0.02 * steps + 0.01 * alpha, "passed": 40,
           "total": 100, "low": 0.25, "high": 0.6, "acceptance": 0.5, "positions_per_problem": 95 + 40 * steps}
          for alpha, temperature in ((1.0, 0.7), (4.0, 0.7), (8.0, 0.7), (4.0, 1.0)) for steps in (0, 5, 10)]
BASELINES = [{"method": method, "n": n, "accuracy": 0.4, "passed": 40, "total": 100, "low": 0.3, "high": 0.5,
              "positions_per_problem": 95.0 * n}
             for method, n in (("greedy", 1), ("plain", 1), ("low_temperature", 1), ("best_of", 2), ("best_of", 8), ("majority", 8))]
SERIES = [{"alpha": 4.0, "temperature": 0.7, "step": step, "acceptance": 0.5} for step in range(1, 11)]
RESULTS = [{"model": model, "task": task, "accuracy": 0.4, "low": 0.33, "high": 0.47, "chance": chance, "passed": 80, "n": 200}
           for model in ("base", "sft") for task, chance in (("mmlu", 0.25), ("gsm8k", 0.0))]
HISTORY = {"train/loss": [(step, 5 / step) for step in range(1, 101)], "validation/bits_per_byte": [(50, 2.0), (100, 1.5)]}


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


@pytest.mark.parametrize(("drawn", "rows"), [
    (lambda: plots.training_curves(HISTORY, "SFT"), 102),
    (lambda: plots.reward_curve({"train/reward": [(step, 0.5) for step in range(30)]}), 30),
    (lambda: plots.task_bars(RESULTS), 4),
    (lambda: plots.accuracy_by_alpha(POINTS), 4),
    (lambda: plots.accuracy_by_steps(POINTS), 12),
    (lambda: plots.accuracy_by_positions(POINTS, BASELINES), 18),
    (lambda: plots.acceptance_by_step(SERIES), 10),
], ids=["training", "reward", "tasks", "alpha", "steps", "positions", "acceptance"])
def test_a_figure_comes_with_one_row_a_point_and_renders(drawn, rows):
    figure, frame = drawn()
    assert len(frame) == rows
    assert plots.png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("drawn", [
    lambda: plots.training_curves({}, "none"), lambda: plots.training_curves({"train/loss": [(1, 2.0)]}, "one"),
    lambda: plots.reward_curve({}), lambda: plots.task_bars([]), lambda: plots.accuracy_by_alpha(POINTS[:1]),
    lambda: plots.accuracy_by_steps(POINTS[:1]), lambda: plots.accuracy_by_positions(POINTS[:1], []),
    lambda: plots.accuracy_by_positions(POINTS[:3], BASELINES[:1], main=(2.0, 0.1)), lambda: plots.acceptance_by_step([]),
])
def test_little_data_still_gives_a_figure(drawn):
    assert plots.png(drawn()[0]).startswith(b"\x89PNG")


def test_a_point_logged_twice_by_a_resumed_run_is_drawn_once():
    frame = plots.history_frame({"train/loss": [(1, 3.0), (2, 2.0), (2, 2.5), (3, 1.0)]})
    assert frame["step"].tolist() == [1, 2, 3] and frame["value"].tolist() == [3.0, 2.5, 1.0]


def test_accuracy_against_alpha_is_read_at_the_largest_number_of_steps():
    _, frame = plots.accuracy_by_alpha(POINTS)
    assert set(frame["num_steps"]) == {10}


def test_every_baseline_stands_in_the_figure_of_cost_under_its_own_name():
    figure, frame = plots.accuracy_by_positions(POINTS, BASELINES)
    assert {"greedy", "plain sample", "low temperature", "best of n, to 8", "majority vote, to 8", "power α=4, T=0.7"} <= set(texts(figure))
    assert set(frame["method"]) == {"power", *plots.METHOD_STYLES}


def test_labels_at_the_lines_ends_do_not_touch():
    same = [{**point, "accuracy": 0.5} for point in POINTS]
    figure, _ = plots.accuracy_by_steps(same)
    axis = figure.axes[0]
    low, high = axis.get_ylim()
    heights = sorted(text.xyann[1] for text in axis.texts)
    assert len(heights) == 4
    assert all(upper - lower >= 0.07 * (high - low) for lower, upper in itertools.pairwise(heights))


def test_error_bars_are_the_interval_not_its_width():
    figure, frame = plots.accuracy_by_alpha(POINTS)
    bars = figure.axes[0].containers[0].lines[2][0].get_segments()
    first = frame[frame["temperature"] == 0.7].iloc[0]
    assert [y for _, y in bars[0]] == pytest.approx([first["low"], first["high"]])
