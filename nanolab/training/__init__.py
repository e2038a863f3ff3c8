"""The one training loop and GRPO."""
