"""A multi-site NVIDIA FLARE deployment: CIFAR-10 FedAvg in containers, with metrics in Weights & Biases.

Imports run one way: console, admin, node -> job, provisioning -> tracking, cifar10 -> text. `nvflare_patches` imports none of them.
"""
