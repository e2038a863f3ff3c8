"""Claims: a chain reads step by step as it was recorded, and the problem shown first is one whose
answer sharpening changed.
"""

from dataclasses import replace

import pytest

from nanolab import files
from nanolab.errors import UserError
from nanolab.figures import style
from nanolab.notebook import one_chain, records
from nanolab.notebook.cards import coloured
from nanolab.tracking import run_reader, run_writer


def step(kept, proposal, accepted, moved=None, early=False, ratio=0.5):
    return {
        "cut": 1,
        "of": 4,
        "log_p": -2.0,
        "log_ratio": ratio,
        "log_u": -0.7,
        "accepted": accepted,
        "moved": accepted if moved is None else moved,
        "early_rejected": early,
        "kept": kept,
        "proposal": proposal,
        "tool_calls": [],
    }


LIFE = {
    "index": 0,
    "chain": 0,
    "question": "What is 2 < 3 boxes of 4?",
    "expected": "12",
    "answer": "12",
    "passed": True,
    "first": "He has <<2*4=8>>8.\n#### 8",
    "log_p_by_step": [-4.0, -2.0, -2.0, -2.0, -2.0],
    "steps": [
        step("He has <<", "3*4=12>>12.\n#### 12", True),
        step("He has", " <<3*4=12>>12.\n#### 12", True, moved=False),
        step("He", " is", False, early=True, ratio=-3.0),
        step("He", " had 5.", False, ratio=None),
    ],
}
PROBLEM = {
    "index": 0,
    "methods": {
        "power": {"passed": True, "answer": "12", "positions": 40, "log_p": -2.0, "text": "t"},
        "plain": {"passed": False, "answer": "8", "positions": 10, "log_p": -4.0, "text": "u"},
        "majority": {"passed": False, "answer": None, "positions": 90},
    },
}


@pytest.fixture
def chain(monkeypatch):
    monkeypatch.setattr(records, "run_address", lambda run_id: f"http://127.0.0.1:5000/{run_id}")
    return one_chain.Chain(
        "run", "smoke", "power_eval", PROBLEM, LIFE, {"wrong to right": [0], "right to wrong": []}
    )


def test_every_step_says_what_was_kept_redrawn_and_decided(chain):
    html = chain.steps().data
    for words in (
        "step 1: accepted",
        "step 2: the same text again",
        "step 3: rejected",
        "step 4: rejected",
        "last state: right",
        "log p -4.00 → -2.00 · log ratio +0.50, log u -0.70",
        "when it was given up · log ratio at most -3.00",
        "log ratio −∞",
    ):
        assert words in html, words
    first, second = html.index("step 1: "), html.index("step 2: ")
    assert html[first:second].count("<pre") == 3  # kept, replaced, redrawn
    assert html[second : html.index("step 3: ")].count("<pre") == 0
    assert (
        "2 &lt; 3 boxes" in chain.question().data and "wrong to right: 0" in chain.question().data
    )


def test_the_first_state_has_a_verdict_only_where_it_was_graded(chain):
    """As the plain sample, with which the first chain of one block begins; no other first state was
    graded.
    """
    assert ">first state<" in chain.question().data
    for life in (
        LIFE | {"chain": 1},
        LIFE | {"log_p_by_step": [-2.0, -2.0]},
    ):  # of four steps one in the last block
        html = replace(chain, life=life).question().data
        assert ">first state<" not in html and ">last state<" in html


def test_the_answers_of_the_other_methods_stand_below(chain):
    html = chain.answers().data
    assert (
        all(name in html for name in ("power sampling", "plain sample", "majority vote"))
        and html.count("✗") == 2
    )


def test_the_figure_has_the_states_and_marks_each_kind_of_proposal():
    (axis,) = one_chain.log_p_figure(LIFE).axes
    assert [line.get_label() for line in axis.lines] == [
        "state",
        "accepted",
        "rejected",
        "given up early",
    ]
    assert (
        list(axis.lines[0].get_ydata()) == LIFE["log_p_by_step"]
        and axis.lines[3].get_color() == style.RED
    )


def test_tool_calls_and_outputs_are_told_apart_also_across_a_cut():
    whole = coloured("a <<2*4=8>>8 = b")
    assert whole.count("#2f81c7") == 3 and whole.count("#d18f00") == 2 and whole.endswith("8 = b")
    assert coloured("4=8>>8", before="a <<2*").startswith('<b style="color:#2f81c7">4</b>')
    assert coloured("8>>8", before="a <<2*4=").startswith('<b style="color:#d18f00">8</b>')
    assert coloured("a << b").endswith("</b>") and coloured("x = 1 >> 2") == "x = 1 &gt;&gt; 2"


def test_the_problem_shown_first_went_from_wrong_to_right_else_moved_most():
    problems = [{"methods": {"plain": {"passed": passed}}} for passed in (True, True, False)]
    lives = [
        {**LIFE, "index": index, "passed": passed}
        for index, passed in enumerate((True, False, True))
    ]
    found = one_chain.notable(problems, lives)
    assert (
        found == {"wrong to right": [2], "right to wrong": [1]}
        and one_chain.interesting(lives, found) == 2
    )
    lives[1] = {**lives[1], "steps": [step("", "x", True)] * 3}
    assert one_chain.interesting(lives, {"wrong to right": [], "right to wrong": [1]}) == 1


def test_without_a_store_or_step_one_line_says_what_to_run(store):
    assert "07_power_eval.ipynb" in one_chain.find("smoke").question().data
    (store / "mlflow.db").unlink()
    found = one_chain.find("smoke")
    assert (
        found.question().data == records.NOTHING
        and found.steps() is found.figure() is found.answers() is None
    )
    assert not (store / "mlflow.db").exists()  # looking makes no store


def test_records_without_the_kept_text_are_refused_with_the_way_out(monkeypatch):
    monkeypatch.setattr(records, "store_exists", lambda: True)
    monkeypatch.setattr(
        one_chain.run_reader, "search", lambda *query: [type("Run", (), {"id": "run"})]
    )
    old = {
        **LIFE,
        "steps": [
            {key: value for key, value in one.items() if key != "kept"} for one in LIFE["steps"]
        ],
    }
    monkeypatch.setattr(
        one_chain, "_lines", lambda run_id, name: [old] if name == "chains.jsonl" else [PROBLEM]
    )
    monkeypatch.setattr(
        one_chain.run_reader, "artifact_names", lambda run_id: ["chains.jsonl", "problems.jsonl"]
    )
    with pytest.raises(UserError, match="not the text of their steps: run it again"):
        one_chain.find("smoke")
    monkeypatch.setattr(
        one_chain, "_lines", lambda run_id, name: [LIFE] if name == "chains.jsonl" else [PROBLEM]
    )
    assert one_chain.find("smoke").life == LIFE
    with pytest.raises(
        UserError, match="problem 7, chain 0 was not run: power_eval has problems 0 to 0"
    ):
        one_chain.find("smoke", problem=7)


def test_a_step_of_a_version_without_chains_is_refused_in_a_line(store):
    parent = run_writer.open_execution({"experiment": "tiny"}, "tiny now", run_reader.RUN_ALL)
    run = run_writer.open_step(parent, "power_eval", "0123456789ab", {}, {})
    run_writer.log_file(run, files.ROOT / "LICENSE")
    run_writer.close_run(run, "FINISHED")
    told = r"power_eval of tiny is of an older version.*run_all\.py tiny --only power_eval --fresh"
    with pytest.raises(UserError, match=told):
        one_chain.find("tiny")
