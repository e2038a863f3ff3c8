"""A mistake in a study is one line that names the key and the fix; a right study loads as
written.
"""

import dataclasses
import math
import subprocess
import sys
import typing

import pytest
import yaml

from nanolab.errors import UserError
from nanolab.files import ROOT
from nanolab.settings import grid
from nanolab.settings.config import STAGES, STEPS, DataConfig, LaunchConfig, StudyConfig
from nanolab.settings.kinds import range_of
from nanolab.settings.schema import to_dict
from nanolab.settings.study_file import find_study, load_study, study_from_dict

OK = {"base_train": {"steps": 1}}


def write(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    "values, words",
    [
        (
            {"power_eval": {"alpah": 8}},
            "unknown key power_eval.alpah; the nearest valid key is power_eval.alpha",
        ),
        ({"powereval": {}}, "unknown key powereval; the nearest valid key is power_eval"),
        ({"power_eval": {"alpha": "big"}}, "power_eval.alpha = 'big' must be a number, got str"),
        (
            {"power_eval": {"num_steps": 2.5}},
            "power_eval.num_steps = 2.5 must be a whole number, got float",
        ),
        ({"sft": {"steps": True}}, "sft.steps = True must be a whole number, got bool"),
        (
            {"power_eval": {"alpha": 0.5}},
            "power_eval.alpha = 0.5 is out of range: it must be at least 1",
        ),
        (
            {"power_eval": {"restart_prob": 1.5}},
            "power_eval.restart_prob = 1.5 is out of range: it must be at least 0 and at most 1",
        ),
        (
            {"power_eval": {"temperature": float("nan")}},
            "power_eval.temperature = nan is out of range",
        ),
        (
            {"chat_eval": {"source": "large"}},
            "chat_eval.source = 'large' must be one of base, mid, sft, rl, or a model from outside"
            ": hf:FOLDER",
        ),
        (
            {"power_eval": {"source": "hf:"}},
            "power_eval.source = 'hf:' names no model: it must be hf:FOLDER, hf:NAME@REVISION",
        ),
        (
            {"rl": {"source": "hf:x/y"}},
            "rl.source = 'hf:x/y': only a model trained here can be trained further",
        ),
        (
            {"power_ablation": {"source": "hf:x/y", "step": 3}},
            "power_ablation.step and model_tag choose a checkpoint of a study",
        ),
        (
            {"steps": ["chat_eval_hf"]},
            "step chat_eval_hf needs chat_eval.source = hf:FOLDER, hf:NAME@REVISION, gguf:FILE",
        ),
        (
            {"power_ablation": {"num_steps": [1, "two"]}},
            r"power_ablation.num_steps\[1\] = 'two' must be a whole number",
        ),
        (
            {"power_ablation": {"grid": [{"alpha": [0.5], "temperature": [1.0]}]}},
            r"power_ablation.grid\[0\]",
        ),
        ({"sft": 3}, "sft must be a mapping of settings, got int 3"),
        (
            {"steps": ["tok_train", "stf"]},
            "unknown step 'stf' in steps; the nearest valid step is 'sft'",
        ),
        (
            {"base_train": {"steps": 1, "tokens_per_parameter": 2.0}},
            "give exactly one of steps and tokens_per_parameter",
        ),
        (
            {"chat_eval": {"tasks": ["gsm9k"]}},
            r"chat_eval.tasks\[0\] = 'gsm9k' must be one of arc_easy, arc_challenge, mmlu, gsm8k",
        ),
        (
            {"power_ablation": {"num_steps": [-1, 10]}},
            r"power_ablation.num_steps\[0\] = -1 is out of range: it must be at least 0",
        ),
        (
            {"power_ablation": {"best_of": []}},
            r"power_ablation.best_of = \[\] must have at least one value",
        ),
        (
            {"power_eval": {"num_blocks": 300}},
            "power_eval.num_blocks = 300 must be at most max_new_tokens = 256",
        ),
        ({"chat_eval": {"tasks": []}}, "chat_eval.tasks is empty"),
        ({"experiment": "../x"}, "experiment = '../x' names a folder"),
        ({"launch": {"nnodes": 2}}, "needs launch.rdzv_endpoint"),
        (
            {"launch": {"node_rank": 1}},
            r"launch.node_rank = 1 is the number of a machine, from 0 to launch.nnodes - 1 = 0",
        ),
        (
            {
                "mid_train": {
                    "share_chats": 0.0,
                    "share_problems": 0.0,
                    "share_choices": 0.0,
                    "share_programs": 0.0,
                }
            },
            "shares of conversations",
        ),
    ],
)
def test_a_mistake_names_the_key_and_what_was_expected(values, words):
    with pytest.raises(UserError, match=words) as caught:
        study_from_dict({**OK, **values})
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_bad_yaml_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no experiment file 'experiments/nothing.yaml'"):
        find_study("experiments/nothing.yaml")
    with pytest.raises(UserError, match="is not valid YAML") as caught:
        load_study(write(tmp_path, "a: [1\nb: 2"))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="must be a mapping"):
        load_study(write(tmp_path, "- 1"))


def test_set_changes_a_setting_with_its_type_and_is_checked(tmp_path):
    path = write(tmp_path, "base_train: {steps: 5}\npower_eval: {alpha: 2.0}")
    study = load_study(
        path,
        ["power_eval.alpha=8", "data.source=local", "power_eval.top_k=null", "steps=[tok_train]"],
    )
    assert (
        study.experiment == "study"
        and study.power_eval.alpha == 8.0
        and study.power_eval.top_k is None
    )
    assert (
        study.data.source == "local"
        and study.steps == ["tok_train"]
        and study.base_train.steps == 5
    )
    for wrong, words in [
        ("power_eval.alpah=8", "nearest valid key is power_eval.alpha"),
        ("power_eval.alpha", "must have the form"),
        ("experiment.x=1", "is not a group of settings"),
        ("power_eval.alpha=[", "is not a valid value"),
    ]:
        with pytest.raises(UserError, match=words):
            load_study(path, [wrong])


def test_a_study_written_as_yaml_loads_as_the_same_study(tmp_path):
    study = study_from_dict(
        {**OK, "experiment": "a", "seed": 3, "power_ablation": {"num_steps": [0, 1]}}
    )
    assert load_study(write(tmp_path, yaml.safe_dump(to_dict(study)))) == study


def test_every_setting_has_a_description_and_a_default_that_its_own_checks_accept():
    for name, stage in STAGES.items():
        for field in dataclasses.fields(stage):
            assert field.metadata["description"], f"{name}.{field.name} has no description"
        study_from_dict(
            {**OK, name: {**to_dict(stage()), **({"steps": 1} if name == "base_train" else {})}}
        )


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        StudyConfig().seed = 1


def test_the_step_table_is_consistent():
    seen = set()
    for name, spec in STEPS.items():
        assert spec.stage in STAGES and set(spec.inputs) <= seen
        assert set(spec.fixed) <= {field.name for field in dataclasses.fields(STAGES[spec.stage])}
        seen.add(name)
    assert {spec.stage for spec in STEPS.values()} == set(STAGES)


def test_a_number_in_scientific_notation_is_a_number(tmp_path):
    assert (
        load_study(write(tmp_path, "base_train: {matrix_lr: 1e-3}")).base_train.matrix_lr == 0.001
    )


# ---- every field of every class meets every kind of value that is none

GROUPS = {"": StudyConfig, "data": DataConfig, "launch": LaunchConfig, **STAGES}
FIELDS = [
    pytest.param(group, field, hint, id=f"{group or 'study'}.{field.name}")
    for group, cls in GROUPS.items()
    for field, hint in zip(
        dataclasses.fields(cls), typing.get_type_hints(cls, include_extras=True).values()
    )
    if field.metadata
]
RANGE = "is out of range: it must be "
NO_FLOATS = [math.nan, math.inf, -math.inf, 1e400]
NO_NUMBERS = [*NO_FLOATS, 10**400, -(10**400), 16**6000, True, "8", "", [[]], {}]


def parts(hint):
    """The types in a hint: Count | None -> int, NoneType; allowed words count as text."""
    if typing.get_origin(hint) is typing.Literal:
        return {str}
    if isinstance(hint, type):
        return {hint}
    origin = {typing.get_origin(hint)} & {list, dict}
    return origin.union(*map(parts, typing.get_args(hint)))


def wrong_numbers(kind, limits):
    """(value, words of its refusal) for a number; raises AssertionError where it has no range."""
    low, above, high = limits.minimum, limits.above, limits.maximum
    assert math.isfinite(max(low, above)), "a number without a range"
    yield from [
        (True, "got bool"),
        ("8", "got str"),
        ("", "got str"),
        ([[]], "got list"),
        ({"a": 1}, "got dict"),
    ]
    yield from [(10**400, RANGE), (-(10**400), RANGE), (16**6000, RANGE)]
    yield from [
        (value, f"{RANGE}a finite number" if kind is float else "got float") for value in NO_FLOATS
    ]
    yield from [(1.5, "got float"), (2**63, RANGE)] if kind is int else []
    yield (low - 1, f"{RANGE}at least {low}") if low > above else (above, f"{RANGE}above {above}")
    yield from [(high + 1, f"at most {high}")] if high < math.inf else []


def wrong_texts(may_be_blank):
    """(value, words of its refusal) for a text, or a word out of a few."""
    yield from [(value, "must be ") for value in (3, 1.5, True, 10**400, math.nan, [[]], {"a": 1})]
    yield from [] if may_be_blank else [("", " "), ("  ", " ")]


def wrong_values(name, hint):
    """(value, words of its refusal) for a field."""
    has = parts(hint)
    kind = next((kind for kind in (int, float, bool, str) if kind in has), None)
    if kind is bool:
        inner = [(value, "must be true or false") for value in (0, 1, 1.0, "yes", "true", "", [])]
    elif kind in (int, float):
        inner = list(wrong_numbers(kind, range_of(hint)))
    else:
        inner = list(wrong_texts(name == "description"))
    yield from [] if type(None) in has else [(None, "")]
    for value, words in inner:
        yield {"H100": value} if dict in has else [value] if list in has else value, words
    if list in has:
        yield from [("x", "must be a list"), ({}, "must be a list"), ([None], "")]
        yield from [] if name in MAY_BE_EMPTY else [([], "must have at least one value")]
        yield from [([2, 2], "has 2 twice")] if kind is int else []


MAY_BE_EMPTY = ("steps", "seeds", "tasks")  # of tasks, a line of its own says what to do


@pytest.mark.parametrize("group, field, hint", FIELDS)
def test_what_is_no_value_of_a_field_is_refused_with_key_value_and_range(group, field, hint):
    """Generated from the classes: a new number without a range fails here."""
    if field.name == "grid":
        return  # below
    for value, words in wrong_values(field.name, hint):
        own = {**OK.get(group, {}), field.name: value}
        with pytest.raises(UserError) as caught:
            study_from_dict({**OK, **({group: own} if group else own)})
        line = str(caught.value)
        assert field.name in line and words in line and "\n" not in line and len(line) < 400, (
            value,
            line,
        )


ABLATION = STAGES["power_ablation"]
OF_A_POINT = {**typing.get_type_hints(ABLATION, include_extras=True), **grid.KINDS}


@pytest.mark.parametrize("name", sorted(grid.SETTINGS))
def test_what_is_no_value_of_a_grid_is_refused(name):
    sampler = next(sampler for sampler, known in grid.SAMPLERS.items() if name in known)
    kind, limits = typing.get_args(OF_A_POINT[name])[0], range_of(OF_A_POINT[name])
    ends = [max(limits.above, limits.minimum - 1)]
    ends += [limits.maximum + 1] if limits.maximum < math.inf else []
    for value in NO_NUMBERS + ends + ([1.5, 2**63] if kind is int else []):
        entry = {"sampler": [sampler], "alpha": [4], "temperature": [1.0], name: [value]}
        with pytest.raises(UserError, match=name):
            grid.expand([entry], ABLATION())
        with pytest.raises(UserError, match=name) as caught:
            study_from_dict({**OK, "power_ablation": {"grid": [entry]}})
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    twice = {"alpha": [4], "temperature": [1.0], "sampler": [sampler], name: [1, 1]}
    with pytest.raises(UserError, match=f"{name} = .*has 1 twice"):
        study_from_dict({**OK, "power_ablation": {"grid": [twice]}})


@pytest.mark.parametrize(
    "text, words",
    [
        (
            "hourly_rates: {H100: -3}",
            "hourly_rates.H100 = -3.0 is out of range: it must be at least 0",
        ),
        (
            "hourly_rates: {H100: .nan}",
            "hourly_rates.H100 = nan is out of range: it must be a finite number at least 0",
        ),
        ("hourly_rates: {'': 1}", "a key of hourly_rates = '' must not be empty"),
        (
            "power_eval: {low_temperature: .inf}",
            "low_temperature = inf is out of range: it must be a finite number above 0.0001",
        ),
        (
            "power_eval: {low_temperature: 1e400}",
            "low_temperature = inf is out of range: it must be a finite number",
        ),
        (
            "chat_eval: {temperature: 1e-30}",
            "temperature = 1e-30 is out of range: it must be 0 .greedy. or above 0.0001",
        ),
        ("steps: [tok_train, tok_train]", "steps = .*has 'tok_train' twice: leave one out"),
        ("power_ablation: {num_steps: [2, 2]}", "has 2 twice"),
        ("description: 2024-13-45", "month must be in 1..12"),
        ("seed: " + "9" * 5000, "4300 digits"),
        ("seed: 0x" + "f" * 5000, "seed = 2.19999 or more is out of range"),
        ("? [a]\n: 1", "cannot be a key: a key is a name"),
    ],
)
def test_what_yaml_can_say_is_checked_to_the_last_element(tmp_path, text, words):
    with pytest.raises(UserError, match=words) as caught:
        load_study(write(tmp_path, f"base_train: {{steps: 1}}\n{text}\n"))
    assert "\n" not in str(caught.value)


def test_numbers_at_the_ends_of_their_ranges_are_taken(tmp_path):
    ends = {
        "hourly_rates": {"H100": 0},
        "seeds": [0, 2**63 - 1],
        "power_ablation": {"num_steps": [0], "best_of": [1]},
        "power_eval": {"alpha": 1, "restart_prob": 1, "temperature": 1e9},
        "data": {"wordy_steps": 1},
    }
    study = study_from_dict({**OK, **ends})
    assert (
        study.hourly_rates == {"H100": 0.0}
        and study.seeds == [0, 2**63 - 1]
        and study.power_eval.alpha == 1.0
    )
    assert (
        load_study(write(tmp_path, "base_train: {matrix_lr: .5e-3}")).base_train.matrix_lr == 0.0005
    )
    with pytest.raises(UserError, match="'seed' stands twice, again in line 1"):
        load_study(write(tmp_path, "base_train: {steps: 1}"), ["data={seed: 1, seed: 2}"])


def test_pydantic_is_imported_when_the_first_study_is_read_not_before():
    """A machine that only computes needs no pydantic, and `--help` no time for it."""
    code = (
        "import sys; from nanolab.settings.config import StudyConfig; StudyConfig();"
        " assert 'pydantic' not in sys.modules;"
        " from nanolab.settings.study_file import study_from_dict; study_from_dict({});"
        " assert 'pydantic' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
