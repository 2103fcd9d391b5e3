"""Signs of life between processes: who is silent for too long has ended, and who says that it ends has not."""

import os
import time

import pytest

from glimpse.ranks import watching
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
