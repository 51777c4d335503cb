"""Connections without a server: secrets, options, projects, forks, and where settings come from."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keras_tl.hub import Hub
from keras_tl.storage.connection import Connection, connect, redact, redact_options

NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
# Nothing that could stand in a redacted URI for another reason.
SECRETS = st.text(st.characters(codec="utf-8", exclude_characters="*"), min_size=1).map(
    lambda text: f"QxZ{text}ZxQ"
)


@given(
    user=NAMES,
    secret=SECRETS,
    hosts=st.lists(NAMES, min_size=1, max_size=3),
    port=st.none() | st.integers(1, 65535),
    option=st.sampled_from(
        [
            "tlsCertificateKeyFilePassword=",
            "authMechanismProperties=AWS_SESSION_TOKEN:",
            "proxyPassword=",
            "",
        ]
    ),
    escaped=st.booleans(),
)
def test_no_secret_in_what_is_shown(
    user: str, secret: str, hosts: list[str], port: int | None, option: str, escaped: bool
) -> None:
    written = quote(secret, safe="") if escaped else secret
    option_value = quote(secret, safe="")
    tail = f"/?tls=true&{option}{option_value}&w=1" if option else "/admin"
    servers = ",".join(f"{h}:{port}" if port else h for h in hosts)
    connection = Connection(
        f"mongodb://{user}:{written}@{servers}{tail}",
        {"bootstrap_servers": "broker:9092", "sasl_plain_password": secret, "ssl_password": secret},
        project="p",
    )
    for shown in (repr(connection), str(connection), connection.address or "", f"{connection!r}"):
        assert "QxZ" not in shown and secret not in shown
    assert connection.address is not None
    assert connection.address.startswith(f"mongodb://{user}:***@{hosts[0]}")
    assert servers in connection.address
    # What the driver is given is the whole of it.
    assert connection.kafka["sasl_plain_password"] == secret


@given(secret=SECRETS)
def test_no_secret_in_errors(secret: str) -> None:
    assume(quote(secret, safe="") != secret)
    uri = f"mongodb://ada:{secret}@[db"  # neither the password nor the host is right
    with pytest.raises(Exception) as caught:  # noqa: B017  # whatever pymongo thinks of it
        _ = Connection(uri).client
    assert secret not in str(caught.value)


@given(
    secret=SECRETS, key=st.sampled_from(["password", "api_key", "token", "client_secret", "PWD"])
)
def test_redacted_options(secret: str, key: str) -> None:
    shown = redact_options({f"sasl_{key}": secret, "security_protocol": "SASL_SSL"})
    assert shown[f"sasl_{key}"] == "***"
    assert shown["security_protocol"] == "SASL_SSL"


def test_a_uri_without_secrets_stays() -> None:
    for uri in ("mongodb://db", "mongodb://a:1,b:2/x?replicaSet=rs0", "mongodb+srv://c.example/"):
        assert redact(uri) == uri


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a/b", "$x", "x" * 39, "ä", "a\n"])
def test_projects_are_database_names(name: str) -> None:
    with pytest.raises(ValueError, match="`project` must be .* Received: project="):
        Connection("mongodb://db", project=name)


def test_projects_are_apart() -> None:
    assert Connection("mongodb://db", project="x" * 38).project == "x" * 38
    assert Connection().project == "keras_tl"


def options(connection: Connection) -> Any:
    client = connection.client
    try:
        return client.options
    finally:
        connection.close()


def test_the_defaults() -> None:
    found = options(Connection("mongodb://127.0.0.1:1"))
    assert found.write_concern.document == {"w": "majority"}
    assert found.read_concern.level == "majority"
    assert found.pool_options.max_pool_size == 8
    assert found.server_selection_timeout == 3
    assert found.codec_options.tz_aware is True


def test_the_uri_wins_over_the_defaults() -> None:
    uri = "mongodb://127.0.0.1:1/?w=1&MAXPOOLSIZE=3&serverselectiontimeoutms=70&timeoutMS=5000"
    found = options(Connection(uri))
    assert found.write_concern.document == {"w": 1}
    assert found.pool_options.max_pool_size == 3
    assert found.server_selection_timeout == 0.07
    assert found.timeout == 5
    assert found.read_concern.level == "majority"  # not named: the default
    found = options(Connection("mongodb://127.0.0.1:1/?w=1;maxPoolSize=2"))
    assert found.pool_options.max_pool_size == 2


def test_arguments_win_over_both() -> None:
    uri = "mongodb://127.0.0.1:1/?maxPoolSize=3"
    found = options(Connection(uri, maxpoolsize=5, serverSelectionTimeoutMS=90))
    assert found.pool_options.max_pool_size == 5
    assert found.server_selection_timeout == 0.09
    found = options(Connection(uri, serverselectiontimeoutms=90, tz_aware=False))
    assert found.server_selection_timeout == 0.09
    assert found.codec_options.tz_aware is False


def test_tls_and_scram_pass_through() -> None:
    found = options(
        Connection(
            "mongodb://ada:p%40ss@127.0.0.1:1/?authSource=people&authMechanism=SCRAM-SHA-256",
            tls=True,
            tlsAllowInvalidCertificates=True,
        )
    )
    credentials = found.pool_options._credentials
    assert (credentials.username, credentials.password) == ("ada", "p@ss")
    assert (credentials.mechanism, credentials.source) == ("SCRAM-SHA-256", "people")
    assert found.pool_options._ssl_context is not None


def test_kafka_options_are_kafka_pythons_own() -> None:
    assert Connection(kafka="a:1,b:2").kafka == {"bootstrap_servers": "a:1,b:2"}
    given_options = {"bootstrap_servers": ["a:1"], "security_protocol": "SSL"}
    connection = Connection(kafka=given_options)
    assert connection.kafka == given_options
    connection.kafka["security_protocol"] = "PLAINTEXT"  # a copy: others see nothing of it
    assert connection.kafka == given_options


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ValueError, match="`mongodb` is needed.*KERAS_TL_MONGODB.*Received"):
        _ = Connection(kafka="a:1").client
    with pytest.raises(ValueError, match="`kafka` is needed.*KERAS_TL_KAFKA.*Received"):
        _ = Connection("mongodb://db").kafka
    with pytest.raises(ValueError, match="`hub` must be a `Hub` or a MongoDB URI. Received"):
        connect(7)


def test_who_names_the_same_uri_shares_a_connection() -> None:
    hub = Hub("mongodb://127.0.0.1:1")
    assert connect(hub) is hub.connection
    assert connect(hub.connection) is hub.connection
    assert connect("mongodb://127.0.0.1:1") is connect("mongodb://127.0.0.1:1")
    assert connect("mongodb://127.0.0.1:1") is not connect("mongodb://127.0.0.1:2")


def test_nothing_is_contacted_before_it_is_used() -> None:
    connection = Connection("mongodb://127.0.0.1:1", "127.0.0.1:1")
    assert connection._client is None
    connection.close()  # neither is it by closing
    assert connection._client is None


def test_threads_share_a_client_and_closing_ends_it() -> None:
    connection = Connection("mongodb://127.0.0.1:1", connect=False)
    found: list[int] = []
    barrier = threading.Barrier(8)

    def use() -> None:
        barrier.wait()
        found.append(id(connection.client))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    first = connection.client
    connection.close()
    assert first._closed
    assert connection.client is not first
    connection.close()


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_process_makes_its_own_client() -> None:
    """Also when a thread of the parent was just making one."""
    connection = Connection("mongodb://127.0.0.1:1", connect=False)
    client = connection.client
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with connection._lock:
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        own = connection.client
        connection.close()
        os._exit(0 if own is not client and not client._closed else 1)
    release.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0
    assert connection.client is client
    connection.close()


# Where a hub finds its servers.


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The config file of a home of its own."""
    monkeypatch.setenv("KERAS_TL_HOME", str(tmp_path))
    for name in ("MONGODB", "KAFKA", "PROJECT", "CONFIG"):
        monkeypatch.delenv(f"KERAS_TL_{name}", raising=False)
    return tmp_path / "config.toml"


def test_arguments_then_environment_then_file(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert repr(Hub()) == "Hub(mongodb=None, kafka=None, project='keras_tl')"
    config.write_text('mongodb = "mongodb://file"\nkafka = "file:1"\nproject = "of_file"\n')
    assert repr(Hub()) == "Hub(mongodb='mongodb://file', kafka='file:1', project='of_file')"
    monkeypatch.setenv("KERAS_TL_MONGODB", "mongodb://environment")
    monkeypatch.setenv("KERAS_TL_PROJECT", "of_environment")
    assert (
        repr(Hub())
        == "Hub(mongodb='mongodb://environment', kafka='file:1', project='of_environment')"
    )
    assert (
        repr(Hub("mongodb://argument", "argument:1", "of_argument"))
        == "Hub(mongodb='mongodb://argument', kafka='argument:1', project='of_argument')"
    )


def test_a_named_config_file(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('mongodb = "mongodb://home"')
    named = tmp_path / "named.toml"
    monkeypatch.setenv("KERAS_TL_CONFIG", str(named))
    with pytest.raises(ValueError, match="named.toml"):
        Hub()  # a file that was named and is not there is no silent default
    named.write_text('[kafka]\nbootstrap_servers = "b:1"\nsasl_plain_password = "hunter2"\n')
    hub = Hub()
    assert hub.connection.address is None
    assert hub.connection.kafka["sasl_plain_password"] == "hunter2"
    assert "hunter2" not in repr(hub)


def test_kafka_options_in_the_environment(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_TL_KAFKA", '{"bootstrap_servers": "b:1", "security_protocol": "SSL"}')
    assert Hub().connection.kafka == {"bootstrap_servers": "b:1", "security_protocol": "SSL"}


@pytest.mark.parametrize(
    "text", ["mongodb = hunter2", 'mongo = "mongodb://ada:hunter2@db"', "mongodb = 5"]
)
def test_a_config_that_is_wrong(config: Path, text: str) -> None:
    config.write_text(text)
    with pytest.raises(ValueError, match="The config file must .* Received: ") as caught:
        Hub()
    assert "hunter2" not in str(caught.value)


def test_a_kafka_in_the_environment_that_is_no_json(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_TL_KAFKA", '{"sasl_plain_password": hunter2}')
    with pytest.raises(ValueError, match="`KERAS_TL_KAFKA` must be") as caught:
        Hub()
    assert "hunter2" not in str(caught.value)
