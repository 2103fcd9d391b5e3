"""The splits of a run hold for whoever goes on with it, however its cohort has changed."""

import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from glimpse.cohort import Cohort, CohortError
from glimpse.cohort.recorded import RecordedSplits, read_splits
from glimpse.tasks import Classification
from tests.radiograph_files import dataset, save
from tests.volume_files import write

HEADER = "case_id,slide_id,path,target"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(16):
        np.save(tmp_path / f"{index}.npy", np.full((1, 8, 8), index, np.uint8))
    return tmp_path


def load(folder: Path, indices: Iterable[int], name: str = "s", extra: str = "", header: str = HEADER) -> Cohort:
    rows = [f"p{i},{name}{i},{i}.npy,{i % 2}{extra}" for i in indices]
    (folder / "cohort.csv").write_text("\n".join([header, *rows]))
    return Cohort.from_csv(folder / "cohort.csv", Classification(2))


def recorded(folder: Path, cohort: Cohort) -> RecordedSplits:
    cohort.write_splits(folder / "splits.csv")
    found = read_splits(folder)
    assert found is not None
    return found


def splits(cohort: Cohort) -> dict[str, str | None]:
    return {case.id: case.split for case in cohort}


def test_a_grown_cohort_keeps_its_splits_and_new_cases_are_in_none(folder: Path) -> None:
    before = load(folder, range(10))
    run, grown = recorded(folder, before), load(folder, range(14))
    assert {name: splits(grown)[name] for name in splits(before)} != splits(before), "the split would be another one"
    with pytest.warns(UserWarning, match="New in the cohort since the run began: cases s10, s11, s12, s13") as caught:
        found = run.of_run(grown)
    assert len(caught) == 1 and "split=all" in str(caught[0].message)
    assert splits(found) == {**splits(before), "s10": None, "s11": None, "s12": None, "s13": None}
    assert [case.id for case in found.split("test")] == [case.id for case in before.split("test")]
    assert len(grown) == len(found) and all(one.source is other.source for one, other in zip(grown, found, strict=True))


def test_a_split_column_that_was_changed_moves_no_case(folder: Path) -> None:
    header = f"{HEADER},split"
    run = recorded(folder, load(folder, range(4), extra=",train", header=header))
    assert set(splits(run.of_run(load(folder, range(4), extra=",test", header=header))).values()) == {"train"}


def test_renamed_and_removed_cases_are_recognised(folder: Path) -> None:
    before = load(folder, range(10))
    run = recorded(folder, before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        renamed = run.of_run(load(folder, range(10), name="slide-"))
    assert list(splits(renamed).values()) == list(splits(before).values())
    with pytest.warns(UserWarning, match="No more in the cohort since the run began: cases s8, s9"):
        fewer = run.of_run(load(folder, range(8)))
    assert splits(fewer) == {f"s{i}": splits(before)[f"s{i}"] for i in range(8)}


def test_another_cohort_of_that_name_is_not_taken_for_it(folder: Path) -> None:
    run = recorded(folder, load(folder, range(10)))
    rows = [f"p{i},s{i},{i + 1}.npy,{i % 2}" for i in range(10)]
    (folder / "cohort.csv").write_text("\n".join([HEADER, *rows]))
    with pytest.raises(CohortError, match=r"the images of cases s0, .* and 5 more are others than in .*splits\.csv"):
        run.of_run(Cohort.from_csv(folder / "cohort.csv", Classification(2)))
    with pytest.raises(
        CohortError, match=r"it has none of the cases in .*cohort=<its CSV>.*env\.cohort\.path=<its CSV>"
    ):
        run.of_run(load(folder, range(10, 16)))


def test_images_that_were_learned_from_are_test_cases_of_no_cohort(folder: Path) -> None:
    before = load(folder, range(10))
    run = recorded(folder, before)
    (folder / "elsewhere").mkdir()
    for index in range(16):
        shutil.copy(folder / f"{index}.npy", folder / "elsewhere" / f"{index}.npy")
    other = load(folder / "elsewhere", range(16), name="x", extra=",test", header=f"{HEADER},split")
    with pytest.warns(UserWarning, match="The run knows the images or patients of"):
        found = run.of_another(other)
    expected = {f"x{i}": splits(before)[f"s{i}"] for i in range(10)} | {f"x{i}": "test" for i in range(10, 16)}
    assert splits(found) == expected
    rows = ["p0,new,15.npy,1,test", "p0,old,0.npy,1,test", "q,other,14.npy,0,test"]
    (folder / "elsewhere" / "cohort.csv").write_text("\n".join([f"{HEADER},split", *rows]))
    with pytest.warns(UserWarning, match="knows"):
        found = run.of_another(Cohort.from_csv(folder / "elsewhere" / "cohort.csv", Classification(2)))
    assert splits(found) == {"new": splits(before)["s0"], "old": splits(before)["s0"], "other": "test"}


def test_equal_names_in_a_strange_cohort_mean_nothing(folder: Path) -> None:
    run = recorded(folder, load(folder, range(6)))
    (folder / "cohort.csv").write_text(
        "\n".join([f"{HEADER},split", *(f"p{i},s{i},{i + 6}.npy,1,test" for i in range(6))])
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run.of_another(Cohort.from_csv(folder / "cohort.csv", Classification(2)))
    assert set(splits(found).values()) == {"test"}


def test_splits_of_earlier_runs_go_by_names(folder: Path) -> None:
    before = load(folder, range(10))
    rows = [f"{case.patient},{case.id},{case.split}" for case in before]
    (folder / "splits.csv").write_text("\n".join(["case_id,slide_id,split", *rows]) + "\n")
    run = read_splits(folder)
    assert run is not None
    with pytest.warns(UserWarning, match="New in the cohort"):
        assert {name: split for name, split in splits(run.of_run(load(folder, range(12)))).items() if split} == splits(
            before
        )


def test_splits_that_cannot_be_read_are_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match=r"splits\.csv is missing"):
        assert read_splits(folder) is None
    (folder / "splits.csv").write_text("slide,split\n")
    with pytest.raises(CohortError, match=r"splits\.csv: expected the columns case_id,slide_id,split"):
        read_splits(folder)
    (folder / "splits.csv").write_text("case_id,slide_id,split\np,s,dev\n")
    with pytest.raises(CohortError, match=r"splits\.csv: 'dev' is no split"):
        read_splits(folder)

    def denied(path: Path, **_: object) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(CohortError, match=r"splits\.csv: cannot be read \(Permission denied\)\. Allow"):
        read_splits(folder)


@pytest.mark.parametrize("kind", ["volumes", "frames", "series"])
def test_images_of_one_file_keep_a_split_each(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_CACHE", str(folder / "cache"))
    column, path = several_in_one(folder / "data", kind)
    column_rows = [
        f"p{i},s{i},{path.name},{i % 2},{name},{i}" for i, name in enumerate(("train", "val", "test", "test"))
    ]

    def read(rows: Iterable[str], place: Path, **options: object) -> Cohort:
        (place / "cohort.csv").write_text("\n".join([f"{HEADER},split,{column}", *rows]))
        return Cohort.from_csv(
            place / "cohort.csv", Classification(2), option_columns=("frame", "series"), source_options=options
        )

    before = read(column_rows, path.parent)
    run = recorded(folder, before)
    assert len({case.fingerprint for case in before}) == 4
    assert {f"{column}={i}" in case.fingerprint for i, case in enumerate(before)} == {True}
    path.parent.rename(folder / "moved")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert splits(run.of_another(read(column_rows, folder / "moved"))) == splits(before)
        renamed = [row.replace(",s", ",new") for row in column_rows]
        assert list(splits(run.of_another(read(renamed, folder / "moved"))).values()) == list(splits(before).values())
        assert list(splits(run.of_run(read(renamed, folder / "moved"))).values()) == list(splits(before).values())
        one = read([f"p2,x,{path.name},0,test,"], folder / "moved", **{column: 2})  # chosen for all, not in the column
        assert splits(run.of_another(one)) == {"x": "test"}
    swapped = [row[: row.rindex(",")] + f",{3 - i}" for i, row in enumerate(column_rows)]
    with pytest.raises(CohortError, match="the images of cases s0, s1, s2, s3 are others"):
        run.of_run(read(swapped, folder / "moved"))


def several_in_one(folder: Path, kind: str) -> tuple[str, Path]:
    """Makes a file or folder with four images; returns the column that chooses one of them, and its path."""
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 4096, (4, 8, 8, 8)).astype(np.int16)
    if kind == "volumes":
        return "frame", write(folder / "v.nii", images.T)
    if kind == "frames":
        return "frame", save(dataset(images[:, 0].astype(np.uint16)), folder / "v.dcm")
    (folder / "v").mkdir()
    for number, image in enumerate(images):
        uid = pydicom.uid.generate_uid(entropy_srcs=[str(number)])
        for z, pixels in enumerate(image.astype(np.uint16)):
            data = dataset(pixels, SOPClassUID=pydicom.uid.CTImageStorage, SeriesInstanceUID=uid, PixelSpacing=[1, 1])
            data.SeriesNumber, data.ImagePositionPatient = number, [0, 0, z]
            data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            save(data, folder / "v" / f"{number}-{z}.dcm")
    return "series", folder / "v"


def test_an_image_of_a_file_that_was_learned_from_is_no_test_case(folder: Path) -> None:
    path = write(folder / "v.nii", np.random.default_rng(0).integers(0, 999, (8, 8, 8, 4)).astype(np.int16))

    def read(rows: Iterable[str]) -> Cohort:
        (folder / "c.csv").write_text("\n".join([f"{HEADER},split,frame", *rows]))
        return Cohort.from_csv(folder / "c.csv", Classification(2), option_columns=("frame",))

    run = recorded(folder, read([f"p0,s0,{path.name},0,train,0", f"p1,s1,{path.name},0,test,1"]))
    with pytest.warns(UserWarning, match="knows the images or patients of case other"):
        found = run.of_another(read([f"q,other,{path.name},0,test,3", f"p1,s1,{path.name},0,test,1"]))
    assert splits(found) == {"other": "train", "s1": "test"}


def test_equal_fingerprints_are_told_apart_by_name(folder: Path) -> None:
    pixels = np.zeros((1, 1000, 1000), np.uint8)
    for index in range(3):
        pixels[0, 433, 0] = index  # between the blocks of the fingerprint
        np.save(folder / f"{index}.npy", pixels)
    rows = [f"p{i},s{i},{i}.npy,0,{split}" for i, split in enumerate(("train", "val", "test"))]
    (folder / "cohort.csv").write_text("\n".join([f"{HEADER},split", *rows]))
    before = Cohort.from_csv(folder / "cohort.csv", Classification(2))
    assert len({case.fingerprint for case in before}) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert splits(recorded(folder, before).of_another(before)) == splits(before)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_of_the_splits_of_a_patient_the_one_that_was_learned_from_counts(folder: Path, order: tuple[int, ...]) -> None:
    rows = [f"p{i},s{i},{i}.npy,0,{split}" for i, split in enumerate(("train", "val", "test"))]
    (folder / "cohort.csv").write_text("\n".join([f"{HEADER},split", *rows]))
    run = recorded(folder, Cohort.from_csv(folder / "cohort.csv", Classification(2)))
    rows = [f"q,x{i},{i}.npy,0,test" for i in order] + ["q,new,9.npy,1,test"]  # the run took them for three patients
    (folder / "cohort.csv").write_text("\n".join([f"{HEADER},split", *rows]))
    with pytest.warns(UserWarning, match="knows the images or patients of .*new"):
        found = run.of_another(Cohort.from_csv(folder / "cohort.csv", Classification(2)))
    assert splits(found) == {**{f"x{i}": ("train", "val", "test")[i] for i in order}, "new": "train"}
