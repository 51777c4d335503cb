"""What views have for reading: batches, and the samples as others want them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.datasets.batches.layout import Names

if TYPE_CHECKING:
    from keras_tl.datasets.batches.batches import Batches
    from keras_tl.datasets.views.view import View


class Reading:
    """Reads the samples of a view."""

    def batches(
        self: Any,
        size: int,
        shuffle: bool = False,
        seed: int = 0,
        shard: tuple[int, int] | None = None,
        cache: str | None = "auto",
        prefetch: int = 2,
        map: Any = None,
        drop_remainder: bool = False,
        x: Names = None,
        y: Names = None,
        sample_weight: str | None = None,
    ) -> Batches:
        """The samples as batches, for `fit`, `evaluate` and `predict`: see `Batches`.

        Example:

        ```python
        train, test = ds.where(split="train"), ds.where(split="test")
        model.fit(train.batches(256, shuffle=True), validation_data=test.batches(256), epochs=10)
        ```
        """
        from keras_tl.datasets.batches.batches import Batches

        return Batches(
            self,
            size,
            shuffle=shuffle,
            seed=seed,
            shard=shard,
            cache=cache,
            prefetch=prefetch,
            map=map,
            drop_remainder=drop_remainder,
            x=x,
            y=y,
            sample_weight=sample_weight,
        )

    def to_numpy(self: View, cache: str | None = "auto") -> dict[str, np.ndarray]:  # type: ignore[misc]
        """All samples in memory, in the view's order.

        Args:
            cache: as for `batches`.

        Returns:
            By field and label, and by tag and prediction if the view has chosen some (`fields`),
            an array with a row a sample; of objects where sizes vary.
        """
        from keras_tl.datasets.batches.exports import to_numpy

        return to_numpy(self, cache)

    def to_pandas(self: View, fields: Sequence[str] = ()) -> Any:  # type: ignore[misc]
        """Keys, labels and tags as a `pandas.DataFrame`, in the view's order.

        Args:
            fields: fields that are wanted, too, as a column of values; predictions as well.

        Raises:
            ImportError: without pandas.
        """
        from keras_tl.datasets.batches.exports import to_pandas

        return to_pandas(self, fields)

    def to_tf_dataset(self: View, size: int, **options: Any) -> Any:  # type: ignore[misc]
        """A `tf.data.Dataset` of batches; each iteration is an epoch.

        Text is UTF-8. How many batches there are is known of a snapshot only: another view may
        have grown by the next epoch.

        Args:
            size: samples of a batch.
            **options: as for `batches`.

        Raises:
            ImportError: without TensorFlow.
            ValueError: if sizes vary and no `map` makes them one, or a text is missing.
        """
        from keras_tl.datasets.batches.exports import to_tf_dataset

        return to_tf_dataset(self.batches(size, **options))

    def to_torch(self: View, size: int, **options: Any) -> Any:  # type: ignore[misc]
        """A `torch.utils.data.IterableDataset` of batches of tensors; each iteration is an epoch.

        For `DataLoader(dataset, batch_size=None, num_workers=n)`: with workers each makes its part
        of the batches, and they come in the same order as without. Its workers have the samples
        that the view has when this is called. Those that are spawned, not forked
        (`multiprocessing_context`), get a copy, so a `map` must be one that can be pickled.

        Args:
            size: samples of a batch.
            **options: as for `batches`.

        Raises:
            ImportError: without torch.
        """
        from keras_tl.datasets.batches.exports import to_torch

        return to_torch(self.batches(size, **options))

    def to_grain(self: View, cache: str | None = "auto") -> Any:  # type: ignore[misc]
        """A `grain.MapDataset` of samples: dicts of fields and labels.

        Shuffling, batches and processes are grain's: `.shuffle(seed).batch(256).mp_prefetch()`.
        The view is resolved now, once. Without a local cache each sample costs a read of its pack.

        Args:
            cache: as for `batches`.

        Raises:
            ImportError: without grain.
        """
        from keras_tl.datasets.batches.exports import to_grain

        return to_grain(self, cache)
