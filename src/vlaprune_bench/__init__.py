"""One benchmark for training-free visual-token pruning of vision-language-action models."""

from vlaprune_bench.store import load_calls, load_results

__version__ = "0.1.0"
__all__ = ["load_calls", "load_results"]
