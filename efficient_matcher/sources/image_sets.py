"""Images to learn from or to calibrate on: a folder, tar files, or the images of a recorded bag.

An image that cannot be decoded is given as None under its name; a source that cannot be read is a SourceError.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import InputConfig
from efficient_matcher.core.image import decode_compressed
from efficient_matcher.errors import ImageError, SourceError
from efficient_matcher.sources.images import SUFFIXES

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
BAG_SUFFIXES = (".bag", ".db3", ".mcap")
Named = tuple[str, "NDArray[np.uint8] | None"]


class ImageSource(Protocol):
    """Images by number, in an order that never changes."""

    in_time: bool  # neighbours are alike, as in a recording

    def __len__(self) -> int: ...

    def read(self, chosen: Container[int]) -> Iterator[Named]:
        """The chosen images as name and grey [H,W] uint8, None where it cannot be decoded. Raises SourceError."""
        ...


def open_images(source: Path | str, topic: str | None = None) -> ImageSource:
    """The images of a folder (subfolders and tar files in it included), a tar file or a bag.

    topic: of a bag, needed where it has several. Raises SourceError: missing, none of these, or no such topic.
    """
    source = Path(source)
    if not source.exists():
        raise SourceError(f"{source}: no such folder or file")
    if is_bag(source):
        return _Bag(source, topic)
    if topic is not None:
        raise SourceError(f"{source}: a topic belongs to a bag, and this is none")
    if source.is_dir():
        return _Folder(source)
    if source.name.lower().endswith(TAR_SUFFIXES):
        return _Tar(source)
    raise SourceError(f"{source}: neither a folder of images, a tar file ({' '.join(TAR_SUFFIXES)}) "
                      f"nor a bag ({' '.join(BAG_SUFFIXES)})")


def read_images(source: Path | str, topic: str | None = None, limit: int | None = None,
                spread: bool = False) -> Iterator[Named]:
    """Name and image, or None, of a source's images: the first `limit` of them, of a bag as many spread over its time.

    spread: over any source. Raises SourceError.
    """
    images = open_images(source, topic)
    count = len(images)
    kept = count if limit is None else min(limit, count)
    if kept < count and (spread or images.in_time):
        return images.read(frozenset(np.linspace(0, count - 1, kept).round().astype(int).tolist()))
    return images.read(range(kept))


class _Folder:
    """Image files of a folder and its subfolders by name, then the contents of its tar files."""

    in_time = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        self._files = [path for path in files if path.suffix.lower() in SUFFIXES]
        self._tars = [_Tar(path, str(path.relative_to(folder)) + "/") for path in files
                      if path.name.lower().endswith(TAR_SUFFIXES)]

    def __len__(self) -> int:
        return len(self._files) + sum(len(tar) for tar in self._tars)

    def read(self, chosen: Container[int]) -> Iterator[Named]:
        """As `ImageSource` says."""
        for index, path in enumerate(self._files):
            if index in chosen:
                yield str(path.relative_to(self._folder)), _decoded(path.read_bytes)
        begin = len(self._files)
        for tar in self._tars:
            yield from tar.read({index for index in range(len(tar)) if begin + index in chosen})
            begin += len(tar)


class _Tar:
    """Image files of a tar file in the order of the file; what else is in it (labels, texts) is passed over."""

    in_time = False

    def __init__(self, path: Path, prefix: str = "") -> None:
        self._path = path
        seen: Counter[str] = Counter()
        self._names = []
        for _, member in self._members():
            seen[member.name] += 1  # a tar file may hold a name twice, but names tell images apart
            again = f" ({seen[member.name]})" if seen[member.name] > 1 else ""
            self._names.append(prefix + member.name + again)

    def __len__(self) -> int:
        return len(self._names)

    def read(self, chosen: Container[int]) -> Iterator[Named]:
        """As `ImageSource` says."""
        for index, (tar, member) in enumerate(self._members()):
            if index in chosen:
                with self._told(index):
                    data = tar.extractfile(member).read()
                yield self._names[index], _decoded(lambda data=data: data)

    def _members(self) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        index = 0
        with self._told(index), tarfile.open(self._path) as tar:
            while True:
                with self._told(index):
                    member = tar.next()
                if member is None:
                    return
                if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES and not _hidden(member.name):
                    yield tar, member
                    index += 1

    def _told(self, index: int) -> _TarFailures:
        return _TarFailures(self._path, index)


class _TarFailures:
    """Turns what damaged tar files raise into SourceError."""

    def __init__(self, path: Path, index: int) -> None:
        self._where = f"{path}: cannot be read as a tar file" if not index else f"{path}: breaks off in image {index}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError)):
            raise SourceError(f"{self._where}: {' '.join(str(error).split()) or type(error).__name__}") from None


class _Bag:
    """Images of one topic of a bag; a name is the topic and the message's number."""

    in_time = True

    def __init__(self, path: Path, topic: str | None) -> None:
        from efficient_matcher.sources.bags import ImageBag
        with ImageBag(path, topic) as bag:
            self._path, self._topic, self._count = path, bag.topic, bag.message_count

    def __len__(self) -> int:
        return self._count

    def read(self, chosen: Container[int]) -> Iterator[Named]:
        """As `ImageSource` says."""
        from efficient_matcher.sources.bags import ImageBag
        following = 0
        with ImageBag(self._path, self._topic) as bag:
            for item in bag.frames(InputConfig(width=0, height=0)):
                index = bag.received - 1
                yield from self._unreadable(range(following, index), chosen)
                if index in chosen:
                    yield self._name(index), item.frame.image
                following = index + 1
        yield from self._unreadable(range(following, self._count), chosen)

    def _unreadable(self, indices: range, chosen: Container[int]) -> Iterator[Named]:
        return ((self._name(index), None) for index in indices if index in chosen)

    def _name(self, index: int) -> str:
        return f"{self._topic}/{index:06d}"


def is_bag(source: Path) -> bool:
    """Whether a file is a bag by its name, or a folder one by what is in it, whatever the folder is called."""
    if source.is_file():
        return source.suffix in BAG_SUFFIXES
    return (source / "metadata.yaml").exists() and any(
        set(path.suffixes) & set(BAG_SUFFIXES) for path in source.iterdir())


def _decoded(read: Callable[[], bytes]) -> NDArray[np.uint8] | None:
    try:
        return decode_compressed(read())
    except (ImageError, OSError):
        return None


def _hidden(name: str) -> bool:
    return Path(name).name.startswith(".")  # as macOS puts one beside every file
