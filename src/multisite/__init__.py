"""A multi-site NVIDIA FLARE deployment: CIFAR-10 FedAvg in containers, with metrics in Weights & Biases.

Imports run one way: console -> federation -> {cifar10, tracking} -> text.
"""
