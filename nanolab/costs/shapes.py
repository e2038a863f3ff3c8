"""The shape of a model from outside, known before its weights are there: from the config.json of a
local folder, else from a table of public models. No torch.
"""

from dataclasses import dataclass, replace
from typing import Any

from nanolab import files
from nanolab.files import ROOT
from nanolab.settings.model_name import model_name

# layouts whose parameters are counted here: whether queries, keys and values have biases
GATED = {"llama": False, "mistral": False, "qwen2": True}
STATED = {
    *("num_attention_heads", "hidden_size", "num_hidden_layers", "intermediate_size"),
    *("vocab_size", "max_position_embeddings"),
}


@dataclass(frozen=True)
class Shape:
    """A decoder with rotary positions, grouped queries and a gated feed-forward layer."""

    layers: int
    width: int
    heads: int  # query heads
    kv_heads: int
    head_dim: int
    intermediate: int  # width of the feed-forward layer
    vocab_size: int
    context: int  # tokens
    tied: bool = False  # the head is the embedding table
    biases: bool = False  # of queries, keys and values

    @property
    def matrix_parameters(self) -> int:
        """Parameters that a token is multiplied with: the blocks and the head."""
        attention = 2 * self.width * (self.heads + self.kv_heads) * self.head_dim
        block = attention + 3 * self.width * self.intermediate
        return self.layers * block + self.vocab_size * self.width

    @property
    def parameters(self) -> int:
        """All of them: the matrices, the embedding table where it is not the head, norms and
        biases.
        """
        table = 0 if self.tied else self.vocab_size * self.width
        biases = (self.heads + 2 * self.kv_heads) * self.head_dim if self.biases else 0
        vectors = self.layers * (2 * self.width + biases) + self.width
        return self.matrix_parameters + table + vectors

    @property
    def cache_values(self) -> int:
        """Keys and values of one position."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    def forward_flops(self, length: float) -> float:
        """Operations on one token, with attention over half of `length` positions."""
        attention = 2 * self.layers * self.heads * self.head_dim * length
        return 2 * self.matrix_parameters + attention


QWEN_7B = Shape(28, 3584, 28, 4, 128, 18_944, 152_064, 131_072, biases=True)
SMOLLM2_135M = Shape(30, 576, 9, 3, 64, 1536, 49_152, 8192, tied=True)
# by the name that `model_name` gives
KNOWN = {
    "qwen2.5-0.5b": Shape(24, 896, 14, 2, 64, 4864, 151_936, 32_768, tied=True, biases=True),
    "qwen2.5-7b": QWEN_7B,
    "qwen2.5-math-7b": replace(QWEN_7B, context=4096),
    "smollm2-135m": SMOLLM2_135M,
    "smollm2-135m-instruct": SMOLLM2_135M,
}


def shape_of(source: str) -> Shape | None:
    """The shape of the model that a `source` names; None where nothing says it.

    A folder's config.json goes before the table. A folder that is not here, but on the machine that
    will run the study, has its name.
    """
    folder = ROOT / source.removeprefix("hf:")
    if source.startswith("hf:") and (folder / "config.json").is_file():
        return _configured(files.read_json(folder / "config.json"))
    return KNOWN.get(model_name(source))


def _configured(config: dict[str, Any]) -> Shape | None:
    """The shape that a config.json states; None for another layout."""
    if config.get("model_type") not in GATED or not config.keys() >= STATED:
        return None
    heads, width = config["num_attention_heads"], config["hidden_size"]
    return Shape(
        config["num_hidden_layers"],
        width,
        heads,
        config.get("num_key_value_heads") or heads,
        config.get("head_dim") or width // heads,
        config["intermediate_size"],
        config["vocab_size"],
        config["max_position_embeddings"],
        config.get("tie_word_embeddings", False),
        config.get("attention_bias", GATED[config["model_type"]]),
    )
