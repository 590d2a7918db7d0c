"""scikit-learn's handwritten digits: 1,797 images of 8 x 8, for runs of a few seconds."""

from __future__ import annotations

import numpy as np

from fedapt.data.extras import need
from fedapt.data.source import Source, class_numbers, of_classes, sample, split_off
from fedapt.data.spec import DataSpec


def digits(spec: DataSpec, seed: int) -> Source:
    """Return images of uint8 (n, 1, 8, 8), 17 grey levels spread over 0..255; a seeded `test_share` of them is the test set."""
    bunch = need("sklearn.datasets", "scikit-learn", "data.source `digits`").load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    names = tuple(map(str, range(10)))
    # The test set is split off before classes are chosen: no choice of classes trains on what another one tests on.
    train, test = split_off(len(labels), spec.test_share, seed)
    classes = class_numbers(spec.classes, names)
    train, test = of_classes(train, labels[train], classes, "training"), of_classes(test, labels[test], classes, "test")
    train, test = sample(train, spec.samples, seed, "train"), sample(test, spec.test_samples, seed, "test")
    return Source(labels[train], labels[test], names, lambda owner: (images[train], images[test]))
