"""Signs of life between processes: who is silent for too long has ended, and who says that it ends has not."""

import os
import socket
import time
from datetime import timedelta

import pytest

from glimpse.errors import SettingsError
from glimpse.ranks import group, watching
from glimpse.ranks.group import taking_part
from glimpse.ranks.watching import Watch


class Store(dict[str, bytes]):
    """As much of `torch.distributed.TCPStore` as is used."""

    def set(self, key: str, value: str) -> None:
        self[key] = value.encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)

    def get(self, key: str) -> bytes:  # type: ignore[override]
        return self[key]


class Lost(Store):
    """A store whose process has ended."""

    def set(self, key: str, value: str) -> None:
        raise RuntimeError("Connection reset by peer")


@pytest.mark.parametrize(
    ("store", "last", "ends"),
    [(Store(), b"3", True), (Store(), b"ended", False), (Store(), b"", True), (Lost(), b"3", True)],
    ids=["silent", "ended well", "never heard of", "without a store"],
)
def test_a_process_that_is_silent_ends_the_others(
    store: Store, last: bytes, ends: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(watching, "_EVERY", 0.01)
    monkeypatch.setattr(watching, "_PATIENCE", 0.05)
    monkeypatch.setattr(os, "_exit", ended.append)
    if last:
        store["glimpse/alive/1"] = last
    with Watch(store, 0, 2, lambda: "the other one has ended"):
        time.sleep(0.15)
    assert bool(ended) == ends and set(ended) <= {2}
    assert ("the other one has ended" in capsys.readouterr().err) == ends
    assert ends or store["glimpse/alive/0"] == b"ended"


def test_a_process_that_ends_by_an_error_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_EVERY", 0.01)
    store = Store({"glimpse/alive/1": b"ended"})
    with pytest.raises(RuntimeError, match="out of memory"), Watch(store, 0, 2, lambda: ""):
        time.sleep(0.05)
        raise RuntimeError("out of memory")
    assert store["glimpse/alive/0"] not in (b"ended", b"")


@pytest.mark.parametrize(
    "wrong", [{"RANK": "a"}, {"WORLD_SIZE": "0"}, {"RANK": "2"}, {"LOCAL_RANK": "-1"}, {"MASTER_PORT": "99999"}]
)
def test_variables_that_torchrun_never_sets_are_named(wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    usual = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in {**usual, **wrong}.items():
        monkeypatch.setenv(name, value)
    ((name, value),) = wrong.items()
    with pytest.raises(SettingsError, match=rf"{name}={value}.*Start torchrun"), taking_part():
        pass


def test_processes_that_do_not_come_are_not_awaited_for_ever(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    usual = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in usual.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(group, "_JOINING", timedelta(seconds=1))
    with pytest.raises(SettingsError, match="did not find each other"), taking_part():
        pass
    assert "waiting for 1 other process" in capsys.readouterr().err
