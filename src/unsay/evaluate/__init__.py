"""Score a model on a dataset through lm-eval, and with every metric of our own."""
