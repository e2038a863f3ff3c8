"""Our checkpoints under EleutherAI's lm-evaluation-harness (pip install -e .[lm-eval]).

    python -m nanolab.export.lm_eval_adapter run --model nanolab --model_args study=smoke,source=sft
    --tasks TASK,..

takes every option of the harness's own command `lm_eval`; --batch_size 64 is faster than its
default of 1. A text starts with <|bos|>; a row longer than the context keeps its end, as the
harness has it; no tool runs. `--apply_chat_template` asks a chat model in its own format.
"""

import re
from collections import defaultdict
from typing import Any

import torch

from nanolab.chat.trained import load_trained
from nanolab.data.tokens import chat
from nanolab.data.tokens.tokenizer import SPECIAL_TOKENS
from nanolab.errors import UserError
from nanolab.evals.subject import Subject
from nanolab.inference.gpt_engine import GPTLanguageModel
from nanolab.inference.proposal import Sampling
from nanolab.samplers import baselines
from nanolab.samplers.batch import Batch

try:
    import lm_eval.models  # noqa: F401  the harness fills its table of models only while that is empty
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise UserError(
        f"lm-evaluation-harness cannot be imported ({error}); install it with: pip install -e"
        " .[lm-eval]"
    ) from error

BATCH_ROWS = 64  # rows decoded or scored at once, unless the harness is given a batch size
GENERATION_SETTINGS = {"until", "max_gen_toks", "do_sample", "temperature", "top_k"}
MAX_NEW_TOKENS = 256  # of a completion where a task does not say
SPECIAL = re.compile("(" + "|".join(map(re.escape, SPECIAL_TOKENS)) + ")")


@register_model("nanolab")
class NanolabLM(TemplateLM):
    """A GPT of this lab behind the harness's three questions; the parameters are --model_args.

    `study` is a study's name or YAML file, or a loaded `Subject`; `max_length` the tokens of a row
    (None: those of training; more extrapolates the rotary positions).
    """

    def __init__(
        self,
        study: str | Subject,
        source: str = "sft",
        step: int | None = None,
        device: str | None = None,
        batch_size: int | str | None = None,
        max_length: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        device = device or "cpu"
        # the harness names CUDA where nobody named a device
        if device.startswith("cuda") and not torch.cuda.is_available():
            print(f"nanolab: device {device} is not here, the model runs on the CPU", flush=True)
            device = "cpu"
        is_loaded = isinstance(study, Subject)
        self.subject = study if is_loaded else load_trained(study, source, step, device)
        self.text = self.subject.tokenizer  # `tokenizer` is the harness's for one of transformers
        self.max_length = max_length or self.subject.context
        self.rows = int(batch_size) if str(batch_size).isdigit() else BATCH_ROWS
        self.seed = seed
        self.generations = 0  # calls so far: repeats of a sampled completion draw anew

    # ---- text and ids

    @property
    def eot_token_id(self) -> int:
        # a base model's next text starts where a completion ends
        return self.text.bos if self.subject.plain else self.text.assistant_end

    @property
    def prefix_token_id(self) -> int:
        return self.text.bos

    @property
    def tokenizer_name(self) -> str:
        return f"nanolab-{self.text.digest[:12]}"

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """The ids of a text after <|bos|>, or of a rendered chat with its special tokens."""
        if not string.startswith(SPECIAL_TOKENS[0]):
            start = [] if add_special_tokens is False else [self.text.bos]
            return start + self.text.encode(string)
        ids: list[int] = []
        for i, piece in enumerate(SPECIAL.split(string)):  # text, special token, text, ..., text
            ids += [self.text.special(piece)] if i % 2 else self.text.encode(piece)
        return ids

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation in the format of training, special tokens by name, which are read as
        tokens inside a turn too; without a generation prompt its last turn stays open.
        """
        if add_generation_prompt:
            return self.text.decode(chat.render_prompt(self.text, chat_history))
        return self.text.decode(chat.render(self.text, chat_history)[0][:-1])

    # ---- the three questions

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        """(log p in nats, whether greedy decoding writes it) of each continuation; requests are
        (texts, context ids, continuation ids).
        """
        found: list[tuple[float, bool]] = []
        for first in range(0, len(requests), self.rows):
            rows, spans, asked = [], [], []
            for texts, context, continuation in requests[first : first + self.rows]:
                row = (context + continuation)[-(self.max_length + 1) :]
                if len(continuation) >= len(row):
                    raise UserError(
                        f"a continuation of {len(continuation)} tokens ({texts[1][:40]!r}) does not"
                        f" fit into the context of {self.max_length}: give model_args max_length=N,"
                        " or a model of a larger sequence_length"
                    )
                rows.append(row)
                spans.append((len(row) - len(continuation), len(row)))
                asked.append(texts)
            for texts, score in zip(asked, self.subject.scorer.score(rows, spans)):
                found.append((score.log_p, score.greedy))
                self.cache_hook.add_partial("loglikelihood", texts, found[-1])
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """log p (nats) of each text, every token once."""
        totals = []
        for (text,) in (request.args for request in requests):
            tokens = self.tok_encode(text, add_special_tokens=False)
            windows = get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, 1)
            pairs = [(("", text), *make_disjoint_window(window)) for window in windows]
            totals.append(sum(log_p for log_p, _ in self._loglikelihood_tokens(pairs)))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        groups: dict[str, list[int]] = defaultdict(list)  # of equal settings: decoded together
        for i, request in enumerate(requests):
            groups[repr(sorted(request.args[1].items()))].append(i)
        texts = [""] * len(requests)
        for members in groups.values():
            settings = normalize_gen_kwargs(requests[members[0]].args[1], MAX_NEW_TOKENS)
            contexts = [requests[i].args[0] for i in members]
            for i, text in zip(members, self._generate(contexts, settings)):
                texts[i] = text
                self.cache_hook.add_partial("generate_until", requests[i].args, text)
        self.generations += 1
        return texts

    def _generate(self, contexts: list[str], settings: dict[str, Any]) -> list[str]:
        if strange := set(settings) - GENERATION_SETTINGS:
            raise UserError(
                f"this model has no generation setting {', '.join(sorted(strange))}: leave it out"
                " of the task or --gen_kwargs; it samples by temperature and top_k"
            )
        limit = settings["max_gen_toks"]
        if limit >= self.max_length:
            raise UserError(
                f"max_gen_toks = {limit} leaves no room for a prompt in the context of"
                f" {self.max_length}: lower it (--gen_kwargs max_gen_toks=N), or give model_args"
                " max_length=N"
            )
        prompts = [self.tok_encode(context)[-(self.max_length - limit) :] for context in contexts]
        model = GPTLanguageModel(
            self.subject.model, self.text, None, rows=self.rows, max_length=self.max_length
        )
        model.end_tokens = frozenset((self.eot_token_id,))
        sampling = Sampling(
            temperature=settings.get("temperature", 0.0),
            top_k=settings.get("top_k"),
            max_new_tokens=limit,
        )
        batch = Batch(prompts, self.seed, f"lm_eval/{self.generations}", rows=self.rows)
        texts = []
        for (completion,) in baselines.generate(model, batch, sampling):
            text = chat.completion_text(self.text, completion.tokens)
            ends = [text.find(stop) for stop in settings["until"] if stop and stop in text]
            texts.append(text[: min(ends, default=len(text))])
        return texts


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
