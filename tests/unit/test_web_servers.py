"""Images on web servers: fetched on from where a connection broke, and refused with what the server said."""

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from glimpse.check import check
from glimpse.modalities import find_modality
from glimpse.predicting.inputs import find_items
from glimpse.sources import ImageReadError, UnsupportedImageError, open_source
from glimpse.sources.staged import remote as module
from glimpse.sources.staged.remote import remote
from tests.checks import FAST, listed
from tests.predictions import write_slide


def test_a_web_server(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    path = write_slide(tmp_path / "served" / "s.svs")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(path.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/s.svs?signed=1"
        source = open_source(address, reader="slide", stage=tmp_path / "stage")
        assert np.array_equal(source.overview((32, 32)), open_source(path).overview((32, 32)))
        assert source.file.name == "s.svs"
        table = listed(tmp_path / "list.csv", address.partition("?")[0], "memory://none.svs", header="path")
        checked = check(table, tmp_path / "out", env="wsi", **FAST)
        assert [[one.rule for one in findings] for _, _, findings in checked.cases] == [[], ["unreadable"]]
        with pytest.raises(ImageReadError, match=r"/none\.svs: there is nothing at this address"):
            open_source(address.replace("s.svs", "none.svs"), reader="slide").check()
        server.shutdown()


@contextmanager
def serving(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A web server that answers as told; yields its host and port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_GET

        def log_message(self, *given: object) -> None:
            pass

    pytest.importorskip("aiohttp")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def send(request: http.server.BaseHTTPRequestHandler, body: bytes, size: int | None) -> None:
    request.send_response(200)
    if size is not None:
        request.send_header("Content-Length", str(size))
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(body)


def test_what_a_server_refuses_is_said_without_secrets(tmp_path: Path) -> None:
    def refuses(request: http.server.BaseHTTPRequestHandler) -> None:
        kind = request.path.strip("/").split(".")[0]
        if kind == "moved":
            request.send_response(302)
            request.send_header("Location", "/403.svs?signed=secret")
            request.end_headers()
        elif kind == "text":
            send(request, b"no slide", 8)
        else:
            request.send_error(int(kind))

    def opened(address: str) -> None:
        open_source(f"{address}?token=secret#secret", reader="slide", stage=tmp_path / "stage").check()

    with serving(refuses) as host:
        for kind, said in {
            "403": "cannot be fetched .*403.*not allowed",
            "401": "cannot be fetched .*401.*not allowed",
            "500": "cannot be fetched .*500.*try again later",
            "404": "there is nothing at this address",
            "moved": "cannot be fetched .*403.*not allowed",
            "text": "not a slide",
        }.items():
            with pytest.raises((ImageReadError, UnsupportedImageError), match=said) as told:
                opened(f"http://me:secret@{host}/{kind}.svs")
            assert str(told.value).startswith(f"http://{host}/{kind}.svs: ") and "secret" not in str(told.value)
    with pytest.raises(ImageReadError, match=r"cannot be fetched .*not reachable"):  # nobody is there any more
        opened(f"http://{host}/a.svs")


def test_a_server_that_says_nothing_more_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SILENT", 0.2)
    done = threading.Event()

    def stalls(request: http.server.BaseHTTPRequestHandler) -> None:
        send(request, b"begins", 1000)
        if request.command == "GET":
            done.wait(10)

    with serving(stalls) as host:
        with pytest.raises(ImageReadError, match=r"the server did not answer for 0\.2 s\). .*try again later"):
            open_source(f"http://{host}/s.svs", reader="slide", stage=tmp_path / "stage").check()
        done.set()


def test_a_slow_server_may_take_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SILENT", 0.5)
    content = write_slide(tmp_path / "s.svs").read_bytes()

    def slow(request: http.server.BaseHTTPRequestHandler) -> None:
        part = len(content) // 4 + 1
        send(request, b"", len(content))
        for begin in range(0, len(content) if request.command == "GET" else 0, part):
            time.sleep(0.2)
            request.wfile.write(content[begin : begin + part])
            request.wfile.flush()

    with serving(slow) as host:
        open_source(f"http://{host}/s.svs", reader="slide", stage=tmp_path / "stage").check()


@pytest.mark.parametrize("fault", [None, "replaced", "at the end", "always", "short", "whole", "gone"])
def test_a_fetch_that_breaks_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str | None
) -> None:
    """A connection that is lost costs only what had not come yet; what comes afterwards must be the same file's."""
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    monkeypatch.setattr(module, "_PART", 20_000)
    content = write_slide(tmp_path / "s.svs").read_bytes()
    parts, doubts = list[int](), list[str]()  # where the parts that are fetched begin; what it is asked besides

    def breaking(request: http.server.BaseHTTPRequestHandler) -> None:
        wanted, sent = request.headers.get("Range", ""), content
        if wanted:
            begin, end = (int(one) for one in wanted.removeprefix("bytes=").split("-"))
            parts.append(begin)
            sent = {"whole": content, "short": content[begin:end]}.get(fault or "", content[begin : end + 1])
        elif request.command == "GET" and not parts:
            parts.append(0)  # the first fetch, which breaks
        elif parts:
            doubts.append(request.command)
            if len(doubts) <= 2 or fault == "gone":  # it does not answer for a while
                return request.send_error(503)
        broken = len(parts) in (1, 3) or fault == "always"
        request.send_response(206 if wanted and fault != "whole" else 200)
        last = parts and parts[-1] + 20_000 >= len(content)
        another = len(parts) > 1 if fault == "replaced" else fault == "at the end" and last
        request.send_header("ETag", "two" if another else "one")
        request.send_header("Content-Length", str(len(sent)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(sent[: 3 * len(sent) // 4] if broken else sent)

    with serving(breaking) as host:
        source = open_source(f"http://{host}/s.svs", reader="slide", stage=tmp_path / "stage")
        if fault is None:
            assert np.array_equal(source.overview((32, 32)), open_source(tmp_path / "s.svs").overview((32, 32)))
            assert source.file.read_bytes() == content
            assert parts[0] == 0 and parts[1] > len(content) // 2 and parts == sorted(parts)
            assert len(parts) == len(set(parts)) + 1, "one part was asked for twice"
            return
        said = {
            "replaced": "replaced while",
            "at the end": "replaced while",
            "short": "bytes came where",
            "gone": "503",
        }
        with pytest.raises(ImageReadError, match=said.get(fault, "cannot be fetched")):
            source.check()
        if fault == "at the end":
            assert parts[-1] + 20_000 >= len(content), "all parts had come"
        else:
            assert len(parts) == {"gone": 1, "whole": 2}.get(fault, 4)


def test_a_server_is_asked_for_the_address_as_it_was_given(tmp_path: Path) -> None:
    content, asked = write_slide(tmp_path / "s.svs").read_bytes(), set()

    def noting(request: http.server.BaseHTTPRequestHandler) -> None:
        asked.add(request.path)
        send(request, content, len(content))

    below = "/d//a%2Fb.svs?path=/q/b.csv&sig=a//b%2Fc%3D&x=%7Ey+z::k"
    with serving(noting) as host:
        source = open_source(f"HTTP://{host}{below}", reader="slide", stage=tmp_path / "stage")
        source.check()
        assert asked == {below} and source.file.name == "a%2Fb.svs"
        assert [one.id for one in find_items([f"http://{host}{below}"], find_modality("wsi"))] == ["a%2Fb"]
    assert len({remote("http://h/d/a.svs"), remote("http://h/d//a.svs"), remote("HTTP://h/d/a.svs")}) == 2


def test_a_copy_that_was_cut_short_unnoticed_is_fetched_again(tmp_path: Path) -> None:
    path, cut = write_slide(tmp_path / "s.svs"), [True]
    content = path.read_bytes()

    def breaks(request: http.server.BaseHTTPRequestHandler) -> None:
        send(request, content[: len(content) // 2] if cut[0] else content, None)

    with serving(breaks) as host:
        address, options = f"http://{host}/s.svs", {"reader": "slide", "stage": tmp_path / "stage"}
        with pytest.raises(ImageReadError, match="truncated"):
            open_source(address, **options).check()
        cut[0] = False
        assert np.array_equal(open_source(address, **options).overview((32, 32)), open_source(path).overview((32, 32)))


def test_a_fetch_of_unknown_size_ends_where_the_stage_does(tmp_path: Path) -> None:
    sent = []

    def endless(request: http.server.BaseHTTPRequestHandler) -> None:
        send(request, b"", None)
        with suppress(OSError):  # nobody listens any more
            for part in range(200 if request.command == "GET" else 0):
                request.wfile.write(bytes(1 << 20))
                sent.append(part)

    with serving(endless) as host, pytest.raises(ImageReadError, match=r"cannot be fetched\. .* Raise stage_gigabytes"):
        open_source(f"http://{host}/s.svs", reader="slide", stage=tmp_path / "stage", stage_gigabytes=2**-10).check()
    assert max(sent) < 100 and not list((tmp_path / "stage").glob("*/s.svs"))
