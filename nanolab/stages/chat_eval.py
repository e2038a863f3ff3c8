"""Steps chat_eval_mid, chat_eval_sft, chat_eval_rl and chat_eval_hf: the chat tasks in chat format,
and ChatCORE.
"""

from nanolab.data.tasks.catalogue import TASKS
from nanolab.dist import World
from nanolab.errors import UserError
from nanolab.evals import model_facts
from nanolab.evals.base import mean_centred
from nanolab.evals.evaluation import Evaluation
from nanolab.evals.subject import in_dtype
from nanolab.results import StepResult, scalars
from nanolab.sandbox.programs import strongest_level
from nanolab.settings.config import Job
from nanolab.tracking.journal import Run


def run(job: Job, world: World, run: Run) -> StepResult:
    """Each task's accuracy, ChatCORE, and the level of the sandbox where programs were run."""
    config, evaluation = job.config, Evaluation.of(job, world, run)
    if config.answers > 1 and config.temperature == 0:
        raise UserError(
            f"chat_eval.answers = {config.answers} at temperature 0 would draw the same answer each"
            " time; set chat_eval.temperature above 0, or answers to 1"
        )
    in_dtype(evaluation.subject, config.dtype)
    drawn = {key: getattr(config, key) for key in ("temperature", "top_k", "answers")}
    asking = evaluation.asking(**drawn)
    results = evaluation.chat_tasks(asking)
    mean = mean_centred(results)
    evaluation.say(f"ChatCORE of the {config.source} model: {mean:.4f}")
    rows = [row for result in results for row in result.scores()]
    runs_programs = any(TASKS[task].kind == "program" for task in config.tasks)
    facts = {"sandbox": str(strongest_level())} if runs_programs else {}
    facts |= evaluation.facts(config.tasks[0])
    told = model_facts.of_outside(evaluation, asking)
    return StepResult(rows + scalars(chat_core=mean) + told.rows, facts | told.facts)
