"""Claims: every figure carries the numbers it shows, draws with little or no data, and keeps its
labels apart.
"""

import itertools

import pytest

from nanolab.figures import ablation, style, training

POINTS = [
    {
        "alpha": alpha,
        "temperature": temperature,
        "num_steps": steps,
        "accuracy": 0.3 + 0.02 * steps + 0.01 * alpha,
        "passed": 40,
        "total": 100,
        "low": 0.25,
        "high": 0.6,
        "acceptance": 0.5,
        "positions_per_problem": 95 + 40 * steps,
    }
    for alpha, temperature in ((1.0, 0.7), (4.0, 0.7), (8.0, 0.7), (4.0, 1.0))
    for steps in (0, 5, 10)
]
BASELINES = [
    {
        "method": method,
        "n": n,
        "accuracy": 0.4,
        "passed": 40,
        "total": 100,
        "low": 0.3,
        "high": 0.5,
        "positions_per_problem": 95.0 * n,
    }
    for method, n in (
        ("greedy", 1),
        ("plain", 1),
        ("low_temperature", 1),
        ("best_of", 2),
        ("best_of", 8),
        ("majority", 8),
    )
]
SAMPLERS = [
    {
        "method": method,
        "n": n,
        "alpha": 4.0,
        "temperature": 0.7,
        "num_steps": steps,
        "accuracy": 0.45,
        "passed": 45,
        "total": 100,
        "low": 0.35,
        "high": 0.55,
        "positions_per_problem": 500.0,
    }
    for method, n, steps in (
        ("smc", 8, None),
        ("rollout", 4, None),
        ("chain_vote", 4, 10),
        ("most_likely", 1, 10),
    )
]
SERIES = [
    {"alpha": 4.0, "temperature": 0.7, "step": step, "acceptance": 0.5} for step in range(1, 11)
]
RESULTS = [
    {
        "model": model,
        "task": task,
        "accuracy": 0.4,
        "low": 0.33,
        "high": 0.47,
        "chance": chance,
        "passed": 80,
        "n": 200,
    }
    for model in ("base", "sft")
    for task, chance in (("mmlu", 0.25), ("gsm8k", 0.0))
]
HISTORY = {
    "train/loss": [(step, 5 / step) for step in range(1, 101)],
    "validation/bits_per_byte": [(50, 2.0), (100, 1.5)],
}


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


@pytest.mark.parametrize(
    ("drawn", "rows"),
    [
        (lambda: training.training_curves(HISTORY, "SFT"), 102),
        (
            lambda: training.reward_curve({"train/reward": [(step, 0.5) for step in range(30)]}),
            30,
        ),
        (lambda: training.task_bars(RESULTS), 4),
        (lambda: ablation.accuracy_by_alpha(POINTS), 4),
        (lambda: ablation.accuracy_by_steps(POINTS), 12),
        (lambda: ablation.accuracy_by_positions(POINTS, BASELINES), 18),
        (lambda: ablation.acceptance_by_step(SERIES), 10),
    ],
    ids=["training", "reward", "tasks", "alpha", "steps", "positions", "acceptance"],
)
def test_a_figure_comes_with_one_row_a_point_and_renders(drawn, rows):
    figure, frame = drawn()
    assert len(frame) == rows
    assert style.png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "drawn",
    [
        lambda: training.training_curves({}, "none"),
        lambda: training.training_curves({"train/loss": [(1, 2.0)]}, "one"),
        lambda: training.reward_curve({}),
        lambda: training.task_bars([]),
        lambda: ablation.accuracy_by_alpha(POINTS[:1]),
        lambda: ablation.accuracy_by_steps(POINTS[:1]),
        lambda: ablation.accuracy_by_positions(POINTS[:1], []),
        lambda: ablation.accuracy_by_positions(POINTS[:3], BASELINES[:1], main=(2.0, 0.1)),
        lambda: ablation.acceptance_by_step([]),
        lambda: ablation.accuracy_by_positions([], BASELINES[:1]),
        lambda: ablation.accuracy_by_positions([], SAMPLERS[:1]),
    ],
)
def test_little_data_still_gives_a_figure(drawn):
    assert style.png(drawn()[0]).startswith(b"\x89PNG")


def test_of_many_settings_the_alphas_of_one_have_names_and_the_rest_are_grey():
    settings = [
        (alpha, temperature, restart)
        for alpha in (1.0, 4.0, 8.0)
        for temperature in (0.25, 0.7)
        for restart in (0.0, 0.5)
    ]
    points = [
        {
            "alpha": alpha,
            "temperature": temperature,
            "restart_prob": restart,
            "num_blocks": 1,
            "num_steps": steps,
            "accuracy": 0.5,
            "low": 0.4,
            "high": 0.6,
            "positions_per_problem": 100.0,
        }
        for alpha, temperature, restart in settings
        for steps in (0, 5)
    ]
    series = [
        {
            "alpha": alpha,
            "temperature": temperature,
            "restart_prob": restart,
            "num_blocks": 1,
            "step": step,
            "acceptance": 0.5,
        }
        for alpha, temperature, restart in settings
        for step in (1, 2)
    ]
    for figure, frame in (ablation.accuracy_by_steps(points), ablation.acceptance_by_step(series)):
        assert sorted(texts(figure)) == ["α=1", "α=4", "α=8"] and len(frame) == 24
        assert "T=0.7, restart 0, 1 block; grey: other settings" in figure.axes[0].get_xlabel()


def test_populations_that_differ_in_one_setting_are_lines_of_their_own():
    """A ramp of the exponent is another sampler, even at the same cost."""
    rows = [
        {
            "method": "smc",
            "n": n,
            "alpha": 4.0,
            "temperature": 0.7,
            "ess_threshold": 0.5,
            "ramp_tokens": ramp,
            "accuracy": 0.5,
            "low": 0.4,
            "high": 0.6,
            "positions_per_problem": 60.0 * n,
        }
        for n in (4, 16)
        for ramp in (0, 20)
    ]
    figure, frame = ablation.accuracy_by_positions([], rows)
    lines = [
        line
        for line in figure.axes[0].lines
        if line.get_linestyle() != "None" and list(line.get_xdata()) == [240, 960]
    ]
    assert len(lines) == 2 and sorted(frame["ramp_tokens"]) == [0, 0, 20, 20]


@pytest.mark.parametrize(
    "drawn",
    [
        lambda: training.training_curves({}, "none"),
        lambda: training.reward_curve({}),
        lambda: training.task_bars([]),
        lambda: ablation.accuracy_by_alpha([]),
        lambda: ablation.accuracy_by_steps(BASELINES),
        lambda: ablation.accuracy_by_positions([], []),
        lambda: ablation.acceptance_by_step([]),
    ],
)
def test_an_empty_figure_says_so(drawn):
    figure, frame = drawn()
    assert frame.empty and texts(figure) == ["no data"] and style.png(figure).startswith(b"\x89PNG")


def test_a_point_logged_twice_by_a_resumed_run_is_drawn_once():
    frame = training.history_frame({"train/loss": [(1, 3.0), (2, 2.0), (2, 2.5), (3, 1.0)]})
    assert frame["step"].tolist() == [1, 2, 3] and frame["value"].tolist() == [3.0, 2.5, 1.0]


def test_accuracy_against_alpha_is_read_at_the_largest_number_of_steps():
    _, frame = ablation.accuracy_by_alpha(POINTS)
    assert set(frame["num_steps"]) == {10}


def test_every_baseline_stands_in_the_figure_of_cost_under_its_own_name():
    figure, frame = ablation.accuracy_by_positions(POINTS, BASELINES)
    assert set(texts(figure)) == {
        "greedy",
        "plain sample",
        "low temperature",
        "best of n, to 8",
        "majority vote, to 8",
        "power α=4, T=0.7",
    }
    assert set(frame["method"]) == {
        "power",
        "greedy",
        "plain",
        "low_temperature",
        "best_of",
        "majority",
    }


def test_every_sampler_is_a_line_of_its_own_look_and_its_other_settings_are_grey():
    smc = [
        {**SAMPLERS[0], "alpha": alpha, "n": n, "positions_per_problem": 95.0 * n}
        for alpha in (2.0, 4.0)
        for n in (4, 8, 32)
    ]
    figure, frame = ablation.accuracy_by_positions(POINTS, [*BASELINES, *smc, *SAMPLERS[1:]])
    assert {"SMC, to 32", "rollouts, to 4", "vote of chains, to 4", "most likely state"} <= set(
        texts(figure)
    ) and len(texts(figure)) == 10
    assert len(frame) == len(POINTS) + len(BASELINES) + 6 + 3
    looks = [
        (bars.lines[0].get_color(), bars.lines[0].get_marker())
        for bars in figure.axes[0].containers
    ]
    assert len(set(looks)) == len(looks) == 10
    lines = {bars.lines[0].get_color(): bars.lines[0] for bars in figure.axes[0].containers}
    assert len(lines[ablation.METHOD_STYLES["smc"][1]].get_xdata()) == 3  # alpha = 4, the main one
    assert (
        sum(line.get_color() == style.PALE for line in figure.axes[0].lines) == 3 + 1
    )  # of power, of SMC


def test_figures_against_alpha_and_steps_show_power_sampling_only():
    for drawn in (ablation.accuracy_by_alpha, ablation.accuracy_by_steps):
        marked = [{**point, "method": "power"} for point in POINTS]
        assert drawn([*marked, *BASELINES, *SAMPLERS])[1].equals(drawn(POINTS)[1])


def test_a_label_says_only_what_varies():
    one = [
        {**point, "restart_prob": 0.5, "num_blocks": 1}
        for point in POINTS
        if point["alpha"] == 4 and point["temperature"] == 0.7
    ]
    restarts = [
        *one,
        *({**point, "restart_prob": 0.0} for point in one),
        *({**point, "num_blocks": 4} for point in one),
    ]
    assert texts(ablation.accuracy_by_steps(one)[0]) == ["α=4"]
    figure, _ = ablation.accuracy_by_steps(restarts)
    assert set(texts(figure)) == {"restart 0", "restart 0.5", "restart 0.5, 4 blocks"}
    assert figure.axes[0].get_xlabel() == "Metropolis-Hastings steps a block\nunless said: 1 block"
    assert set(texts(ablation.accuracy_by_steps(POINTS)[0])) == {"α=1", "α=4", "α=8", "α=4, T=1"}
    assert set(texts(ablation.accuracy_by_alpha(restarts)[0])) == {
        "restart 0",
        "restart 0.5",
        "restart 0.5, 4 blocks",
    }


def test_more_settings_than_colours_still_differ():
    many = [{**POINTS[0], "alpha": float(alpha)} for alpha in range(1, 15)]
    looks = [
        (bars.lines[0].get_color(), bars.lines[0].get_marker())
        for bars in ablation.accuracy_by_steps(many)[0].axes[0].containers
    ]
    assert len(set(looks)) == 14


def test_a_setting_with_fewer_steps_is_read_at_its_own_most():
    figure, frame = ablation.accuracy_by_alpha(
        [*POINTS, {**POINTS[0], "alpha": 2.0, "num_steps": 5}]
    )
    assert frame.set_index("alpha").loc[2.0, "num_steps"] == 5
    assert figure.axes[0].get_title("left") == "Accuracy against α, after the most steps"


def test_labels_at_the_lines_ends_do_not_touch():
    same = [{**point, "accuracy": 0.5} for point in POINTS]
    figure, _ = ablation.accuracy_by_steps(same)
    axis = figure.axes[0]
    low, high = axis.get_ylim()
    heights = sorted(text.xyann[1] for text in axis.texts)
    assert len(heights) == 4
    assert all(upper - lower >= 0.07 * (high - low) for lower, upper in itertools.pairwise(heights))


def test_error_bars_are_the_interval_not_its_width():
    figure, frame = ablation.accuracy_by_alpha(POINTS)
    bars = figure.axes[0].containers[0].lines[2][0].get_segments()
    first = frame[frame["temperature"] == 0.7].iloc[0]
    assert [y for _, y in bars[0]] == pytest.approx([first["low"], first["high"]])


def test_the_curves_say_on_how_many_tokens_each_point_stands_and_draw_its_error():
    history = HISTORY | {"validation/bits_per_byte_se": [(50, 0.2), (100, 0.1)]}
    figure, frame = training.training_curves(
        history, "SFT", {"validation/bits_per_byte": 8160.0, "train/loss": 4096.0}
    )
    assert [axis.get_ylabel() for axis in figure.axes] == [
        "loss, nats per token\n(4,096 tokens a point)",
        "validation bits per byte, ± 1 s.e.\n(8,160 tokens a point)",
    ]
    (bars,) = figure.axes[1].containers[0].lines[2]
    assert [tuple(segment[:, 1].round(6)) for segment in bars.get_segments()] == [
        (1.8, 2.2),
        (1.4, 1.6),
    ] and len(frame) == 104


def test_the_tasks_say_how_many_problems_they_are_of_and_where_they_differ():
    def names(rows):
        return [label.get_text() for label in training.task_bars(rows)[0].axes[0].get_xticklabels()]

    assert names([row | {"problems": "d"} for row in RESULTS]) == [
        "MMLU\nn = 200",
        "GSM8K\nn = 200",
    ]
    other = [row | {"problems": "d"} for row in RESULTS[:3]] + [
        RESULTS[3] | {"n": 400, "problems": "e"}
    ]
    assert names(other)[1] == "GSM8K\nn = 200, 400:\nnot the same\nproblems"
    assert names([{key: value for key, value in row.items() if key != "n"} for row in RESULTS]) == [
        "MMLU",
        "GSM8K",
    ]
