"""Self-supervised vision from raw pictures to a fairness verdict: the system of the SEER papers as a toolkit."""

__version__ = "0.1.0"
