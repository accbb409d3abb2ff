"""Metrics on their way to Weights & Biases. Knows nothing of CIFAR-10."""
