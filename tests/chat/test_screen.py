"""Claims about nanolab/chat/screen.py and the command `chat`: commands switch settings, a terminal
gets colours, mistakes are one line.
"""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from nanolab.__main__ import main
from nanolab.chat.answer import Answer, ChatSettings
from nanolab.chat.screen import (
    ENDS,
    EXAMPLE,
    SWITCHES,
    Screen,
    cost,
    styled,
    switched,
)
from nanolab.chat.session import Session
from nanolab.chat.trained import load_for_chat
from nanolab.errors import UserError

PARTS = [
    {"type": "text", "text": "It is "},
    {"type": "python", "text": "48/2"},
    {"type": "output", "text": "24"},
    {"type": "text", "text": "24."},
    {"type": "python", "text": "1+"},
]


def talk(study, lines, **console):
    """What a conversation prints; an exception among the lines is raised by the reader."""

    def read():
        line = lines.pop(0) if lines else EOFError()
        if isinstance(line, BaseException):
            raise line
        return line

    out, session = io.StringIO(), Session(*load_for_chat(study, "sft"))
    settings = ChatSettings(max_new_tokens=16)
    Screen(
        session,
        settings,
        Console(file=out, highlight=False, width=200, **console),
        lambda source: session,
    ).talk(read)
    return out.getvalue()


def test_power_4_10_switches_the_sampler():
    new = switched(ChatSettings(seed=5), "power", ["4", "10"])
    assert (new.sampler, new.alpha, new.num_steps, new.temperature, new.seed) == (
        "power",
        4.0,
        10,
        0.7,
        5,
    )
    assert (
        switched(new, "greedy", []).sampler == "greedy"
        and switched(new, "sample", ["1", "20"]).top_k == 20
    )
    assert switched(new, "seed", ["9"]).sampler == "power"


@pytest.mark.parametrize(
    "command, words, message",
    [
        ("power", ["x"], "alpha = 'x' must be a number"),
        ("power", ["1"] * 4, "/power takes 3 value.s.: /power ALPHA NUM_STEPS TEMPERATURE"),
        ("power", ["0.5"], "alpha = 0.5 is out of range"),
        ("greedy", ["1"], "/greedy takes 0 value"),
        ("seed", [], "/seed takes 1 value.s.: /seed SEED"),
        ("best", ["1.5"], "samples = 1.5 must be a whole number"),
    ],
)
def test_a_wrong_word_is_refused(command, words, message):
    with pytest.raises(UserError, match=message):
        switched(ChatSettings(), command, words)


def test_tool_calls_read_as_in_a_text():
    assert styled(PARTS).plain == "It is <<48/2=24>>24.<<1+>>"
    assert (
        len({str(span.style) for span in styled(PARTS).spans if str(span.style)}) == 2
    )  # calls, and their outputs


def test_a_conversation_goes_on_after_mistakes_and_interrupts(trained_study):
    out = talk(
        trained_study,
        [
            "Hello",
            KeyboardInterrupt(),
            "/power 4 2",
            "Hello",
            "/nonsense",
            "/power 0",
            "/new",
            "/help",
            "/quit",
            "x",
        ],
    )
    assert out.count(" positions, ") == 2 and "2 steps accepted" in out
    for line in (
        "Ctrl-D or /quit ends",
        "power, alpha 4, 2 steps",
        "unknown command '/nonsense'",
        "alpha = 0.0 is out of range",
    ):
        assert line in out
    assert "\x1b" not in out  # no terminal, no colours


def test_a_conversation_begins_with_a_question_of_the_model_s_world_and_ends_as_people_end_things(
    trained_study,
):
    for end in ENDS:
        out = talk(trained_study, [end, "/greedy"])
        assert f"for example: {EXAMPLE}" in out and out.count("greedy") == 1, end  # the greeting's


def test_a_limit_beyond_the_context_is_said(trained_study):
    assert "model's context does: 96 tokens" in talk(trained_study, ["/tokens 99999"])
    assert "context does" not in talk(trained_study, ["/tokens 20"])


def test_one_vote_is_no_votes():
    answer = Answer("a", [], -1.0, 3, 9, 0.1, True, "majority of 1", votes=1)
    assert "1 vote]" in cost(answer) and "2 votes]" in cost(replace(answer, votes=2))


def test_a_terminal_gets_colours_and_NO_COLOR_takes_them(trained_study, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[2m" in talk(trained_study, ["/power 4 2", "Hello"], force_terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[33m" not in talk(trained_study, ["/power 4 2", "Hello"], force_terminal=True)


def test_every_command_of_the_help_is_one(trained_study):
    assert all(f"/{name}" in talk(trained_study, ["/help"]) for name in SWITCHES)


def test_one_answer_as_json_equals_the_conversation_s(trained_study, capsys):
    command = [
        "chat",
        "tiny",
        "--prompt",
        "Hello",
        "--json",
        "--sampler",
        "power",
        "--set",
        "num_steps=2",
        "--set",
        "max_new_tokens=16",
    ]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    own = (
        Session(*load_for_chat("tiny", None))
        .answer("Hello", ChatSettings("power", num_steps=2, max_new_tokens=16))
        .to_dict()
    )
    assert found.pop("model") == "tiny, sft, step 7"
    assert {**found, "seconds": 0} == {**own, "seconds": 0}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["chat"], "no trained model in"),
        (["chat", "--json"], "--json needs --prompt"),
        (["chat", "--set", "alpha"], "must have the form"),
        (["chat", "--set", "alfa=1"], "the nearest valid key is alpha"),
        (["register", "smoke"], "has no finished chat model"),
    ],
)
def test_mistakes_are_one_line(store, capsys, arguments, message):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
