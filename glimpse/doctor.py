"""Describe this installation: versions, devices, codecs, caches, and what is missing to read which format.

glimpse doctor
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from glimpse.inspecting.machine import Section, examine
from glimpse.inspecting.probes import Probed
from glimpse.settings.terminal import put_out

BROKEN_CODE = 1  # the exit code where something that is needed does not work; 2 is a mistake in the command
_USAGE = """glimpse doctor [json=true]

Describes this installation: versions, devices, codecs, caches, extras, and which formats can be read. Nothing is
changed. Exit code 0: all that is needed works (what is optional may be missing); 1: something does not; 2: a mistake in
the command."""
_SIGNS = {"ok": " ", "missing": "-", "broken": "!"}
_NAME = 34


def doctor(modules: Mapping[str, Probed] | None = None) -> tuple[Section, ...]:
    """Examines this installation; packages are imported in other processes, so a broken one does no harm.

    Args:
        modules: what is known of each module; by default it is asked of other processes, which takes some seconds.

    Returns:
        Sections of lines, each with its state and, where something is to be done, a remedy.
    """
    return examine(modules)


def written(sections: Sequence[Section]) -> str:
    """Returns the report as text: a line for each fact, "!" before what is broken and "-" before what is missing."""
    parts = []
    for section in sections:
        lines = [section.title]
        for line in section.lines:
            lines.append(f" {_SIGNS[line.state]} {line.name:<{_NAME}} {line.text}".rstrip())
            lines += [f"   {'':<{_NAME}} {line.remedy}"] if line.remedy else []
        parts.append("\n".join(lines))
    broken = [line.name for section in sections for line in section.lines if line.state == "broken"]
    missing = [line.name for section in sections for line in section.lines if line.state == "missing"]
    ending = "All that is needed works."
    if broken:
        ending = f"Broken, and needed: {', '.join(dict.fromkeys(broken))}. The lines with ! say what to do."
    if missing:
        ending += f" Missing, and optional: {', '.join(dict.fromkeys(missing))}."
    return "\n\n".join([*parts, ending])


def is_broken(sections: Sequence[Section]) -> bool:
    """Tells whether something that is needed does not work."""
    return any(line.state == "broken" for section in sections for line in section.lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command, which needs none of the packages that it looks for but gymnasium; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if any(one in ("-h", "--help") for one in arguments):
        put_out(_USAGE)
        return 0
    unknown = [one for one in arguments if one not in ("json=true", "json=false")]
    if unknown:
        print(f"glimpse: glimpse doctor does not take {unknown[0]!r}; it takes json=true only.", file=sys.stderr)
        return 2
    sections = doctor()
    plain: dict[str, Any] = {section.title: [asdict(line) for line in section.lines] for section in sections}
    put_out(json.dumps(plain, indent=1) if "json=true" in arguments else written(sections))
    return BROKEN_CODE if is_broken(sections) else 0


if __name__ == "__main__":
    sys.exit(main())
