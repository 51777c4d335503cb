"""What changes in a dataset after samples were inserted, and what is taken out of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from keras_tl.datasets.look import describing
from keras_tl.datasets.schema.schema import Schema
from keras_tl.datasets.storing import changes, collecting, predicting
from keras_tl.datasets.views.view import View

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset


class Editing(View):
    """The part of a dataset that changes samples by their keys."""

    dataset: Dataset

    def update(self, samples: str | Iterable[str] | View, /, **values: Any) -> int:
        """Changes labels and tags.

        A thousand samples at a time change together; killed in between, those before are changed.

        Args:
            samples: a key, keys, or a view.
            **values: by label or tag: one value for all samples, or a column in their order;
                `None` where one shall be missing.

        Returns:
            How many samples there were.

        Raises:
            KeyError: if there is no such sample; nothing is changed then.
            ValueError: if a value does not fit.

        Example:

        ```python
        ds.update(["a", "b"], y=[3, None], split="train")
        ds.update(ds.where(loss__gte=2.0), quality=0)
        ```
        """
        return changes.update(self.dataset, samples, values)

    def declare(self, /, **tags: type | str) -> None:
        """Adds tags to the schema; samples that are there do not have them yet.

        Args:
            **tags: types by name, as for `Datasets.create`.

        Raises:
            ValueError: if a name is taken, or is or has no type.

        Example:

        ```python
        ds.declare(loss=float)
        ```
        """
        dataset = self.dataset
        dataset.refresh()
        schema = Schema.from_config(dataset.schema.config())
        schema.declare(tags)
        if schema != dataset.schema:
            # Others may do the same, even under the same name: the first one decides.
            ours = {f"tags.{name}": schema.tags[name] for name in tags}
            absent: list[dict[str, Any]] = [
                {"$or": [{path: {"$exists": False}}, {path: kind}]} for path, kind in ours.items()
            ]
            query = {"_id": dataset.key, "uid": dataset.uid, "$and": absent}
            done = dataset.connection.db["datasets"].update_one(query, {"$set": ours})
            dataset.refresh()
            if not done.matched_count:
                dataset.schema.declare(tags)  # says which one

    def add_predictions(
        self,
        samples: str | Iterable[str] | View,
        /,
        *,
        model: str,
        version: int,
        **values: Any,
    ) -> int:
        """Keeps what a version of a model says of samples, beside their labels.

        What it said before under the same names is replaced. A thousand samples are written
        together.

        Args:
            samples: a key, keys, or a view.
            model: the model's key.
            version: its number.
            **values: by name: a column in the order of the samples (numbers, texts, or a row of
                numbers for each), or one number or text for all.

        Returns:
            How many samples there were.

        Raises:
            KeyError: if there is no such sample; nothing is written then.
            ValueError: if a name or a value cannot be kept.

        Example:

        ```python
        ds.add_predictions(keys, model="m", version=3, label=best, confidence=best_probability)
        ```
        """
        return predicting.add(self.dataset, samples, model, version, values)

    def delete(self, samples: str | Iterable[str] | View, /) -> int:
        """Removes samples and the predictions for them; snapshots keep those that they hold.

        A thousand samples go together; killed in between, those before are gone.

        Args:
            samples: a key, keys, or a view; keys that do not exist are no error.

        Returns:
            How many there were.
        """
        return changes.delete(self.dataset, samples)

    def gc(self, grace: float = collecting.GRACE, dry_run: bool = False) -> dict[str, int]:
        """Removes packs of which no sample and no snapshot is left, and those of killed writers.

        It is safe beside processes that write. Their blobs are then collected by `hub.models.gc`.

        Args:
            grace: s for which anything is spared that was written, or lost its last sample,
                lately: longer than an epoch, whose samples may have been deleted meanwhile.
            dry_run: count and remove nothing.

        Returns:
            `packs` that were removed, their `bytes`, and `orphans`: packs of killed writers.

        Raises:
            ValueError: if `grace` is negative.
        """
        return collecting.collect(self.dataset, grace, dry_run)

    def describe(self) -> dict[str, Any]:
        """The schema, how many samples there are by label and tag, and how many bytes.

        Returns:
            What JSON can hold: `key`, `count`, `packs`, `created`, `bytes` (of values), `stored`
            (what the server takes for all as of its last checkpoint, `None` where it does not
            tell), `fields`, and `tags` and `labels`: the 20 most frequent `values` with their
            counts, how many `distinct` ones there are, and how many samples have none (`missing`).
        """
        return describing.describe(self.dataset)
