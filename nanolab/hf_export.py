"""A trained model and its tokenizer as a Hugging Face folder: model.safetensors, config.json, tokenizer.json, chat template.

The stock architecture "nanochat" of transformers computes our GPT: rotary positions turned the same way and then normalised queries and
keys, RMSNorm without parameters (also on the embeddings), ReLU^2, an untied head, logits softcapped at 15. So no code goes along, and
whatever loads that architecture loads the model. Two things differ by what a tokenizer of that world does by itself: the name of a
special token inside a text becomes that token (split_special_tokens=True leaves it plain text, as our tokenizer always does), and a text
part of an assistant message is encoded together with a text part right after it.

Writes JSON and safetensors by hand: transformers is needed to load the folder, not to make it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from nanolab.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from nanolab.files import write_atomic
from nanolab.model.gpt import GPT, SOFTCAP
from nanolab.schema import UserError

# A leading system message joins the first user message. Assistant content is text or a list of parts (data/chat.py).
CHAT_TEMPLATE = """\
{{- '<|bos|>' -}}
{%- set turns = namespace(count=0, system='') -%}
{%- for message in messages -%}
  {%- if message['role'] == 'system' and loop.first and messages | length > 1 -%}
    {%- set turns.system = message['content'] + '\\n\\n' -%}
  {%- elif message['role'] == 'user' and turns.count % 2 == 0 -%}
    {{- '<|user_start|>' + (turns.system if turns.count == 0 else '') + message['content'] + '<|user_end|>' -}}
    {%- set turns.count = turns.count + 1 -%}
  {%- elif message['role'] == 'assistant' and turns.count % 2 == 1 -%}
    {{- '<|assistant_start|>' -}}
    {%- if message['content'] is string -%}
      {{- message['content'] -}}
    {%- else -%}
      {%- for part in message['content'] -%}
        {%- if part['type'] == 'text' -%}
          {{- part['text'] -}}
        {%- elif part['type'] == 'python' -%}
          {{- '<|python_start|>' + part['text'] + '<|python_end|>' -}}
        {%- elif part['type'] == 'output' -%}
          {{- '<|output_start|>' + part['text'] + '<|output_end|>' -}}
        {%- else -%}
          {{- raise_exception('an assistant part must be text, python or output, got ' + part['type']) -}}
        {%- endif -%}
      {%- endfor -%}
    {%- endif -%}
    {{- '<|assistant_end|>' -}}
    {%- set turns.count = turns.count + 1 -%}
  {%- else -%}
    {{- raise_exception('messages must be from user and assistant in turn, got ' + message['role']) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|assistant_start|>' -}}
{%- endif -%}
"""


def export(model: GPT, tokenizer: Tokenizer, folder: Path, chat: bool = True) -> list[Path]:
    """Writes model and tokenizer into `folder` and returns the files.

    `chat`: the chat template goes along and a completion ends with <|assistant_end|>; without it (a base model, whose chat tokens are
    untrained) a text ends where the next would start, with <|bos|>. Weights are float32, as trained. Raises UserError when the
    tokenizer is not the model's, or the folder has files already.
    """
    if tokenizer.vocab_size != model.config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model {model.config.vocab_size}: "
            "they are not of one study"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder: name a new one")
    folder.mkdir(parents=True, exist_ok=True)
    end = "<|assistant_end|>" if chat else "<|bos|>"
    ids = {
        "bos_token_id": tokenizer.bos,
        "eos_token_id": tokenizer.special(end),
        "pad_token_id": tokenizer.special(end),
    }
    texts = {
        "config.json": model_config(model) | ids,
        "generation_config.json": ids,
        "tokenizer.json": tokenizer_file(tokenizer),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|bos|>",
            "eos_token": end,
            "pad_token": end,
            "model_max_length": model.config.sequence_length,
            "clean_up_tokenization_spaces": False,
            "additional_special_tokens": SPECIAL_TOKENS[1:],
            "model_input_names": ["input_ids", "attention_mask"],
        },
    }
    for name, content in texts.items():
        write_atomic(folder / name, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    if chat:
        write_atomic(folder / "chat_template.jinja", CHAT_TEMPLATE)
    safetensors.torch.save_file(
        weights(model), folder / "model.safetensors", metadata={"format": "pt"}
    )
    return sorted(folder.iterdir())


def model_config(model: GPT) -> dict[str, Any]:
    """config.json of the stock architecture, its token ids left out."""
    shape = model.config
    return {
        "architectures": ["NanoChatForCausalLM"],
        "model_type": "nanochat",
        "dtype": "float32",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.width,
        "intermediate_size": 4 * shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.sequence_length,
        "rms_norm_eps": torch.finfo(
            torch.float32
        ).eps,  # what torch's rms_norm adds where no eps is given
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "final_logit_softcapping": SOFTCAP,
        "hidden_act": "relu2",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
    }


def weights(model: GPT) -> dict[str, torch.Tensor]:
    """The weights (float32, CPU) under the names of the stock architecture; queries, keys and values apart."""
    shape = model.config
    head_dim = shape.width // shape.heads
    named = {
        "model.embed_tokens.weight": model.embedding.weight,
        "lm_head.weight": model.head.weight,
    }
    for i, block in enumerate(model.blocks):
        sizes = [shape.heads * head_dim, shape.kv_heads * head_dim, shape.kv_heads * head_dim]
        query, key, value = block.attention.qkv.weight.split(sizes)
        parts = {
            "self_attn.q_proj": query,
            "self_attn.k_proj": key,
            "self_attn.v_proj": value,
            "self_attn.o_proj": block.attention.output.weight,
            "mlp.fc1": block.feed_forward.up.weight,
            "mlp.fc2": block.feed_forward.down.weight,
        }
        named |= {f"model.layers.{i}.{name}.weight": tensor for name, tensor in parts.items()}
    return {name: tensor.detach().float().cpu().clone() for name, tensor in named.items()}


# ---- the tokenizer


def byte_characters() -> list[str]:
    """The printable character that stands for each byte in a byte-level vocabulary.

    Source: Radford et al. 2019 (GPT-2): bytes that are printable in Latin-1 stand for themselves, the others for U+0100 onwards in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def merges(tokens: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The pairs that may be merged, by the rank of what they make.

    tiktoken merges the adjacent pair that makes the token of lowest rank, however it is split; merge lists name pairs. So each token
    has one entry for each way to split it into two earlier tokens.
    """
    rank = {token: i for i, token in enumerate(tokens)}
    found = []
    for i, token in enumerate(tokens):
        splits = ((token[:at], token[at:]) for at in range(1, len(token)))
        own = [pair for pair in splits if rank.get(pair[0], i) < i and rank.get(pair[1], i) < i]
        found += sorted(own, key=lambda pair: (rank[pair[0]], rank[pair[1]]))
    return found


def tokenizer_file(tokenizer: Tokenizer) -> dict[str, Any]:
    """tokenizer.json: byte-level BPE with our split pattern, a text starts with <|bos|>."""
    characters = byte_characters()
    tokens = [tokenizer.piece(token) for token in range(tokenizer.bos)]

    def written(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    plain = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    start = {"SpecialToken": {"id": "<|bos|>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": None,
        "decoder": level,
        "added_tokens": [
            {"id": tokenizer.special(name), "content": name, **plain} for name in SPECIAL_TOKENS
        ],
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": tokenizer.pattern},
                    "behavior": "Isolated",
                    "invert": False,
                },
                level,
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                start,
                {"Sequence": {"id": "A", "type_id": 0}},
                start,
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {
                "<|bos|>": {"id": "<|bos|>", "ids": [tokenizer.bos], "tokens": ["<|bos|>"]}
            },
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {written(token): i for i, token in enumerate(tokens)},
            "merges": [[written(left), written(right)] for left, right in merges(tokens)],
        },
    }
