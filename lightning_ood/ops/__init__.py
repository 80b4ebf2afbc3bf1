"""Stateless building blocks on torch alone: hashing, transfers, exchange between processes, quantiles, whole files."""
