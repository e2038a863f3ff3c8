"""A model with its tokenizer, ready to be asked: trained here, or from outside."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from nanolab.artefacts import CHECKPOINTS, TOKENIZER, require_checkpoint, verified
from nanolab.data.tokens import chat
from nanolab.data.tokens.hf_tokenizer import HFTokenizer
from nanolab.data.tokens.tokenizer import Tokenizer
from nanolab.dist import World
from nanolab.inference import hf_engine, hf_loading, vllm_engine, vllm_loading
from nanolab.inference.gpt_engine import GPTLanguageModel, GPTScorer
from nanolab.inference.hf_scorer import HFScorer
from nanolab.inference.protocol import LanguageModel, Server
from nanolab.model import checkpoint
from nanolab.model.gpt import GPT
from nanolab.sandbox import programs
from nanolab.settings import model_source
from nanolab.settings.config import SOURCE_STEPS, Job
from nanolab.settings.vllm_options import VLLMOptions, require_vllm


@dataclass(frozen=True)
class Subject:
    """A trained model with its tokenizer; `facts` are the checkpoint's (step, tokenizer digest,
    ...).
    """

    model: GPT
    tokenizer: Tokenizer
    facts: dict[str, Any]
    source: str

    engine = GPTLanguageModel
    noted = False  # whether prompts end with the note of their form (nanolab/data/tasks/task.py)
    has_tools = True  # its tokenizer has the tool tokens

    @property
    def context(self) -> int:
        """Tokens of the rows that the model was trained on."""
        return self.model.config.sequence_length

    @property
    def reach(self) -> str:
        """What its context is, in words."""
        return f"{self.context} tokens of training"

    @property
    def plain(self) -> bool:
        """Whether it is asked in plain text: its chat tokens are untrained, or it has none."""
        return self.source == "base"

    @property
    def scorer(self) -> Any:
        """The model as evaluation sees it (protocol.Scorer)."""
        return GPTScorer(self.model)

    def render(self, messages: list[chat.Message]) -> list[int]:
        """The ids of a chat prompt."""
        return chat.render_prompt(self.tokenizer, messages)

    def language_model(self, config: Any, max_length: int | None = None) -> LanguageModel:
        """The model behind the engine's protocol, with the calculator if it has its tokens, for
        rows of at most `max_length` tokens (None: its context).

        A base model ends a text where its next document would start.
        """
        found = self.engine(
            self.model,
            self.tokenizer,
            programs.Tools("calculator", config.tool_timeout),
            rows=config.batch_rows,
            max_length=max_length or self.context,
            tool_max_output_tokens=config.tool_max_output_tokens,
        )
        if self.source == "base":
            found.end_tokens = frozenset((self.tokenizer.bos,))
        found.name = self.facts.get("name", self.source)
        return found


@dataclass(frozen=True)
class HFSubject(Subject):
    """A Hugging Face model with its tokenizer, asked as data/tokens/hf_tokenizer.py says."""

    model: Any  # a transformers causal language model
    tokenizer: HFTokenizer
    engine = hf_engine.HFLanguageModel
    noted = True  # it was not trained on our forms

    @property
    def context(self) -> int:
        """Tokens of a row at most."""
        return hf_engine.context_length(self.model)

    @property
    def reach(self) -> str:
        """What its context is, in words."""
        return f"{self.context} positions that the model serves"

    @property
    def has_tools(self) -> bool:
        """Whether its tokenizer has the tool tokens."""
        return self.tokenizer.has_tools

    @property
    def plain(self) -> bool:
        """Whether it has no chat template."""
        return self.tokenizer.plain

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return Path(self.model.name_or_path)

    @property
    def architecture(self) -> str:
        """The name of its class in transformers."""
        return type(self.model).__name__

    @property
    def parameters(self) -> int:
        """How many it has."""
        return self.model.num_parameters()

    @property
    def dtype(self) -> str:
        """Of its weights."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def scorer(self) -> Any:
        """The model as evaluation sees it (protocol.Scorer)."""
        return HFScorer(self.model)

    def render(self, messages: list[chat.Message]) -> list[int]:
        """The ids of a chat prompt."""
        return self.tokenizer.render_prompt(messages)


@dataclass(frozen=True)
class VLLMSubject(HFSubject):
    """A Hugging Face model that vLLM serves; `model` is a vLLM engine."""

    @property
    def context(self) -> int:
        """Tokens of a row at most: vLLM scores none without room for a token behind."""
        return self.model.model_config.max_model_len - 1

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return Path(self.model.model_config.model)

    @property
    def architecture(self) -> str:
        """The name of its class in transformers."""
        return self.model.model_config.architectures[0]

    @property
    def parameters(self) -> int:
        """How many it has, by the headers of its files: the weights are in vLLM's processes."""
        count = 0
        for path in sorted(self.folder.glob("*.safetensors")):
            with safe_open(path, "pt") as weights:
                names = list(weights.keys())
                count += sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
        return count

    @property
    def dtype(self) -> str:
        """Of its weights."""
        return str(self.model.model_config.dtype).removeprefix("torch.")

    @property
    def scorer(self) -> Any:
        """The model as evaluation sees it (protocol.Scorer)."""
        return vllm_engine.VLLMScorer(self.model)

    def language_model(self, config: Any, max_length: int | None = None) -> Server:
        """The model behind the `Server` protocol; the arguments are those of every subject."""
        return vllm_engine.VLLMLanguageModel(
            self.model,
            self.tokenizer,
            programs.Tools("calculator", config.tool_timeout),
            max_length,
            config.tool_max_output_tokens,
        )


def load_subject(job: Job, world: World, source: str | None = None) -> Subject:
    """The model that `source` (else the job's config) names, in evaluation mode.

    Raises UserError for a missing or truncated checkpoint, for a tokenizer that does not match the
    model, and for what `hf_loading.load` does.
    """
    source = source or job.config.source
    if model_source.is_outside(source):
        return outside_subject(source, world.device, job.config)
    folder, tokenizer = job.inputs[SOURCE_STEPS[source]], job.inputs["tok_train"]
    return finished_subject(folder, tokenizer, source, job.config.step, world.device)


def outside_subject(source: str, device: torch.device, config: Any = None) -> HFSubject:
    """A model from outside of the lab, on the engine of a stage's config (None: ours); raises what
    `hf_loading.load` and `vllm_loading.load_engine` do.
    """
    facts = {"source": source, "name": model_source.title(source)}
    if getattr(config, "engine", "nanolab") == "vllm":
        require_vllm()
        folder, tokenizer = hf_loading.load_tokenizer(source)
        usual = "float32" if device.type == "cpu" else "auto"
        options = VLLMOptions(**config.vllm)
        dtype = getattr(config, "dtype", usual)
        engine = vllm_loading.load_engine(folder, options, dtype, config.batch_rows, device)
        facts |= {"tokenizer_digest": tokenizer.digest, "engine": vllm_loading.named(options)}
        return VLLMSubject(engine, tokenizer, facts, source)
    model, tokenizer = hf_loading.load(source, device)
    return HFSubject(model, tokenizer, facts | {"tokenizer_digest": tokenizer.digest}, source)


def finished_subject(
    folder: Path, tokenizer_folder: Path, source: str, step: int | None, device: torch.device
) -> Subject:
    """The model that the finished step of a work folder left (or its checkpoint of `step`), with
    the tokenizer of another; UserError when one is not what the step's result describes.
    """
    tokenizer = Tokenizer.load(verified(tokenizer_folder, TOKENIZER))
    return trained_subject(
        folder / CHECKPOINTS, tokenizer, source, require_checkpoint(folder, step), device
    )


def trained_subject(
    folder: Path, tokenizer: Tokenizer, source: str, step: int, device: torch.device
) -> Subject:
    """The model of a folder of checkpoints at `step`, in evaluation mode."""
    model, facts = checkpoint.load_model(folder, step, device, tokenizer.digest)
    facts["name"] = f"{source}, step {facts['step']} of {folder}"
    return Subject(model.eval(), tokenizer, facts, source)


def in_dtype(subject: Subject, dtype: str) -> Subject:
    """The subject with weights, cache and logits' products in `dtype` ("float32" or "bfloat16");
    vLLM's was loaded so.
    """
    if isinstance(subject, VLLMSubject):
        return subject
    subject.model.to(getattr(torch, dtype))
    return subject
