"""Transforms of the input images: views, which serve as pseudo-OOD, and perturbations along a gradient."""

from lightning_ood.views.perturbation import Perturbation
from lightning_ood.views.transforms import Blur, Crop, Invert, Jigsaw, Noise, PhaseScramble, Raw, Rotate, View

__all__ = ["Blur", "Crop", "Invert", "Jigsaw", "Noise", "Perturbation", "PhaseScramble", "Raw", "Rotate", "View"]
