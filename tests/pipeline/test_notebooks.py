"""Claims: the notebooks are clean, thin, and hold exactly the settings of their stage; so do the
studies in experiments/.
"""

import ast
import asyncio
import contextlib
import dataclasses
import importlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from nanolab.errors import UserError
from nanolab.files import ROOT
from nanolab.pipeline import notebooks
from nanolab.plan import notebook_files
from nanolab.plan.parameters import parameters
from nanolab.settings.config import STAGES, STEPS, StudyConfig
from nanolab.settings.schema import own_first, to_dict
from nanolab.settings.study_file import load_study

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STAGE_OF = {spec.notebook: spec.stage for spec in STEPS.values()}
each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
each_stage = pytest.mark.parametrize(
    "path", [path for path in PATHS if path.stem in STAGE_OF], ids=lambda path: path.stem
)
each_reader = pytest.mark.parametrize(
    "path",
    [path for path in PATHS if path.stem in notebook_files.READERS],
    ids=lambda path: path.stem,
)


def cells_of(path, kind="code"):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source_of(cell):
    return "".join(cell["source"])


def explanations(path):
    """The comment at the end of each assignment of a notebook's parameters cell, by name."""
    cell = next(cell for cell in cells_of(path) if "parameters" in cell["metadata"].get("tags", []))
    lines = source_of(cell).splitlines()
    return {
        node.targets[0].id: lines[node.end_lineno - 1].partition("  # ")[2]
        for node in ast.parse(source_of(cell)).body
    }


def test_every_stage_has_its_notebook_and_the_others_are_those_that_read_records():
    assert {path.stem for path in PATHS} == set(STAGE_OF) | set(notebook_files.READERS)


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
    want = notebook_files.READERS[path.stem]
    assert notebook_files.defaults(path) == to_dict(want())
    for field in dataclasses.fields(want):
        assert explanations(path)[field.name] == field.metadata["description"]
    assert "run_stage" not in "\n".join(source_of(cell) for cell in cells_of(path))


@each_stage
def test_the_first_thing_shown_is_a_summary_or_the_report(path):
    assert source_of(cells_of(path)[2]).splitlines()[-1] in (
        "stage_results.summary(result)",
        "stage_results.report(result)",
    )


@each_stage
def test_the_parameters_cell_is_the_stages_config_with_its_defaults(path):
    """In the order of the page of settings, then experiment, parent_run_id and fresh."""
    want = {
        **to_dict(STAGES[STAGE_OF[path.stem]]()),
        "experiment": "smoke",
        "parent_run_id": "",
        "fresh": False,
    }
    have = notebook_files.defaults(path)
    order = [field.name for field in own_first(STAGES[STAGE_OF[path.stem]])]
    assert have == want and list(have) == [*order, *list(want)[-3:]]
    assert {name: type(value) for name, value in have.items()} == {
        name: type(value) for name, value in want.items()
    }


@each_stage
def test_every_parameter_is_explained_by_the_configs_description(path):
    have = explanations(path)
    for field in dataclasses.fields(STAGES[STAGE_OF[path.stem]]):
        assert have[field.name] == field.metadata["description"]


@each_stage
def test_the_run_cell_hands_over_every_parameter_and_names_none(path):
    stage = STAGE_OF[path.stem]
    run = source_of(cells_of(path)[1])
    assert run.endswith(f'\nresult = run_stage(**parameters("{stage}", globals()))')
    variables = {**notebook_files.defaults(path), "my_own": 1}
    own = {name: variables[name] for name in to_dict(STAGES[stage]())}
    given = {name: variables[name] for name in ("experiment", "parent_run_id", "fresh")}
    assert parameters(stage, variables) == {"stage": stage, "parameters": own, **given}
    name = next(iter(own))
    with pytest.raises(UserError, match=f"there is no '{name}': run the parameters cell first"):
        parameters(stage, {key: value for key, value in variables.items() if key != name})


@each
def test_what_a_notebook_uses_of_the_package_exists(path):
    tree = ast.parse("\n".join(source_of(cell) for cell in cells_of(path)))
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("nanolab"):
            for alias in node.names:
                with contextlib.suppress(ModuleNotFoundError):
                    importlib.import_module(f"{node.module}.{alias.name}")
                found[alias.name] = getattr(importlib.import_module(node.module), alias.name)
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert names >= set(found)
    for node in used:
        if isinstance(node.value, ast.Name) and node.value.id in found:
            assert hasattr(found[node.value.id], node.attr), f"{path.name}: {ast.unparse(node)}"


each_study = pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda path: path.stem
)


@each_study
def test_a_study_states_only_what_differs_from_the_defaults(path):
    stated = yaml.safe_load(path.read_text())
    values, defaults = to_dict(load_study(path.stem)), to_dict(StudyConfig())
    for key, group in stated.items():
        assert values[key] != defaults[key], key
        if key in STAGES or key in ("data", "launch"):
            for name in group:
                assert values[key][name] != defaults[key][name], f"{key}.{name}"


@each_study
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


@pytest.mark.parametrize("long", [False, True], ids=["", "TMPDIR has a long name"])
def test_a_kernel_is_this_interpreters_meets_no_other_and_ends_with_an_interrupt(
    long, tmp_path, monkeypatch
):
    """Whatever kernel specification is found first; the interrupt comes while the kernel starts."""
    spec = tmp_path / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(
        json.dumps(
            {"argv": ["/bin/false", "{connection_file}"], "display_name": "x", "language": "python"}
        )
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    place = tmp_path / ("long" * 30 if long else "t")
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.chdir(tmp_path)
    made = []

    def execute(*given, kernel_manager_class, **options):
        for _ in range(1 if made else 2):
            manager = kernel_manager_class(kernel_name="python3")
            asyncio.run(manager.start_kernel())
            made.append(
                (
                    manager,
                    manager.provisioner.process,
                    Path(f"/proc/{manager.provisioner.process.pid}/cmdline").read_text(),
                )
            )
        raise KeyboardInterrupt

    monkeypatch.setattr("papermill.execute_notebook", execute)
    try:
        for output in ("a", "b"):
            with pytest.raises(KeyboardInterrupt):
                notebooks.execute(PATHS[0], tmp_path / output / "out.ipynb", {})
    finally:
        ended = [process.poll() for _, process, _ in made]
        for _, process, _ in made:
            process.kill()
            process.wait()
    assert all(
        command.split("\0")[:3] == [sys.executable, "-m", "ipykernel_launcher"]
        for _, _, command in made
    )
    assert None not in ended, "a kernel outlives the interrupt"
    folders = {os.path.dirname(manager.ip) for manager, _, _ in made}
    assert len(folders) == 2 and not any(map(os.path.exists, folders)), (
        "a folder of its own for each execution, which is gone"
    )
    assert len({manager.ip for manager, _, _ in made}) == len(made)
    assert all(
        os.path.isabs(manager.ip) and len(f"{manager.ip}-99999") <= 103 for manager, _, _ in made
    ), "of a socket's path 103 bytes count"


def test_folders_with_braces_are_no_templates(tmp_path):
    """papermill fills parameters into the paths that it is given."""
    place = tmp_path / "a{b} c}"
    place.mkdir()
    cell = {"cell_type": "code", "id": "1", "metadata": {}, "outputs": [], "execution_count": None}
    notebook = json.loads(PATHS[0].read_text()) | {"cells": [cell | {"source": "1 + 1"}]}
    (place / "in.ipynb").write_text(json.dumps(notebook))
    notebooks.execute(place / "in.ipynb", place / "out.ipynb", {})
    (done,) = json.loads((place / "out.ipynb").read_text())["cells"]
    assert done["outputs"][0]["data"]["text/plain"] in ("2", ["2"])
