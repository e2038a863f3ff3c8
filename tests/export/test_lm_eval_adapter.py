"""Claims about nanolab/export/lm_eval_adapter.py: the harness's own evaluator gets our
log-probabilities, greedy marks and completions.

Skips where lm-evaluation-harness is not installed (pip install -e .[lm-eval]).
"""

import json
from types import SimpleNamespace

import pytest
import torch

lm_eval = pytest.importorskip(
    "lm_eval", reason="lm-evaluation-harness is not installed: pip install -e .[lm-eval]"
)

from lm_eval.tasks import TaskManager  # noqa: E402

from nanolab.data.tokens import chat  # noqa: E402
from nanolab.data.tokens.tokenizer import train_tokenizer  # noqa: E402
from nanolab.errors import UserError  # noqa: E402
from nanolab.evals import core  # noqa: E402
from nanolab.evals.subject import Subject  # noqa: E402
from nanolab.export.lm_eval_adapter import NanolabLM  # noqa: E402
from nanolab.model.gpt import GPT  # noqa: E402
from nanolab.model.scaling import GPTConfig  # noqa: E402

CONTEXT = 48
ROWS = [
    {"question": f"What does the {animal} eat?", "choices": foods, "gold": i % 3}
    for i, (animal, foods) in enumerate(
        [
            ("cat", ["fish", "grass", "cheese"]),
            ("goose", ["meat", "grass", "fish"]),
            ("mouse", ["grass", "fish", "cheese"]),
            ("dog", ["meat", "cheese", "grass"]),
        ]
        * 2
    )
]
TEXTS = [
    f"{row['question']} The {row['choices'][row['gold']]}, says Ann number {i * 7}.\n"
    for i, row in enumerate(ROWS * 20)
]


@pytest.fixture(scope="module")
def adapter():
    tokenizer = train_tokenizer(TEXTS, 330)
    torch.manual_seed(0)
    model = GPT(GPTConfig(tokenizer.vocab_size, CONTEXT, 2, 32, 2, 1)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return NanolabLM(Subject(model, tokenizer, {"name": "tiny"}, "sft"), batch_size=5)


def log_p_by_hand(adapter, context, continuation):
    """(sum of log p, greedy) of ids after ids, by one full forward of one row."""
    row = (context + continuation)[-(CONTEXT + 1) :]
    model = adapter.subject.model
    with torch.no_grad():
        logits = model.logits(model.trunk(torch.tensor([row[:-1]])))[0, -len(continuation) :]
    wanted = torch.tensor(continuation)
    return float(torch.log_softmax(logits.double(), -1).gather(1, wanted[:, None]).sum()), bool(
        (logits.argmax(-1) == wanted).all()
    )


def greedy(adapter, ids):
    """Eight tokens at most, each by a full forward of all before it."""
    model, drawn = adapter.subject.model, []
    while len(drawn) < 8 and adapter.text.assistant_end not in drawn:
        with torch.no_grad():
            drawn.append(
                int(model.logits(model.trunk(torch.tensor([[*ids, *drawn]])))[0, -1].argmax())
            )
    return drawn


def request(*arguments):
    return SimpleNamespace(args=arguments)


def test_log_probabilities_are_those_of_a_full_forward(adapter):
    pairs = [
        ("The cat", " eats fish"),
        ("The goose eats", " grass, says"),
        ("", "What does"),
        ("a b ", "c"),
        ("far too long " * 30, "a tail of text"),
        ("x", "y" * 20),
        ("<|bos|> in", " a text"),
    ]
    for (context, continuation), (log_p, greedy) in zip(
        pairs, adapter.loglikelihood([request(*pair) for pair in pairs])
    ):
        start = adapter.tok_encode(context.rstrip()) if context else [adapter.text.bos]
        whole = adapter.tok_encode(context + continuation)
        expected = log_p_by_hand(adapter, start, whole[len(start) :])
        assert log_p == pytest.approx(expected[0], abs=1e-4) and greedy == expected[1]


def test_a_greedy_continuation_is_marked_greedy_and_no_other(adapter):
    ids = adapter.tok_encode("The goose")
    drawn = greedy(adapter, ids)
    other = [*drawn[:-1], (drawn[-1] + 1) % adapter.text.vocab_size]
    found = adapter._loglikelihood_tokens([(("", ""), ids, drawn), (("", ""), ids, other)])
    assert [mark for _, mark in found] == [True, False]


def test_rolling_log_probabilities_count_every_token_once(adapter):
    for text in ("The cat eats fish.", TEXTS[0] * 12):  # the second takes several windows
        ids, total = adapter.text.encode(text), 0.0
        full = [adapter.text.bos, *ids]
        for start in range(0, len(ids), CONTEXT):
            stop = min(start + CONTEXT, len(ids))
            first = max(0, stop - CONTEXT)  # the last window looks back over a whole context
            total += log_p_by_hand(adapter, full[first : start + 1], ids[start:stop])[0]
        assert adapter.loglikelihood_rolling([request(text)])[0] == pytest.approx(total, abs=1e-3)
    assert len(ids) > 2 * CONTEXT


def test_completions_are_greedy_decoding_cut_at_the_first_stop(adapter):
    text = chat.completion_text(adapter.text, greedy(adapter, adapter.tok_encode("The goose")))
    stops = [text[-3:], text[len(text) // 2 :][:2]]
    places = [text.index(stop) for stop in stops]
    assert places[0] > places[1] > 0
    settings = {"until": [*stops, "never"], "max_gen_toks": 8}
    found = adapter.generate_until(
        [request("The goose", {"until": [], "max_gen_toks": 8}), request("The goose", settings)]
    )
    assert found == [text, text[: places[1]]]


def test_a_chat_is_asked_in_the_format_of_training(adapter):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What does the cat eat?"},
    ]
    assert adapter.tok_encode(adapter.apply_chat_template(messages)) == chat.render_prompt(
        adapter.text, messages
    )
    answered = [*messages, {"role": "assistant", "content": "fish"}]
    assert (
        adapter.tok_encode(adapter.apply_chat_template(answered, False))
        == chat.render(adapter.text, answered)[0][:-1]
    )


def test_what_does_not_fit_is_a_clear_line(adapter):
    with pytest.raises(UserError, match="max_gen_toks = 48 leaves no room"):
        adapter.generate_until([request("a", {"until": [], "max_gen_toks": CONTEXT})])
    with pytest.raises(UserError, match="does not fit into the context of 48"):
        adapter.loglikelihood([request("a", "one two " * 60)])


@pytest.fixture(scope="module")
def results(adapter, tmp_path_factory):
    """A task of our own rows through the harness's own evaluator, from a file and without a
    network.
    """
    folder = tmp_path_factory.mktemp("task")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "own.yaml").write_text(
        json.dumps(
            {
                "task": "own_choices",
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
                "test_split": "test",
                "output_type": "multiple_choice",
                "doc_to_text": "{{question}}\nAnswer:",
                "doc_to_choice": "{{choices}}",
                "doc_to_target": "gold",
                "target_delimiter": " ",
                "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
            }
        )
    )
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return lm_eval.simple_evaluate(
        adapter, tasks=["own_choices"], task_manager=manager, log_samples=True, bootstrap_iters=0
    )


def test_the_harness_scores_a_task_as_our_own_evaluation_does(adapter, results):
    rows = [
        {"query": f"{row['question']}\nAnswer:", "choices": row["choices"], "gold": row["gold"]}
        for row in ROWS
    ]
    task, records = (
        SimpleNamespace(
            name="own",
            kind="multiple_choice",
            num_fewshot=0,
            continuation_delimiter=" ",
            random_baseline=0.3,
        ),
        [],
    )
    core.evaluate_task(
        core.Reader(adapter.subject.scorer, adapter.tok_encode, CONTEXT + 1),
        task,
        rows,
        range(len(rows)),
        records.append,
    )
    samples = sorted(results["samples"]["own_choices"], key=lambda sample: sample["doc_id"])
    assert len(samples) == len(records) == len(ROWS)
    for sample, record in zip(samples, sorted(records, key=lambda record: record["index"])):
        ours = record["log_p"]
        assert [
            float(answer[0][0]) if isinstance(answer[0], (list, tuple)) else float(answer[0])
            for answer in sample["resps"]
        ] == pytest.approx(ours, abs=1e-4)
        assert sample["acc"] == float(
            max(range(3), key=ours.__getitem__) == ROWS[sample["doc_id"]]["gold"]
        )
    assert results["results"]["own_choices"]["acc,none"] == pytest.approx(
        sum(sample["acc"] for sample in samples) / len(samples)
    )
