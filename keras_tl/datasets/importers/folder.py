"""A folder of images, with a class a sub-folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_tl.datasets.importers.kinds import dataset_for, tag_types
from keras_tl.datasets.look import pictures
from keras_tl.datasets.schema.labels import Label
from keras_tl.datasets.schema.media import Image
from keras_tl.datasets.storing.writing import insert

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset
    from keras_tl.datasets.importers.importing import Importing

log = logging.getLogger("keras_tl")

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_AHEAD = 32  # images read and decoded together: photos in memory at once


def from_image_folder(
    catalog: Importing,
    key: str,
    folder: str | os.PathLike[str],
    size: tuple[int, int] | None,
    encoded: bool | None,
    channels: int,
    tags: Mapping[str, Any] | None,
    prefix: str,
    skip_broken: bool,
    replace: bool,
) -> Dataset:
    """See `Importing.from_image_folder`."""
    pictures.pillow()
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"`folder` must be a folder. Received: {str(folder)!r}")
    if channels not in (1, 3, 4):
        raise ValueError(f"`channels` must be 1, 3 or 4. Received: channels={channels!r}")
    if size is not None and not (len(size) == 2 and all(type(s) is int and s > 0 for s in size)):
        raise ValueError(f"`size` must be (height, width) or None. Received: size={size!r}")
    encoded = size is None if encoded is None else encoded
    if size is None and not encoded:
        raise ValueError("`size` must be given for images that are decoded. Received: size=None")
    if next(_files(root), None) is None:
        raise ValueError(
            f"`folder` must have files that end in {', '.join(SUFFIXES)}. Received: {str(folder)!r}"
        )
    classes = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    height, width = size or (None, None)
    image = Image(height, width, channels, encoded="any" if encoded else None)
    kinds: dict[str, Any] = {"x": lambda: image}
    if classes:
        kinds["y"] = lambda: Label(names=classes)
    found = dataset_for(catalog, key, kinds, {"x": image}, tag_types(tags))
    reader = _Reader(root, None if encoded else size, channels, prefix, bool(classes), skip_broken)
    insert(found, reader.samples(), None, tags, replace, keep=True)
    if reader.broken:
        names = ", ".join(map(repr, reader.broken[:5]))
        log.warning(
            "%d files below %s are not in the dataset %r, as they cannot be read: %s%s",
            *(reader.count, root, key, names, ", ..." if reader.count > 5 else ""),
        )
    return found


def _files(root: Path) -> Iterator[Path]:
    """The images below a folder, sorted; hidden ones and other files are passed over."""
    for place, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(place, name)


class _Reader:
    """Reads images as samples, some of them at a time."""

    def __init__(
        self,
        root: Path,
        size: tuple[int, int] | None,
        channels: int,
        prefix: str,
        labelled: bool,
        skip_broken: bool,
    ) -> None:
        self.root, self.size, self.channels, self.prefix = root, size, channels, prefix
        self.labelled, self.skip_broken = labelled, skip_broken
        self.count = 0
        self.broken: list[str] = []  # the first of them

    def samples(self) -> Iterator[dict[str, Any]]:
        files = _files(self.root)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without the GIL
            while group := list(islice(files, _AHEAD)):
                for path, value in zip(group, pool.map(self._read, group), strict=True):
                    name = path.relative_to(self.root).as_posix()
                    if isinstance(value, Exception):
                        self._refuse(name, value)
                        continue
                    sample = {"x": value, "key": self.prefix + name}
                    if self.labelled:
                        first, _, rest = name.partition("/")
                        sample["y"] = first if rest else None
                    yield sample

    def _read(self, path: Path) -> Any:
        try:
            data = path.read_bytes()
            # Files that stay encoded are decoded, too: better here than in an epoch.
            image = pictures.decode(data, self.channels, self.size)
        except (OSError, ValueError) as error:
            return error
        return image if self.size else data

    def _refuse(self, name: str, error: Exception) -> None:
        if not self.skip_broken:
            raise ValueError(
                "`folder` must have images that can be read (`skip_broken=True` leaves others "
                f"out). Received: {name!r}: {error}"
            )
        self.count += 1
        if len(self.broken) < 5:
            self.broken.append(name)
