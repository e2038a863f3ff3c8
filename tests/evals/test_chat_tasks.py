"""Prompts and graders of the chat tasks: letters compete alone, no number is never right, tests
decide programs.
"""

import math
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from nanolab.data.tasks.graders import number_verdict
from nanolab.data.tasks.sets.gsm8k import PROBLEM
from nanolab.data.tokens import chat
from nanolab.data.tokens.tokenizer import Tokenizer
from nanolab.dist import World
from nanolab.evals import chat_tasks
from nanolab.evals import subject as models
from nanolab.evals.asking import Asking
from nanolab.evals.base import Records, TaskResult, mean_centred
from nanolab.evals.problems import Problems
from nanolab.inference.gpt_engine import GPTLanguageModel, GPTScorer
from nanolab.inference.protocol import SpanScore
from nanolab.inference.trees import common_prefix
from nanolab.model.gpt import GPT
from nanolab.model.scaling import GPTConfig
from nanolab.results import flat
from nanolab.sandbox import programs
from nanolab.sandbox.programs import Tools, run_python
from nanolab.settings.config import ChatEvalConfig

WORLD = World(0, 1, torch.device("cpu"), torch.float32)
TOKENIZER = Tokenizer(
    [bytes([i]) for i in range(256)] + [b" A", b" B"]
)  # " C" and " D" are two tokens each
ARC = [
    {
        "id": str(i),
        "question": f"Which is {i}?",
        "choices": {"text": list("wxyz"), "label": list("ABCD")},
        "answerKey": "ABCD"[i % 4],
    }
    for i in range(8)
]
MMLU = [{"question": "Which?", "subject": "s", "choices": ["one", "two"], "answer": 1}]
PROBLEMS = [
    {"question": f"What is {i} + 2?", "answer": f"It is <<{i}+2={i + 2}>>{i + 2}.\n#### {i + 2}"}
    for i in range(6)
]
PROGRAM = {
    "task_id": "t/0",
    "prompt": 'def double(x):\n    """Twice x."""\n',
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
    "entry_point": "double",
}


class Scorer:
    """A model that believes in one letter, and even more in some other token."""

    def __init__(self, letter):
        self.letter, self.forwarded = letter, 0

    def logits(self, ids):
        logits = torch.zeros(TOKENIZER.vocab_size)
        logits[TOKENIZER.encode(self.letter)[0]] = 5.0
        logits[TOKENIZER.encode(f" {self.letter}")[0]] = 5.0 if ids[-1] != ord(" ") else 0.0
        logits[ord("!")] = 5.5
        return logits

    def next_logits(self, ids):
        self.forwarded += len(ids)
        return torch.stack([self.logits(row) for row in ids])

    def score(self, ids, spans, sizes=None):
        scores = []
        for row, (start, end) in zip(ids, spans):
            each = [
                torch.log_softmax(self.logits(row[:i]), -1)[row[i]].item()
                for i in range(start, end)
            ]
            scores.append(SpanScore(math.fsum(each), each, False))
        return scores


class Scripted:
    """A language model that answers each prompt as `answer(prompt text)` says, with the
    calculator's output forced in.
    """

    vocab_size, end_tokens, max_length = TOKENIZER.vocab_size, TOKENIZER.end_tokens, 4096

    def __init__(self, answer):
        self.answer, self.rows, self.prompts, self.count = answer, {}, {}, 0

    def prefill(self, prompts):
        rows = []
        for prompt in prompts:
            self.count += 1
            self.rows[self.count], self.prompts[self.count] = prompt[:-1], prompt
            rows.append(self.count)
        return rows

    def decode(self, rows, tokens):
        logits = torch.full((len(rows), self.vocab_size), -20.0)
        for place, (row, new) in enumerate(zip(rows, tokens)):
            self.rows[row] = self.rows[row] + new
            prompt = self.prompts[row]
            script = [
                *self.answer(TOKENIZER.decode([t for t in prompt if t < TOKENIZER.bos])),
                TOKENIZER.assistant_end,
            ]
            logits[place, script[len(self.rows[row]) - len(prompt)]] = 20.0
        return logits

    def fork(self, rows, parents, lengths):
        kept = [
            (self.rows.get(parent, [])[:length], self.prompts.get(parent))
            for parent, length in zip(parents, lengths)
        ]
        given = []
        for row, length, (tokens, prompt) in zip(rows, lengths, kept):
            if row == -1:
                self.count += 1
                row = self.count
            self.rows[row], self.prompts[row] = tokens, prompt
            given.append(row if length else -1)
        return given

    def forced(self, row, token):
        call = chat.tool_call(TOKENIZER, [*self.rows[row], token])
        return [] if call is None else chat.forced_output(TOKENIZER, str(eval(call)), 8)


def problems(task, rows, how, folder=None):
    return Problems(task, rows, how, Records(WORLD, folder))


def evaluate(folder, task, rows, how):
    return chat_tasks.evaluate(problems(task, rows, how, folder))


def asking(answer=lambda text: [], **changes):
    fields = dict(
        tokenizer=TOKENIZER,
        make_language_model=lambda length: Scripted(answer),
        scorer=Scorer("B"),
        context=512,
        stage="test",
        seed=0,
        max_new_tokens=64,
    )
    return Asking(**fields | changes)


def solution(text):
    """The right call, its output as the calculator forces it, and the answer; no number for problem
    3, a wrong one for problem 4.
    """
    number = int(text.split("What is ")[-1].split()[0])
    call = [TOKENIZER.python_start, *TOKENIZER.encode(f"{number}+2"), TOKENIZER.python_end]
    output = chat.forced_output(TOKENIZER, str(number + 2), 8)
    return (
        call + output + TOKENIZER.encode({3: "none", 4: "#### 7"}.get(number, f"#### {number + 2}"))
    )


@pytest.mark.parametrize("plain", [False, True])
def test_only_the_letters_compete(tmp_path, plain):
    for letter in "ABCD":
        result = evaluate(
            tmp_path / letter, "arc_easy", ARC, asking(scorer=Scorer(letter), plain=plain)
        )
        assert {record["answer"] for record in result.records} == {letter}
        assert (result.score.passed, result.score.n, result.score.chance) == (2, 8, 0.25)


def test_a_chat_prompt_is_forwarded_once_for_all_its_letters():
    scorer = Scorer("A")
    records = []
    asked = problems("arc_easy", ARC, asking(scorer=scorer, batch_rows=3))
    chat_tasks.answer_choices(asked, range(8), records.append)
    assert scorer.forwarded == 8 and len(records) == 8


def test_chance_is_one_over_the_number_of_choices(tmp_path):
    assert evaluate(tmp_path, "mmlu", MMLU, asking()).score.chance == 0.5


def test_plain_prompts_have_solved_examples_and_end_before_the_answer():
    how = asking(plain=True, num_shots=2, shots={"gsm8k": PROBLEMS[:3]})
    text = problems("gsm8k", PROBLEMS, how).text(5)
    shots = text.split("\n\n")
    assert (
        len(shots) == 3
        and shots[2] == "Question: What is 5 + 2?\nAnswer:"
        and all("#### " in shot for shot in shots[:2])
    )
    assert problems("humaneval", [PROGRAM], how).text(0) == PROGRAM["prompt"]


def test_a_long_plain_prompt_loses_its_start_alone():
    how = asking(
        plain=True, num_shots=2, shots={"gsm8k": PROBLEMS[:3]}, context=100, max_new_tokens=40
    )
    ids = problems("gsm8k", PROBLEMS, how).prompt(5)
    assert (
        len(ids) == 60
        and ids[0] == TOKENIZER.bos
        and TOKENIZER.decode(ids[1:]).endswith("What is 5 + 2?\nAnswer:")
    )
    rows = problems("arc_easy", ARC, asking(plain=True, context=30)).candidates(0)
    assert (
        max(map(len, rows)) == 30
        and common_prefix(rows) == 28
        and {row[0] for row in rows} == {TOKENIZER.bos}
    )


@pytest.mark.parametrize("context", [30, 100, 140, 180, 1000])
def test_prompts_that_lose_their_start_are_counted(context):
    """As many as are shorter than in a context without end."""
    how, whole = (
        asking(
            plain=True, num_shots=1, shots={"gsm8k": PROBLEMS[:3]}, context=limit, max_new_tokens=40
        )
        for limit in (context, 10**6)
    )
    shorter = [
        len(problems("gsm8k", PROBLEMS, how).prompt(i))
        < len(problems("gsm8k", PROBLEMS, whole).prompt(i))
        for i in range(len(PROBLEMS))
    ]
    assert problems("gsm8k", PROBLEMS, how).cut() == sum(shorter)
    shorter = [
        problems("arc_easy", ARC, how).candidates(i)
        != problems("arc_easy", ARC, whole).candidates(i)
        for i in range(len(ARC))
    ]
    assert problems("arc_easy", ARC, how).cut() == sum(shorter)
    assert problems("gsm8k", PROBLEMS, asking(plain=False, context=context)).cut() == 0


@pytest.mark.parametrize("batch_rows", [1, 4])
def test_word_problems_are_right_by_their_number_and_never_without_one(tmp_path, batch_rows):
    result = evaluate(tmp_path, "gsm8k", PROBLEMS, asking(solution, batch_rows=batch_rows))
    assert [record["passed"] for record in result.records] == [True, True, True, False, False, True]
    assert (
        result.records[3]["answer"] is None
        and result.records[4]["answer"] == "7"
        and result.records[0]["answer"] == "2"
    )
    assert result.score.chance == 0 and result.records[0]["text"] == "<<0+2=2>>#### 2"


def test_no_answer_does_not_equal_a_reference_without_a_number():
    assert not number_verdict({"answer": "no number here"}, "I do not know.")["passed"]


def test_a_plain_answer_ends_where_the_next_question_begins():
    text = " It is 2.\n#### 2\n\nQuestion: What is 9?\nAnswer: #### 9"
    assert number_verdict({"answer": "#### 2"}, PROBLEM.answer(text))["passed"]
    assert not number_verdict({"answer": "#### 2"}, text)["passed"]


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("    return 2 * x", True),
        ("    return x + x\n\nprint(1)", True),
        ("    return 3 * x", False),
        ("    return x * (", False),
        ("    import sys\n    sys.exit(0)", False),
    ],
)
def test_programs_pass_by_their_tests_alone(tmp_path, text, passed):
    result = evaluate(
        tmp_path, "humaneval", [PROGRAM], asking(lambda prompt: TOKENIZER.encode(text))
    )
    assert [record["passed"] for record in result.records] == [passed]
    assert (result.records[0]["error"] is None) == passed and result.score.chance == 0


def without_log_p(records):
    """Records whose log-probabilities are compared apart: another batch shape may round them
    differently. Which of several rows pays for their shared prompt depends on the batch too.
    """
    apart = ("log_p", "positions")
    return [{key: value for key, value in record.items() if key not in apart} for record in records]


@pytest.mark.parametrize(
    "task, rows", [("arc_easy", ARC), ("gsm8k", PROBLEMS), ("humaneval", [PROGRAM] * 4)]
)
def test_records_depend_neither_on_ranks_nor_on_the_batch(tiny, task, rows):
    """Whatever share of the examples a rank is given, in batches of whatever size, each example has
    the same record.
    """

    def records(size, batch_rows):
        found = []

        def run(method, count, evaluate):
            for rank in range(size):
                evaluate(list(range(count))[rank::size], found.append)
            return []

        chat_tasks.evaluate(Problems(task, rows, tiny(batch_rows), SimpleNamespace(run=run)))
        return sorted(found, key=lambda record: record["index"])

    whole = records(1, 8)
    assert len(whole) == len(rows)
    for size, batch_rows in ((1, 1), (2, 3), (3, 2)):
        again = records(size, batch_rows)
        assert without_log_p(again) == without_log_p(whole)
        assert [r.get("log_p", 0.0) for r in again] == pytest.approx(
            [r.get("log_p", 0.0) for r in whole], abs=1e-4
        )
    if task == "gsm8k":
        assert (
            len({record["text"] for record in whole}) > 1
        )  # drawn, not greedy: the draws are addressed by example


@pytest.mark.parametrize(
    "task, rows", [("arc_easy", ARC), ("gsm8k", PROBLEMS), ("humaneval", [PROGRAM] * 4)]
)
def test_a_run_that_was_cut_off_goes_on_to_identical_records(tiny, tmp_path, task, rows):
    whole = evaluate(tmp_path / "whole", task, rows, tiny(8)).records
    lines = (tmp_path / "whole" / f"{task}.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / f"{task}.rank0.jsonl").write_text(
        "".join(lines[1::2]) + lines[0][:9]
    )  # half of it, and a torn line
    again = evaluate(tmp_path / "cut", task, rows, tiny(8)).records
    assert without_log_p(again) == without_log_p(whole)
    assert [r.get("log_p", 0.0) for r in again] == pytest.approx(
        [r.get("log_p", 0.0) for r in whole], abs=1e-4
    )


@pytest.fixture(scope="module")
def tiny():
    """`tiny(batch_rows)`: how an untrained GPT is asked, drawing at temperature 1."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(TOKENIZER.vocab_size, 128, 2, 32, 2, 1)).eval()
    for matrix in (
        model.head.weight,
        *(block.attention.output.weight for block in model.blocks),
    ):  # they start at zero
        torch.nn.init.normal_(matrix, std=0.2)
    return lambda batch_rows: asking(
        make_language_model=lambda length: GPTLanguageModel(
            model, TOKENIZER, Tools("calculator"), rows=batch_rows, max_length=length
        ),
        scorer=GPTScorer(model),
        max_new_tokens=8,
        temperature=1.0,
        batch_rows=batch_rows,
    )


@pytest.mark.parametrize("task, rows", [("gsm8k", PROBLEMS), ("humaneval", [PROGRAM] * 3)])
def test_of_several_answers_the_first_is_graded_as_alone_and_pass_at_k_is_unbiased(
    tmp_path, tiny, task, rows
):
    """The first sample is what one answer would have been, in any batch; the metrics are Chen's
    estimator over the counts.
    """
    alone = evaluate(tmp_path / "one", task, rows, tiny(8))
    for batch_rows in (8, 3):
        found = evaluate(
            tmp_path / f"four{batch_rows}", task, rows, replace(tiny(batch_rows), answers=4)
        )
        for one, record in zip(alone.records, found.records, strict=True):
            first = {key: record[key] for key in one}
            assert without_log_p([first]) == without_log_p([one])
            assert record["answers"] == 4 and record["right"] >= record["passed"]
    assert not any("pass_at" in key for key in flat(alone.scores()))
    records = [
        {"index": i, "passed": right == 4, "answers": 4, "right": right}
        for i, right in enumerate((0, 1, 2, 4))
    ]
    metrics = flat(TaskResult(task, records).scores())
    assert [metrics[f"{task}/pass_at_{k}"] for k in (1, 2, 4)] == pytest.approx(
        [7 / 16, (0 + 1 / 2 + 5 / 6 + 1) / 4, 3 / 4]
    ) and f"{task}/pass_at_8" not in metrics


@pytest.mark.parametrize(
    "labels, letters", [("ABC", "ABC"), ("1234", "ABCD"), ("ABCDE", "ABCDE"), ("123", "ABC")]
)
def test_three_to_five_choices_with_letters_or_numbers(tmp_path, labels, letters):
    rows = [
        {
            "id": label,
            "question": "Which?",
            "choices": {"text": [f"choice {x}" for x in labels], "label": list(labels)},
            "answerKey": label,
        }
        for label in labels
    ]
    result = evaluate(tmp_path, "arc_challenge", rows, asking(scorer=Scorer("B")))
    assert [record["expected"] for record in result.records] == list(letters)
    assert {record["answer"] for record in result.records} == {"B"} and result.score.passed == 1
    assert result.score.chance == pytest.approx(1 / len(labels))


def test_mmlu_has_each_subject_its_macro_and_its_micro_mean(tmp_path):
    rows = [
        {"question": f"{i}?", "subject": subject, "choices": ["one", "two"], "answer": answer}
        for i, (subject, answer) in enumerate(
            [("law", 1), ("law", 1), ("law", 1), ("art", 0), ("art", 1), ("sums", 0)]
        )
    ]
    result = evaluate(tmp_path, "mmlu", rows, asking(scorer=Scorer("B")))
    metrics = flat(result.scores())
    assert (
        metrics["mmlu/subject/law"] == 1
        and metrics["mmlu/subject/art"] == 0.5
        and metrics["mmlu/subject/sums"] == 0
    )
    assert metrics["mmlu/macro"] == pytest.approx(0.5) and metrics["mmlu"] == metrics[
        "mmlu/micro"
    ] == pytest.approx(4 / 6)
    assert not any(
        "subject" in key or "macro" in key
        for key in flat(evaluate(tmp_path / "arc", "arc_easy", ARC, asking()).scores())
    )


def test_a_tool_that_hangs_costs_its_timeout_once_and_never_the_batch(tiny, monkeypatch):
    """Six rows, two distinct calls that hang and one that does not: two timeouts are paid, and
    every row goes on with an output.
    """
    calls = ["while True: pass", "import time; time.sleep(99)", "len('abcd')"]
    tools = Tools("python", timeout=0.5)
    language_model = tiny(8).make_language_model(64)
    language_model.tools = tools
    rows = language_model.prefill(
        [
            [TOKENIZER.bos, TOKENIZER.python_start, *TOKENIZER.encode(calls[i % 3]), 0]
            for i in range(6)
        ]
    )
    programs.strongest_level()  # its trial runs are not counted
    ran = []
    monkeypatch.setattr(
        programs, "run_python", lambda *given: ran.append(given) or run_python(*given)
    )
    start = time.monotonic()
    forced = [language_model.forced(row, TOKENIZER.python_end) for row in rows]
    outputs = [
        TOKENIZER.decode([token for token in tokens if not TOKENIZER.is_special(token)])
        for tokens in forced
    ]
    assert outputs == ["error", "error", "4"] * 2
    assert 1.0 <= time.monotonic() - start < 60  # not the 99 s of a call, nor without end
    assert [tools.output(call) for call in calls] == ["error", "error", "4"]
    assert len(ran) == len(calls)


def test_the_time_limit_of_the_config_reaches_the_tool():
    config = ChatEvalConfig(tool_timeout=0.75, tool_max_output_tokens=7)
    subject = models.Subject(
        GPT(GPTConfig(TOKENIZER.vocab_size, 128, 1, 32, 2, 1)), TOKENIZER, {}, "sft"
    )
    language_model = subject.language_model(config)
    assert language_model.tools.timeout == 0.75 and language_model.tool_max_output_tokens == 7


def test_chat_core_is_the_mean_of_what_lies_above_chance():
    quarter = [{"index": i, "passed": i < 5, "chance": 0.25} for i in range(8)]
    none = [{"index": i, "passed": i < 2} for i in range(8)]
    assert mean_centred([TaskResult("a", quarter), TaskResult("b", none)]) == pytest.approx(
        (0.5 + 0.25) / 2
    )


class Continues:
    """A model that finds each token of a text as likely as `worth` of its last byte says."""

    def __init__(self, worth):
        self.worth, self.rows = worth, []

    def score(self, ids, spans, sizes=None):
        self.rows += [TOKENIZER.decode(row[start:end]) for row, (start, end) in zip(ids, spans)]
        assert sizes is None or sum(sizes) == len(ids)
        scores = []
        for row, (start, end) in zip(ids, spans):
            each = [self.worth(row[i]) for i in range(start, end)]
            scores.append(SpanScore(math.fsum(each), each, False))
        return scores


LENGTHS = [
    {
        "id": "0",
        "question": "Which?",
        "choices": {"text": ["x", "yyyy", "zz"], "label": list("ABC")},
        "answerKey": "B",
    }
]


def test_continuations_compete_by_sum_and_by_the_character(tmp_path):
    """Behind the question alone, in plain text, though the model has a chat format: one token that
    costs 2 wins by the sum, four that cost 1 each by the character.
    """
    costs = {ord("x"): -2.0, ord("y"): -1.0, ord("z"): -3.0, ord(" "): 0.0}
    scorer = Continues(lambda token: costs[token])
    how = asking(scorer=scorer, choice_form="continuation")
    asked = problems("arc_easy", LENGTHS, how, tmp_path)
    assert asked.plain and asked.text(0) == "Question: Which?\nAnswer:"
    (record,) = chat_tasks.evaluate(asked).records
    assert scorer.rows == [" x", " yyyy", " zz"]
    assert record["log_p"] == [-2.0, -4.0, -6.0]
    assert (record["answer"], record["passed"]) == ("A", False)
    assert (record["answer_norm"], record["passed_norm"]) == ("B", True)
    rows = flat(TaskResult("arc_easy", [record]).scores())
    assert rows["arc_easy"] == 0 and rows["arc_easy/accuracy_norm"] == 1


def test_a_continuation_keeps_its_span_where_the_prompt_loses_its_start():
    how = asking(scorer=None, choice_form="continuation", context=12)
    rows, spans = problems("arc_easy", LENGTHS, how).continuations(0)
    assert [TOKENIZER.decode(row[a:b]) for row, (a, b) in zip(rows, spans)] == [
        " x",
        " yyyy",
        " zz",
    ]
    assert max(map(len, rows)) == 12 and {row[0] for row in rows} == {TOKENIZER.bos}


def test_continuations_show_solved_examples_without_choices():
    how = asking(num_shots=1, shots={"arc_easy": ARC[:1]}, choice_form="continuation")
    text = problems("arc_easy", LENGTHS, how).text(0)
    assert text == "Question: Which is 0?\nAnswer: w\n\nQuestion: Which?\nAnswer:"


def test_a_chat_model_sees_solved_examples_as_earlier_turns_and_its_system_message_first():
    seen = []

    def render(tokenizer, messages):
        seen.extend(messages)
        return [1]

    how = asking(
        num_shots=2, shots={"gsm8k": PROBLEMS[:2]}, system_prompt="Be brief.", render=render
    )
    problems("gsm8k", PROBLEMS, how).prompt(4)
    assert [message["role"] for message in seen] == ["system", *("user", "assistant") * 2, "user"]
    assert seen[0]["content"] == "Be brief." and seen[-1]["content"] == "What is 4 + 2?"
