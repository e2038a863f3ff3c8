"""Text, tasks, tokenizer, chat rendering and batches."""
