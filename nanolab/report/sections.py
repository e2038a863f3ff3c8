"""What the sections of a report say, in order: which metrics and settings, and how each is called
there.
"""

from nanolab.settings.evaluation_stages import CHAT_TASKS
from nanolab.wording import TASK_LABELS, TASKS

SUMMARY_LABELS = {**TASK_LABELS, "CORE": "CORE", "ChatCORE metric": "chat_core"}
SUMMARY_COLUMNS = {
    "BASE": "base_eval",
    "MID": "chat_eval_mid",
    "SFT": "chat_eval_sft",
    "POWER": "power_eval",
    "RL": "chat_eval_rl",
}
Lines = dict[str, str]  # metric or setting -> its label
# heading, step, lines of the reference report, lines of ours that appear only with their value
Section = tuple[str, str, Lines, Lines]


def _named(keys: str) -> Lines:
    """Lines whose label is the name itself."""
    return {key: key for key in keys.split()}


USUAL: Lines = {name: TASKS[name] for name in CHAT_TASKS}
OTHERS: Lines = {name: label for name, label in TASKS.items() if name not in USUAL}
CHAT_LINES: Lines = {**USUAL, "chat_core": "ChatCORE metric"}
LOSS_BITS: Lines = {
    "train_bits_per_byte": "train bits per byte",
    "train_bits_per_byte_se": "train bits per byte, standard error over rows",
    "train_tokens": "train tokens",
    "validation_bits_per_byte": "validation bits per byte",
    "validation_bits_per_byte_se": "validation bits per byte, standard error over rows",
    "validation_tokens": "validation tokens",
}
TRAINING: Lines = {
    "loss_se": "loss, standard error over its steps",
    "loss_tokens": "tokens of the loss",
    "validation_bits_per_byte": "final validation bits per byte",
    "validation_bits_per_byte_se": "final validation bits per byte, standard error over rows",
    "validation_tokens": "validation tokens",
    **_named("parameters tokens tokens_per_second mfu"),
}
POWER: Lines = {
    **_named("source model_tag step alpha num_steps temperature top_k max_new_tokens seed"),
    **_named("tool_timeout tool_max_output_tokens max_examples subset split"),
    "gsm8k": "GSM8K",
    **_named("passed total"),
}
SAMPLING: Lines = {
    **_named("restart_prob num_blocks acceptance"),
    "effective_moves": "effective moves",
    "early_rejected": "early rejected",
    "chains": "chains",
    "autocorrelation_1": "autocorrelation of log p at lag 1",
    "effective_sample_size": "effective sample size of a chain",
    "log_p_drift": "log p drift, nats",
    "log_p_drift_se": "log p drift, standard error",
    "r_hat": "R-hat",
    "served_by": "computed by, and positions counted by",
    "positions_per_problem": "positions per problem",
    "beyond_context": "answers beyond the context of training",
    "log_p_error": "largest error of a recorded log p, nats",
    **_named("low_temperature best_of"),
}
RL: Lines = {
    **_named("steps"),
    "reward_first": "reward of the first 3 updates",
    "reward_last": "reward of the last 3 updates",
}
CORE: Lines = {
    "core_covers": "CORE covers",
    "core_cropped": "CORE examples cropped to the context",
    "core_faults": "known faults of CORE's data",
}
VOCABULARY: Lines = {
    "vocabulary_use": "vocabulary use, % of tokens",
    "compared_with": "compared with",
}
UNSET = {"step": "latest", "max_examples": "all"}  # what stands for a missing value, if not "-"

# in the order of the report
SECTIONS: list[Section] = [
    ("Tokenizer training", "tok_train", _named("vocab_size max_chars compression_ratio"), {}),
    ("Tokenizer evaluation", "tok_eval", _named("bits_per_char coverage"), VOCABULARY),
    ("Base model training", "base_train", _named("steps batch_size loss"), TRAINING),
    ("Base model loss", "base_loss", _named("CORE"), LOSS_BITS),
    ("Base model evaluation", "base_eval", {**_named("CORE"), **USUAL}, {**OTHERS, **CORE}),
    ("Midtraining", "mid_train", _named("steps loss"), TRAINING),
    ("Chat evaluation mid", "chat_eval_mid", CHAT_LINES, OTHERS),
    ("Chat SFT", "sft", _named("steps loss"), TRAINING),
    ("Chat evaluation sft", "chat_eval_sft", CHAT_LINES, OTHERS),
    ("Chat evaluation", "chat_eval_hf", {**_named("source"), **CHAT_LINES}, OTHERS),
    ("Power sampling evaluation", "power_eval", POWER, SAMPLING),
    ("Power sampling ablations", "power_ablation", {}, _named("problems")),
    ("Chat RL", "rl", _named("status"), RL),
    ("Chat evaluation rl", "chat_eval_rl", CHAT_LINES, OTHERS),
]
