"""The learning task: CIFAR-10's shards, the networks, training and evaluation. Knows PyTorch, knows nothing of federation."""
