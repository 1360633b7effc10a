"""Published numbers of samples of each class, to compare a source with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from arraystore._arguments import as_path
from arraystore.sources.imagenet2012 import MANUAL_DIR
from arraystore.sources.imagenet2012_tables import validation_labels, wnids
from arraystore.sources.subset_list import find_subset_list

if TYPE_CHECKING:
    from arraystore._typing import Ints
    from arraystore.storage.buckets import SourcePath


def published_counts(
    config: str,
    split: str,
    *,
    manual_dir: SourcePath | None = None,
    subset_list: SourcePath | None = None,
) -> Ints | None:
    """Return the number of samples of each class of ImageNet 2012 in a split.

    Parameters
    ----------
    config : {"1pct", "10pct", ""}
        Which subset of the training images; empty for all of them.
    split : str
    manual_dir, subset_list : Path or ObjectPath, optional
        See `arraystore.sources.imagenet2012.load`.

    Returns
    -------
    ndarray of int64, shape (1000,), or None
        None if the package has no counts: for all training images, and for a test split.

    Examples
    --------
    >>> published_counts("", "validation")[:3]
    array([50, 50, 50])
    """
    n_classes = len(wnids())
    if split == "validation":
        return np.bincount(validation_labels(), minlength=n_classes).astype(np.int64)
    if split != "train" or not config:
        return None
    listed = find_subset_list(config, subset_list, manual_dir or as_path(MANUAL_DIR))
    label_of = {wnid: k for k, wnid in enumerate(wnids())}
    labels = [label_of.get(name.partition("_")[0], n_classes) for name in listed.names]
    return np.bincount(labels, minlength=n_classes)[:n_classes].astype(np.int64)
