"""Makes an embedded cohort from the command line: `python -m glimpse.synthetic --kind wsi --n 270`."""

import argparse
from importlib import import_module
from pathlib import Path

KINDS = {
    "wsi": "glimpse.synthetic.slides.recipe:embedded_cohort",
    "mri": "glimpse.synthetic.volumes.recipe:embedded_mri",
    "ct": "glimpse.synthetic.volumes.recipe:embedded_ct",
    "xray": "glimpse.synthetic.radiographs.recipe:embedded_cohort",
    "photo": "glimpse.synthetic.photos.recipe:embedded_cohort",
}
"""The function that makes each kind, imported only when asked for."""


def main() -> None:
    """Makes a whole cohort and prints the path of its CSV."""
    parser = argparse.ArgumentParser(prog="python -m glimpse.synthetic", description=__doc__)
    parser.add_argument("--kind", choices=KINDS, default="wsi")
    parser.add_argument("--folder", type=Path, help="where to keep it (default: in the cache)")
    parser.add_argument("--n", type=int, help="number of images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, help="side of an image in pixels (default: the kind's own)")
    parser.add_argument("--workers", type=int, help="number of processes (default: one per core)")
    parser.add_argument("--sparse", action="store_true", help="large slides that are mostly glass (--kind wsi)")
    options = parser.parse_args()
    if options.sparse and options.kind != "wsi":
        parser.error("--sparse: only slides (--kind wsi) are sparse")
    module, name = KINDS[options.kind].split(":")
    wishes = {"n": options.n, "size": options.size}  # where there is none, the kind's own default holds
    given = {name: wish for name, wish in wishes.items() if wish is not None}
    given |= {"sparse": True} if options.sparse else {}
    make = getattr(import_module(module), name)
    try:
        print(make(options.folder, seed=options.seed, workers=options.workers, progress=True, **given))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
