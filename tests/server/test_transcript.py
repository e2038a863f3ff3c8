"""What is shown of a growing answer stays, and adds up to the whole."""

import pytest
from small_models import TOKENIZER

from nanolab.seeds import generator
from nanolab.server.transcript import Transcript

ALPHABET = [
    *TOKENIZER.encode("ab\n\n\u00e9\u2192\U0001f600"),
    TOKENIZER.python_start,
    TOKENIZER.assistant_start,
]


@pytest.mark.parametrize("paragraph", [False, True])
@pytest.mark.parametrize("stops", [[], ["aba"], ["a", "bb\n"], ["\u2192", "\n"]])
def test_what_is_settled_is_a_start_of_every_later_text(stops, paragraph):
    random = generator("transcript", len(stops))
    transcript = Transcript(TOKENIZER, stops, paragraph)
    for _ in range(60):
        tokens, shown = [], ""
        for token in random.choice(ALPHABET, 20).tolist():
            tokens.append(token)
            settled = transcript.settled(tokens)
            assert settled.startswith(shown)
            shown = settled
            if transcript.read(tokens)[1]:
                break
        whole = transcript.final(tokens)
        assert whole.startswith(shown.rstrip("\n") if paragraph else shown)
        assert not any(stop in whole for stop in stops)


def test_a_call_is_shown_once_its_output_is_known():
    start, end = TOKENIZER.python_start, TOKENIZER.python_end
    marks = TOKENIZER.output_start, TOKENIZER.output_end
    call = [start, *TOKENIZER.encode("1+1"), end]
    transcript = Transcript(TOKENIZER, [])
    assert transcript.settled(call) == "<<1+1"
    done = [*call, marks[0], *TOKENIZER.encode("2"), marks[1], *TOKENIZER.encode("!")]
    assert transcript.settled(done) == "<<1+1=2>>!"
