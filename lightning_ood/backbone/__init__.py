"""One forward pass of any network, read as ``Features``."""

from lightning_ood.backbone.backbone import Backbone

__all__ = ["Backbone"]
