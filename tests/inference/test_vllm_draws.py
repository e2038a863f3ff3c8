"""Draws in vLLM's worker, without vLLM: the tokens and numbers of the scheduler's own draws."""

import pickle

import numpy
import pytest
import torch

from nanolab.inference.proposal import candidates, draw_tokens
from nanolab.inference.vllm_draws import DRAWINGS, Drawing, DrawingWorker, draw_rows
from nanolab.seeds import noise

END = 7
LAWS = [(0.7, None, 4.0), (0.7, 5, 4.0), (0.0, 1, 1.0)]


def logits(rows, seed=0):
    return torch.randn(rows, 50, generator=torch.Generator().manual_seed(seed)) * 3


def drawing(number=0, **changes):
    given = dict(law=LAWS[0], noise=noise(0, "test", number), address=(number, 2), start=3)
    return Drawing(**{"number": number, "ends": [END], **given, **changes})


@pytest.mark.parametrize("law", LAWS)
def test_the_drawn_token_wins_and_its_numbers_are_those_of_the_proposal(law):
    """Rows of other requests keep their logits."""
    raw = logits(6)
    mine = {row: drawing(row, law=law) for row in (1, 2, 5)}
    found = draw_rows(raw.clone(), mine)
    uniforms = [noise(0, "test", row)((row, 2, 3)) for row in mine]
    expected = draw_tokens(candidates(raw[[*mine]], law[1]), law, uniforms, [None] * 3)
    assert [one.record.numbers for one in mine.values()] == [[numbers] for numbers in expected]
    assert found.argmax(-1)[[*mine]].tolist() == [numbers[0] for numbers in expected]
    assert torch.equal(found[[0, 3, 4]], raw[[0, 3, 4]])


def test_rows_of_several_laws_are_drawn_together():
    raw = logits(4)
    mixed = {row: drawing(row, law=LAWS[row % 3]) for row in range(4)}
    draw_rows(raw.clone(), mixed)
    for row, one in mixed.items():
        alone = drawing(row, law=LAWS[row % 3])
        draw_rows(raw.clone()[[row]], {0: alone})
        assert alone.record.numbers == one.record.numbers


def test_a_draw_that_vllm_did_not_take_is_made_again():
    """After a part of a prompt, or where a request was set back."""
    one, again = drawing(floor=[-1e9] * 9), drawing(floor=[-1e9] * 9)
    draw_rows(logits(1, 1), {0: one})
    draw_rows(logits(1, 2), {0: one})  # nothing was taken
    draw_rows(logits(1, 2), {0: again})
    assert one.record.numbers == again.record.numbers and one.totals == again.totals


def test_the_kernel_chooses_the_first_token_alone():
    one = drawing(first=11)
    assert draw_rows(logits(1), {0: one}).argmax() == 11
    one.taken = [11]
    plain = drawing(start=4)
    assert draw_rows(logits(1), {0: one}).argmax() == draw_rows(logits(1), {0: plain}).argmax()


def test_below_the_floor_the_row_ends_and_the_record_keeps_the_drawn_token():
    """The floor bounds the sum of a, what came before the request included."""
    free = drawing()
    token = int(draw_rows(logits(1), {0: free}).argmax())
    a = free.record.numbers[0][3]
    before = 2, -1.5  # tokens, and their sum of a
    for floor, expected in ((a - 1.4, END), (a - 1.6, token)):
        one = drawing(floor=[0, 0, 0, floor], drawn=before[0], total=before[1])
        assert draw_rows(logits(1), {0: one}).argmax() == expected
        assert one.record.numbers[0][0] == token


def test_an_end_token_is_never_given_up():
    one = drawing(first=END, law=(1.0, None, 4.0), floor=[0.0, 1e9])
    assert draw_rows(logits(1), {0: one}).argmax() == END


def test_a_drawing_draws_the_same_in_another_process():
    """It is pickled on its way to a worker."""
    here, there = drawing(), pickle.loads(pickle.dumps(drawing()))
    for one in (here, there):
        draw_rows(logits(1), {0: one})
    assert here.record.numbers == there.record.numbers
    for mine, other in zip(here.record.choices[0], there.record.choices[0]):
        assert numpy.array_equal(mine, other)


def test_a_record_is_taken_once():
    DRAWINGS[5] = one = drawing(5)
    assert DrawingWorker().take_draws([5, 6]) == [one.record, None]
    assert DrawingWorker().take_draws([5]) == [None] and 5 not in DRAWINGS
