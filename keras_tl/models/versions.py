"""A version of a model: all of it in one transaction, or nothing."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.models import state
from keras_tl.models.aliases import record
from keras_tl.models.buckets import key
from keras_tl.storage import hooks, tensors
from keras_tl.storage.blobs import Blobs
from keras_tl.storage.cache import shared

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from keras_tl.storage.connection import Connection

#: Above this many tensors the manifest is a blob: a document ends at 16 MB.
_INLINE_MANIFEST = 2000
_GROUP = 256 << 20  # bytes of tensors read at a time

#: Names of bundle entries that are no tensors of the model.
CONFIG = "@config"


def commit(
    db: Database[dict[str, Any]],
    about: Mapping[str, Any],
    bundle: Mapping[str, np.ndarray],
    note_session: Callable[[str], None] | None = None,
    made: Callable[[], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Make a captured version visible; repeating it changes nothing.

    Killed before the transaction, blobs without a version stay (`gc` takes them); after it, the
    version is whole.

    Args:
        db: the project's database.
        about: what is known of the version: `id` (made by the client), `model`, `run`, `attempt`,
            `number` and `began` of the attempt, `base` (version it resumed from), `step`,
            `epoch`, `batch`, `metrics`, `manifest`, `callbacks`, `cursor`, `tags`, and `best`:
            `None`, or the `monitor`, `mode` and `value` by which it may be the best version;
            maybe `data`: what a dataset's batches say of themselves.
        bundle: arrays by the manifest's names, and the config's bytes as `@config`.
        note_session: told the session's id (hex) before its transaction begins, so that another
            process can end it if this one is killed inside.
        made: asked behind the upload for `env`, `git` and `host` of a version without a run.

    Returns:
        The version's document.
    """
    from pymongo.errors import DuplicateKeyError

    blobs = Blobs(db)
    clashes = 0
    while True:
        found = db["versions"].find_one({"_id": about["id"]})
        if found is not None:
            return found
        entries = _upload(blobs, about["manifest"], bundle)
        config = bundle.get(CONFIG)
        document: dict[str, Any] = {
            "_id": about["id"],
            "model": about["model"],
            **{k: about[k] for k in ("run", "attempt", "number", "began", "step", "epoch")},
            **{k: about[k] for k in ("batch", "callbacks", "cursor")},
            **{k: {key(n): v for n, v in about[k].items()} for k in ("metrics", "tags")},
            "tensors": entries,
            "config": blobs.put(config.tobytes()) if config is not None else None,
            "created": datetime.datetime.now(datetime.UTC),
            "token": about["attempt"],
        }
        if about.get("data") is not None:
            document["data"] = about["data"]
        if made is not None:
            document["made"] = made()
        if len(entries) > _INLINE_MANIFEST:
            from bson import encode

            document["manifest"] = blobs.put(encode({"tensors": entries}))
            document["tensors"] = []
        names = {entry["hash"] for entry in entries}
        names |= {document[k] for k in ("config", "manifest") if document.get(k)}
        hooks.phase("version-uploaded")
        with db.client.start_session() as session:
            if note_session is not None:
                note_session(bytes(session.session_id["id"]).hex())
            try:
                done = session.with_transaction(
                    lambda s: _publish(db, blobs, about, document, names, s)  # noqa: B023
                )
            except DuplicateKeyError:
                # Another process committed this version, which the next round sees, or the number
                # is taken: the model's counter is older than its versions, as after a restore.
                clashes += 1
                if clashes > 2:
                    raise
                _count_on(db, about["model"])
                continue
        hooks.phase("version-committed")
        if done:
            return document


def _count_on(db: Database[dict[str, Any]], model: str) -> None:
    """Let the model's counter be no less than the numbers of its versions."""
    newest = db["versions"].find_one({"model": model}, {"version": 1}, sort=[("version", -1)])
    if newest is not None:
        db["models"].update_one({"_id": model}, {"$max": {"next": newest["version"]}})


def _upload(
    blobs: Blobs, manifest: list[dict[str, Any]], bundle: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    arrays = [bundle[item["name"]] for item in manifest]
    names = blobs.put_many(tensors.pieces({"tensor": array}) for array in arrays)
    return [
        {
            "path": item["path"],
            "role": item["role"],
            "shape": list(array.shape),
            "dtype": array.dtype.name,
            "bytes": array.nbytes,
            "hash": name,
        }
        for item, array, name in zip(manifest, arrays, names, strict=True)
    ]


def _publish(
    db: Database[dict[str, Any]],
    blobs: Blobs,
    about: Mapping[str, Any],
    document: dict[str, Any],
    names: set[str],
    session: ClientSession,
) -> bool:
    from pymongo import ReturnDocument

    if db["versions"].find_one({"_id": about["id"]}, {"_id": 1}, session=session):
        return True  # an earlier try was committed, its answer was lost
    model = db["models"].find_one_and_update(
        {"_id": about["model"]},
        {"$inc": {"rev": 1, "next": 1}, "$setOnInsert": {"aliases": {}}},
        upsert=True,
        return_document=ReturnDocument.AFTER,
        session=session,
    )
    assert model is not None  # made if it was missing
    if not blobs.touch(names, session):
        session.abort_transaction()  # gc took one in between: upload what is missing
        return False
    previous = db["versions"].find_one(
        {"run": about["run"], "attempt": about["attempt"], "model": about["model"]},
        {"version": 1},
        sort=[("step", -1), ("version", -1)],
        session=session,
    )
    if previous is None and about.get("after"):  # an earlier `fit` of the same process
        previous = db["versions"].find_one(
            {"attempt": about["after"], "model": about["model"]},
            {"version": 1},
            sort=[("step", -1), ("version", -1)],
            session=session,
        )
    version = document["version"] = model["next"]
    document["parent"] = previous["version"] if previous else about["base"]
    db["versions"].insert_one(document, session=session)
    moved = []
    if _is_newest(model.get("owner"), about, model["aliases"].get("latest"), document["parent"]):
        moved.append("latest")
    if about["best"] is not None and _is_best(model.get("best"), about["best"]):
        moved.append("best")
    owner = {k: about[k] for k in ("run", "attempt", "number", "began")}
    if moved:
        changes: dict[str, Any] = {f"aliases.{alias}": version for alias in moved}
        if "latest" in moved:
            changes["owner"] = owner
        if "best" in moved:
            changes["best"] = about["best"]
        db["models"].update_one({"_id": about["model"]}, {"$set": changes}, session=session)
        fields = {"model": about["model"], "version": version, "rev": model["rev"]}
        aliases = model["aliases"]
        moves = [{**fields, "alias": alias, "from": aliases.get(alias)} for alias in moved]
        record(db, moves, session)
    hooks.phase("version-transaction")
    return True


def _is_newest(
    owner: Mapping[str, Any] | None, about: Mapping[str, Any], latest: int | None, parent: Any
) -> bool:
    """Whether `latest` moves to this version.

    A trainer that was taken for dead and goes on must not take `latest` from the attempt that
    resumed in its place: that one has the higher number, whatever the clocks say.
    """
    if owner is None or latest is None or parent == latest or owner["attempt"] == about["attempt"]:
        return True
    if owner["run"] == about["run"] and owner["number"] != about["number"]:
        return bool(about["number"] > owner["number"])
    return bool(about["began"] >= owner["began"])


def _is_best(stored: Mapping[str, Any] | None, new: Mapping[str, Any]) -> bool:
    """Whether `best` moves: also over a better version if that was judged by another metric."""
    if stored is None or any(stored[k] != new[k] for k in ("monitor", "mode")):
        return True
    if new["mode"] == "max":
        return bool(new["value"] > stored["value"])
    return bool(new["value"] < stored["value"])


def entries(db: Database[dict[str, Any]], document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A version's manifest, wherever it is kept."""
    if document.get("manifest"):
        from bson import decode

        return list(decode(_get(db, document["manifest"]))["tensors"])
    return list(document["tensors"])


def database(connection: Connection) -> Database[dict[str, Any]]:
    """Without a look at its collections: a version that is cached is read without a server."""
    return connection.client[connection.project]


def config(db: Database[dict[str, Any]], document: Mapping[str, Any]) -> str | None:
    """A version's config as JSON (`state.describe`), or `None` if it has none."""
    return _get(db, document["config"]).decode() if document.get("config") else None


def _get(db: Database[dict[str, Any]], name: str) -> bytes:
    return bytes(shared().get_many(Blobs(db), [name])[name])


def read(
    db: Database[dict[str, Any]],
    document: Mapping[str, Any],
    roles: tuple[str, ...] | None = None,
    match: str | Sequence[str] | None = None,
    hashes: Container[str] | None = None,
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """A version's tensors with their manifest entries, each checked against its hash.

    Those in the cache of this machine are read from there; if all are, no server is needed.

    Raises:
        ValueError: if a blob is corrupt, naming the tensor.
    """
    chosen = state.matcher(match)
    wanted = [
        e
        for e in entries(db, document)
        if (roles is None or e["role"] in roles)
        and chosen(e["path"])
        and (hashes is None or e["hash"] in hashes)
    ]
    blobs = Blobs(db)
    while wanted:
        group: list[dict[str, Any]] = []
        size = 0
        while wanted and (not group or size + wanted[0]["bytes"] <= _GROUP):
            group.append(wanted.pop(0))
            size += group[-1]["bytes"]
        try:
            found = shared().get_many(blobs, {entry["hash"] for entry in group})
            for entry in group:
                yield entry, tensors.loads(found[entry["hash"]])["tensor"]
        except (KeyError, ValueError) as error:
            name = next((e["path"] for e in group if e["hash"] in str(error)), group[0]["path"])
            raise ValueError(
                f"Version {document['version']} of {document['model']!r} cannot be read: its "
                f"tensor {name} is damaged or missing: {error}"
            ) from error
