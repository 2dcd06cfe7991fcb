"""A call through the layers of a language model: what leaves, what is kept, what is looked at."""
