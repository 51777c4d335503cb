"""Natural 32x32x3 patches, cut from the photos that scikit-learn ships: nothing is downloaded."""

from __future__ import annotations

import numpy as np

SIDE = 32
SHAPE = (SIDE, SIDE, 3)
BYTES = SIDE * SIDE * 3
CLASSES = 10
_SCALES = (64.0, 128.0)  # the edge of what becomes a patch, in pixels of the photo


def patches(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Patches of two photos, each of a random place and size and in a random orientation.

    As in CIFAR, a pixel is the mean of several: cut one to one, two patches that overlap would
    share bytes, which a compressor finds, and the photos are smoother than small images are.

    Args:
        n: how many.
        seed: the same patches come from the same seed.

    Returns:
        `(x, y)`: uint8 of shape `(n, 32, 32, 3)`, and labels from 0 to 9 as int64.
    """
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]  # china and flower
    which, turned = rng.integers(len(photos), size=n), rng.integers(8, size=n)
    edge, place = rng.uniform(*_SCALES, size=n), rng.random((n, 2))
    x = np.empty((n, *SHAPE), "uint8")
    for i in range(n):
        photo = photos[which[i]]
        left, top = place[i] * (photo.width - edge[i], photo.height - edge[i])
        box = (left, top, left + edge[i], top + edge[i])
        patch = np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.BOX, box))
        patch = np.rot90(patch, turned[i] % 4)
        x[i] = patch[:, ::-1] if turned[i] >= 4 else patch
    return x, rng.integers(CLASSES, size=n)
