"""Stateless helpers: hashing, device transfers, distributed gathering, quantiles, atomic file writes."""
