"""The loop: schedules, exact resumption after a kill, the same losses in any world, and what a
diverging run says.
"""

import json
import math
import os
import socket
import subprocess
import sys

import pytest
import torch

from nanolab import artefacts
from nanolab.dist import World
from nanolab.errors import UserError
from nanolab.evals.bpb import BitsPerByte
from nanolab.model import checkpoint
from nanolab.model.gpt import GPT
from nanolab.model.optim import build_optimizers
from nanolab.model.scaling import derive
from nanolab.results import flat
from nanolab.settings.config import BaseTrainConfig
from nanolab.tracking.journal import NullRun
from nanolab.training.loop import Schedule, Trainer

SCALE = derive(
    BaseTrainConfig(
        depth=2, width=32, heads=2, kv_heads=1, sequence_length=16, batch_size=8, steps=20
    ),
    40,
)
SCHEDULE = Schedule(
    steps=20,
    batch_size=8,
    device_batch_size=8,
    warmup_steps=3,
    decay_share=0.5,
    eval_every=6,
    checkpoint_every=5,
)
WORLD = World(0, 1, torch.device("cpu"), torch.float32)
VALIDATION = ("validation/bits_per_byte", "validation/bits_per_byte_se")


class CountedRows:
    """Rows that follow from their number, a third of the targets without loss; counts what it gave,
    as a real cursor would.
    """

    length = 16

    def __init__(self):
        self.next = 0

    def rows(self, first, count):
        self.next = first + count
        ids = torch.stack(
            [(torch.arange(17) * (1 + row % 3) + row) % 40 for row in range(first, first + count)]
        )
        targets = ids[:, 1:].clone()
        targets[:, ::3] = -1
        return ids[:, :-1], targets

    def state(self):
        return {"next": self.next}

    def restore(self, state):
        self.next = state["next"]


def trainer(model, folder, schedule, rows, world, run, validate, made_by="test"):
    optimizers, facts = build_optimizers(model, SCALE), {"made_by": made_by}
    return Trainer(
        model=model,
        optimizers=optimizers,
        rows=rows,
        schedule=schedule,
        validate=validate,
        world=world,
        run=run,
        folder=folder,
        facts=facts,
    )


def trained(
    folder,
    schedule=SCHEDULE,
    rows=None,
    world=WORLD,
    validate=lambda: BitsPerByte(2.5, 0.25, 96, 8),
    seed=0,
):
    """A run from the same initial weights; gives the metrics returned, the run's record and the
    model.
    """
    torch.manual_seed(seed)
    model, run = GPT(SCALE.model), NullRun()
    rows = rows or CountedRows()
    metrics = trainer(model, folder, schedule, rows, world, run, validate).train()
    return flat(metrics), run, model


def curve(run, key="train/loss"):
    return {step: value for name, value, step in run.logged_metrics if name == key}


def test_a_run_learns_logs_validates_and_leaves_checkpoints(tmp_path, capsys):
    metrics, run, model = trained(tmp_path)
    losses = curve(run)
    assert (
        sorted(losses) == list(range(1, 21))
        and losses[1] == pytest.approx(math.log(40), abs=1e-4)
        and losses[20] < 0.7 * losses[1]
    )
    assert metrics["loss"] == pytest.approx((losses[19] + losses[20]) / 2) and (
        metrics["steps"],
        metrics["batch_size"],
    ) == (20, 8)
    assert metrics["loss_steps"] == 2 and metrics["loss_se"] == pytest.approx(
        abs(losses[19] - losses[20]) / 2
    )
    assert metrics["loss_tokens"] == 2 * 8 * 10  # of 16 targets a row every third has no loss
    assert (
        metrics["validation_bits_per_byte"] == 2.5
        and metrics["tokens"] == 20 * 8 * 16
        and metrics["tokens_per_second"] > 0
    )
    assert (
        metrics["validation_bits_per_byte_se"],
        metrics["validation_tokens"],
        metrics["validation_rows"],
    ) == (0.25, 96, 8)
    assert (
        sorted(curve(run, "validation/bits_per_byte"))
        == [6, 12, 18, 20]
        == sorted(curve(run, "validation/bits_per_byte_se"))
    )
    assert curve(run, "train/learning_rate_multiplier")[20] == pytest.approx(0.1)
    assert set(curve(run, "train/tokens_per_second")) == set(losses)
    assert artefacts.checkpoint_steps(tmp_path) == [5, 10, 15, 20]
    last, facts = checkpoint.load_model(tmp_path)
    assert facts["made_by"] == "test" and all(
        torch.equal(a, b) for a, b in zip(last.parameters(), model.parameters())
    )
    assert "step 20/20: loss" in capsys.readouterr().out


class KilledError(Exception):
    pass


class KilledRows(CountedRows):
    def rows(self, first, count):
        if first >= 13 * 8:
            raise KilledError
        return super().rows(first, count)


def test_a_killed_run_goes_on_with_the_very_losses_of_an_uninterrupted_one(tmp_path, capsys):
    _, whole, model = trained(tmp_path / "whole")
    with pytest.raises(KilledError):
        trained(tmp_path / "killed", rows=KilledRows())
    metrics, resumed, other = trained(tmp_path / "killed", seed=1)  # the seed no longer matters
    assert "resuming after step 10" in capsys.readouterr().out
    assert curve(resumed) == curve(whole)  # what its journal lacks comes from the checkpoint
    for other_curve in ("train/learning_rate_multiplier", *VALIDATION):
        assert curve(resumed, other_curve) == curve(whole, other_curve) != {}
    assert list(curve(resumed, "train/tokens_per_second")) == list(range(1, 21))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))
    assert (
        metrics["loss"] == (curve(whole)[19] + curve(whole)[20]) / 2
        and metrics["loss_tokens"] == 160
    )


def test_a_finished_run_is_not_trained_again(tmp_path):
    first, before, _ = trained(tmp_path)
    again, run, _ = trained(tmp_path, rows=KilledRows())  # which would end a training
    assert curve(run) == curve(before) and again["loss"] == first["loss"]
    assert all(curve(run, name) == curve(before, name) != {} for name in VALIDATION)


def test_the_curves_are_on_the_disk_before_a_checkpoint_that_would_go_on_behind_them(
    tmp_path, monkeypatch
):
    done, save = [], checkpoint.save
    monkeypatch.setattr(NullRun, "flush", lambda run: done.append("curves"))
    monkeypatch.setattr(checkpoint, "save", lambda *given: done.append("weights") or save(*given))
    trained(tmp_path)
    assert done == ["curves", "weights"] * 4  # after 5, 10, 15 and 20 steps


@pytest.mark.parametrize("device_batch_size", [1, 3, 8, 64])
def test_micro_batches_change_only_rounding(tmp_path, device_batch_size):
    whole = curve(trained(tmp_path / "whole")[1])
    parts = curve(trained(tmp_path / "parts", Schedule(20, 8, device_batch_size, 3, 0.5, 6, 5))[1])
    assert max(abs(whole[step] - parts[step]) for step in whole) < 1e-4


def test_the_learning_rate_warms_up_stays_and_falls():
    schedule = Schedule(100, 8, 8, 9, 0.5, 6, 5, 2.0)
    values = [schedule.learning_rate_multiplier(step) / 2 for step in range(100)]
    assert (
        values[0] == pytest.approx(0.1)
        and values[9:50] == [1.0] * 41
        and values[75] == pytest.approx(0.5)
    )
    assert values[99] == pytest.approx(0.05) and values[51:] == sorted(values[51:], reverse=True)
    assert Schedule(10, 8, 8, 0, 0.0, 6, 5).learning_rate_multiplier(9) == 1.0


def test_a_diverging_run_stops_and_names_the_last_good_checkpoint(tmp_path):
    torch.manual_seed(0)
    model, run = GPT(SCALE.model), NullRun()

    def break_model():  # at the first validation, after step 6
        model.head.weight.data.fill_(float("nan"))
        return BitsPerByte(1.0, 0.1, 96, 8)

    def diverge(folder, step):
        rows = CountedRows()
        trainer(model, folder, SCHEDULE, rows, WORLD, run, break_model, step).train()

    told = r"loss of step 7 is nan.*lower base_train.matrix_lr, .*checkpoint of step 5 is intact"
    with pytest.raises(UserError, match=told):
        diverge(tmp_path, "base_train")
    assert checkpoint.latest(tmp_path) == 5 and max(curve(run)) == 6
    with pytest.raises(
        UserError, match=r"lower sft.learning_rate_scale .*no checkpoint was written"
    ):
        model.head.weight.data.fill_(float("nan"))
        diverge(tmp_path / "none", "sft")


@pytest.mark.parametrize(
    "step, kept",
    [  # 5 and 10 are saved, 6 is validated
        (5, "no checkpoint was written yet"),
        (10, "checkpoint of step 5 is intact"),
        (6, "checkpoint of step 5 is intact"),
    ],
)
def test_weights_that_a_step_of_finite_loss_ruined_are_not_saved(tmp_path, step, kept):
    """Nor measured: validation is not asked for them."""
    torch.manual_seed(0)
    model, measured = GPT(SCALE.model), []

    def measure():
        measured.append(len(taken))
        return BitsPerByte(1.0, 0.1, 96, 8)

    training = trainer(
        model, tmp_path, SCHEDULE, CountedRows(), WORLD, NullRun(), measure, "base_train"
    )
    plain_step, taken = training.optimizers.step, []

    def ruinous_step(multiplier):
        plain_step(multiplier)
        taken.append(multiplier)
        if len(taken) == step:
            model.head.weight.data[0, 0] = float("inf")

    training.optimizers.step = ruinous_step
    said = rf"weights are not finite after step {step}: training diverged; .*{kept}"
    with pytest.raises(UserError, match=said):
        training.train()
    assert checkpoint.latest(tmp_path) == (None if step == 5 else 5) and step not in measured


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"batch_size = 8 .* 3 processes"):
        trained(tmp_path, world=World(0, 3, torch.device("cpu"), torch.float32))


RANK = """
import importlib.util, json, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("test_loop", sys.argv[1])
test_loop = importlib.util.module_from_spec(spec)
spec.loader.exec_module(test_loop)
from nanolab import dist
world = dist.open_world("cpu", "float32", threads=1)
_, run, _ = test_loop.trained(Path(sys.argv[2]), world=world)
dist.close_world(world)
print(json.dumps(list(test_loop.curve(run).values())))
"""


@pytest.mark.dist
@pytest.mark.parametrize("size", [2, 4])
def test_processes_give_the_losses_of_one(tmp_path, size):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(size):
        place = {
            "RANK": str(rank),
            "WORLD_SIZE": str(size),
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", RANK, __file__, str(tmp_path / "ranks")],
                env=os.environ | place,
                stdout=subprocess.PIPE,
            )
        )
    losses = [
        json.loads(process.communicate(timeout=240)[0].splitlines()[-1]) for process in processes
    ]
    alone = list(curve(trained(tmp_path / "alone")[1]).values())
    assert len(alone) == 20 and all(ranks == losses[0] for ranks in losses)
    assert max(abs(a - b) for a, b in zip(alone, losses[0])) < 1e-4
