"""Reads ``Features`` from one forward pass of any classifier."""

from lightning_ood.backbone.backbone import Backbone

__all__ = ["Backbone"]
