"""A mistake in a study is one line that names the key and the fix; a right study loads as written."""

import dataclasses

import pytest
import yaml

from nanolab.config import STAGES, STEPS, StudyConfig
from nanolab.experiment import find_study, load_study, study_from_dict
from nanolab.schema import UserError, to_dict

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
            "chat_eval.source = 'large' must be one of base, mid, sft, rl, or hf:NAME-or-folder",
        ),
        (
            {"power_eval": {"source": "hf:"}},
            "power_eval.source = 'hf:' must be one of base, mid, sft, rl, or hf:NAME-or-folder",
        ),
        (
            {"rl": {"source": "hf:x/y"}},
            "rl.source = 'hf:x/y': only a model trained here can be trained further",
        ),
        (
            {"power_ablation": {"source": "hf:x/y", "step": 3}},
            "power_ablation: step and model_tag choose a checkpoint of a study",
        ),
        (
            {"steps": ["chat_eval_hf"]},
            "step chat_eval_hf needs chat_eval.source = hf:NAME-or-folder, not 'sft'",
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
        ({"chat_eval": {"tasks": ["gsm9k"]}}, "unknown task 'gsm9k' in chat_eval.tasks"),
        (
            {"power_ablation": {"num_steps": [-1, 10]}},
            r"power_ablation.num_steps = \[-1, 10\] must have at least one value, each at least 0",
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
