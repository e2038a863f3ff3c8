"""Methods compared on the same problems: paired draws, what n samples choose and cost, trajectories
read at every step.
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from nanolab.data.tokens.tokenizer import Tokenizer
from nanolab.dist import World
from nanolab.evals import methods
from nanolab.evals.asking import Asking
from nanolab.evals.base import Records
from nanolab.evals.problems import Problems
from nanolab.inference.protocol import Draws
from nanolab.results import plain
from nanolab.samplers.power_mh import PowerSettings
from nanolab.samplers.power_rollout import RolloutSettings
from nanolab.samplers.power_smc import SmcSettings
from nanolab.sandbox import programs

WORLD = World(0, 1, torch.device("cpu"), torch.float32)
TOKENIZER = Tokenizer([bytes([i]) for i in range(256)])
PROMPT = 3  # tokens
ROWS = [{"question": str(i), "answer": f"#### {i % 3 + 1}"} for i in range(12)]
NUMBERS = {str(i): i for i in range(12)}
SETTINGS = PowerSettings(
    alpha=4.0, num_steps=4, temperature=0.7, top_k=50, max_new_tokens=8, restart_prob=0.5
)


class Digits:
    """Writes "####", then 1, 2 or 3 with logits 2, 1, 1.5, and ends."""

    vocab_size, end_tokens, max_length = TOKENIZER.vocab_size, TOKENIZER.end_tokens, 64

    def __init__(self):
        self.rows, self.count = {}, 0

    def prefill(self, prompts):
        first = self.count + 1
        self.count += len(prompts)
        self.rows |= dict(zip(range(first, self.count + 1), (prompt[:-1] for prompt in prompts)))
        return list(range(first, self.count + 1))

    def decode(self, rows, tokens):
        logits = torch.full((len(rows), self.vocab_size), -20.0)
        for place, (row, new) in enumerate(zip(rows, tokens)):
            self.rows[row] = self.rows[row] + new
            drawn = len(self.rows[row]) - PROMPT
            if drawn < 4:
                logits[place, ord("#")] = 5.0
            elif drawn == 4:
                logits[place, [ord("1"), ord("2"), ord("3")]] = torch.tensor([2.0, 1.0, 1.5])
            else:
                logits[place, TOKENIZER.assistant_end] = 5.0
        return logits

    def fork(self, rows, parents, lengths):
        kept = [self.rows.get(parent, [])[:length] for parent, length in zip(parents, lengths)]
        given = []
        for row, parent, tokens in zip(rows, parents, kept):
            if parent == -1:
                del self.rows[row]
                given.append(-1)
                continue
            if row == -1:
                self.count += 1
                row = self.count
            self.rows[row] = tokens
            given.append(row)
        return given

    def forced(self, row, token):
        return []


def problems(folder, rows=ROWS, task="gsm8k", batch_rows=4):
    asking = Asking(
        tokenizer=TOKENIZER,
        make_language_model=lambda length: Digits(),
        scorer=None,
        context=64,
        stage="test",
        seed=0,
        max_new_tokens=8,
        batch_rows=batch_rows,
        render=lambda tokenizer, messages: [1, 2, 3 + NUMBERS.get(messages[0]["content"], 0)],
    )
    return Problems(task, rows, asking, Records(WORLD, folder))


SAMPLERS = {
    "power": lambda asked, name: methods.power(asked, name, SETTINGS, chains=2),
    "smc": lambda asked, name: methods.smc(
        asked, name, SmcSettings(alpha=4.0, particles=5, max_new_tokens=8, ess_threshold=0.9)
    ),
    "rollout": lambda asked, name: methods.rollout(
        asked, name, RolloutSettings(alpha=4.0, max_new_tokens=8, rollouts=2, horizon=3)
    ),
}


def without_positions(value):
    """A record without its costs: which of two chains pays for their shared prompt depends on the
    batch.
    """
    if isinstance(value, dict):
        return {key: without_positions(one) for key, one in value.items() if key != "positions"}
    return [without_positions(one) for one in value] if isinstance(value, list) else value


def test_a_plain_sample_is_the_first_state_of_its_power_chain(tmp_path):
    samples = methods.several(problems(tmp_path), "samples", 0.7, 50, 5)
    chains = methods.power(problems(tmp_path), "power", SETTINGS, [0, 2, 4])
    start = methods.state_records(chains, 0)
    plain = methods.best_of(samples, 1)
    assert [r["text"] for r in plain] == [r["text"] for r in start] and len(
        {r["text"] for r in plain}
    ) > 1
    assert methods.accuracy(plain, start).p_value == 1 and methods.acceptance(start) is None


def test_a_trajectory_read_early_equals_a_shorter_run(tmp_path):
    long = methods.power(problems(tmp_path), "long", SETTINGS, [0, 2, 4])
    short = methods.power(
        problems(tmp_path), "short", PowerSettings(**{**vars(SETTINGS), "num_steps": 2})
    )
    read = methods.state_records(long, 2)
    for key in ("text", "passed", "log_p", "positions"):
        assert [r[key] for r in read] == [r[key] for r in short]
    assert [r["accepted"] for r in read] == [
        [step["accepted"] for step in r["chains"][0]["steps"]] for r in short
    ]
    last = methods.state_records(long, 4)
    assert [r["text"] for r in last] == [r["text"] for r in long] and [
        r["positions"] for r in last
    ] == [r["positions"] for r in long]
    assert methods.acceptance(last) == sum(sum(r["accepted"]) for r in last) / (4 * len(ROWS))


@pytest.mark.parametrize("change", [{"batch_rows": 1}, {"batch_rows": 64}])
def test_results_do_not_depend_on_the_batch(tmp_path, change):
    for name in ("power", "smc", "rollout", "samples", "single"):

        def records(folder, name=name, **changes):
            asked = problems(folder, **changes)
            if name in SAMPLERS:
                return without_positions(SAMPLERS[name](asked, name))
            return (
                methods.several(asked, name, 0.7, 50, 3)
                if name == "samples"
                else asked.draw(name, 0.7, 50)
            )

        assert records(tmp_path / "a") == records(tmp_path / "b", **change)


def test_the_choice_among_samples_and_its_cost():
    def sample(answer, log_p, positions):
        return {
            "answer": answer,
            "expected": "1",
            "passed": answer == "1",
            "log_p": log_p,
            "positions": positions,
            "text": str(answer),
        }

    samples = [
        sample("2", -3.0, 10),
        sample("1", -5.0, 4),
        sample("1", -4.0, 5),
        sample(None, -1.0, 6),
    ]
    records = [{"index": 0, "expected": "1", "samples": samples}]
    assert [methods.best_of(records, n)[0]["answer"] for n in (1, 2, 3, 4)] == ["2", "2", "2", None]
    assert [methods.majority(records, n)[0]["answer"] for n in (1, 3, 4)] == ["2", "1", "1"]
    assert [methods.majority(records, n)[0]["passed"] for n in (1, 3)] == [False, True]
    for method in (methods.best_of, methods.majority):
        assert [method(records, n)[0]["positions"] for n in (1, 2, 3, 4)] == [10, 14, 19, 25]


def test_nobody_wins_a_vote_without_answers():
    sample = {"answer": None, "expected": None, "passed": False, "log_p": -1.0, "positions": 1}
    voted = methods.majority([{"index": 0, "expected": None, "samples": [sample, sample]}], 2)
    assert voted[0]["answer"] is None and voted[0]["passed"] is False


def test_a_summary_has_its_interval_cost_and_paired_test():
    records = [{"passed": i < 18, "positions": 100 + i} for i in range(40)]
    other = [{"passed": 16 <= i < 18, "positions": 1} for i in range(40)]
    values = plain(methods.accuracy(records, other))
    assert (
        values["accuracy"] == 18 / 40
        and values["low"] < 18 / 40 < values["high"]
        and values["positions_per_problem"] == 119.5
    )
    assert values["p_value"] == pytest.approx(2 / 2**16)


def test_every_chains_life_can_be_read(tmp_path):
    """A record tells each step's cut, proposal, log p and decision, and they agree with the
    states.
    """
    records = methods.power(problems(tmp_path), "power", SETTINGS, chains=3)
    for record in records:
        assert len(record["chains"]) == 3 and record["text"] == record["chains"][0]["text"]
        assert record["most_likely"]["log_p"] == max(record["chains"][0]["log_p_by_step"])
        for chain in record["chains"]:
            assert (
                len(chain["steps"]) == 4
                and len(chain["log_p_by_step"]) == 5
                and chain["log_p_by_step"][-1] == chain["log_p"]
            )
            states = chain["log_p_by_step"]
            for step, before, after in zip(chain["steps"], states[:-1], states[1:], strict=True):
                assert 0 <= step["cut"] < step["of"]
                assert after == pytest.approx(step["log_p"] if step["accepted"] else before)
                assert step["accepted"] == (
                    not step["early_rejected"] and step["log_u"] <= step["log_ratio"]
                )
                assert not step["moved"] or step["accepted"]
    assert any(step["accepted"] for record in records for step in record["chains"][0]["steps"])
    chosen = methods.most_likely(records)
    assert [r["index"] for r in chosen] == list(range(len(ROWS))) and all(
        "passed" in r for r in chosen
    )


def test_independent_chains_vote(tmp_path):
    records = methods.power(problems(tmp_path), "power", SETTINGS, chains=3)
    for record, voted in zip(records, methods.majority(records, 3, "chains"), strict=True):
        answers = [chain["answer"] for chain in record["chains"]]
        assert answers.count(voted["answer"]) == max(map(answers.count, answers))
        assert voted["passed"] == (voted["answer"] == record["expected"])
        assert voted["positions"] == sum(chain["positions"] for chain in record["chains"])
    assert any(len({chain["text"] for chain in record["chains"]}) > 1 for record in records)


def test_the_other_power_samplers_prefer_the_likely_answer(tmp_path):
    """p^4 of the digit's law (2, 1, 1.5) is nearly all on 1: both samplers answer it where a plain
    sample mostly does not.
    """
    plain = methods.several(problems(tmp_path), "samples", 1.0, 50, 1)
    for name in ("smc", "rollout"):
        records = SAMPLERS[name](problems(tmp_path), name)
        share = sum(record["answer"] == "1" for record in records) / len(records)
        assert share >= 0.75 > sum(record["answer"] == "1" for record in plain) / len(plain)
        assert all(record["positions"] > PROMPT for record in records)
    again = methods.smc(
        problems(tmp_path), "smc", SmcSettings(alpha=4.0, particles=5, max_new_tokens=8)
    )
    assert [r["text"] for r in again] == [
        r["text"] for r in SAMPLERS["smc"](problems(tmp_path), "smc")
    ]  # read back, not drawn again


def test_programs_are_graded_by_their_tests_and_each_is_run_once(tmp_path, monkeypatch):
    rows = [
        {
            "prompt": "def f():\n",
            "canonical_solution": "    return 1\n",
            "test": "def check(candidate):\n    assert candidate() == 1\n",
            "entry_point": "f",
        }
    ] * 3
    ran = []

    def run_many(sources, timeout, workers):
        ran.extend(sources)
        return [SimpleNamespace(passed="####1" in source.program, error=None) for source in sources]

    monkeypatch.setattr(programs, "run_many", run_many)
    asked = problems(tmp_path, rows=rows, task="humaneval")
    records = methods.several(asked, "samples", 1.0, 50, 6)
    assert {sample["passed"] for record in records for sample in record["samples"]} == {True, False}
    for record in records:
        for sample in record["samples"]:
            assert (
                sample["passed"] == ("####1" in sample["text"])
                and sample["answer"] == sample["text"].strip()
            )
        voted = methods.majority([record], 6)[0]
        assert voted["passed"] == ("####1" in voted["answer"])
    assert len(ran) == len(
        {(record["index"], sample["text"]) for record in records for sample in record["samples"]}
    )


def test_the_share_without_a_tool_counts_texts_without_a_call_and_majority_has_none():
    records = [
        {"text": "It is 72.\n#### 72"},
        {"text": "Tom has <<1+2=3>>3.\n#### 3"},
        {"text": ""},
        {"text": "<<1+1>>"},
    ]
    assert methods.no_tool_share(records) == 0.5
    assert methods.no_tool_share([{"answer": "3"}]) is None


def test_an_answer_is_cut_where_the_limit_ended_it_and_not_where_its_form_did(tmp_path):
    asked = problems(tmp_path, rows=[{"question": "1?", "answer": "#### 1"}] * 2)

    def cut(of, text, ended):
        tokens = TOKENIZER.encode(text)
        draws = Draws(tokens, [False] * len(tokens), [0.0] * len(tokens), [], [], ended)
        return of.grade([(0, draws)])[0].get("cut")

    assert cut(asked, "It is 1.", True) is False and cut(asked, "It is 1.\n\nIt", False) is True
    plain = replace(asked, asking=replace(asked.asking, plain=True))
    assert cut(plain, "It is 1.", False) is True and cut(plain, "It is.\n\nIt", False) is False
    programs = replace(plain, task="humaneval")  # a base model writes on after a function
    assert programs._cut(Draws(), "x") == {}


def test_equal_answers_vote_together_in_whatever_form_they_are_written(tmp_path):
    row = {"problem": "Half?", "answer": "\\frac{1}{2}", "subject": "Algebra", "level": 2}
    asked = problems(tmp_path, rows=[row], task="math500")
    texts = ["\\boxed{3}", "\\boxed{0.5}", "\\boxed{3.0}", "\\boxed{1/2}", "\\boxed{\\frac12}", "?"]
    draws = [(0, Draws(TOKENIZER.encode(text))) for text in texts]
    graded = asked.grade(draws)
    assert [one["vote"] for one in graded] == ["3", "0.5", "3", "0.5", "0.5", None]
    assert [one["answer"] for one in graded] == ["3", "0.5", "3.0", "1/2", "\\frac12", None]
    assert {(one["subject"], one["level"]) for one in graded} == {("Algebra", 2)}
    record = {"index": 0, "expected": row["answer"], "samples": graded}
    (voted,) = methods.majority([record], 6)
    assert voted["answer"] == "0.5" and voted["passed"]
    (earlier,) = methods.majority([record], 3)
    assert earlier["answer"] == "3" and not earlier["passed"]
