"""Claims about nanolab/export/hf_folder.py: transformers, offline, gives the same ids, the same
logits and the same chats as we do.
"""

import json
import random

import pytest
import torch
import transformers

from nanolab.__main__ import main
from nanolab.data.tasks.catalogue import TASKS
from nanolab.data.tokens import chat
from nanolab.data.tokens.tokenizer import SPECIAL_TOKENS, Tokenizer, train_tokenizer
from nanolab.errors import UserError
from nanolab.export.hf_folder import export, merges
from nanolab.inference import hf_engine, hf_loading
from nanolab.inference.gpt_engine import GPTLanguageModel
from nanolab.inference.proposal import Sampling
from nanolab.model.gpt import GPT
from nanolab.model.scaling import GPTConfig
from nanolab.samplers import baselines
from nanolab.samplers.batch import Batch

TEXTS = [
    f"The {animal} number {i * 37} eats {food}, says Ann.\n- {food}=A\nnaïve 東京 <|bos|>\n   "
    " return a + b\n  ---- ==== ....\n"
    for i, (animal, food) in enumerate(
        [("cat", "fish"), ("dog", "meat"), ("goose", "grass"), ("mouse", "cheese")] * 10
    )
]
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 48/2?\n"},
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "It is "},
            {"type": "python", "text": "48/2"},
            {"type": "output", "text": "24"},
            {"type": "text", "text": " 24.\n\n#### 24"},
        ],
    },
    {"role": "user", "content": "  Thanks! é東🙂  "},
    {"role": "assistant", "content": "- Paris=B"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 380)


@pytest.fixture(scope="module")
def model(tokenizer):
    """Two query heads a key head, and every weight random: as initialised, the head and each
    layer's output would be zero.
    """
    return random_model(tokenizer.vocab_size)


def random_model(vocab_size):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size, 64, 2, 32, 4, 2)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model"
    assert {file.name for file in export(model, tokenizer, path)} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    return path


@pytest.fixture(scope="module")
def theirs(folder):
    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


def largest_difference(model, folder):
    other = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    ids = torch.cat(
        [
            torch.randint(0, model.config.vocab_size, (2, 55)),
            torch.arange(model.config.vocab_size - 9, model.config.vocab_size).expand(2, 9),
        ],
        1,
    )  # the context's full length, every special token among them
    with torch.no_grad():
        ours, found = model.logits(model.trunk(ids)), other(ids).logits
    assert found.dtype == torch.float32 and ours.std() > 0.3
    return float((ours - found).abs().max())


def test_logits_of_random_weights_are_equal(model, folder):
    assert largest_difference(model, folder) < 1e-5


def test_logits_of_a_trained_model_are_equal(tokenizer, tmp_path):
    torch.manual_seed(1)
    model = GPT(GPTConfig(tokenizer.vocab_size, 64, 2, 32, 2, 2))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    ids = torch.tensor([token for text in TEXTS for token in tokenizer.encode(text)])[:1040].view(
        16, 65
    )
    for _ in range(30):
        loss, count = model(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()
    assert loss.item() / count < 3
    export(model.eval(), tokenizer, tmp_path / "trained", chat=False)
    assert largest_difference(model, tmp_path / "trained") < 1e-5


def test_greedy_completions_are_equal_and_end_with_the_same_token(model, tokenizer, folder):
    other = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    assert other.generation_config.eos_token_id == tokenizer.assistant_end
    prompts = [
        [tokenizer.bos, *tokenizer.encode(text)]
        for text in ("The cat", "- fish", "1 2 3", "says Ann", "goose number 37")
    ]
    ours = baselines.generate(
        GPTLanguageModel(model, tokenizer),
        Batch(prompts, 0, "t"),
        Sampling(temperature=0, max_new_tokens=40),
    )
    for prompt, (completion,) in zip(prompts, ours):
        found = other.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            do_sample=False,
            max_new_tokens=40,
        )
        assert found[0, len(prompt) :].tolist() == completion.tokens


def test_ids_of_any_text_are_equal(theirs, tokenizer):
    draw = random.Random(0)
    alphabet = "abc XYZ 0123456789 .,=+-*/<>|\n\r\t'éſ東🙂\u00a0\u2003\u0085\u200bयहӘعر" + "".join(
        SPECIAL_TOKENS
    )
    texts = [
        "",
        *TEXTS[:4],
        "We'LL it'ſ 'S",
        "  \n \n\n   x\r\n\r\n y ",
        *SPECIAL_TOKENS,
        *("".join(draw.choices(alphabet, k=draw.randrange(60))) for _ in range(1500)),
        *(
            character * n + end
            for character in " -=_.0a\n\t東"
            for n in range(1, 40)
            for end in ("", "x")
        ),
    ]
    for text in texts:
        found = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert found == tokenizer.encode(text), repr(text)
        assert theirs.decode(found, clean_up_tokenization_spaces=False) == text


def test_a_text_starts_with_bos_and_special_tokens_have_their_ids(theirs, tokenizer):
    assert theirs("a b")["input_ids"] == [tokenizer.bos, *tokenizer.encode("a b")]
    assert [theirs.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS] == [
        tokenizer.special(name) for name in SPECIAL_TOKENS
    ]
    assert theirs("a<|python_end|>", add_special_tokens=False)["input_ids"] == [
        *tokenizer.encode("a"),
        tokenizer.python_end,
    ]
    assert (theirs.bos_token, theirs.eos_token, len(theirs)) == (
        "<|bos|>",
        "<|assistant_end|>",
        tokenizer.vocab_size,
    )


def test_the_chat_template_renders_our_conversations(theirs, tokenizer):
    for messages in (
        CHAT,
        CHAT[1:],
        CHAT[:2],
        CHAT[:3],
        TASKS["gsm8k"].messages({"question": "2+2?", "answer": "<<2+2=4>>4\n#### 4"}),
    ):
        ids = theirs.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        assert ids == chat.render(tokenizer, messages)[0]
        if messages[-1]["role"] == "user":
            ids = theirs.apply_chat_template(
                messages, tokenize=True, add_generation_prompt=True, return_dict=True
            )["input_ids"]
            assert ids == chat.render_prompt(tokenizer, messages)


@pytest.mark.parametrize(
    "messages",
    [CHAT[2:], [CHAT[1], CHAT[3]], [CHAT[0]], [CHAT[1], {"role": "tool", "content": "x"}]],
)
def test_the_chat_template_refuses_what_our_renderer_refuses(theirs, tokenizer, messages):
    with pytest.raises(UserError):
        chat.render(tokenizer, messages)
    with pytest.raises(Exception, match="must alternate"):
        theirs.apply_chat_template(messages, tokenize=False)


def test_the_export_serves_as_a_model_from_outside(model, tokenizer, folder):
    """The stages load it as hf:FOLDER: cached decoding is checked, prompts are those of our own
    chat format, tools are known.
    """
    loaded, adapter = hf_loading.load(f"hf:{folder}", torch.device("cpu"))
    assert (
        adapter.has_tools
        and adapter.start == [tokenizer.bos]
        and adapter.assistant_end == tokenizer.assistant_end
    )
    assert adapter.render_prompt(CHAT) == chat.render_prompt(tokenizer, CHAT)
    assert hf_engine.context_length(loaded) == 64


def test_a_base_model_ends_with_bos_and_has_no_chat_template(model, tokenizer, tmp_path):
    export(model, tokenizer, tmp_path / "base", chat=False)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "base", local_files_only=True)
    assert theirs.eos_token == "<|bos|>" and theirs.chat_template is None
    assert (
        json.loads((tmp_path / "base" / "config.json").read_text())["eos_token_id"] == tokenizer.bos
    )


def test_merges_name_every_split_in_the_order_of_ranks():
    tokens = [bytes([i]) for i in range(256)] + [b"ab", b"bc", b"abc"]
    assert merges(tokens) == [(b"a", b"b"), (b"b", b"c"), (b"a", b"bc"), (b"ab", b"c")]


def test_mistakes_are_clear_lines(model, tokenizer, folder, store, tmp_path, capsys):
    with pytest.raises(UserError, match="not an empty folder"):
        export(model, tokenizer, folder)
    with pytest.raises(UserError, match="380 tokens and the model 300"):
        export(random_model(300), tokenizer, tmp_path / "other")
    assert main(["export", "smoke", "--source", "base", "--out", str(tmp_path / "none")]) == 2
    assert "study 'smoke' has no finished step base_train" in capsys.readouterr().err
    assert main(["export", "smoke", "--source", "tok", "--out", str(tmp_path / "none")]) == 2
    assert (
        "valid sources are base, mid, sft, rl" in capsys.readouterr().err
        and not (tmp_path / "none").exists()
    )


def test_the_command_exports_the_newest_finished_model_of_a_study(
    model, tokenizer, store, tmp_path, capsys
):
    from nanolab import artefacts
    from nanolab.model import checkpoint
    from nanolab.plan.steps import write_job
    from nanolab.settings.config import BaseTrainConfig, Job, StudyConfig

    work = store / "work" / "smoke"
    tokenizer.save(work / "tok_train" / "a" / "tokenizer")
    write_job(
        Job("tok_train", StudyConfig(), StudyConfig().tokenizer, work / "tok_train" / "a", {})
    )
    artefacts.write_result(work / "tok_train" / "a", "tok_train", {}, 0.0)
    for name in ("old", "new"):
        folder = work / "base_train" / name
        write_job(
            Job(
                "base_train",
                StudyConfig(),
                BaseTrainConfig(),
                folder,
                {"tok_train": work / "tok_train" / "a"},
            )
        )
        checkpoint.save(
            folder / "checkpoints",
            7 if name == "new" else 3,
            model,
            {},
            {"tokenizer_digest": tokenizer.digest},
        )
        artefacts.write_result(folder, "base_train", {}, 0.0)
    assert main(["export", "smoke", "--source", "base", "--out", str(tmp_path / "out")]) == 0
    assert "base, step 7 of" in capsys.readouterr().out
    assert largest_difference(model, tmp_path / "out") < 1e-5
    assert Tokenizer.load(work / "tok_train" / "a" / "tokenizer").digest == tokenizer.digest
