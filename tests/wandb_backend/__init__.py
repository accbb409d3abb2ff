"""A stand-in for the Weights & Biases backend, for tests only.

The real wandb SDK accepts it in online mode and with ``wandb sync``. It checks API keys, records what arrived and
from whom, and can be told to fail. ``server`` and ``__main__`` run it; ``client`` reads what it recorded.
"""
