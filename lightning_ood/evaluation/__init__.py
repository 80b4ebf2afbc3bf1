"""A table from Python in one call: a network, image sets in any form, detectors."""
