"""Makes the embedded cohort from the command line: `python -m glimpse.synthetic --n 270`."""

import argparse
from pathlib import Path

from glimpse.synthetic.slides import embedded_cohort, make_slides, plan_cohort


def main() -> None:
    """Makes the whole cohort, or with `--part k/w` only every w-th slide from the k-th on."""
    parser = argparse.ArgumentParser(prog="python -m glimpse.synthetic", description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to keep it (default: in the cache)")
    parser.add_argument("--n", type=int, default=270, help="number of slides")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=4096, help="side of a slide in pixels")
    parser.add_argument("--workers", type=int, help="number of processes (default: one per core)")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is None:
        print(embedded_cohort(options.folder, options.n, options.seed, options.size, workers=options.workers))
        return
    first, step = (int(word) for word in options.part.split("/"))
    records = plan_cohort(options.n, options.seed)[first::step]
    for _ in make_slides(options.folder, records, options.seed, options.size):
        pass


if __name__ == "__main__":
    main()
