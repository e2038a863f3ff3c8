"""The GPT, its optimizers and the scaling rules."""
