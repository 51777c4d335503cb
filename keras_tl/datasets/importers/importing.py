"""`hub.datasets.from_...`: what is elsewhere becomes a dataset."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset
    from keras_tl.datasets.schema.fields import Field


class Importing:
    """Imports into a dataset, which is made if there is none of that key.

    Samples get keys that say where they come from, so that an import can be run again: those that
    are there with the same tensors are passed over, with the labels and tags that they have by
    then, and an import that was stopped is completed. No import holds more than some thousand
    samples in memory besides what it was given.

    All of them take:

        key: of the dataset. One that exists keeps its schema, which the samples must fit; tags
            that it has not are declared.
        tags: values by name for all samples of this import, as `{"split": "train"}`.
        prefix: what the samples' keys begin with, so that several imports into one dataset do not
            take each other's samples for their own.
        replace: whether samples that are there get the tensors, labels and tags of this import
            where they have others; else other tensors are refused.
    """

    if TYPE_CHECKING:

        def create(
            self,
            key: str,
            /,
            *,
            tags: Mapping[str, type | str] | None = None,
            index: bool = True,
            **fields: Field,
        ) -> Dataset: ...
        def __getitem__(self, key: str) -> Dataset: ...
        def __contains__(self, key: object) -> bool: ...

    def from_numpy(
        self,
        key: str,
        *,
        fields: Mapping[str, Field] | None = None,
        tags: Mapping[str, Any] | None = None,
        keys: Sequence[str] | None = None,
        prefix: str = "",
        replace: bool = False,
        **columns: Any,
    ) -> Dataset:
        """Arrays with a row a sample become the fields of their names.

        Args:
            key: of the dataset.
            fields: kinds by name, where they are to be others than these: one number a sample is a
                `Label`, and so are integers `y` of shape `(n, 1)`; text `y` is a `Label` with the
                classes that there are, sorted; other text is `Text`, bytes are `Bytes`, uint8 of
                shape `(n, height, width, 1 | 3 | 4)` is an `Image`, all else is an `Array`.
            tags: values by name: one for all samples, or a column.
            keys: of the samples; default: `prefix` and the row's number in eight digits.
            prefix: see the class.
            replace: see the class.
            **columns: arrays, also memory-mapped ones and those of an HDF5 file, of which only a
                part is read at a time; or lists, also of arrays of different sizes.

        Returns:
            The dataset.

        Raises:
            ValueError: if the columns do not fit each other or the dataset, or a sample of the
                same key has other tensors, unless `replace`.

        Example:

        ```python
        digits = hub.datasets.from_numpy("digits", x=x, y=y, tags={"split": "train"})
        ```
        """
        from keras_tl.datasets.importers.arrays import from_numpy

        return from_numpy(self, key, columns, fields, tags, keys, prefix, replace)

    def from_image_folder(
        self,
        key: str,
        folder: str | os.PathLike[str],
        size: tuple[int, int] | None = None,
        *,
        encoded: bool | None = None,
        channels: int = 3,
        tags: Mapping[str, Any] | None = None,
        prefix: str = "",
        skip_broken: bool = False,
        replace: bool = False,
    ) -> Dataset:
        """A folder of images: `x` is the image and `y` its class, the sub-folder's name.

        Images right in `folder` have no label; without sub-folders there is no `y`. A sample's key
        is the file's path below `folder`. Hidden files and those that are no images by their name
        are passed over.

        Args:
            key: of the dataset.
            folder: where the images are.
            size: (height, width) that images are resized to, bilinear, as Keras does.
            encoded: whether the files are kept as they are. A `map=` of layers then decodes them
                for each batch anew, to `size`: photos take a tenth of the room, and an epoch most
                of its time for that. Default: only without a `size`.
            channels: 1 (grey), 3 (RGB) or 4 (RGBA).
            tags: see the class.
            prefix: see the class.
            skip_broken: leave out images that cannot be read, and say so in the log, instead of
                raising an error.
            replace: see the class.

        Returns:
            The dataset.

        Raises:
            ValueError: if there are no images, one cannot be read, or they do not fit the dataset.
            ImportError: without Pillow (`pip install 'keras_tl[datasets]'`).

        Example:

        ```python
        pets = hub.datasets.from_image_folder("pets", "pets/train", (64, 64), prefix="train/")
        ```
        """
        from keras_tl.datasets.importers.folder import from_image_folder

        return from_image_folder(
            self, key, folder, size, encoded, channels, tags, prefix, skip_broken, replace
        )

    def from_tf_dataset(
        self,
        key: str,
        dataset: Any,
        *,
        fields: Mapping[str, Field] | None = None,
        tags: Mapping[str, Any] | None = None,
        prefix: str = "",
        replace: bool = False,
    ) -> Dataset:
        """The elements of a `tf.data.Dataset`, each a sample (of batches: `dataset.unbatch()`).

        `(x, y)` and `(x, y, sample_weight)` become fields of these names; names of a mapping stay.
        A sample's key is `prefix` and its number, so the order must be the same if the import is
        run again.

        Args:
            key: of the dataset.
            dataset: elements are tensors, tuples or mappings of them.
            fields: kinds by name, as for `from_numpy`.
            tags: see the class.
            prefix: see the class.
            replace: see the class.

        Returns:
            The dataset.

        Raises:
            ValueError: if the elements are of another form, without an end, or do not fit the
                dataset.
        """
        from keras_tl.datasets.importers.elements import from_tf_dataset

        return from_tf_dataset(self, key, dataset, fields, tags, prefix, replace)

    def from_csv(
        self,
        key: str,
        path: str | os.PathLike[str],
        *,
        x: Sequence[str] | None = None,
        y: str | None = None,
        fields: Mapping[str, Field] | None = None,
        tag_columns: Sequence[str] = (),
        tags: Mapping[str, Any] | None = None,
        key_column: str | None = None,
        prefix: str = "",
        replace: bool = False,
        **options: Any,
    ) -> Dataset:
        """Rows of a CSV file. Columns that are not named are left out.

        Args:
            key: of the dataset.
            path: the file.
            x: columns of numbers that become one field `x`, float32; missing ones are NaN.
            y: the column of labels: numbers, or the names of classes.
            fields: kinds of columns that become fields of their own, as `{"review": Text()}`.
            tag_columns: columns that become tags.
            tags: see the class.
            key_column: the column of the samples' keys, as they stand; default: the row's number.
            prefix: see the class.
            replace: see the class.
            **options: arguments of `pandas.read_csv`, as `sep=";"` and `dtype={"zip": "string"}`.

        Returns:
            The dataset.

        Raises:
            ValueError: if a column is not there, or values do not fit it or the dataset.
            ImportError: without pandas (`pip install 'keras_tl[pandas]'`).

        Example:

        ```python
        wine = hub.datasets.from_csv("wine", "wine.csv", x=["alcohol", "acid"], y="cultivar")
        ```
        """
        from keras_tl.datasets.importers.files import Csv
        from keras_tl.datasets.importers.tables import load

        table = Csv(path, options, key_column)
        return load(self, key, table, x, y, fields, tag_columns, tags, key_column, prefix, replace)

    def from_parquet(
        self,
        key: str,
        path: str | os.PathLike[str],
        *,
        x: Sequence[str] | None = None,
        y: str | None = None,
        fields: Mapping[str, Field] | None = None,
        tag_columns: Sequence[str] = (),
        tags: Mapping[str, Any] | None = None,
        key_column: str | None = None,
        prefix: str = "",
        replace: bool = False,
    ) -> Dataset:
        """Rows of a Parquet file. Columns that are not named are left out.

        Args:
            key: of the dataset.
            path: the file.
            x: columns of numbers that become one field `x`, float32; missing ones are NaN.
            y: the column of labels: numbers, or the names of classes.
            fields: kinds of columns that become fields of their own: of lists
                `Array((None,), ...)`, of bytes and of Hugging Face's images
                `Image(None, None, encoded="any")`.
            tag_columns: columns that become tags.
            tags: see the class.
            key_column: the column of the samples' keys; default: the row's number.
            prefix: see the class.
            replace: see the class.

        Returns:
            The dataset.

        Raises:
            ValueError: if a column is not there, or values do not fit it or the dataset.
            ImportError: without PyArrow (`pip install 'keras_tl[parquet]'`).
        """
        from keras_tl.datasets.importers.files import Parquet
        from keras_tl.datasets.importers.tables import load

        table = Parquet(path)
        return load(self, key, table, x, y, fields, tag_columns, tags, key_column, prefix, replace)

    def from_keras(self, name: str, key: str | None = None, **options: Any) -> Dataset:
        """A dataset of `keras.datasets`, which Keras downloads unless it has done so before.

        Args:
            name: `"mnist"`, `"fashion_mnist"`, `"cifar10"`, `"cifar100"`, `"imdb"`, `"reuters"`,
                `"california_housing"` or `"boston_housing"`.
            key: of the dataset; default: `name`.
            **options: arguments of its `load_data`, as `num_words=10000`.

        Returns:
            The dataset, with the fields `x` and `y` and the tag `split`: `"train"` or `"test"`.

        Raises:
            ValueError: if Keras has no such dataset, or the samples do not fit the one that exists.
        """
        from keras_tl.datasets.importers.arrays import from_keras

        return from_keras(self, name, key, options)
