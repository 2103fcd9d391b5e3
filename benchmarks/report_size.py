"""How large the report on a thousand predicted slides is, and how long it takes to write.

python -m benchmarks.report_size

The policy of `glimpse demo` reads slides of the embedded cohort, each one several times under another name, until
there are as many cases as asked for. Then the report is written twice: with the pages of cases in files of their own,
as it is by default when there are so many, and with all of them in one file.
"""

import argparse
import csv
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Benchmark, Row, figure, parser, table, write_cohort
from glimpse.demo.showing import POLICY
from glimpse.predict import predict
from glimpse.report.html.writing import write_report
from glimpse.synthetic.slides.recipe import embedded_cohort

NAME = "report_size"
LARGEST = 60.0  # megabytes of the file that a browser opens
FORMS = {"pages in files of their own": 8.0, "all in one file": 1e6}  # and the setting `megabytes`


def options() -> argparse.ArgumentParser:
    made = parser(NAME, __doc__)
    made.add_argument("--cases", type=int, default=1000, help="predicted cases (default: 1000)")
    made.add_argument("--slides", type=int, default=20, help="slides that are painted (default: 20)")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    bench = Benchmark(NAME, options(), arguments)
    quick = bench.options.quick
    cases, slides, size = (6, 6, 1024) if quick else (bench.options.cases, bench.options.slides, 3072)
    asked = {"cases": cases, "slides": slides, "size": size}
    if any(bench.results.find(form=form, **asked) is None for form in FORMS):
        folder = bench.runs / f"{cases}-of-{slides}"
        listed = _listed(embedded_cohort(n=slides, size=size, progress=True), cases, folder)
        began = time.perf_counter()
        predict(POLICY, listed, folder / "predictions", progress=True)
        print(f"{cases} cases were predicted in {time.perf_counter() - began:.0f} s.", flush=True)
        for form, megabytes in FORMS.items():
            bench.results.put({"form": form, **asked}, **_measure(folder, megabytes))
    report(bench, asked)


def _listed(cohort: Path, cases: int, folder: Path) -> Path:
    """Writes a CSV with as many cases: the slides of the cohort, again and again."""
    with open(cohort, newline="", encoding="utf-8") as file:
        paths = [str(cohort.parent / row["path"]) for row in csv.DictReader(file)]
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"slide_id": f"case-{i + 1:04d}", "path": paths[i % len(paths)]} for i in range(cases)]
    return write_cohort(folder / "cases.csv", rows)


def _measure(folder: Path, megabytes: float) -> Row:
    """Writes the report; returns megabytes of the file, of the folder beside it, and seconds."""
    began = time.perf_counter()
    written = write_report(folder / "predictions", folder / f"report-{megabytes:.0f}.html", megabytes=megabytes)
    pages = list(written.folder.iterdir()) if written.folder else []
    sizes = [page.stat().st_size / 1e6 for page in pages]
    return {
        "megabytes": written.file.stat().st_size / 1e6,
        "beside_megabytes": sum(sizes),
        "page_megabytes": max(sizes, default=0.0),
        "seconds": time.perf_counter() - began,
    }


def report(bench: Benchmark, asked: Row) -> None:
    """Prints a line for each form, and draws the sizes."""
    rows = {form: bench.results.find(form=form, **asked) for form in FORMS}
    made, axes = figure(6.4, 2.2)
    lines = []
    for place, (form, row) in enumerate(rows.items()):
        assert row is not None, "both forms were measured"
        lines.append([form, row["megabytes"], row["beside_megabytes"], row["page_megabytes"], row["seconds"]])
        axes.barh(place, row["megabytes"], color="C0", label="report" if place == 0 else None)
        axes.barh(
            place, row["beside_megabytes"], left=row["megabytes"], color="C1", label="pages" if place == 0 else None
        )
    axes.set(yticks=range(len(rows)), yticklabels=list(rows), xlabel=f"MB, {asked['cases']} cases")
    axes.legend()
    print(table(("form", "report, MB", "pages, MB", "largest page, MB", "seconds"), lines))
    print(f"target: by default, at most {LARGEST:.0f} MB in the file that is opened")
    bench.picture(made)


if __name__ == "__main__":
    main()
