"""From a network to model files that other runtimes read."""
