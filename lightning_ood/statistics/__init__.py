"""Bounded summaries of a stream that merge exactly: quantiles, samples, moments, coverage."""
