"""A trained model and its tokenizer as a Hugging Face folder.

The architecture "nanochat" of transformers computes our GPT, so no code goes along. Two things
differ by what a tokenizer of that world does by itself: the name of a special token inside a text
becomes that token (split_special_tokens=True leaves it plain text, as our tokenizer always does),
and a text part of an assistant message is encoded together with a text part right after it. JSON
and safetensors are written by hand: transformers is needed to load the folder, not to make it.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from nanolab.data.tokens.tokenizer import SPECIAL_TOKENS, Tokenizer
from nanolab.errors import UserError
from nanolab.files import write_atomic
from nanolab.model.gpt import GPT, NORM_EPSILON, SOFTCAP

# settings of a tokenizer that ours has no use for
UNUSED = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.j2")


def export(model: GPT, tokenizer: Tokenizer, folder: Path, chat: bool = True) -> list[Path]:
    """Writes model (float32) and tokenizer into an empty `folder` and returns the files.

    With `chat` the chat template goes along and a completion ends with <|assistant_end|>; without
    (a base model) a text ends where the next would start, with <|bos|>.
    """
    if tokenizer.vocab_size != model.config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model"
            f" {model.config.vocab_size}: they are not of one study"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder: name a new one")
    folder.mkdir(parents=True, exist_ok=True)
    end = "<|assistant_end|>" if chat else "<|bos|>"
    ids = dict.fromkeys(("eos_token_id", "pad_token_id"), tokenizer.special(end))
    ids["bos_token_id"] = tokenizer.bos
    texts = {
        "config.json": _config(model) | ids,
        "generation_config.json": ids,
        "tokenizer.json": _tokenizer_file(tokenizer),
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
        shutil.copyfile(CHAT_TEMPLATE, folder / "chat_template.jinja")
    safetensors.torch.save_file(
        _weights(model), folder / "model.safetensors", metadata={"format": "pt"}
    )
    return sorted(folder.iterdir())


def _config(model: GPT) -> dict[str, Any]:
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
        "rms_norm_eps": NORM_EPSILON,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "final_logit_softcapping": SOFTCAP,
        "hidden_act": "relu2",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
    }


def _weights(model: GPT) -> dict[str, torch.Tensor]:
    """The weights under the names of the architecture."""
    shape = model.config
    head_dim = shape.width // shape.heads
    sizes = [shape.heads * head_dim, shape.kv_heads * head_dim, shape.kv_heads * head_dim]
    named = {"model.embed_tokens": model.embedding.weight, "lm_head": model.head.weight}
    for i, block in enumerate(model.blocks):
        query, key, value = block.attention.qkv.weight.split(sizes)
        parts = {
            "self_attn.q_proj": query,
            "self_attn.k_proj": key,
            "self_attn.v_proj": value,
            "self_attn.o_proj": block.attention.output.weight,
            "mlp.fc1": block.feed_forward.up.weight,
            "mlp.fc2": block.feed_forward.down.weight,
        }
        named |= {f"model.layers.{i}.{name}": tensor for name, tensor in parts.items()}
    return {
        f"{name}.weight": tensor.detach().float().cpu().clone() for name, tensor in named.items()
    }


# ---- the tokenizer


def _byte_characters() -> list[str]:
    """The character that stands for each byte (GPT-2, Radford et al. 2019): itself where Latin-1
    prints it, else one from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def merges(tokens: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The pairs that may be merged, by the rank of what they make.

    tiktoken makes the adjacent token of lowest rank, however it is split: so each token has one
    entry for each way to split it into two earlier tokens.
    """
    rank = {token: i for i, token in enumerate(tokens)}
    found = []
    for i, token in enumerate(tokens):
        splits = ((token[:at], token[at:]) for at in range(1, len(token)))
        own = [pair for pair in splits if rank.get(pair[0], i) < i and rank.get(pair[1], i) < i]
        found += sorted(own, key=lambda pair: (rank[pair[0]], rank[pair[1]]))
    return found


def _tokenizer_file(tokenizer: Tokenizer) -> dict[str, Any]:
    """Byte-level BPE with our split pattern; a text starts with <|bos|>."""
    characters = _byte_characters()
    tokens = [tokenizer.piece(token) for token in range(tokenizer.bos)]

    def written(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    level = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    level["type"] = "ByteLevel"
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    split["pattern"] = {"Regex": tokenizer.pattern}
    start = {"SpecialToken": {"id": "<|bos|>", "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    return {
        "version": "1.0",
        **dict.fromkeys(("truncation", "padding", "normalizer")),
        "decoder": level,
        "added_tokens": [
            {"id": tokenizer.special(name), "content": name, "special": True, **plain}
            for name in SPECIAL_TOKENS
        ],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, first],
            "pair": [start, first, start, second],
            "special_tokens": {
                "<|bos|>": {"id": "<|bos|>", "ids": [tokenizer.bos], "tokens": ["<|bos|>"]}
            },
        },
        "model": {
            "type": "BPE",
            **dict.fromkeys(UNUSED),
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {written(token): i for i, token in enumerate(tokens)},
            "merges": [[written(left), written(right)] for left, right in merges(tokens)],
        },
    }
