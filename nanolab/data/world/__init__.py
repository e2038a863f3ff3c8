"""The embedded procedural world: text, problems, choices, programs and chats generated from a seed."""
