"""Evaluations: bits per byte, CORE-style tasks, chat tasks."""
