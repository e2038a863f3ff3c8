"""Claims about nanolab/tracking/traces.py: the traces of a step hold its chains and tool calls, and
lead to its run.
"""

import json

from nanolab.tracking import run_reader, run_writer, traces
from nanolab.tracking.courier import Courier
from nanolab.tracking.journal import Run
from nanolab.tracking.store import client


def step(number):
    return {
        "cut": number,
        "of": 9,
        "log_p": -3.0,
        "log_ratio": None if number == 2 else 0.5,
        "log_u": -1.0,
        "accepted": number == 1,
        "moved": number == 1,
        "early_rejected": number == 2,
        "positions": 10 * number,
        "proposal": "so <<2*3=6>>6",
    }


def power_folder(folder, chains=1, count=2, log_p_by_step=(-4.0, -3.0, -2.0)):
    """The chains of five problems as a power evaluation writes them: all chains of a problem
    together.
    """
    steps = [step(number) for number in range(1, count + 1)]
    rows = [
        {
            "index": i,
            "question": f"question {i}",
            "expected": "6",
            "chain": chain,
            "passed": i == 0,
            "answer": "6",
            "text": "<<2*3=6>>6",
            "log_p": -2.0,
            "positions": 100 + sum(one["positions"] for one in steps),
            "first": "first <<1+1=2>>2 <<9",
            "log_p_by_step": log_p_by_step,
            "steps": steps,
        }
        for i in range(5)
        for chain in range(chains)
    ]
    (folder / "chains.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def deliver(folder, store, name):
    parent = run_writer.open_execution({"experiment": "tiny"}, "tiny now", "scripts/run_all.py")
    run_id = Courier(
        folder, lambda: run_writer.open_step(parent, name, "0123456789ab", {}, {})
    ).finish("FINISHED", {})
    store_client = client()
    run = store_client.get_run(run_reader.record(parent).id)
    found = store_client.search_traces(
        locations=[run.info.experiment_id], order_by=["timestamp DESC"]
    )
    return run_id, {trace.info.tags["mlflow.traceName"]: trace for trace in found}


def test_a_power_step_s_chains_are_traces_of_its_run(store, tmp_path):
    folder = tmp_path / "work"
    Run(folder).close()
    power_folder(folder)
    run_id, found = deliver(folder, store, "power_eval")
    assert sorted(found) == [
        f"power_eval: power sampling, problem {i}" for i in range(traces.PROBLEMS)
    ]
    trace = found["power_eval: power sampling, problem 0"]
    assert (
        trace.info.trace_metadata["mlflow.sourceRun"] == run_id
        and trace.info.execution_duration == 130
    )
    assert [one.value for one in trace.info.assessments] == [True]
    spans = {span.name: span for span in trace.data.spans if span.span_type != "TOOL"}
    root, first, moved, rejected = spans.values()
    assert root.parent_id is None and {span.parent_id for span in (first, moved, rejected)} == {
        root.span_id
    }
    assert [moved.name, rejected.name] == ["step 1: accepted", "step 2: rejected before its end"]
    assert (root.inputs, root.outputs) == (
        "question 0",
        "```text\n<<2*3=6>>6\n```",
    )  # Markdown eats no star in there
    assert moved.outputs["proposal"] == "```text\nso <<2*3=6>>6\n```"
    assert (
        moved.outputs["log_ratio"] == 0.5
        and moved.attributes["accepted"] is True
        and rejected.attributes["log_ratio"] is None
    )
    lengths = [(span.end_time_ns - span.start_time_ns) / 1e6 for span in (first, moved, rejected)]
    assert (
        lengths == [100, 10, 20] and moved.start_time_ns == first.end_time_ns
    )  # the cost in positions
    tools = [span for span in trace.data.spans if span.span_type == "TOOL"]
    assert [(span.inputs, span.outputs) for span in tools] == [
        ("1+1", "2"),
        ("```text\n2*3\n```", "6"),
        ("```text\n2*3\n```", "6"),
    ]
    assert {span.parent_id for span in tools} == {first.span_id, moved.span_id, rejected.span_id}


def test_of_several_chains_the_first_of_each_problem_is_a_trace(tmp_path):
    power_folder(tmp_path, chains=4)
    found = traces.power_generations(tmp_path)
    assert [one.name for one in found] == [
        f"power sampling, problem {i}" for i in range(traces.PROBLEMS)
    ]


def test_with_several_blocks_the_first_text_is_that_of_its_log_p(tmp_path):
    """The record's first text and log_p_by_step belong to the last block; earlier blocks stand
    inside of the span that led there.
    """
    power_folder(tmp_path, count=3, log_p_by_step=(-4.0, -2.0))
    root = traces.power_generations(tmp_path)[0]
    earlier, last = root.inside
    assert (earlier.name, earlier.outputs, earlier.facts["log_p"]) == (
        "earlier blocks",
        "first <<1+1=2>>2 <<9",
        -4.0,
    )
    assert [span.name[:6] for span in earlier.inside] == [
        "step 1",
        "step 2",
        "calcul",
    ] and last.name == "step 3: rejected"
    assert (
        [earlier.length, last.length] == [130, 30]
        and root.length == 160
        and sum(span.length for span in earlier.inside) <= 130
    )


def test_an_evaluation_s_shown_samples_are_traces(store, tmp_path):
    folder = tmp_path / "work"
    (folder / "records").mkdir(parents=True)
    record = {
        "index": 0,
        "passed": False,
        "answer": None,
        "expected": "6",
        "text": "<<2*3=6>>",
        "tokens": 12,
        "log_p": -1.5,
    }
    (folder / "records" / "gsm8k.jsonl").write_text(json.dumps(record) + "\n")
    with Run(folder) as run:
        run.table(
            [
                {
                    "task": "humaneval",
                    "index": 0,
                    "prompt": "def f",
                    "completion": "",
                    "expected": "",
                    "passed": True,
                },
                {
                    "task": "gsm8k",
                    "index": 0,
                    "prompt": "How many?",
                    "completion": "<<2*3=6>>",
                    "expected": "6",
                    "passed": False,
                },
            ],
            "samples.json",
        )
    _, found = deliver(folder, store, "chat_eval_sft")
    (trace,) = found.values()
    assert [span.span_type for span in trace.data.spans] == ["CHAIN", "LLM", "TOOL"]
    assert (
        trace.data.spans[0].inputs == traces.fenced("How many?")
        and trace.info.assessments[0].value is False
    )


def test_a_step_without_generations_has_no_traces(tmp_path):
    assert traces.power_generations(tmp_path) == traces.sampled_generations(tmp_path) == []


def test_calls_of_a_text_are_cut_at_the_output():
    assert [
        (span.inputs, span.outputs)
        for span in traces.tool_spans("a<<1+1=2>> <<'a=b'.count('=')=1>> <<3", 8)
    ] == [("1+1", "2"), ("'a=b'.count('=')", "1")]
    assert traces.tool_spans("<<7>>", 4)[0].outputs is None


def test_a_text_that_markdown_would_change_is_fenced_and_a_question_in_words_is_not():
    for text in ("How many? (22 - 9, at 5%)", "22-9", "-4", ""):
        assert traces.fenced(text) == text
    for text in ("2*3", "#### 7", "a_b_c", "one\ntwo", "    x", "- 3", "1. one", "$1 and $2"):
        assert traces.fenced(text) == f"```text\n{text}\n```"
    assert traces.fenced("a ``` b") == "````text\na ``` b\n````"
    assert traces.fenced({"a": "2*3", "b": None}) == {"a": "```text\n2*3\n```", "b": None}
