"""A notebook refuses a parameter that it does not have, and a value of another type.

A person's own variables stay theirs.
"""

import types

import papermill
import pytest
from papermill.parameterize import parameterize_notebook

from nanolab.errors import UserError
from nanolab.files import ROOT
from nanolab.notebook import one_chain, side_by_side
from nanolab.pipeline import execution
from nanolab.plan import interpreter, notebook_files
from nanolab.plan import parameters as notebook_parameters
from nanolab.plan.parameters import RunParameters
from nanolab.settings.config import STAGES, STEPS
from nanolab.settings.schema import to_dict
from nanolab.tracking import run_writer

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells_after(path, values):
    """The code of a notebook's parameters cell and of papermill's, as a kernel keeps them."""
    notebook = parameterize_notebook(papermill.iorw.load_notebook_node(str(path)), values)
    found = [
        cell.source
        for cell in notebook.cells
        if {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", []))
    ]
    return ["", *found]


@pytest.fixture
def kernel(monkeypatch):
    """Makes this process look like a kernel that ran cells, for papermill or for a `person`."""

    def run(cells, person=False):
        parent = {"content": {"allow_stdin": person}}
        shell = types.SimpleNamespace(
            user_ns={"In": cells}, kernel=types.SimpleNamespace(get_parent=lambda: parent)
        )
        monkeypatch.setattr(interpreter, "shell", lambda: shell)

    return run


def known(path):
    """What a notebook's own code hands to `check`: its parameter classes."""
    if path.stem in notebook_files.READERS:
        return notebook_files.READERS[path.stem], ""
    return RunParameters, next(spec.stage for spec in STEPS.values() if spec.notebook == path.stem)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_name_that_papermill_only_warns_about_is_refused(path, kernel):
    cls, stage = known(path)
    name = next(iter(notebook_files.defaults(path)))
    kernel(cells_after(path, {name: notebook_files.defaults(path)[name]}))
    notebook_parameters.check(cls, {}, stage)
    wrong = name[:-1] + "q"
    kernel(cells_after(path, {name: 1, wrong: 8}))
    words = f"unknown parameter '{wrong}': this notebook has .* the nearest valid one is '{name}'"
    with pytest.raises(UserError, match=words):
        notebook_parameters.check(cls, {}, stage)


def test_the_variables_of_a_person_are_not_looked_at(kernel):
    path = ROOT / "notebooks" / "07_power_eval.ipynb"
    _, parameters, injected = cells_after(path, {"alhpa": 8})
    mine = ["alhpa = 8", "%matplotlib inline", "def f(:", "# Parameters\nx = 1"]

    def check(cells, person=False):
        kernel(cells, person)
        notebook_parameters.check(RunParameters, {}, "power_eval")

    check(["", parameters, *mine], person=True)
    check(
        ["", parameters, injected, *mine], person=True
    )  # papermill's notebook, opened by a person
    check(["", parameters, *mine[:-1]])
    check(
        ["", "# Parameters\nn_runs = 3", "# Parameters\nn_runs = 5"]
    )  # a notebook and a parameter of one's own
    check(["", f"# Parameters\n{parameters}"])
    with pytest.raises(UserError, match="unknown parameter 'alhpa'"):
        check(["", parameters, injected, *mine[:-1]])


@pytest.mark.parametrize(
    "given, words",
    [
        ({"fresh": "no"}, "fresh = 'no' must be true or false, got str"),
        ({"fresh": 1}, "fresh = 1 must be true or false, got int"),
        ({"fresh": None}, "fresh = None must be true or false, got NoneType"),
        ({"experiment": 10}, "experiment = 10 must be text, got int"),
        ({"experiment": ""}, "experiment = '' must not be empty"),
        ({"parent_run_id": 12}, "parent_run_id = 12 must be text, got int"),
        (
            {"parent_run_id": "../x"},
            "parent_run_id = '../x' is no id of a run, which has 32 of the digits 0-9 and a-f",
        ),
        (
            {"parent_run_id": "ab" * 16},
            "parent_run_id = '(ab)*': no run '(ab)*' in sqlite:.*; give that of an execution",
        ),
    ],
)
def test_run_parameters_are_checked_like_settings(store, given, words, kernel):
    kernel(cells_after(ROOT / "notebooks" / "01_tokenizer.ipynb", given))
    with pytest.raises(UserError, match=words) as caught:
        execution.run_stage("tokenizer", **{"experiment": "micro", **given})
    assert "\n" not in str(caught.value) and ("papermill -p reads" in str(caught.value)) == (
        "got" in words
    )
    assert not list(store.glob("work/*/tok_train/*"))


def test_a_parent_run_is_an_execution_of_the_study(store):
    other = run_writer.open_execution({"experiment": "other"}, "other 1", "test")
    with pytest.raises(
        UserError, match="is the run 'other 1': give that of an execution of 'micro'"
    ):
        execution.check_parent("micro", other)
    execution.check_parent("other", other)
    step = run_writer.open_step(other, "sft", "0" * 12, {"experiment": "other"}, {})
    with pytest.raises(UserError, match="is the run 'sft'"):
        execution.check_parent("other", step)


@pytest.mark.parametrize(
    "value, words",
    [
        ({"alpha": "8"}, "power_eval.alpha = '8' must be a number, got str"),
        ({"alpha": None}, "alpha = None must be a number"),
        ({"alpha": True}, "alpha = True must be a number, got bool"),
        ({"num_steps": 2.0}, "num_steps = 2.0 must be a whole number"),
        ({"top_k": "None"}, "top_k = 'None' must be a whole number"),
        ({"split": 1}, "split = 1 must be text"),
        ({"dtype": "half"}, "dtype = 'half' must be one of float32, bfloat16"),
        ({"alpha": float("inf")}, "alpha = inf is out of range"),
    ],
)
def test_the_settings_of_a_stage_are_checked_as_papermill_hands_them_over(store, value, words):
    settings = to_dict(STAGES["power_eval"]()) | value
    with pytest.raises(UserError, match=words):
        execution.run_stage("power_eval", settings, experiment="micro")


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: side_by_side.choose("smoke"), "studies = 'smoke' must be a list, got str"),
        (lambda: side_by_side.choose(["a", "a"]), "has 'a' twice"),
        (
            lambda: one_chain.find("smoke", "sft"),
            "step = 'sft' must be one of power_eval, power_eval_base",
        ),
        (
            lambda: one_chain.find("smoke", problem="7"),
            "problem = '7' must be a whole number, got str",
        ),
        (
            lambda: one_chain.find("smoke", problem=-1),
            r"problem = -1 is out of range: it must be at least 0",
        ),
        (lambda: one_chain.find("smoke", chain=None), "chain = None must be a whole number"),
    ],
)
def test_the_notebooks_that_read_records_check_what_they_are_given(store, call, words):
    with pytest.raises(UserError, match=words):
        call()
