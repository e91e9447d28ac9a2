"""Labels of a set of images, made once and kept in a file beside the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from efficient_matcher.errors import MatcherError, SourceError
from efficient_matcher.learn.data import ImageSet
from efficient_matcher.learn.labels import Labeller, SiftLabeller

UNKNOWN = -1  # instead of a checksum, of labels from before there were any
SAVE_EVERY = 100  # images labelled between two writes of the cache
Labels = dict[str, NDArray[np.float32]]
SIFT = SiftLabeller()
_own: Labeller = SIFT  # of a worker process


def label_images(
    images: ImageSet, cache: Path, workers: int = 2, progress: Callable[[int, int], None] = lambda done, of: None,
    labeller: Labeller | None = SIFT,
) -> list[NDArray[np.float32]]:
    """Labels [N,3] (x, y, share) of every image, kept in `cache` (npz) and made only where missing.

    labeller: None takes what the file holds, whoever made it. Raises SourceError when the file is damaged, holds
    labels by another labeller, or lacks labels that only another one can make; MatcherError when it cannot be written.
    """
    if labeller is None and not cache.exists():
        raise SourceError(f"{cache}: no such file of labels")
    maker, known, checksums = _read(cache)
    name = labeller.name if labeller is not None else maker or SIFT.name
    if maker not in (None, name):
        raise SourceError(f"{cache}: holds labels by '{maker}', not by '{name}'; choose another folder")
    for image, checksum in zip(images.names, images.checksums):
        if checksums.setdefault(image, checksum) != checksum:
            raise SourceError(f"{cache}: holds labels of another image that is called {image} as well; "
                              "choose another folder")
    missing = [i for i, image in enumerate(images.names) if image not in known]
    labeller = labeller or (SIFT if name == SIFT.name else None)
    if missing and labeller is None:
        raise SourceError(f"{cache}: has no labels of {len(missing)} of {len(images)} images "
                          f"(first {images.names[missing[0]]}), and those by '{name}' cannot be made here")
    saved = len(known)
    try:
        for done, (i, points) in enumerate(zip(missing, _made(images, missing, labeller, workers)), 1):
            known[images.names[i]] = points
            if done % SAVE_EVERY == 0:
                _write(cache, name, known, checksums)
                saved = len(known)
            progress(done, len(missing))
    finally:  # an interrupt keeps what was made
        if len(known) > saved:
            _write(cache, name, known, checksums)
    return [known[name] for name in images.names]


def _made(images: ImageSet, missing: list[int], labeller: Labeller | None,
          workers: int) -> Iterator[NDArray[np.float32]]:
    if workers == 1 or not missing or labeller.in_process:
        yield from (labeller(images.images[i], i) for i in missing)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin_worker, (labeller,)) as pool:
        yield from pool.map(_label, (images.images[i] for i in missing), missing, chunksize=4)


def _begin_worker(labeller: Labeller) -> None:
    import torch
    global _own
    _own = labeller
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _label(image: NDArray[np.uint8], seed: int) -> NDArray[np.float32]:
    return _own(image, seed)


def _read(cache: Path) -> tuple[str | None, Labels, dict[str, int]]:
    """Who made the labels in the file, None if there is no file; the labels; and their images' checksums, which earlier
    files did not hold."""
    if not cache.exists():
        return None, {}, {}
    try:
        with np.load(cache) as stored:
            parts = np.split(stored["points"], np.cumsum(stored["counts"])[:-1])
            maker = str(stored["labeller"]) if "labeller" in stored else SIFT.name  # files of before had only one
            names = stored["names"].tolist()
            checksums = zip(names, stored["checksums"].tolist() if "checksums" in stored else [])
            return maker, dict(zip(names, parts)), {name: known for name, known in checksums if known != UNKNOWN}
    except Exception as error:  # a damaged file shows itself in many types of error
        raise SourceError(f"{cache}: not a readable file of labels ({type(error).__name__})") from None


def _write(cache: Path, maker: str, labels: Labels, checksums: dict[str, int]) -> None:
    partial = cache.with_suffix(".partial.npz")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(partial, names=np.array(list(labels)), counts=np.array([len(p) for p in labels.values()]),
                 points=np.concatenate(list(labels.values())), labeller=np.array(maker),
                 checksums=np.array([checksums.get(name, UNKNOWN) for name in labels], np.int64))
        partial.replace(cache)
    except OSError as error:
        raise MatcherError(f"{cache}: cannot be written: {error.strerror}") from None
