"""Images on other machines, such as s3://bucket/slide.svs: they are copied to the stage by fsspec, and read there."""

import os
import posixpath
import re
import time
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from glimpse.errors import MissingExtraError, UserError
from glimpse.sources.base import (
    ImageReadError,
    ImageSource,
    UnsupportedImageError,
    begins_as_dicom,
)
from glimpse.sources.staged.source import CopiedSource, Opening
from glimpse.sources.staged.stage import Stage, StageError

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/+(?=[^/])")
_SECRETS = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)(?:[^/?#\s'\"]*@)?([^?#\s'\"]*)(?:[?#][^\s'\"]*)?")
_QUOTED = re.compile(r"(?:[!-$&-~]|%[0-9a-fA-F]{2})+")  # what can be asked of a server as it stands
_FILE = re.compile(r"file://(localhost)?(?=/)", re.IGNORECASE)
_SILENT = 60.0  # seconds for which a server may say nothing
_PART = 16 << 20  # bytes that are asked for at once after a fetch broke
_BREAKS, _PAUSE = 3, 2.0  # how often each part may fail, and seconds until it is asked for again
_SLIDE = "slide"  # the reader whose DICOM files are parts of an image
_BESIDE = ".mrxs"  # the suffix of files whose pixels are in the folder beside them
_VERSION = (
    "ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "generation", "LastModified", "last_modified",
    "Last-Modified", "updated", "mtime", "created",
)  # fmt: skip
"""What file systems call that which changes whenever a file is written."""


class RemotePath(type(Path())):  # type: ignore[misc]  # the class of paths of this system
    """The address of an image on another machine, where paths are handled: `str` gives the URL again.

    The system knows no such file, so whatever does not fetch it first says that it is not there.
    """

    _given: str | None = None  # as it was typed: paths have no "//", which addresses may have

    def __str__(self) -> str:
        if self._given is not None:
            return self._given
        scheme, *parts = self.parts
        return f"{scheme.removesuffix(':')}://{'/'.join(parts)}"

    def __fspath__(self) -> str:
        return str(self)

    def __format__(self, form: str) -> str:
        return format(self.shown, form)  # in messages

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other) if isinstance(other, RemotePath) else NotImplemented

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def name(self) -> str:
        return posixpath.basename(self.shown.rstrip("/"))

    def is_absolute(self) -> bool:
        return True

    def absolute(self) -> "RemotePath":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _remote_path, (str(self),)

    @property
    def shown(self) -> str:
        """The address without user, password and query, which may be secret."""
        scheme, rest = str(self).split("://", 1)
        host, slash, below = rest.partition("?")[0].partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{below}"


def remote(given: Any) -> RemotePath | None:
    """Returns the address that a text or path is; None for files of this machine."""
    if isinstance(given, RemotePath):
        return given
    return _remote_path(given) if isinstance(given, str) and is_url(given) else None


def local(text: str) -> str:
    """Returns the path that "file:///folder/a.svs" names; other texts as they are."""
    found = _FILE.match(text)
    return unquote(text[found.end() :]) if found else text


def _remote_path(text: str) -> RemotePath:
    scheme, rest = text.split(":", 1)
    path = RemotePath(text)
    path._given = f"{scheme.lower()}:{rest}" if rest.startswith("//") else None
    return path


def is_url(text: str) -> bool:
    """Tells whether a text begins as URLs do, such as "s3://"."""
    found = _URL.match(text)
    return found is not None and "://" in text[: found.end()]


class RemoteSource(CopiedSource):
    """An image on another machine. It is fetched when it is first read, with the files that belong to it.

    Args:
        path: the address of a file, or of a folder that is one image.
        stage: where copies lie.
        opening: opens the copy.
        reader: the name of the reader that is asked for, or None.
    """

    def __init__(self, path: RemotePath, stage: Stage, opening: Opening, reader: str | None = None) -> None:
        super().__init__(path, stage, opening)
        self._address, self._reader = path, reader
        self.name = self._original = path.shown
        self._called = "image" if path.name in ("", ".", "..") else path.name
        self._doubted = False

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteSource, (self._address, self._stage, self._opening, self._reader)

    @property
    def made_of(self) -> str:
        """What the image was opened with, wherever copies lie."""
        options = self._opening.keywords if isinstance(self._opening, partial) else {}
        return repr(sorted(options.items()))

    @cached_property
    def identity(self) -> Hashable:
        """Asked of the store once: it is the key of caches, for every glimpse."""
        return (str(self.path), stamp_of(self._address))

    @property
    def lasting_identity(self) -> Hashable | None:
        return self.identity

    @cached_property
    def _listed(self) -> Mapping[str, int]:
        """The files of the image by their paths below the folder in which it lies, with their bytes; -1 if unknown."""
        system, address = _system(self._address)
        with _understood(self._address):
            info = system.info(address)
            if info["type"] != "directory":
                found = {self._called: info}
                beside = address.removesuffix(_BESIDE)
                if address.endswith(_BESIDE) and system.isdir(beside):
                    found |= _below(system, beside)
            else:
                found = _below(system, address)
        if not found:
            raise _nothing_at(self._address)
        return {below: -1 if (size := one.get("size")) is None else int(size) for below, one in found.items()}

    def _in_place(self) -> ImageSource:
        raise ImageReadError(
            f"{self.name}: its copy was removed again and again, because others needed the room. Give the stage more "
            "of it, with stage_gigabytes=."
        )

    def _placed(self) -> Path | None:
        listed = self._listed
        size = sum(max(0, one) for one in listed.values())
        try:
            return self._stage.holding(self.identity, size, self._whole, self._fetch)
        except StageError as error:
            raise ImageReadError(f"{self.name}: cannot be fetched. {error}") from error

    def _fetch(self, folder: Path) -> None:
        system, address = _system(self._address)
        for below, size in self._listed.items():
            copy = folder / below
            copy.parent.mkdir(parents=True, exist_ok=True)
            options = {"callback": self._bound()} if size == -1 else {}
            with _understood(self._address):
                try:
                    system.get_file(self._address_of(below, address), os.fspath(copy), **options)
                except Exception:
                    if not self._begun(below, copy, size) or not self._gone_on(system, address, copy, size):
                        raise
            with open(copy, "rb") as file:
                os.fsync(file.fileno())
        if not self._whole(folder):
            raise ImageReadError(f"{self.name}: what was fetched is not as long as it should be. Start again.")
        self._refuse_parts(folder / self._called)

    def _begun(self, below: str, copy: Path, size: int) -> bool:
        """Tells whether a fetch that broke can go on: stores other than web servers may write a file in any order."""
        web = str(self._address).startswith(("http://", "https://")) and below == self._called
        return web and copy.is_file() and 0 < copy.stat().st_size < size

    def _gone_on(self, system: Any, address: str, copy: Path, size: int) -> bool:
        """Fetches what is missing of a file, part by part, after a break; tells whether the server gives parts."""
        breaks = 0
        with open(copy, "ab") as file:
            while (begin := file.tell()) < size:
                end = min(size, begin + _PART)
                try:
                    now = _stamp(system.info(address))
                    with system.open(address, size=size, block_size=_PART, cache_type="none") as original:
                        original.seek(begin)
                        part = original.read(end - begin)
                    if len(part) != end - begin:
                        raise OSError(f"{len(part)} bytes came where {end - begin} were asked for")
                except ValueError:  # it gives whole files only
                    return False
                except Exception:
                    breaks += 1
                    if breaks > _BREAKS:
                        raise
                    time.sleep(_PAUSE * breaks)
                    continue
                self._refuse_another(now)
                file.write(part)
                breaks = 0
        self._refuse_another(_stamp(system.info(address)))  # the last part, too, is of the same file
        return True

    def _refuse_another(self, stamp: Hashable) -> None:
        if stamp != self.identity[1]:  # type: ignore[index]
            raise ImageReadError(f"{self.name}: it was replaced while it was fetched. Start again.")

    def _bound(self) -> Any:
        """Returns what ends a fetch as soon as a file is longer than the stage."""
        callbacks = import_module("fsspec.callbacks")
        return callbacks.Callback(hooks={"bound": lambda size, fetched, **_: self._stage.check_fits(fetched)})

    def _perhaps_cut(self) -> bool:
        with self._lock:
            if self._doubted or self._place is None or -1 not in self._listed.values():
                return False
            self._doubted = True
            self._stage.remove(self._place)
            self._copy = self._place = None
            return True

    def _address_of(self, below: str, address: str) -> str:
        return address if below == self._called else posixpath.join(posixpath.dirname(address.rstrip("/")), below)

    def _refuse_parts(self, file: Path) -> None:
        if self._reader == _SLIDE and file.is_file():
            with open(file, "rb") as opened:
                if begins_as_dicom(opened.read(132)):
                    raise UnsupportedImageError(
                        f"{self.name}: a slide in DICOM is several files, and nobody here can tell which. Copy "
                        "the folder to a disk, and give the path there."
                    )

    def _whole(self, place: Path) -> bool:
        for below, size in self._listed.items():
            try:
                there = os.path.getsize(place / below)
            except OSError:
                return False
            if size not in (-1, there):
                return False
        return True


def stamp_of(path: RemotePath) -> Hashable:
    """Returns what changes whenever an image on another machine is written: its size, and its version or time.

    Raises:
        ImageReadError: it is not there, or cannot be reached.
        MissingExtraError: what its address needs is not installed.
    """
    system, address = _system(path)
    with _understood(path):
        info = system.info(address)
        if info["type"] != "directory":
            return _stamp(info)
        return tuple((below, _stamp(one)) for below, one in sorted(_below(system, address).items()))


def _stamp(info: Mapping[str, Any]) -> Hashable:
    return (info.get("size"), *(f"{name}={info[name]}" for name in _VERSION if info.get(name) is not None))


def _below(system: Any, folder: str) -> dict[str, Any]:
    """Returns what is known of the files below a folder, by their paths below the one in which the folder lies."""
    top = posixpath.dirname(folder.rstrip("/"))
    found = system.find(folder, detail=True)
    return {posixpath.relpath(name, top): info for name, info in found.items() if "/." not in name[len(folder) :]}


def _system(path: RemotePath) -> tuple[Any, str]:
    """Returns the file system of an address, and what the image is called there.

    Raises:
        MissingExtraError: fsspec, or what it needs for such addresses, is not installed.
        UnsupportedImageError: there are no such addresses.
    """
    try:
        fsspec = import_module("fsspec")
        if (url := str(path)).startswith(("http://", "https://")):  # whose "::" has no meaning
            system, address = fsspec.filesystem(url.partition(":")[0], **_options(url)), url
        else:
            system, address = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingExtraError(
            f"{path.shown}: images on other machines need the extra `remote`, and some stores a package of their own "
            f'({" ".join(str(error).split())}). Run: pip install "glimpse-rl[remote]", and s3fs for s3://, gcsfs for '
            "gs://, adlfs for az://; or copy the image to a disk."
        ) from error
    except (ValueError, OSError, TypeError, KeyError) as error:
        reason = _without_secrets(str(error)).rstrip(".")
        raise UnsupportedImageError(
            f"{path.shown}: no address that can be read ({reason}). Correct the path."
        ) from error
    if _is_local(system):
        raise UnsupportedImageError(f"{path.shown}: this is a file of this machine. Give its path, without the scheme.")
    return system, str(address)


def _is_local(system: Any) -> bool:
    return bool({"file", "local"} & set([system.protocol] if isinstance(system.protocol, str) else system.protocol))


def _options(url: str) -> dict[str, Any]:
    """Returns options for HTTP: by default, fetches may take five minutes in all, and addresses are written anew."""
    times = import_module("aiohttp").ClientTimeout(total=None, sock_connect=_SILENT, sock_read=_SILENT)
    return {"client_kwargs": {"timeout": times}, "encoded": _QUOTED.fullmatch(url) is not None}


@contextmanager
def _understood(path: RemotePath) -> Iterator[None]:
    """Turns what a file system raises into errors that name the address and the remedy.

    Raises:
        ImageReadError: the image is not there, or cannot be reached.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # libraries of stores raise errors of any kind
        if isinstance(error, OSError) and isinstance(error.filename, str) and os.path.exists(error.filename):
            raise  # of the copy, not of the original
        reason = _reason(error)
        if isinstance(reason, FileNotFoundError) or getattr(reason, "status", None) == 404:
            raise _nothing_at(path) from error
        said, remedy = _said(reason, path)
        raise ImageReadError(
            f"{path.shown}: cannot be fetched ({said}). {remedy}, or leave the case out (env.cohort.on_error=skip)."
        ) from error


def _said(reason: BaseException, path: RemotePath) -> tuple[str, str]:
    """Returns what a store says, or that it says nothing, and what to do about it."""
    said = _without_secrets(f"{type(reason).__name__}: {reason}").removesuffix(".")
    status = getattr(reason, "status", None)
    if isinstance(reason, TimeoutError):
        long = f"for {_SILENT:g} s" if str(path).startswith("http") else "in time"
        return f"the server did not answer {long}", "Look at the network, and try again later"
    if status in (401, 403) or isinstance(reason, PermissionError):
        return said, "Reading it is not allowed: get the right to, or an address that is still valid"
    if isinstance(status, int):
        return said, "That is what the server says: look at the address, and try again later"
    if isinstance(reason, ConnectionError) or hasattr(reason, "os_error"):  # the latter is aiohttp's
        return said, "The server is not reachable: look at the address and the network, and try again later"
    return said, "Look at the address, the network and the rights to read it"


def _without_secrets(text: str) -> str:
    """Returns a text on one line, whose addresses have neither users and passwords nor queries."""
    return _SECRETS.sub(r"\1\2", " ".join(text.split()))


def _nothing_at(path: RemotePath) -> ImageReadError:
    return ImageReadError(
        f"{path.shown}: there is nothing at this address. Correct it, or leave the case out (env.cohort.on_error=skip)."
    )


def _reason(error: BaseException) -> BaseException:
    """Returns why something failed: file systems of fsspec say "not found" of whatever a server has refused."""
    found: BaseException | None = error
    while found is not None and isinstance(found, FileNotFoundError):
        found = found.__cause__
    return error if found is None else found
