"""Claims: the notebooks are clean, thin, and hold exactly the settings of their stage; so do the studies in experiments/."""

import ast
import dataclasses
import importlib
import json
import re

import pytest
import yaml

from nanolab import notebooks
from nanolab.config import ROOT, STAGES, STEPS
from nanolab.experiment import load_study
from nanolab.schema import to_dict

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STAGE_OF = {spec.notebook: spec.stage for spec in STEPS.values()}
each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
each_stage = pytest.mark.parametrize(
    "path", [path for path in PATHS if path.stem in STAGE_OF], ids=lambda path: path.stem
)
each_reader = pytest.mark.parametrize(
    "path", [path for path in PATHS if path.stem in notebooks.READERS], ids=lambda path: path.stem
)


def cells_of(path, kind="code"):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source_of(cell):
    return "".join(cell["source"])


def parameter_lines(path):
    return source_of(
        next(cell for cell in cells_of(path) if "parameters" in cell["metadata"].get("tags", []))
    ).splitlines()


def test_every_stage_has_its_notebook_and_the_others_are_those_that_read_records():
    assert {path.stem for path in PATHS} == set(STAGE_OF) | set(notebooks.READERS)


@each
def test_a_notebook_is_committed_without_outputs_and_with_fixed_ids(path):
    content = json.loads(path.read_text())
    assert content["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
    }
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in content["cells"]]
    assert len(set(ids)) == len(ids) and all(name.startswith(path.stem[:2] + "-") for name in ids)
    for cell in cells_of(path):
        assert cell["outputs"] == [] and cell["execution_count"] is None
        assert set(cell["metadata"]) <= {"tags"}


@each
def test_a_notebook_is_thin(path):
    cells = cells_of(path)
    assert len(cells) <= 12
    for cell in cells:
        tree = ast.parse(source_of(cell))
        assert all(
            node.end_lineno - node.lineno < 5
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
        )


@each
def test_a_notebook_explains_itself(path):
    texts = [source_of(cell) for cell in cells_of(path, "markdown")]
    assert texts[0].startswith(f"# {path.stem[:2]} ") and texts[-1].startswith(
        "## How to read this"
    )
    assert 2 <= texts[-1].count("\n- ") <= 8, "a short reading guide"


@each
def test_the_links_of_a_notebook_lead_to_notebooks_and_one_leads_to_the_map(path):
    links = re.findall(
        r"\]\(([^)]*)\)", "\n".join(source_of(cell) for cell in cells_of(path, "markdown"))
    )
    assert links and all((path.parent / link).is_file() for link in links)
    assert "00_start_here.ipynb" in links or path.stem == "00_start_here"


@each_reader
def test_a_notebook_that_reads_records_has_its_parameters_explained_and_starts_no_stage(path):
    want = notebooks.READERS[path.stem]
    assert notebooks.defaults(path) == {name: default for name, (default, _) in want.items()}
    for name, (_, description) in want.items():
        assert any(
            line.startswith(f"{name} = ") and line.endswith(f"  # {description}")
            for line in parameter_lines(path)
        ), name
    assert "run_stage" not in "\n".join(source_of(cell) for cell in cells_of(path))


@each_stage
def test_the_first_thing_shown_is_a_summary_or_the_report(path):
    assert source_of(cells_of(path)[2]).splitlines()[-1] in (
        "view.summary(result)",
        "view.report(result)",
    )


@each_stage
def test_the_parameters_cell_is_the_stages_config_with_its_defaults(path):
    """In the config's order, then experiment, parent_run_id and fresh."""
    want = {
        **to_dict(STAGES[STAGE_OF[path.stem]]()),
        "experiment": "smoke",
        "parent_run_id": "",
        "fresh": False,
    }
    have = notebooks.defaults(path)
    assert have == want and list(have) == list(want)
    assert {name: type(value) for name, value in have.items()} == {
        name: type(value) for name, value in want.items()
    }


@each_stage
def test_every_parameter_is_explained_by_the_configs_description(path):
    lines = parameter_lines(path)
    for field in dataclasses.fields(STAGES[STAGE_OF[path.stem]]):
        line = next(line for line in lines if line.startswith(f"{field.name} = "))
        assert line.endswith(f"  # {field.metadata['description']}")


@each_stage
def test_the_run_cell_hands_over_every_parameter(path):
    stage = STAGE_OF[path.stem]
    code = "\n".join(source_of(cell) for cell in cells_of(path))
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    settings = next(
        call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "dict"
    )
    assert {word.arg: word.value.id for word in settings.keywords} == {
        name: name for name in to_dict(STAGES[stage]())
    }
    run = next(
        call
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "run_stage"
    )
    assert run.args[0].value == stage
    assert {word.arg for word in run.keywords} == {"experiment", "parent_run_id", "fresh"}


@each
def test_what_a_notebook_uses_of_the_package_exists(path):
    tree = ast.parse("\n".join(source_of(cell) for cell in cells_of(path)))
    modules = {
        alias.asname or alias.name: importlib.import_module(f"{node.module}.{alias.name}")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("nanolab")
        for alias in node.names
    }
    used = {
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in modules
    }
    assert {name for name, _ in used} == set(modules)
    for name, attribute in used:
        assert hasattr(modules[name], attribute), f"{path.name}: {name}.{attribute}"


def test_smoke_states_every_stage_setting_and_each_is_the_default():
    stated = yaml.safe_load((ROOT / "experiments" / "smoke.yaml").read_text())
    for stage, config in STAGES.items():
        assert stated[stage] == to_dict(config()), stage


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda path: path.stem
)
def test_a_study_is_valid_and_named_like_its_file(path):
    study = load_study(path.stem)
    assert study.experiment == path.stem and study.description
    assert [step for step in STEPS if step in study.steps] == study.steps, (
        "its steps are not in the order of a run"
    )


def test_the_reference_study_has_every_setting_of_the_reference_report():
    study = load_study("speedrun_powersample")
    reference = json.loads((ROOT / "tests" / "golden" / "reference_values.json").read_text())[
        "steps"
    ]
    for step, values in reference.items():
        config = to_dict(study.stage(STEPS[step].stage))
        for key in set(values) & set(config):
            assert config[key] == values[key], f"{step}.{key}"
    assert study.base_train.depth == 20 and study.launch.nproc == 8 and study.data.source == "hub"
    assert not {"rl", "chat_eval_rl", "power_ablation"} & set(study.steps)
    assert study.power_eval.restart_prob == 0
