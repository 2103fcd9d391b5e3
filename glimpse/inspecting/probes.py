"""Asks, in another process, what can be imported here and what it can do; a package that ends the process is named."""

import functools
import importlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SECONDS = 180.0  # importing PyTorch for the first time, from a slow disk, takes long
_DICOM_SYNTAXES = {
    "uncompressed": "1.2.840.10008.1.2.1",
    "JPEG": "1.2.840.10008.1.2.4.50",
    "JPEG of 12 bits": "1.2.840.10008.1.2.4.51",
    "JPEG lossless": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.91",
    "RLE": "1.2.840.10008.1.2.5",
}
_TIFF_CODECS = {"LZW": "LZW", "JPEG": "JPEG8", "JPEG 2000": "JPEG2K", "Zstandard": "ZSTD", "WebP": "WEBP"}
_PILLOW_CODECS = {"JPEG": "jpg", "JPEG 2000": "jpg_2000", "WebP": "webp", "TIFF": "libtiff", "PNG": "zlib"}


@dataclass(frozen=True)
class Probed:
    """What is known of a package.

    Attributes:
        name: of the module.
        version: of the package; "" where it is not known.
        problem: why it cannot be imported; "" if it can.
        installed: whether it is there at all.
        facts: what else was asked of it, as plain values.
    """

    name: str
    version: str = ""
    problem: str = ""
    installed: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def works(self) -> bool:
        """Returns whether it can be imported."""
        return not self.problem


def probe_all(names: Sequence[str], seconds: float = _SECONDS) -> dict[str, Probed]:
    """Imports modules in another process and asks what they can do; the process is started again where one ends it.

    Args:
        names: of the modules.
        seconds: after which a module that is still being imported counts as broken.
    """
    found: dict[str, Probed] = {}
    left = list(names)
    while left:
        answers, why = _asked(left, seconds)  # all that are left, as long as they answer
        found |= answers
        done = len(answers)
        if done < len(left):  # the next one has ended the process
            found[left[done]] = Probed(left[done], _version(left[done]), why)
            done += 1
        left = left[done:]
    return found


def _asked(names: Sequence[str], seconds: float) -> tuple[dict[str, Probed], str]:
    """Returns what one process has answered before it ended, and how it ended."""
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), root])
    with tempfile.TemporaryFile("w+", errors="replace") as out, tempfile.TemporaryFile("w+", errors="replace") as said:
        command = [sys.executable, "-m", __name__, *names]
        environment = {**os.environ, "PYTHONPATH": paths}
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=said, env=environment)
        why = _waited(child, lambda: os.fstat(out.fileno()).st_size, seconds)
        out.seek(0)
        answers = {}
        for line in out.read().splitlines():
            if line.startswith("{"):
                one = json.loads(line)
                answers[one["name"]] = Probed(**one)
        return answers, why


def _waited(child: subprocess.Popen[bytes], written: Callable[[], int], seconds: float) -> str:
    """Waits for the end of a process, `seconds` after each of its answers; returns how it ended."""
    before, since = 0, time.monotonic()
    while True:
        with suppress(subprocess.TimeoutExpired):
            return f"importing it ends the process ({_ending(child.wait(0.05))})"
        if written() > before:
            before, since = written(), time.monotonic()
        elif time.monotonic() - since > seconds:
            child.kill()
            child.wait()
            return "importing it takes too long"


def _ending(code: int) -> str:
    try:
        return f"signal {-code}, {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"


# ---------------------------------------------------------------------------------------------- in the other process
def probe(name: str) -> Probed:
    """Imports a module in this process, and asks what it can do."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name.partition(".")[0] or error.name == name:
            return Probed(name, problem="not installed", installed=False)
        return Probed(name, _version(name), f"it cannot be imported ({error})")
    except BaseException as error:  # a broken package may raise anything, even SystemExit
        text = " ".join(str(error).split())[:300]
        return Probed(name, _version(name), f"it cannot be imported ({type(error).__name__}: {text})")
    facts: dict[str, Any] = {}
    try:
        facts = _FACTS.get(name, lambda module: {})(module)
    except Exception as error:
        facts = {"problem": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return Probed(name, str(getattr(module, "__version__", "") or _version(name)), facts=facts)


def _version(name: str) -> str:
    try:
        packages = _distributions().get(name.partition(".")[0]) or [name]
        return importlib.metadata.version(packages[0])
    except Exception:  # metadata may be missing or broken
        return ""


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    """Returns which installed packages hold each module; to find them takes up to a second."""
    return importlib.metadata.packages_distributions()


def _of_torch(torch: Any) -> dict[str, Any]:
    devices = []
    available = bool(torch.cuda.is_available())
    for index in range(torch.cuda.device_count()) if available else ():
        free, total = torch.cuda.mem_get_info(index)
        devices.append({"name": torch.cuda.get_device_name(index), "free": int(free), "total": int(total)})
    return {
        "cuda": torch.version.cuda or "",
        "devices": devices,
        "threads": torch.get_num_threads(),
        "bfloat16": "avx512_bf16" in _cpu_flags() or "amx_bf16" in _cpu_flags(),
    }


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return set()
    return set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())


def _of_openslide(openslide: Any) -> dict[str, Any]:
    return {"library": str(openslide.__library_version__)}


def _of_pillow(pil: Any) -> dict[str, Any]:
    features = importlib.import_module("PIL.features")
    return {name: bool(features.check(codec)) for name, codec in _PILLOW_CODECS.items()}


def _of_imagecodecs(imagecodecs: Any) -> dict[str, Any]:
    return {name: bool(getattr(imagecodecs, codec).available) for name, codec in _TIFF_CODECS.items()}


def _of_pydicom(pydicom: Any) -> dict[str, Any]:
    found = {}
    pixels = importlib.import_module("pydicom.pixels")
    for name, syntax in _DICOM_SYNTAXES.items():
        try:
            decoder = pixels.get_decoder(pydicom.uid.UID(syntax))
            found[name] = "" if decoder.is_available else ", ".join(decoder.missing_dependencies) or "no decoder"
        except Exception as error:
            found[name] = " ".join(str(error).split())[:200] or type(error).__name__
    return found


_FACTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "torch": _of_torch,
    "openslide": _of_openslide,
    "PIL": _of_pillow,
    "imagecodecs": _of_imagecodecs,
    "pydicom": _of_pydicom,
}


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what packages print must not come between the answers
    for _name in sys.argv[1:]:
        print(json.dumps(vars(probe(_name))), file=answers, flush=True)
    answers.flush()
    os._exit(0)  # what a package does when Python ends is not asked for
