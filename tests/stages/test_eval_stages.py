"""The evaluating stages and RL on an untrained tiny model: keys, records, resumption, and that GRPO
raises what it rewards.
"""

import dataclasses
import itertools
import json
import math

import pandas
import pytest
import torch

from nanolab import artefacts, results
from nanolab.data.sources.source import open_source
from nanolab.data.tasks.catalogue import TASKS as KNOWN
from nanolab.data.tasks.sets.gsm8k import PROBLEM
from nanolab.data.tasks.task import Published, Task
from nanolab.data.tokens.tokenizer import Tokenizer, train_tokenizer
from nanolab.dist import World
from nanolab.errors import UserError
from nanolab.evals.evaluation import Evaluation
from nanolab.model import checkpoint, scaling
from nanolab.model.gpt import GPT
from nanolab.results import Score
from nanolab.settings.config import (
    BaseEvalConfig,
    BaseTrainConfig,
    ChatEvalConfig,
    DataConfig,
    Job,
    PowerAblationConfig,
    PowerEvalConfig,
    RlConfig,
    StudyConfig,
)
from nanolab.settings.study_file import load_study
from nanolab.stages import base_eval, chat_eval, power_ablation, power_eval, rl
from nanolab.tracking.journal import NullRun

WORLD = World(0, 1, torch.device("cpu"), torch.float32)
STUDY = StudyConfig(
    base_train=BaseTrainConfig(
        depth=2, width=32, heads=2, kv_heads=1, sequence_length=128, steps=10, batch_size=4
    )
)
TASKS = ["arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval"]
RESULT_KEYS = ("", "/n", "/passed", "/low", "/high", "/chance")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Work folders of a tokenizer and of a random model under every training step's name."""
    folder = tmp_path_factory.mktemp("inputs")
    source = open_source(STUDY.data)
    texts = [document.text for document in itertools.islice(source.documents("train"), 2000)]
    tokenizer = train_tokenizer(iter(texts), 400)
    tokenizer.save(folder / "tokenizer")
    torch.manual_seed(0)
    model = GPT(scaling.derive(STUDY.base_train, tokenizer.vocab_size).model)
    for matrix in (
        model.head.weight,
        *(block.attention.output.weight for block in model.blocks),
    ):  # they start at zero
        torch.nn.init.normal_(matrix, std=0.2)
    checkpoint.save(folder / "checkpoints", 1, model, {}, {"tokenizer_digest": tokenizer.digest})
    artefacts.write_result(folder, "sft", {}, 0.0)
    return dict.fromkeys(("tok_train", "base_train", "mid_train", "sft", "rl"), folder)


def run(stage, step, config, folder, inputs):
    folder.mkdir(exist_ok=True)
    record = NullRun()
    return kept(step, stage.run(Job(step, STUDY, config, folder, inputs), WORLD, record)), record


def kept(step, result):
    """The flat values of a result, which its rows give back from JSON and from MLflow."""
    values = result.flat()
    again = results.from_json(json.loads(json.dumps(results.to_json(result.rows))))
    assert again == result.rows and results.flat(again).items() <= values.items()
    assert results.flat(results.read_flat(step, values)) == results.flat(result.rows)
    return values


def check_metrics(metrics):
    assert all(isinstance(value, (int, float, str)) for value in metrics.values()), metrics
    assert json.loads(json.dumps(metrics)) == metrics and metrics["data"] == "embedded"


def test_base_eval_gives_core_and_every_task_and_reenters_without_work(tmp_path, inputs, capsys):
    config = BaseEvalConfig(
        core_examples=4, max_examples=4, gsm8k_examples=5, max_new_tokens=8, num_samples=2
    )
    metrics, record = run(base_eval, "base_eval", config, tmp_path, inputs)
    check_metrics(metrics)
    assert {f"{task}{key}" for task in TASKS for key in RESULT_KEYS} < set(metrics)
    core = [key.split("/")[1] for key in metrics if key.startswith("core/") and key.count("/") == 1]
    centred = [
        (metrics[f"core/{name}"] - metrics[f"core/{name}/chance"])
        / (1 - metrics[f"core/{name}/chance"])
        for name in core
    ]
    assert metrics["CORE"] == pytest.approx(sum(centred) / len(centred)) and len(core) >= 3
    assert metrics["core_covers"] == "6 of 6 tasks; at most 4 examples a task"
    assert metrics["core_cropped"] == 0 and "core_faults" not in metrics
    assert len(record.tables["text_samples.json"]) == 2 and len(record.tables["samples.json"]) == 4
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()}
    assert run(base_eval, "base_eval", config, tmp_path, inputs)[0] == metrics
    assert set(before) == {path.name for path in (tmp_path / "records").iterdir()}


def test_a_task_that_is_one_entry_of_the_catalogue_is_evaluated(tmp_path, inputs, monkeypatch):
    """A made-up task, read from a folder and asked of a chat model and, after shots, of a base
    model.
    """
    published = Published("my-lab/sums", "main", "0" * 40, "main")
    task = Task("sums", "Sums", PROBLEM, published, ("train", "test"), 4, (9, 9))
    monkeypatch.setitem(KNOWN, "sums", task)
    rows = [{"question": f"{i} + 1?", "answer": f"#### {i + 1}"} for i in range(4)]
    folder = tmp_path / "data" / published.local_folder
    folder.mkdir(parents=True)
    for split in task.splits:
        pandas.DataFrame(rows).to_parquet(folder / f"{split}.parquet")
    study = dataclasses.replace(STUDY, data=DataConfig(source="local", root=str(tmp_path / "data")))
    config = ChatEvalConfig(tasks=["sums"], max_new_tokens=8, num_samples=1)
    record = NullRun()
    found = chat_eval.run(Job("chat", study, config, tmp_path, inputs), WORLD, record).flat()
    assert (
        found["sums/n"] == 4 and found["sums/chance"] == 0 and found["chat_core"] == found["sums"]
    )
    assert record.tables["samples.json"][0]["prompt"] == "0 + 1?"
    asked = BaseEvalConfig(tasks=["sums"], max_new_tokens=8, num_shots=2)
    job = Job("base", study, asked, tmp_path, inputs)
    evaluation = Evaluation.of(job, WORLD, NullRun(), "base")
    questions = evaluation.questions("sums", rows, evaluation.asking())
    assert questions.text(0).count("Question: ") == 3 and questions.text(0).endswith("1?\nAnswer:")


def test_core_of_a_folder_says_what_its_mean_covers(tmp_path, inputs):
    """Three of the four tasks of a small bundle have data; a second time every record is there
    already.
    """
    study = dataclasses.replace(STUDY, data=DataConfig(source="local", root="tests/data/tiny"))
    job = Job("base_eval", study, BaseEvalConfig(core_examples=None), tmp_path, inputs)
    evaluation = Evaluation.of(job, WORLD, NullRun(), "base")
    metrics = base_eval.evaluate_core(evaluation).flat()
    assert (
        metrics["core_covers"]
        == "3 of 4 tasks; no data for tiny_absent; tiny_pronouns has 2 of 5 rows"
    )
    assert (
        metrics["core/tiny_letters/n"],
        metrics["core/tiny_words/n"],
        metrics["core_unscored"],
    ) == (3, 2, 0)
    assert metrics["CORE"] == pytest.approx(
        sum(
            (metrics[f"core/{name}"] - chance) / (1 - chance)
            for name, chance in (
                ("tiny_letters", 0.25),
                ("tiny_pronouns", 0.5),
                ("tiny_words", 0.0),
            )
        )
        / 3
    )
    path = tmp_path / "records" / "core_tiny_letters.jsonl"
    before = path.read_text()
    assert base_eval.evaluate_core(evaluation).flat() == metrics and path.read_text() == before


def test_named_core_tasks_are_asked_alone_and_have_no_mean(tmp_path, inputs):
    study = dataclasses.replace(STUDY, data=DataConfig(source="local", root="tests/data/tiny"))

    def evaluated(*names):
        config = BaseEvalConfig(core_examples=None, core_tasks=list(names))
        job = Job("base_eval", study, config, tmp_path, inputs)
        return base_eval.evaluate_core(Evaluation.of(job, WORLD, NullRun())).flat()

    found = evaluated("tiny_pronouns")
    assert "core/tiny_pronouns" in found and "CORE" not in found
    assert not [key for key in found if not key.startswith("core/tiny_pronouns")]
    with pytest.raises(
        UserError, match="names 'tiny_absent', of which there are no rows: the data"
    ):
        evaluated("tiny_absent")


def test_chat_eval_has_the_five_tasks_and_chat_core(tmp_path, inputs):
    config = ChatEvalConfig(
        max_examples=5, gsm8k_examples=None, max_new_tokens=8, num_samples=1, batch_rows=8
    )
    metrics, record = run(chat_eval, "chat_eval_sft", config, tmp_path, inputs)
    check_metrics(metrics)
    assert {f"{task}{key}" for task in TASKS for key in RESULT_KEYS} | {"chat_core"} < set(metrics)
    assert {d["name"] for d in record.datasets} == set(TASKS)
    assert (
        record.logged_params["rows.gsm8k.test"].startswith("5 of ")
        and "the first; 0 repeat" in record.logged_params["rows.gsm8k.test"]
    )
    other = ChatEvalConfig(
        max_examples=5, gsm8k_examples=None, max_new_tokens=8, num_samples=1, batch_rows=2
    )
    assert run(chat_eval, "chat_eval_sft", other, tmp_path / "other", inputs)[0] == metrics


POWER = PowerEvalConfig(num_steps=2, max_examples=6, max_new_tokens=8, best_of=3, batch_rows=8)


def test_chat_models_are_asked_the_word_problems_of_power_sampling(tmp_path, inputs):
    """So that the columns of the summary's GSM8K row are of the same problems, whatever the other
    tasks take.
    """
    chat_config = ChatEvalConfig(
        tasks=["gsm8k", "mmlu"], max_examples=4, gsm8k_examples=6, max_new_tokens=8, num_samples=1
    )
    chats, asked = run(chat_eval, "chat_eval_sft", chat_config, tmp_path, inputs)
    power, drawn = run(power_eval, "power_eval", POWER, tmp_path / "power", inputs)
    assert chats["gsm8k/n"] == power["total"] == 6 and chats["mmlu/n"] == 4
    assert asked.logged_params["problems.gsm8k.test"] == drawn.logged_params["problems.gsm8k.test"]
    assert asked.logged_params["problems.gsm8k.test"] != asked.logged_params["problems.mmlu.test"]
    # and so greedy answers, asked at the same length, are the same ones
    assert chats["gsm8k"] == power["greedy/accuracy"]


def test_the_default_study_asks_every_model_the_same_word_problems():
    study = load_study("smoke")
    # and the curve of base training ends on the rows that base_loss measures
    assert study.base_train.eval_tokens == study.base_eval.loss_tokens
    counts = {
        study.chat_eval.gsm8k_examples,
        study.base_eval.gsm8k_examples,
        study.power_eval.max_examples,
    }
    assert len(counts) == 1


def test_power_eval_reports_every_method_on_the_same_problems_and_resumes(tmp_path, inputs):
    metrics, record = run(power_eval, "power_eval", POWER, tmp_path, inputs)
    check_metrics(metrics)
    assert {"gsm8k", "passed", "total", "low", "high", "acceptance", "positions_per_problem"} < set(
        metrics
    )
    for method in ("greedy", "low_temperature", "plain", "best_of", "majority"):
        keys = ("accuracy", "passed", "total", "low", "high", "positions_per_problem", "p_value")
        assert {f"{method}/{key}" for key in keys} < set(metrics)
    assert metrics["total"] == metrics["greedy/total"] == 6
    assert metrics["best_of/positions_per_problem"] > metrics["plain/positions_per_problem"]
    lines = [json.loads(line) for line in (tmp_path / "problems.jsonl").read_text().splitlines()]
    assert len(lines) == 6 == len(record.tables["problems.json"])
    path = tmp_path / "records" / "power.jsonl"
    whole = path.read_text().splitlines()
    path.write_text("\n".join(whole[1::2]) + "\n")  # half of it lost
    assert run(power_eval, "power_eval", POWER, tmp_path, inputs)[0] == metrics
    for line, expected in zip(path.read_text().splitlines(), whole, strict=True):
        again, first = json.loads(line), json.loads(expected)
        assert again.pop("log_p") == pytest.approx(
            first.pop("log_p"), abs=1e-4
        )  # a smaller batch may round differently
        assert again == first


def test_power_ablation_makes_a_point_of_every_setting_and_baseline(tmp_path, inputs):
    grid = [
        {"alpha": [1.0, 4.0], "temperature": [0.7]},
        {"alpha": [4.0], "temperature": [0.25, 0.7]},
    ]
    config = PowerAblationConfig(
        grid=grid, num_steps=[0, 2], max_examples=4, max_new_tokens=8, best_of=[1, 2]
    )
    metrics, record = run(power_ablation, "power_ablation", config, tmp_path, inputs)
    check_metrics(metrics)
    power = {
        name: point
        for name, point in record.points.items()
        if point.logged_params["method"] == "power"
    }
    assert len(power) == metrics["points"] == 3 * 2
    assert {
        (p.logged_params["alpha"], p.logged_params["temperature"], p.logged_params["num_steps"])
        for p in power.values()
    } == {(a, t, s) for a, t in ((1.0, 0.7), (4.0, 0.7), (4.0, 0.25)) for s in (0, 2)}
    for point in power.values():
        keys = {key for key, _, step in point.logged_metrics if step is None}
        assert keys >= {"accuracy", "low", "high", "passed", "total", "positions_per_problem"}
        assert ("acceptance" in keys) == (point.logged_params["num_steps"] > 0)
    best = max(
        value
        for point in power.values()
        for key, value, step in point.logged_metrics
        if key == "accuracy" and step is None
    )
    assert (
        metrics["best_accuracy"] == best
        and 0 <= metrics["best_low"] <= best <= metrics["best_high"] <= 1
    )
    assert (
        metrics["baseline_positions_per_problem"] <= metrics["best_positions_per_problem"]
        and 0 < metrics["baseline_p_value"] <= 1
    )
    others = {
        (p.logged_params["method"], p.logged_params["samples"])
        for n, p in record.points.items()
        if n not in power
    }
    assert others == {
        ("greedy", 1),
        ("low_temperature", 1),
        ("plain", 1),
        ("best_of", 2),
        ("majority", 2),
    }
    numeric = {
        "alpha",
        "temperature",
        "num_steps",
        "samples",
    }  # so that all points stand in one plot of parallel coordinates
    assert all(
        set(p.logged_params) == {"method"} | numeric
        and all(isinstance(p.logged_params[key], (int, float)) for key in numeric)
        for p in record.points.values()
    )
    assert {
        n
        for n, p in record.points.items()
        if "log_p" not in {key for key, _, _ in p.logged_metrics}
    } == {"majority n=2"}
    names = {
        "accuracy_by_alpha",
        "accuracy_by_steps",
        "accuracy_by_positions",
        "acceptance_by_step",
    }
    assert (
        set(record.figures) == {f"plots/{name}.png" for name in names}
        and (tmp_path / "ablation.csv").is_file()
    )


def test_a_selected_point_stands_beside_the_best_baseline_at_no_more_cost():
    def found(method, passed, positions, **setting):
        records = [{"passed": index < passed} for index in range(10)]
        of = {"method": method, "settings": setting, "positions": positions}
        score = Score("accuracy", passed / 10, low=0.0, high=1.0, **of)
        return power_ablation.Point(score, records)

    points = [
        found("power", 6, 400.0, alpha=4.0),
        found("smc", 7, 900.0, alpha=4.0, n=16),
        found("smc", 7, 500.0, alpha=2.0, n=4),
    ]
    beside = [
        found("greedy", 3, 90.0, n=1),
        found("majority", 5, 480.0, n=8),
        found("best_of", 9, 501.0, n=16),
    ]
    metrics = results.flat(power_ablation.selected(points, beside))
    assert (metrics["best_accuracy"], metrics["best_method"], metrics["best_alpha"]) == (
        0.7,
        "smc",
        2.0,
    )  # of equals the cheaper
    assert (
        metrics["baseline_accuracy"],
        metrics["baseline_method"],
        metrics["baseline_among"],
    ) == (0.5, "majority of 8", 2)
    assert metrics["baseline_p_value"] == 0.5  # two problems more, none less: 2 / 2^2
    none = results.flat(power_ablation.selected(points, beside[2:]))
    assert "baseline_accuracy" not in none and none["baseline_among"] == 0
    four = results.flat(power_ablation.selected(points, [found("best_of", 5, 480.0, n=4)]))
    assert four["baseline_method"] == "best of 4"


def test_power_eval_runs_chains_and_particles_and_keeps_every_chains_life(tmp_path, inputs):
    config = PowerEvalConfig(
        num_steps=3,
        max_examples=5,
        max_new_tokens=8,
        best_of=2,
        batch_rows=8,
        chains=2,
        particles=3,
    )
    metrics, record = run(power_eval, "power_eval", config, tmp_path, inputs)
    check_metrics(metrics)
    assert {
        "smc/accuracy",
        "chain_vote/accuracy",
        "most_likely/accuracy",
        "converged",
        "log_p_drift",
        "r_hat",
    } < set(metrics)
    assert {"power/pass_at_1", "power/pass_at_2", "plain/pass_at_1", "plain/pass_at_2"} < set(
        metrics
    )
    lives = [json.loads(line) for line in (tmp_path / "chains.jsonl").read_text().splitlines()]
    assert [(life["index"], life["chain"]) for life in lives] == [
        (i, c) for i in range(5) for c in range(2)
    ]
    assert all(len(life["steps"]) == 3 and len(life["log_p_by_step"]) == 4 for life in lives)
    for life in lives:  # what was kept and what was redrawn lead from the first state to the last
        state = life["first"]
        for one in life["steps"]:
            state = one["kept"] + one["proposal"] if one["accepted"] else state
        assert state == life["text"] or "\ufffd" in state  # a cut inside of a character
    assert len(record.tables["chains.json"]) == 5 * 2 * 3
    assert set(record.figures) == {
        f"plots/{n}.png"
        for n in ("acceptance_by_cut", "log_p_trajectories", "log_p_reliability", "pass_at_k")
    }


@pytest.mark.parametrize(
    "step, changes, key",
    [
        ("power_eval_base", {"source": "base", "num_shots": 1}, "gsm8k"),
        ("power_eval_code", {"task": "humaneval"}, "humaneval"),
        ("power_eval", {"num_steps": 0}, "gsm8k"),
    ],
)
def test_power_eval_on_another_source_and_task(tmp_path, inputs, step, changes, key):
    config = PowerEvalConfig(
        **{**dict(num_steps=1, max_examples=3, max_new_tokens=6, best_of=2), **changes}
    )
    metrics, _ = run(power_eval, step, config, tmp_path, inputs)
    check_metrics(metrics)
    assert (
        metrics["total"] == 3
        and 0 <= metrics[key] <= 1
        and metrics["power/pass_at_1"] == metrics[key]
    )
    line = json.loads((tmp_path / "problems.jsonl").read_text().splitlines()[0])
    assert set(line["methods"]) >= {
        "power",
        "greedy",
        "plain",
        "best_of",
        "majority",
        "low_temperature",
        "most_likely",
    }


@pytest.mark.parametrize("dtype, most", [("float32", 1e-4), ("bfloat16", 1.0)])
def test_power_eval_says_how_exact_its_recorded_numbers_are(tmp_path, inputs, dtype, most):
    config = PowerEvalConfig(
        num_steps=1, max_examples=3, max_new_tokens=120, best_of=1, dtype=dtype
    )
    metrics, _ = run(power_eval, "power_eval", config, tmp_path, inputs)
    assert 0 < metrics["log_p_error"] < most
    assert (
        metrics["beyond_context"] > 0
    )  # 128 positions were trained, a prompt and 120 tokens are more


def test_a_prompt_without_room_is_refused_with_the_numbers(tmp_path, inputs, monkeypatch):
    monkeypatch.setattr("nanolab.evals.subject.Subject.context", 20)
    with pytest.raises(
        UserError,
        match=r"gsm8k problem .* has a prompt of .* tokens, which leaves no room in the 20 tokens",
    ):
        run(
            power_eval,
            "power_eval",
            PowerEvalConfig(max_examples=3, max_new_tokens=8),
            tmp_path,
            inputs,
        )
    with pytest.raises(
        UserError,
        match=r"max_new_tokens = 21 .* sft was trained on: set max_new_tokens to at most 20, or",
    ):
        run(
            power_eval,
            "power_eval",
            PowerEvalConfig(max_examples=3, max_new_tokens=21),
            tmp_path,
            inputs,
        )


def test_logits_that_are_not_numbers_name_the_checkpoint(tmp_path, inputs):
    tokenizer = Tokenizer.load(inputs["sft"] / "tokenizer")
    model, _ = checkpoint.load_model(
        inputs["sft"] / "checkpoints", None, WORLD.device, tokenizer.digest
    )
    torch.nn.init.constant_(model.head.weight, float("nan"))
    checkpoint.save(tmp_path / "checkpoints", 7, model, {}, {"tokenizer_digest": tokenizer.digest})
    artefacts.write_result(tmp_path, "sft", {}, 0.0)
    with pytest.raises(UserError, match=r"logits of sft, step 7 of .*checkpoints are not finite"):
        run(
            power_eval,
            "power_eval",
            PowerEvalConfig(max_examples=2, max_new_tokens=8),
            tmp_path / "step",
            inputs | {"sft": tmp_path},
        )


def test_power_ablation_compares_samplers(tmp_path, inputs):
    grid = [
        {"alpha": [4.0], "temperature": [0.7], "restart_prob": [0.0, 0.5], "num_blocks": [1, 2]},
        {"sampler": ["smc"], "alpha": [4.0], "temperature": [0.7], "particles": [2, 3]},
        {
            "sampler": ["rollout"],
            "alpha": [4.0],
            "temperature": [1.0],
            "rollouts": [2],
            "horizon": [2],
        },
    ]
    config = PowerAblationConfig(
        grid=grid, num_steps=[0, 2], max_examples=3, max_new_tokens=8, best_of=[1, 2]
    )
    metrics, record = run(power_ablation, "power_ablation", config, tmp_path, inputs)
    check_metrics(metrics)
    assert (
        metrics["points"] == 2 * 2 + 2 * 1 + 2 + 1
    )  # of two blocks only the whole schedule is a point
    samplers = [
        (p.logged_params["method"], p.logged_params["samples"]) for p in record.points.values()
    ]
    assert samplers.count(("power", 1)) == 6 and {("smc", 2), ("smc", 3), ("rollout", 2)} < set(
        samplers
    )
    assert len({name for name in record.points}) == len(record.points) == 9 + 5
    own = {
        "method",
        "alpha",
        "temperature",
        "num_steps",
        "samples",
    }  # and what the grid varies of a sampler
    assert all(
        set(p.logged_params) - own
        == ({"restart_prob", "num_blocks"} if p.logged_params["method"] == "power" else set())
        for p in record.points.values()
    )
    assert all("p_value" in {key for key, _, _ in p.logged_metrics} for p in record.points.values())
    assert all(
        "positions_per_problem" in {key for key, _, _ in p.logged_metrics}
        for p in record.points.values()
    )


RL = RlConfig(
    steps=4,
    problems_per_step=3,
    group_size=4,
    max_new_tokens=4,
    checkpoint_every=2,
    max_examples=4,
    dtype="float32",
    learning_rate_scale=1.0,
)


def reward_low_ids(tokenizer, row, completion):
    """A reward that an untrained model sometimes gets: the first token is a byte below 128."""
    return float(completion.tokens[0] < 128)


def test_grpo_raises_the_reward(tmp_path, inputs, monkeypatch):
    monkeypatch.setattr(rl, "reward_of", reward_low_ids)
    config = dataclasses.replace(
        RL, steps=12, problems_per_step=4, group_size=8, max_new_tokens=2, checkpoint_every=50
    )
    metrics, record = run(rl, "rl", config, tmp_path, inputs)
    check_metrics(metrics)
    assert metrics["status"] == "finished" and metrics["steps"] == 12
    assert metrics["reward_last"] > metrics["reward_first"] + 0.2
    for way in ("greedy", "sampled"):
        assert {f"{way}/{key}" for key in ("before", "after", "p_value", "n")} < set(metrics)
    assert [step for key, _, step in record.logged_metrics if key == "train/reward"] == list(
        range(1, 13)
    )


def test_rl_resumes_exactly(tmp_path, inputs, monkeypatch):
    monkeypatch.setattr(rl, "reward_of", reward_low_ids)
    whole, _ = run(rl, "rl", RL, tmp_path / "whole", inputs)

    class Killed(Exception):
        pass

    collect = rl.collect

    def killed(job, world, subject, rows, update):
        if update == 3:
            raise Killed
        return collect(job, world, subject, rows, update)

    monkeypatch.setattr(rl, "collect", killed)
    with pytest.raises(Killed):
        run(rl, "rl", RL, tmp_path / "parts", inputs)
    monkeypatch.setattr(rl, "collect", collect)
    resumed, record = run(rl, "rl", RL, tmp_path / "parts", inputs)
    assert resumed == whole
    steps = [step for key, _, step in record.logged_metrics if key == "train/reward"]
    assert steps == [1, 2, 3, 4]  # 1 and 2 from the checkpoint
    for name, value in (
        checkpoint.load_model(tmp_path / "whole" / "checkpoints")[0].state_dict().items()
    ):
        assert torch.equal(
            value, checkpoint.load_model(tmp_path / "parts" / "checkpoints")[0].state_dict()[name]
        ), name


def test_no_update_where_no_rollout_is_better_than_its_group(tmp_path, inputs, monkeypatch):
    monkeypatch.setattr(rl, "reward_of", lambda *given: 0.0)
    run(rl, "rl", RL, tmp_path, inputs)
    before, after = (
        checkpoint.load_model(folder / "checkpoints")[0].state_dict()
        for folder in (inputs["sft"], tmp_path)
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("stage", "step", "config"),
    [
        (chat_eval, "chat_eval_sft", ChatEvalConfig()),
        (power_eval, "power_eval", POWER),
        (rl, "rl", RL),
    ],
)
def test_a_missing_or_foreign_model_is_one_clear_line(tmp_path, inputs, stage, step, config):
    with pytest.raises(UserError, match="has no result"):
        run(stage, step, config, tmp_path / "a", inputs | {"sft": tmp_path})
    train_tokenizer(
        iter(
            ["another text, another vocabulary " * 3 + str(math.pi)] * 9
            + [str(i) for i in range(9999)]
        ),
        280,
    ).save(tmp_path / "tokenizer")
    artefacts.write_result(tmp_path, "tok_train", {}, 0.0)
    with pytest.raises(UserError, match="tokenizer"):
        run(stage, step, config, tmp_path / "b", inputs | {"tok_train": tmp_path})
