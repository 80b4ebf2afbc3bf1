"""Generators of pages and the networks that the pages are about; not shipped with the package."""
