"""`hub.models["digits"]`: the versions of a model."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np

from keras_tl.models import (
    aliases,
    differences,
    interchange,
    lineage,
    resuming,
    retention,
    state,
    versions,
    warm,
)
from keras_tl.models.lineage import Lineage
from keras_tl.models.plain import plain
from keras_tl.models.retention import Keep
from keras_tl.models.runs import Run
from keras_tl.models.selection import Reference, Version


class Versions(aliases.Aliases):
    """The versions of one model: `hub.models["digits"]`.

    Wherever a `version` is asked for, it is a number, an alias, a `Version`, or
    `best("val_loss", mode="min")`.

    Args:
        connection: where they are kept.
        key: the model's key.
    """

    def load(
        self,
        version: Reference = "latest",
        *,
        match: str | Sequence[str] | None = None,
        roles: Sequence[str] | None = None,
    ) -> keras.Model:
        """The model as it was, built and compiled, without running code from the store.

        Args:
            version: which one.
            match: glob or globs on paths of tensors: only these are read, others are as the model
                initialises them.
            roles: some of `trainable`, `non_trainable`, `seed`, `optimizer`: only these are read.
                Default: all.

        Raises:
            KeyError: if there is no such version, or it was deleted.
            ValueError: if Keras refuses its config, a tensor is damaged, or `match` or `roles`
                names none.

        Example:

        ```python
        model = hub.models["digits"].load("prod", roles=("trainable", "non_trainable"))
        ```
        """
        document = self.version(version).document
        config = versions.config(versions.database(self.connection), document)
        if config is None:
            raise ValueError(
                f"`load` needs a config, which Keras could not make of the model {self.key!r}: "
                "build the model and use `restore_into`. Received: a version without one"
            )
        model = state.revive(config)
        self._restore(document, model, match, roles)
        return model

    def warm(self, version: Reference = "latest") -> keras.Model:
        """The model of a version, kept in this process: called again, only what changed is read.

        The second call returns the same object with the tensors that differ put back, so that what
        Keras has compiled for it stays. The two models used last are kept; one of another config
        is made anew. On torch a change made by way of `tensor.data` is not seen.

        Args:
            version: which one.

        Raises:
            KeyError: if there is no such version, or it was deleted.
            ValueError: as for `load`.

        Example:

        ```python
        for task in tasks:
            answers = hub.models["digits"].warm("prod").predict(task)
        ```
        """
        return warm.warm(self.connection, self.version(version).document)

    def restore_into(
        self,
        model: keras.Model,
        version: Reference = "latest",
        *,
        match: str | Sequence[str] | None = None,
        roles: Sequence[str] | None = None,
    ) -> Version:
        """Put weights, optimizer and seeds of a version into a model of the same making.

        Args:
            model: the model.
            version: which one.
            match: as for `load`; other tensors of the model stay as they are.
            roles: as for `load`.

        Raises:
            KeyError: if there is no such version, or it was deleted.
            ValueError: if the model is another one, a tensor is damaged, or `match` or `roles`
                names none.
        """
        found = self.version(version)
        self._restore(found.document, model, match, roles)
        return found

    def _restore(
        self,
        document: Mapping[str, Any],
        model: keras.Model,
        match: str | Sequence[str] | None,
        roles: Sequence[str] | None,
    ) -> None:
        chosen = state.ROLES[:-1] if roles is None else tuple(roles)
        resuming.restore(self.connection, document, model, roles=chosen, match=match)

    def save(
        self,
        model: keras.Model,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, Any] | None = None,
        *,
        alias: str | None = None,
        run: Run | None = None,
    ) -> Version:
        """Save a model now, outside of `fit`, and wait until it is committed.

        Args:
            model: a built model.
            metrics: numbers to find it by.
            tags: strings and numbers to find it by.
            alias: a name to promote it to, once it is committed.
            run: the run that made it, as of `hub.run`; default: none, and the version itself
                keeps packages and git.

        Raises:
            pymongo.errors.PyMongoError: if the server does not take it.
            ValueError: if `alias` is no name for an alias, the model is not built, or a lookup
                layer holds a vocabulary that its config has not.
        """
        state.check(model)
        if alias is not None:
            aliases.check(alias)
        saved = self._commit(model, *state.capture(model), metrics, tags, run)
        if alias is not None:
            self.promote(alias, saved)
        return saved

    def _commit(
        self,
        model: keras.Model,
        manifest: list[dict[str, Any]],
        bundle: dict[str, np.ndarray],
        metrics: Mapping[str, float] | None,
        tags: Mapping[str, Any] | None,
        run: Run | None = None,
    ) -> Version:
        config = state.describe(model)
        if config is not None:
            bundle[versions.CONFIG] = np.frombuffer(config.encode(), np.uint8)
        identity = uuid.uuid4().hex
        optimizer = getattr(model, "optimizer", None)
        about = {
            **{"id": identity, "model": self.key, "run": identity, "attempt": identity},
            **{"number": 0, "began": time.time(), "base": self.aliases.get("latest")},
            "step": int(keras.ops.convert_to_numpy(optimizer.iterations)) if optimizer else 0,
            **{"epoch": 0, "batch": 0, "manifest": manifest, "callbacks": [], "cursor": None},
            **{"metrics": _metrics(metrics or {}), "best": None},
            "tags": {name: plain(value, name) for name, value in (tags or {}).items()},
        }
        if run is not None:
            about |= {"run": run.id, "attempt": run.attempt, "number": run.number}
        db = self.connection.db
        with ThreadPoolExecutor(1) as pool:  # git takes its time while the tensors travel
            made = pool.submit(lineage.here, db).result if run is None else None
            saved = Version(versions.commit(db, about, bundle, made=made))
        retention.apply(self.connection, self.key)
        return saved

    def follow(self, after: int | None = None) -> Iterator[Version]:
        """Each version as it is committed, for ever: to serve or to evaluate the newest.

        Args:
            after: number of the last version that is known; 0 for all. Default: begin with the one
                that `latest` points to.

        Example:

        ```python
        for version in hub.models["digits"].follow():
            model = hub.models["digits"].load(version)
        ```
        """
        from keras_tl.models import follow

        return map(Version, follow.follow(self.connection, self.key, after))

    def lineage(self, version: Reference = "latest") -> Lineage:
        """Where a version comes from: run, code, environment, parents and data; also deleted ones.

        Raises:
            KeyError: if there is no such version.

        Example:

        ```python
        print(hub.models["digits"].lineage("prod"))
        ```
        """
        return lineage.lineage(self, version)

    def diff(
        self, old: Reference, new: Reference = "latest", *, values: bool = False
    ) -> differences.Diff:
        """What changed between two versions: config, tensors, metrics, tags, data, code.

        Args:
            old: the first version.
            new: the second version.
            values: whether to read the tensors that changed, to tell how far they moved.

        Raises:
            KeyError: if there is no such version, or it was deleted.
        """
        return differences.diff(self, self.version(old), self.version(new), values)

    @property
    def retention(self) -> Keep | None:
        """The policy by which versions are deleted after each save; `None`: all are kept."""
        found = self._model.get("retention")
        return Keep(**found) if found else None

    @retention.setter
    def retention(self, keep: Keep | None) -> None:
        if keep is not None and not isinstance(keep, Keep):
            raise ValueError(f"`retention` must be a `Keep`, or `None`. Received: {keep!r}")
        stored = {"retention": keep.to_dict() if keep is not None else None}
        first = {"aliases": {}, "rev": 0}
        self.connection.db["models"].update_one(
            {"_id": self.key}, {"$set": stored, "$setOnInsert": first}, upsert=True
        )

    def prune(self, keep: Keep | None = None, dry_run: bool = False) -> list[int]:
        """Delete the versions that a policy does not keep; `hub.models.gc` then frees the room.

        Args:
            keep: the policy; default: the stored one (`retention`).
            dry_run: delete nothing.

        Returns:
            Numbers of the versions that were deleted, or would be.

        Example:

        ```python
        hub.models["digits"].prune(keras_tl.models.Keep(last=5, best=3, every=10))
        ```
        """
        return retention.apply(self.connection, self.key, keep, dry_run)

    def delete(self, version: Reference) -> None:
        """Delete a version's tensors; its metrics stay for the lineage of those trained from it.

        Raises:
            KeyError: if there is no such version, or it was deleted.
            ValueError: if an alias points to it.
        """
        retention.delete(self.connection, self.key, self.version(version).number)

    def to_keras(self, path: str | os.PathLike[str], version: Reference = "latest") -> None:
        """Write a version with its optimizer to a `.keras` file, for `keras.models.load_model`.

        Such a file holds no states of seed generators: these begin anew.

        Raises:
            KeyError: if there is no such version, or it was deleted.
            ValueError: if `path` does not end in `.keras`, or as for `load`.
        """
        interchange.to_keras(self, path, version)

    def from_keras(
        self,
        path: str | os.PathLike[str],
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> Version:
        """Save the model of a `.keras` file as a version; no code from the file is run.

        Raises:
            ValueError: if `path` does not end in `.keras`, or Keras refuses it in safe mode.
        """
        return interchange.from_keras(self, path, metrics, tags)

    def to_safetensors(
        self,
        path: str | os.PathLike[str],
        version: Reference = "latest",
        roles: Sequence[str] = interchange.WEIGHTS,
    ) -> None:
        """Write tensors by the paths of their variables, as they are, to a `.safetensors` file.

        Raises:
            KeyError: if there is no such version, or it was deleted.
            ValueError: if `path` does not end in `.safetensors`, or `roles` is not understood.
        """
        interchange.to_safetensors(self, path, version, roles)

    def from_safetensors(
        self,
        path: str | os.PathLike[str],
        model: keras.Model,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> Version:
        """Save the tensors of a `.safetensors` file as a version; `model` stays as it is.

        Args:
            path: the file, with a tensor for each weight of `model` by its variable's path.
            model: a built model, whose config the version gets.
            metrics: as for `save`.
            tags: as for `save`.

        Raises:
            ValueError: if the file is damaged or does not fit the model, naming what is missing.
        """
        return interchange.from_safetensors(self, path, model, metrics, tags)


def _metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    found = {}
    for name, value in metrics.items():
        try:
            found[str(name)] = float(value)
        except (TypeError, ValueError):
            raise ValueError(
                f"`metrics` must be numbers. Received: {name!r} of {type(value).__name__}"
            ) from None
    return found
