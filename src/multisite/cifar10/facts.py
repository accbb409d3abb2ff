"""What somebody has to know of CIFAR-10 to use a model that was trained on it. Standard library only."""

from __future__ import annotations

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = (125.3, 123.0, 113.9)  # of a pixel's red, green and blue in the training set, in 0..255
STD = (63.0, 62.1, 66.7)
INPUT = "float32 [N, 3, 32, 32], RGB: (pixel in 0..255 - mean) / std"


def described(network: str) -> dict[str, str]:
    """For a model's file: what its network is, what goes in, and what comes out."""
    return {
        "network": network,
        "input": INPUT,
        "mean": " ".join(map(str, MEAN)),
        "std": " ".join(map(str, STD)),
        "output": "float32 [N, 10], a logit for each class",
        "classes": " ".join(CLASS_NAMES),
    }
