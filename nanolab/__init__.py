"""nanolab trains a small chat model from raw text to reinforcement learning and studies power
sampling on it.
"""

__version__ = "0.1.0"
