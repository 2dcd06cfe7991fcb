"""Parts of scripts/train_tiny.py: data, network, optimisation, held-out rollouts."""
