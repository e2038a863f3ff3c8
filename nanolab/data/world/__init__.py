"""The embedded procedural world, generated from a seed."""
