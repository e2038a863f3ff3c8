"""ARC-Easy and ARC-Challenge (Clark et al. 2018): science questions of three to five choices."""

from nanolab.data.tasks import checks
from nanolab.data.tasks.graders import CHOICE, LETTERS
from nanolab.data.tasks.task import Form, Published, Question, Row, Task


def labelled_question(row: Row) -> Question:
    """An ARC row, its labels (some rows have 1, 2, 3, 4) renamed to A, B, C, D."""
    labels, choices = list(row["choices"]["label"]), list(row["choices"]["text"])
    letters = list(LETTERS[: len(choices)])
    return Question(row["question"], choices, letters, letters[labels.index(row["answerKey"])])


def check_labelled(row: Row, split: str) -> None:
    """Choices {text, label} of one length, and the label of the right one."""
    checks.text("question", row["question"])
    choices, key = row["choices"], row["answerKey"]
    if not isinstance(choices, dict) or not {"text", "label"} <= set(choices):
        checks.refuse("choices", choices, "a mapping of text and label, two lists")
    texts, labels = choices["text"], choices["label"]
    checks.texts("choices.text", texts, len(LETTERS))
    checks.texts("choices.label", labels)
    if len(texts) != len(labels):
        raise checks.Fault(
            f"choices has {len(texts)} texts and {len(labels)} labels {checks.quoted(labels)}, "
            "each text must have one label"
        )
    if len(set(labels)) < len(labels):
        checks.refuse("choices.label", labels, "different labels")
    checks.text("answerKey", key)
    if key not in labels:
        checks.refuse("answerKey", key, f"one of the labels {checks.quoted(labels)}")


LABELLED = Form(CHOICE, ("question", "choices", "answerKey"), check_labelled, labelled_question)


def _arc(name: str, label: str, config: str, problems: int) -> Task:
    revision = "210d026faf9955653af8916fad021475a3f00453"
    return Task(
        name=name,
        label=label,
        form=LABELLED,
        published=Published("allenai/ai2_arc", config, revision, config),
        splits=("train", "validation", "test"),
        problems=problems,
        public_tokens=(60, 4),
        embedded_tokens=(60, 16),
    )


TASKS = (
    _arc("arc_easy", "ARC-Easy", "ARC-Easy", 2376),
    _arc("arc_challenge", "ARC-Challenge", "ARC-Challenge", 1172),
)
