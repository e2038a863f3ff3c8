"""How results are called and written: the table of metrics, the labels of tasks, methods and
models, and the one home of numbers, intervals and durations. No torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nanolab.data.tasks import catalogue
from nanolab.results import Score
from nanolab.settings.model_source import is_outside, title
from nanolab.statistics import INFINITE

# a task's label in reports: its name in settings and results
TASK_LABELS = {task.label: name for name, task in catalogue.TASKS.items()}
TASKS = {task: label for label, task in TASK_LABELS.items()}
MODEL_LABELS = {"base": "base", "mid": "mid", "sft": "SFT", "rl": "RL"}
METHOD_LABELS = {
    "greedy": "greedy",
    "low_temperature": "low temperature",
    "plain": "plain sample",
    "best_of": "best of n",
    "majority": "majority vote",
    "smc": "SMC",
    "rollout": "rollouts",
    "chain_vote": "vote of chains",
    "most_likely": "most likely state",
}
METHODS = {"power": "power sampling", **METHOD_LABELS}
RL_WAYS = {"greedy": "greedy", "sampled": "sampled at T = 1"}
# what stands for nothing: MLflow keeps a parameter that is None as text
MISSING = (None, "", "None", "null")


def model_label(model: str) -> str:
    """What a model is called: one trained here by its step, one from outside by its short name."""
    return MODEL_LABELS.get(model) or (title(model) if is_outside(model) else model)


def is_missing(value: Any) -> bool:
    """Whether a value stands for nothing."""
    return value in MISSING


# ---- numbers: a format belongs to a metric, never to the Python type (MLflow keeps text)

Format = Callable[[Any], str]


def text(value: Any) -> str:
    """The value as it is."""
    return str(value)


def whole(value: Any) -> str:
    """A whole number without commas, also from "400" or 400.0."""
    return str(round(float(value)))


def number(form: str) -> Format:
    """A writer of numbers by a format specification."""
    return lambda value: format(float(value), form)


def decimals(places: int) -> Format:
    """A writer with a fixed number of decimal places."""
    return number(f".{places}f")


def plain_float(value: Any) -> str:
    """A float as Python writes it: 4.0."""
    return repr(float(value))


def ratio(value: Any) -> str:
    """A number with 2 decimal places that may be infinite, also as the largest float, which MLflow
    makes of it.
    """
    return f"{float(value):.2f}" if float(value) < INFINITE else "infinite"


share, p_value = decimals(4), number(".3g")


def or_dash(value: Any, format: Format = text) -> str:
    """The value as `format` writes it, "-" where there is none."""
    return "-" if is_missing(value) else format(value)


def interval(row: Score) -> str:
    """A 95% interval, "0.4000 to 0.6000"."""
    return f"{share(row.low)} to {share(row.high)}"


def passed_of(row: Score) -> str:
    """ "40 of 100"."""
    return f"{whole(row.passed)} of {whole(row.n)}"


def short(number: float) -> str:
    """1,234,567 as 1.23M; "-" for nothing."""
    if not number:
        return "-"
    rounded = float(f"{number:.3g}")  # 999,999 is 1M
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if rounded >= size:
            return f"{rounded / size:.3g}{letter}"
    return f"{number:.0f}"


def size(number: float) -> str:
    """Bytes as a person reads them: "1.5 GiB", "20.0 MiB", "512 B"."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= scale:
            return f"{number / scale:.1f} {unit}"
    return f"{number:.0f} B"


# ---- durations: all take seconds


def hours_and_minutes(seconds: float | None) -> str:
    """3h51m; "-" for an unknown time."""
    if seconds is None:
        return "-"
    minutes = int(seconds) // 60
    return f"{minutes // 60}h{minutes % 60:02d}m"


def duration(seconds: float | None) -> str:
    """Seconds below two minutes, minutes below an hour, else 3h51m; "-" for an unknown time."""
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def rough_duration(seconds: float) -> str:
    """Seconds, minutes or hours: "53 s", "12 min", "1.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def clock(seconds: float) -> str:
    """What was measured: 8.4 s, 3:05, 2:10:00."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


# ---- the table of metrics


@dataclass(frozen=True)
class Metric:
    """How a metric, or a setting that reports show, is called and written."""

    label: str
    report: Format = whole  # with all the digits that mean something
    unit: str = ""
    compared: bool = False  # stands in the table of `compare`


BITS = {"report": share, "compared": True}

METRICS = {  # by flat name, or by the metric of a row
    # tokenizer
    "vocab_size": Metric("tokens"),
    "max_chars": Metric("characters asked for"),
    "characters": Metric("characters read"),
    "compression_ratio": Metric("bytes a token", decimals(2), compared=True),
    "bits_per_char": Metric("bits a character", decimals(2), compared=True),
    "coverage": Metric("coverage", decimals(1), "%", compared=True),
    "vocabulary_use": Metric("vocabulary use", decimals(1), "%"),
    "compared_with": Metric("compared with", text),
    # training
    "loss": Metric("loss", decimals(3), unit="nats a token", compared=True),
    "loss_se": Metric("loss, standard error", share),
    "loss_tokens": Metric("tokens of the loss"),
    "bits_per_byte": Metric("bits per byte", **BITS),
    "train_bits_per_byte": Metric("train bits per byte", **BITS),
    "train_bits_per_byte_se": Metric("train bits per byte, standard error", share),
    "train_tokens": Metric("train tokens"),
    "validation_bits_per_byte": Metric("validation bits per byte", **BITS),
    "validation_bits_per_byte_se": Metric("validation bits per byte, standard error", share),
    "validation_tokens": Metric("validation tokens"),
    "steps": Metric("steps"),
    "batch_size": Metric("batch size", unit="sequences"),
    "tokens": Metric("tokens"),
    "tokens_per_second": Metric("tokens/s", compared=True),
    "positions_per_second": Metric("positions/s", compared=True),
    "parameters": Metric("parameters"),
    "mfu": Metric("MFU", decimals(3)),
    # tasks
    "CORE": Metric("CORE", share, compared=True),
    "core_covers": Metric("CORE covers", text),
    "core_cropped": Metric("CORE examples cropped to the context"),
    "core_faults": Metric("known faults of CORE's data", text),
    "chat_core": Metric("ChatCORE", share, compared=True),
    "accuracy": Metric("accuracy", share),
    "accuracy_sum": Metric("accuracy by summed log p", share),
    "accuracy_norm": Metric("accuracy by log p a character", share),
    **{task: Metric(label, share) for task, label in TASKS.items()},
    "cut_share": Metric("answers cut at the limit", share),
    "no_answer_share": Metric("texts without an answer", share),
    "commonest_choice_share": Metric("share of the commonest letter", share),
    "passed": Metric("passed"),
    "total": Metric("problems"),
    "p_value": Metric("McNemar p", p_value),
    # sampling
    "served_by": Metric("computed by", text),
    "positions_per_problem": Metric("positions a problem", decimals(1)),
    "acceptance": Metric("acceptance", decimals(3), compared=True),
    "effective_moves": Metric("effective moves a step", decimals(3), compared=True),
    "early_rejected": Metric("early rejected", decimals(3)),
    "chains": Metric("chains"),
    "autocorrelation_1": Metric("autocorrelation of log p at lag 1", decimals(3)),
    "effective_sample_size": Metric("effective samples a chain", decimals(1)),
    "log_p_drift": Metric("drift of log p", decimals(3), unit="nats"),
    "log_p_drift_se": Metric("its standard error", decimals(3)),
    "r_hat": Metric("R-hat", ratio),
    "beyond_context": Metric("answers beyond the context of training"),
    "log_p_error": Metric("largest error of log p", number(".1e"), unit="nats"),
    # ablation
    "points": Metric("chosen among points"),
    "problems": Metric("problems a point"),
    "best_accuracy": Metric("accuracy of the best point", share),
    "best_alpha": Metric("at alpha", number("g")),
    "best_temperature": Metric("T", number("g")),
    "best_num_steps": Metric("steps", number("g")),
    "baseline_accuracy": Metric("best baseline at no more cost", share),
    # reinforcement learning
    "status": Metric("status", text),
    "greedy/before": Metric("greedy before", share),
    "greedy/after": Metric("greedy after", share),
    "sampled/before": Metric("sampled before", share),
    "sampled/after": Metric("sampled after", share),
    "reward_first": Metric("reward, first 3 updates", share),
    "reward_last": Metric("reward, last 3 updates", share, compared=True),
    "steps_reported": Metric("steps reported"),
    # settings
    **{name: Metric(name, text) for name in ("source", "model_tag", "subset", "split")},
    **{
        name: Metric(name, plain_float)
        for name in ("alpha", "temperature", "tool_timeout", "restart_prob", "low_temperature")
    },
    **{
        name: Metric(name)
        for name in (
            "step",
            "num_steps",
            "top_k",
            "max_new_tokens",
            "seed",
            "tool_max_output_tokens",
            "max_examples",
            "num_blocks",
            "best_of",
        )
    },
}
# shares among METRICS, which notebooks write as percentages
PERCENTAGES = {
    *TASKS,
    *("accuracy", "mfu", "acceptance", "best_accuracy", "baseline_accuracy"),
    *("reward_first", "reward_last"),
    *("greedy/before", "greedy/after", "sampled/before", "sampled/after"),
}
