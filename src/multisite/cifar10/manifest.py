"""What the networks' weights are, for whoever has no PyTorch: names, shapes and type of every array of a state dict.

A test compares it with the networks themselves (`cifar10/model.py`).
"""

from __future__ import annotations

DTYPE = "float32"  # of every array

Shapes = dict[str, tuple[int, ...]]

SHAPES: dict[str, Shapes] = {
    "light": {
        "layers.1.weight": (32, 12, 3, 3), "layers.3.weight": (32,), "layers.3.bias": (32,),
        "layers.5.weight": (64, 32, 3, 3), "layers.7.weight": (64,), "layers.7.bias": (64,),
        "layers.9.weight": (128, 64, 3, 3), "layers.10.weight": (128,), "layers.10.bias": (128,),
        "head.weight": (10, 128), "head.bias": (10,),
    },
    "compact": {
        "layers.0.weight": (24, 3, 3, 3), "layers.2.weight": (24,), "layers.2.bias": (24,),
        "layers.4.weight": (48, 24, 3, 3), "layers.6.weight": (48,), "layers.6.bias": (48,),
        "layers.8.weight": (64, 48, 3, 3), "layers.9.weight": (64,), "layers.9.bias": (64,),
        "layers.11.weight": (96, 64, 3, 3), "layers.13.weight": (96,), "layers.13.bias": (96,),
        "head.weight": (10, 96), "head.bias": (10,),
    },
    "moderate": {
        "features.0.weight": (32, 3, 3, 3), "features.1.weight": (32,), "features.1.bias": (32,),
        "features.3.weight": (64, 32, 3, 3), "features.5.weight": (64,), "features.5.bias": (64,),
        "features.7.weight": (128, 64, 3, 3), "features.8.weight": (128,), "features.8.bias": (128,),
        "features.10.weight": (128, 128, 3, 3), "features.12.weight": (128,), "features.12.bias": (128,),
        "features.14.weight": (256, 128, 3, 3), "features.15.weight": (256,), "features.15.bias": (256,),
        "features.17.weight": (256, 256, 3, 3), "features.19.weight": (256,), "features.19.bias": (256,),
        "classifier.1.weight": (512, 4096), "classifier.1.bias": (512,),
        "classifier.3.weight": (512, 512), "classifier.3.bias": (512,),
        "classifier.5.weight": (10, 512), "classifier.5.bias": (10,),
    },
    "upstream": {
        "features.0.weight": (6, 3, 5, 5), "features.0.bias": (6,), "features.3.weight": (16, 6, 5, 5), "features.3.bias": (16,),
        "classifier.1.weight": (120, 400), "classifier.1.bias": (120,),
        "classifier.3.weight": (84, 120), "classifier.3.bias": (84,),
        "classifier.5.weight": (10, 84), "classifier.5.bias": (10,),
    },
}  # fmt: skip
