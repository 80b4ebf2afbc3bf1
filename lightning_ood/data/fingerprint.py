"""A SHA-256 fingerprint of the images that a fit was computed from."""

import hashlib
from collections.abc import Iterable

from lightning_ood.data.sets import ImageSet

SAMPLED = 64  # images whose pixels are hashed


def fingerprint(sets: Iterable[ImageSet]) -> str:
    """sha256 over the sets as detectors see them: paths, labels, preprocessing and the pixels of some images.

    The pixels are those of 64 images spread over each set, so that telling costs no pass of its own.
    """
    digest = hashlib.sha256()
    for images in sets:
        labels = [] if images.labels is None else images.labels.tolist()
        digest.update(repr((len(images), list(images.paths), labels, images.bad_images)).encode())
        digest.update(b"upright" if images.upright else b"")
        for index in range(0, len(images), max(1, len(images) // SAMPLED)):
            item = images[index]
            digest.update(b"" if item.image is None else item.image.contiguous().numpy().tobytes())
    return digest.hexdigest()
