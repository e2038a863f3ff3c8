"""One module per step: run(job, world, run) -> StepResult."""
