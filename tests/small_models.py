"""A GPT of random weights that likes to call its tool and to end, and the plain form of what is
recorded of each token.
"""

import numpy
import torch

from nanolab.data.tokens.tokenizer import Tokenizer
from nanolab.inference.gpt_engine import GPTLanguageModel
from nanolab.inference.proposal import candidates, draw, kept_tokens
from nanolab.model.gpt import GPT
from nanolab.model.scaling import GPTConfig
from nanolab.seeds import generator

TOKENIZER = Tokenizer([bytes([i]) for i in range(256)])


class EchoTools:
    """A tool whose output depends on the call, of several tokens."""

    def output(self, call):
        return f"{len(call)}!"


def random_gpt(**config):
    """A GPT of random weights that tell tokens apart."""
    usual = dict(sequence_length=128, depth=2, width=32, heads=4, kv_heads=2)
    model = GPT(GPTConfig(**usual | config))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=1.5 * weight.shape[-1] ** -0.5)
    return model


def tiny(kv_heads=2, seed=0):
    torch.manual_seed(seed)
    model = random_gpt(vocab_size=TOKENIZER.vocab_size, kv_heads=kv_heads)
    with torch.no_grad():
        for token, scale in (
            (TOKENIZER.python_start, 3),
            (TOKENIZER.python_end, 3),
            (TOKENIZER.assistant_end, 2),
        ):
            model.head.weight[token] *= scale
    return model


def language_model(model, **changes):
    usual = {"rows": 8, "max_length": 100}
    return GPTLanguageModel(model, TOKENIZER, EchoTools(), **usual | changes)


def prompts(count, longest=40):
    random = generator("prompts", count)
    return [random.integers(0, 256, random.integers(1, longest)).tolist() for _ in range(count)]


def log_p_log_q(logits, tokens, temperature, top_k):
    """log p, log q and log Z_T (each (n,) float64, nats) of `tokens` (n) at logits (n, vocab); log
    q is -inf where q cannot reach.
    """
    kept = candidates(logits, kept_tokens(temperature, top_k))
    everything = candidates(logits, None).log_p.astype(numpy.float64)
    wanted = numpy.asarray(tokens, dtype=numpy.int64)
    log_p = everything[numpy.arange(len(wanted)), wanted]
    _, log_z = draw(kept.log_p, temperature, numpy.zeros(len(wanted)))
    reachable = (kept.ids == wanted[:, None]).any(-1)
    return log_p, numpy.where(reachable, log_p / (temperature or 1.0) - log_z, -numpy.inf), log_z


def rescored(model, prompt, completion, temperature, top_k):
    """log p and log q of a completion's chosen tokens by one full forward."""
    with torch.no_grad():
        logits = model.logits(model.trunk(torch.tensor([prompt + completion.tokens])))
    logits = logits[0, len(prompt) - 1 : -1]
    log_p, log_q, _ = log_p_log_q(logits, completion.tokens, temperature, top_k)
    chosen = [not forced for forced in completion.forced]
    return log_p[chosen], log_q[chosen]


class Work:
    """Counts what a model is asked to forward from now on: positions, decodes, and their rows."""

    def __init__(self, model):
        self.positions = self.decodes = self.rows = 0
        prefill, decode = model.prefill, model.decode

        def counted_prefill(prompts):
            self.positions += sum(len(prompt) - 1 for prompt in prompts)
            return prefill(prompts)

        def counted_decode(rows, tokens):
            self.positions += sum(map(len, tokens))
            self.decodes += 1
            self.rows += len(rows)
            return decode(rows, tokens)

        model.prefill, model.decode = counted_prefill, counted_decode
