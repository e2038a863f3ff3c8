"""The grid of an ablation: products, joined, each point once; a mistake names its entry."""

import pytest

from nanolab.errors import UserError
from nanolab.settings.config import PowerAblationConfig
from nanolab.settings.grid import SAMPLERS, expand

CONFIG = PowerAblationConfig(restart_prob=0.5, num_blocks=1, particles=16)


def test_entries_are_products_and_what_they_leave_out_is_the_stages():
    points = expand([{"alpha": [1, 4], "temperature": [0.7, 1.0]}], CONFIG)
    assert points == [
        {
            "sampler": "power",
            "alpha": float(a),
            "temperature": t,
            "restart_prob": 0.5,
            "num_blocks": 1,
        }
        for a in (1, 4)
        for t in (0.7, 1.0)
    ]


def test_a_point_that_two_entries_ask_for_is_run_once():
    points = expand(
        [
            {"alpha": [4], "temperature": [0.7]},
            {"alpha": [4.0], "temperature": [0.7, 1.0], "restart_prob": [0.5, 0.0]},
        ],
        CONFIG,
    )
    assert len(points) == 4 and points[0] == points[0] | {"temperature": 0.7, "restart_prob": 0.5}


def test_every_sampler_has_its_settings():
    for sampler, known in SAMPLERS.items():
        (point,) = expand([{"sampler": [sampler], "alpha": [4], "temperature": [0.7]}], CONFIG)
        assert set(point) == {"sampler", *known}
    both = expand([{"sampler": ["power", "smc"], "alpha": [4], "temperature": [0.7]}], CONFIG)
    assert [point["sampler"] for point in both] == ["power", "smc"]
    assert both[1]["particles"] == 16


@pytest.mark.parametrize(
    "entry, message",
    [
        (
            {"alpha": [0.5], "temperature": [1.0]},
            r"grid\[0\].alpha = 0.5 must be a number at least 1",
        ),
        ({"alpha": [2], "temperature": [0]}, r"temperature = 0 must be a number above 0"),
        ({"alpha": [2], "temperature": []}, r"temperature = \[\] must be a list"),
        ({"alpha": 2, "temperature": [1]}, r"alpha = 2 must be a list"),
        ({"alpha": [2]}, r"must have a list of temperature values"),
        ({"alpha": ["two"], "temperature": [1]}, r"alpha = 'two'"),
        (
            {"alpha": [2], "temperature": [1], "num_blocks": [1.5]},
            r"num_blocks = 1.5 must be a whole number at least 1",
        ),
        (
            {"alpha": [2], "temperature": [1], "restart_prob": [1.5]},
            r"restart_prob = 1.5 must be a number at least 0 and at most 1",
        ),
        (
            {"alpha": [2], "temperature": [1], "particles": [4]},
            r"'power' has no setting 'particles'; its settings are alpha",
        ),
        ({"alpha": [float("inf")], "temperature": [1]}, r"alpha = inf must be a number"),
        (
            {"alpha": [2], "temperature": [1], "num_blocks": [float("nan")]},
            r"num_blocks = nan must be a whole number",
        ),
        (
            {"sampler": [["smc"]], "alpha": [2], "temperature": [1]},
            r"sampler = \['smc'\] must be one of",
        ),
        (
            {"sampler": ["mh"], "alpha": [2], "temperature": [1]},
            r"sampler = 'mh' must be one of power, smc, rollout",
        ),
        (
            {"sampler": ["smc"], "alpha": [2], "temperature": [1], "particles": [True]},
            r"particles = True",
        ),
    ],
)
def test_a_mistake_names_its_entry(entry, message):
    with pytest.raises(UserError, match=message):
        expand([entry], CONFIG)
