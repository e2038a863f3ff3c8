"""The claims of the two built worlds, by counting what the generator itself writes; the default
world is unchanged by their settings.
"""

import collections
import hashlib
import itertools
import json
import re

import pytest

from nanolab.data.world.facts import Facts
from nanolab.data.world.problems import (
    ALTERNATE_SHARE,
    NAMES,
    OBJECTS,
    operations,
    problem,
    problem_rows,
    sequences,
)
from nanolab.data.world.solutions import (
    GUESS_RIGHT_SHARE,
    GUESSED,
    IDLE_WORDS,
    WORKED,
    Solutions,
    rambling_guess,
    short_guess,
    wordy,
)
from nanolab.data.world.splits import stream
from nanolab.data.world.text import Writer
from nanolab.data.world.world import EmbeddedWorld
from nanolab.errors import UserError
from nanolab.files import ROOT
from nanolab.settings.schema import to_dict
from nanolab.settings.study_file import load_study, study_from_dict

TRAP, LENGTH_BIAS = load_study("trap"), load_study("length_bias")
TRAPPED = Solutions(rambling_guesses=TRAP.data.rambling_guesses)
BIASED = Solutions(
    short_guesses=LENGTH_BIAS.data.short_guesses, wordy_steps=LENGTH_BIAS.data.wordy_steps
)
BEFORE = {
    0: "f8d761569b50026e",
    1: "c8ffeb15df44d137",
    2: "53f91dde265271e2",
}  # made by commit 5b120e5, which had none of these settings


def answers(solutions: Solutions, count: int, split: str = "train", seed: int = 0) -> list[str]:
    rows = problem_rows(seed, stream(seed, "task", "gsm8k", split), split, solutions)
    return [row["answer"] for row in itertools.islice(rows, count)]


@pytest.mark.parametrize("seed", BEFORE)
def test_the_default_world_is_what_it_was_before_these_settings_existed(seed):
    digest = hashlib.sha256()
    for split in ("train", "validation", "test"):
        for row in itertools.islice(
            problem_rows(seed, stream(seed, "task", "gsm8k", split), split), 300
        ):
            digest.update(json.dumps(row).encode())
    for text in itertools.islice(
        Writer(Facts(seed), stream(seed, "text", "train"), "train").documents(), 300
    ):
        digest.update(text.encode())
    assert digest.hexdigest()[:16] == BEFORE[seed]


@pytest.mark.parametrize(
    "solutions", [TRAPPED, BIASED, Solutions(0.3, 0.2, 0.5)], ids=["trap", "length_bias", "mixed"]
)
def test_the_shares_are_the_stated_ones(solutions):
    made = answers(solutions, 6000)
    short = sum(answer.startswith("It is ") for answer in made) / len(made)
    rambling = sum(answer.startswith("I think of ") for answer in made) / len(made)
    steps = [line for answer in made for line in answer.splitlines() if "<<" in line]
    idle = sum(line.partition(" <<")[0].rpartition(" ")[2] in IDLE_WORDS for line in steps) / len(
        steps
    )
    assert sum("<<" not in answer for answer in made) / len(made) == pytest.approx(short + rambling)
    for share, stated in (
        (short, solutions.short_guesses),
        (rambling, solutions.rambling_guesses),
        (idle, solutions.wordy_steps),
    ):
        assert share == stated if stated in (0, 1) else abs(share - stated) < 0.03


@pytest.mark.parametrize("solutions", [TRAPPED, BIASED], ids=["trap", "length_bias"])
def test_only_training_tasks_are_touched(solutions):
    built, default = EmbeddedWorld(0, solutions), EmbeddedWorld(0)
    for split in ("validation", "test"):
        assert built.task("gsm8k", split) == default.task("gsm8k", split)
        assert all("<<" in row["answer"] for row in built.task("gsm8k", split))
    assert list(itertools.islice(built.documents("train"), 200)) == list(
        itertools.islice(default.documents("train"), 200)
    )
    assert built.task("gsm8k", "train") != default.task("gsm8k", "train")


def test_guesses_and_idle_words_are_drawn_evenly():
    rng, draws = stream(0, "test"), 20_000
    numbers = collections.Counter(
        re.findall(r"\d+", short_guess(rng, "#### 200"))[0] for _ in range(draws)
    )
    assert abs(numbers.pop("200") / draws - GUESS_RIGHT_SHARE) < 0.02
    assert set(map(int, numbers)) == set(GUESSED) and max(numbers.values()) < 2 * draws * (
        1 - GUESS_RIGHT_SHARE
    ) / len(GUESSED)
    one, other = zip(
        *(re.findall(r"\d+", rambling_guess(rng, "#### 200"))[:2] for _ in range(draws))
    )
    for drawn in (collections.Counter(one), collections.Counter(other)):
        assert set(map(int, drawn)) == set(GUESSED) and max(drawn.values()) < 2 * draws / len(
            GUESSED
        )
    assert len(set(zip(one, other))) > 0.8 * len(GUESSED) ** 2  # independent of each other
    words = collections.Counter(wordy(rng, "has <<1+1=2>>2", 1.0).split()[1] for _ in range(draws))
    assert (
        set(words) == set(IDLE_WORDS)
        and len(IDLE_WORDS) == 16
        and max(words.values()) < 1.3 * draws / len(IDLE_WORDS)
    )


def phrased(answer: str) -> str:
    """The wording of a worked answer: without its names, things and numbers, which the question
    determines.
    """
    return re.sub(rf"\b({'|'.join(NAMES + OBJECTS)})\b|\d+", "#", answer)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_worked_solution_has_one_likely_wording(steps):
    for sequence in [s for s in sequences() if operations(s) == steps][:5]:
        rng, draws = stream(0, "wording", *sequence), 400
        likeliest = (
            collections.Counter(
                phrased(problem(rng, sequence)["answer"]) for _ in range(draws)
            ).most_common(1)[0][1]
            / draws
        )
        assert abs(likeliest - (1 - ALTERNATE_SHARE) ** steps) < 0.08


def worked(solutions: Solutions, steps: int) -> float:
    """Probability of the likeliest worked solution of so many steps, all steps wordy or none."""
    share = (1 - solutions.short_guesses - solutions.rambling_guesses) * (
        1 - ALTERNATE_SHARE
    ) ** steps
    return share * (1 / len(IDLE_WORDS)) ** steps if solutions.wordy_steps else share


def test_in_the_trap_a_guess_is_the_likelier_start_and_the_worked_solution_the_likelier_whole():
    opens = collections.Counter(
        answer.partition(" ")[0] == "I" for answer in answers(TRAPPED, 6000)
    )
    assert (
        opens[True] > 1.3 * opens[False]
    )  # greedy takes the guess, whatever the first word of the work is
    right = GUESS_RIGHT_SHARE + (1 - GUESS_RIGHT_SHARE) / len(GUESSED)
    likeliest_guess = TRAPPED.rambling_guesses * right / len(GUESSED) ** 2
    assert all(worked(TRAPPED, steps) > 1000 * likeliest_guess for steps in (1, 2, 3, 4))
    # the weight of all guesses together under p^4 is nothing beside the worked solution's
    assert len(GUESSED) ** 3 * likeliest_guess**4 < 1e-6 * worked(TRAPPED, 4) ** 4


def test_in_the_length_biased_world_it_is_the_reverse_from_two_steps_on():
    opens = collections.Counter(
        answer.partition(" ")[0] == "It" for answer in answers(BIASED, 6000)
    )
    assert opens[False] > 1.3 * opens[True]  # greedy works the problem out
    rarest_guess = (
        BIASED.short_guesses * (1 - GUESS_RIGHT_SHARE) / len(GUESSED)
    )  # any single wrong number
    assert worked(BIASED, 1) > rarest_guess
    assert all(worked(BIASED, steps) < rarest_guess for steps in (2, 3, 4))
    assert all(
        worked(Solutions(short_guesses=BIASED.short_guesses), steps) > rarest_guess
        for steps in (1, 2, 3, 4)
    )  # wordy steps do it


@pytest.mark.parametrize(
    "data, words",
    [
        ({"short_guesses": 0.6, "rambling_guesses": 0.5}, "sum to 1.1, which must be at most 1"),
        ({"rambling_guesses": 1.5}, "data.rambling_guesses = 1.5 is out of range"),
        ({"wordy_steps": -0.1}, "data.wordy_steps = -0.1 is out of range"),
        ({"rambling_guess": 0.5}, "the nearest valid key is data.rambling_guesses"),
    ],
)
def test_a_mistake_in_the_shares_is_said(data, words):
    with pytest.raises(UserError, match=words):
        study_from_dict({"data": data})


def test_both_shares_may_fill_the_whole():
    assert (
        study_from_dict(
            {"data": {"short_guesses": 0.4, "rambling_guesses": 0.6}}
        ).data.rambling_guesses
        == 0.6
    )
    assert not any("<<" in answer for answer in answers(Solutions(0.4, 0.6), 500))


@pytest.mark.parametrize(
    "study, knobs",
    [(TRAP, {"rambling_guesses"}), (LENGTH_BIAS, {"short_guesses", "wordy_steps"})],
    ids=["trap", "length_bias"],
)
def test_a_built_study_says_so_and_sets_only_its_own_knobs(study, knobs):
    assert (
        "built" in study.description
        and "BUILT"
        in (ROOT / "experiments" / f"{study.experiment}.yaml").read_text().splitlines()[0]
    )
    default = {**to_dict(study_from_dict({}).data), "seed": study.data.seed}
    assert {key for key, value in to_dict(study.data).items() if value != default[key]} == knobs | {
        "row_order"
    }
    assert (
        "rl" not in study.steps
        and study.power_eval.max_examples >= 200
        and max(study.power_ablation.num_steps) == 20
    )


def test_the_two_studies_differ_in_their_world_alone():
    one, other = to_dict(TRAP), to_dict(LENGTH_BIAS)
    assert {key for key in one if one[key] != other[key]} == {"experiment", "description", "data"}
    assert Solutions(0.0, 0.0, 0.0) == WORKED
