"""The GPT, its cache, its optimizers and the scaling rules."""
