"""Detectors, one paper a file. A new one is a file here and a YAML in ``configs/detectors``; nothing is registered."""
