"""Oracles on stored versions: they read the documents by pymongo, GridFS and safetensors alone.

Each returns the differences that it found, in words.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import bson
import gridfs
import numpy as np
import safetensors.numpy

Document = Mapping[str, Any]
Tensors = dict[tuple[str, str], np.ndarray]


def listed(db: Any, key: str | None = None) -> list[dict[str, Any]]:
    """The documents of all versions that are not deleted, in order."""
    query = {"deleted": None, **({"model": key} if key else {})}
    return list(db["versions"].find(query).sort([("model", 1), ("version", 1)]))


def blob(db: Any, name: str) -> bytes:
    """A blob as GridFS' own reader gives it.

    Raises:
        Exception: whatever that raises, or ValueError if the content is not that of the name.
    """
    data: bytes = gridfs.GridFSBucket(db, "blobs").open_download_stream_by_name(name).read()
    if hashlib.sha256(data).hexdigest() != name:
        raise ValueError(f"{name} has another SHA-256")
    return data


def manifest(db: Any, document: Document) -> list[dict[str, Any]]:
    """A version's list of tensors."""
    if document.get("manifest"):
        return list(bson.decode(blob(db, document["manifest"]))["tensors"])
    return list(document["tensors"])


def tensors(db: Any, document: Document) -> Tensors:
    """A version's tensors by role and path.

    Raises:
        Exception: if anything of it cannot be read.
    """
    json.loads(blob(db, document["config"]))
    found = {}
    for entry in manifest(db, document):
        (array,) = safetensors.numpy.load(blob(db, entry["hash"])).values()
        if (list(array.shape), array.dtype.name) != (entry["shape"], entry["dtype"]):
            raise ValueError(f"{entry['path']} is {array.shape} {array.dtype}, not as listed")
        found[entry["role"], entry["path"]] = array
    if not found:
        raise ValueError("it has no tensors")
    return found


def names(db: Any) -> set[str]:
    """The blobs that versions refer to."""
    found = set()
    for document in listed(db):
        found |= {entry["hash"] for entry in manifest(db, document)}
        found |= {document[name] for name in ("config", "manifest") if document.get(name)}
    return found


def readable(db: Any, skip: int = 0) -> list[str]:
    """Every version that is listed can be read; one that is deleted meanwhile does not count.

    Args:
        db: the project's database.
        skip: so many of the first ones are not looked at.
    """
    different = []
    for document in listed(db)[skip:]:
        try:
            tensors(db, document)
        except Exception as error:
            if db["versions"].find_one({"_id": document["_id"], "deleted": None}):
                about = f"{document['model']} {document['version']}"
                different.append(f"{about} cannot be read: {type(error).__name__}: {error}")
    return different


def ordered(db: Any) -> list[str]:
    """Numbers, parents and aliases fit together; an attempt's steps only grow."""
    different = []
    steps: dict[str, list[int]] = defaultdict(list)
    numbers: dict[str, list[int]] = defaultdict(list)
    for document in db["versions"].find().sort([("model", 1), ("version", 1)]):
        about = f"{document['model']} {document['version']}"
        steps[document["attempt"]].append(document["step"])
        parent = document["parent"]
        if parent is not None and parent not in numbers[document["model"]]:
            different.append(f"{about} has the parent {parent}, which was not there before it")
        numbers[document["model"]].append(document["version"])
    for attempt, found in steps.items():
        if found != sorted(set(found)):
            different.append(f"the steps of attempt {attempt} are {found}")
    for key, found in numbers.items():
        if found != list(range(1, len(found) + 1)):
            different.append(f"the versions of {key} are {found}")
    kept = {(document["model"], document["version"]) for document in listed(db)}
    for model in db["models"].find():
        if numbers[model["_id"]] and "latest" not in model["aliases"]:
            different.append(f"{model['_id']} has no `latest`")
        for alias, version in model["aliases"].items():
            if (model["_id"], version) not in kept:
                different.append(f"{alias} of {model['_id']} points to {version}: no such version")
        # Each move says whence: together they lead from nowhere to where the alias is.
        moves: dict[str, Any] = defaultdict(Counter)
        for move in db["transitions"].find({"model": model["_id"]}):
            moves[move["alias"]][move["version"]] += 1
            moves[move["alias"]][move["from"]] -= 1
        for alias in moves.keys() | model["aliases"].keys():
            moves[alias][model["aliases"].get(alias)] -= 1
            moves[alias][None] += 1
            if any(moves[alias].values()):
                different.append(f"the history of {alias} of {model['_id']} is not whole")
    return different


def orphans(db: Any) -> list[str]:
    """The blobs are exactly those that versions refer to, each with all of its chunks."""
    files = list(db["blobs.files"].find())
    stored, wanted = {file["filename"] for file in files}, names(db)
    different = [f"nothing refers to blob {name}" for name in sorted(stored - wanted)]
    different += [f"blob {name} is missing" for name in sorted(wanted - stored)]
    if len(stored) != len(files):
        different.append(f"{len(files) - len(stored)} blobs are stored twice")
    chunks: dict[Any, list[int]] = defaultdict(list)
    for chunk in db["blobs.chunks"].find({}, {"files_id": 1, "n": 1}).sort("n", 1):
        chunks[chunk["files_id"]].append(chunk["n"])
    for file in files:
        count = -(-file["length"] // file["chunkSize"])
        if chunks.pop(file["_id"], []) != list(range(count)):
            different.append(f"blob {file['filename']} lacks chunks")
    different += [f"chunks of {identity} have no file" for identity in chunks]
    return different
