"""A published tokenizer as the stages use it: its own ids, template and ends."""

import pytest
import transformers
from published_model import folder
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from nanolab.data.tokens import chat
from nanolab.data.tokens.hf_tokenizer import HFTokenizer
from nanolab.errors import UserError

TURNS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + TURNS
)
QUESTION = [{"role": "user", "content": "How many?"}]


def own_tokenizer(template, eos="<|endoftext|>"):
    """Bytes, marks of turns, and an end of sequence that no turn ends with."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=eos)
    marks = ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.chat_template = template
    return tokenizer


def test_an_answer_ends_with_any_end_that_the_model_knows():
    """The tokenizer's, the generation config's, and what the template puts behind an answer."""
    inner = own_tokenizer(TURNS)
    turn_end, sequence_end, other = inner.convert_tokens_to_ids(["<|end|>", "<|endoftext|>", "a"])
    tokenizer = HFTokenizer(inner, [other])
    assert tokenizer.end_tokens == {turn_end, sequence_end, other}
    assert tokenizer.assistant_end == turn_end
    assert chat.completion_text(tokenizer, [*tokenizer.encode("12"), turn_end, 65]) == "12"
    assert HFTokenizer(own_tokenizer(None)).end_tokens == {sequence_end}


def test_a_turn_that_ends_with_text_adds_no_end():
    plain_turns = TURNS.replace("<|end|>\n", "\n\n")
    inner = own_tokenizer(plain_turns)
    assert HFTokenizer(inner).end_tokens == {inner.eos_token_id}


def test_without_any_end_the_model_is_refused_and_the_turns_end_is_enough():
    with pytest.raises(UserError, match="no end-of-sequence token"):
        HFTokenizer(own_tokenizer(None, eos=None))
    inner = own_tokenizer(TURNS, eos=None)
    assert HFTokenizer(inner).end_tokens == {inner.convert_tokens_to_ids("<|end|>")}


def test_a_system_message_reaches_the_template_as_one():
    tokenizer = HFTokenizer(own_tokenizer(TURNS))
    asked = [{"role": "system", "content": "Be brief."}, *QUESTION]
    assert (
        tokenizer.decode(tokenizer.render_prompt(asked))
        == "<|system|>Be brief.<|end|>\n<|user|>How many?<|end|>\n<|assistant|>"
    )


def test_a_call_of_an_earlier_answer_is_text():
    """As the solved examples of GSM8K are."""
    tokenizer = HFTokenizer(own_tokenizer(TURNS))
    parts = [("text", "It is "), ("python", "1+2"), ("output", "3"), ("text", "3.")]
    content = [{"type": kind, "text": text} for kind, text in parts]
    asked = [*QUESTION, {"role": "assistant", "content": content}, *QUESTION]
    assert "<|assistant|>It is <<1+2=3>>3.<|end|>" in tokenizer.decode(
        tokenizer.render_prompt(asked)
    )


def test_a_conversation_that_the_template_refuses_is_one_line():
    tokenizer = HFTokenizer(own_tokenizer(NO_SYSTEM))
    tokenizer.render_prompt(QUESTION)
    with pytest.raises(UserError, match=r"refuses a conversation of system, user: System role"):
        tokenizer.render_prompt([{"role": "system", "content": "Be brief."}, *QUESTION])


def test_a_published_model_is_asked_exactly_as_transformers_asks_it():
    inner = transformers.AutoTokenizer.from_pretrained(folder())
    tokenizer = HFTokenizer(inner)
    system = [{"role": "system", "content": "Answer  with one number.\n"}]
    turns = [*QUESTION, {"role": "assistant", "content": " 12. "}, *QUESTION]
    for messages in (QUESTION, system + QUESTION, turns, system + turns):
        expected = inner.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True
        )["input_ids"]
        assert tokenizer.render_prompt(messages) == expected
    assert tokenizer.decode(tokenizer.render_prompt(QUESTION)).startswith(
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM"
    )
    assert tokenizer.end_tokens == {inner.convert_tokens_to_ids("<|im_end|>")}
    for text in ("Für 3 €,\n\n x", "<|im_end|>", "", "  a\t"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
