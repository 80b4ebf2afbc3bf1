"""Post-hoc out-of-distribution detection: every method from one forward pass, exact on any number of processes."""

__version__ = "0.1.0"
