"""A second warm-up, full scan or policy reads features from disk: the same numbers, without pixels and network."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

import glimpse.envs
from glimpse.agents.full_scan import FullScan
from glimpse.cohort import Case
from glimpse.envs import FlattenAction
from glimpse.errors import SettingsError
from glimpse.learning.warm_up import TokenWarmUp
from glimpse.networks import ConvEncoder, EfficientNetLite0
from glimpse.networks.feature_store import FeatureStore, using
from glimpse.networks.kept import KeptFeatures
from glimpse.networks.places import lasting_identity
from glimpse.networks.policy import GlimpsePolicy
from glimpse.networks.records import Conduct
from glimpse.runs.loading import feature_store
from glimpse.sources import caches
from glimpse.sources.array import ArraySource
from glimpse.sources.base import RegionReadError
from glimpse.sources.slide.source import SlideSource
from glimpse.sources.tolerant import TolerantSource, unread
from glimpse.sources.volume.neighbours import NeighbourSlices
from glimpse.sources.volume.source import VolumeSource

FIXED = Conduct(train_encoder=False)


class Costly(ConvEncoder):
    """An encoder whose features are worth keeping; it counts the images that it encodes."""

    costly = True
    seen: ClassVar[list[int]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(len(image))
        return super().forward(image)


@pytest.fixture(autouse=True)
def _one_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(glimpse.networks.kept._PIXELS, "cpu", 1)
    Costly.seen.clear()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FeatureStore]:
    made = FeatureStore(str(tmp_path / "features"))
    with using(made):
        forget(monkeypatch)
        yield made


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empties what is in memory, as a new process has it."""
    monkeypatch.setattr("glimpse.networks.kept.features", caches.ByteCache(1 << 24))
    monkeypatch.setattr("glimpse.views.glimpses", caches.ByteCache(1 << 24))
    Costly.seen.clear()


def files(store: FeatureStore) -> list[Path]:
    return sorted(store.folder.glob("*/*.features"))


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 2, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def means(encoder: ConvEncoder, kept: KeptFeatures, shown: Tensor, kind: str = "mean") -> Tensor:
    with torch.no_grad():
        return kept.of(encoder, shown, kind, lambda some: encoder(some).flatten(2).mean(-1))


def encoder_of(kind: type[ConvEncoder] = Costly, **options: Any) -> ConvEncoder:
    torch.manual_seed(0)
    return kind(2, **options)


# ---------------------------------------------------------------------------------------------- by content
def test_another_process_finds_what_was_computed(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, shown = encoder_of(), images(5)
    first = means(encoder, KeptFeatures(encoder), shown)
    assert sum(Costly.seen) == 5
    forget(monkeypatch)
    store.close()
    again = encoder_of()
    second = means(again, KeptFeatures(again), torch.cat([shown[3:], images(1, seed=1)]))
    assert sum(Costly.seen) == 1 and torch.equal(second[:2], first[3:])
    with torch.no_grad():  # one at once: the size of a batch changes last digits
        exact = torch.cat([encoder(one[None]).flatten(2).mean(-1) for one in shown])
    assert first.dtype == torch.float32 and torch.equal(first, exact.half().float())


def test_features_that_half_precision_cannot_hold_are_exact(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, shown = encoder_of(), images(2)
    kept = KeptFeatures(encoder)

    def large(some: Tensor) -> Tensor:
        return some.flatten(1).float().mean(1, keepdim=True) * 1000.3

    first = kept.of(encoder, shown, "large", large)
    forget(monkeypatch)
    assert first.max() > 65504 and torch.equal(first, large(shown))
    assert torch.equal(kept.of(encoder, shown, "large", lambda some: some[:, 0, 0, :1] * 0.0), first)


@pytest.mark.parametrize("change", ["weights", "options", "kind", "size", "precision"])
def test_something_else_shares_nothing(store: FeatureStore, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    encoder, shown = encoder_of(), images(2)
    means(encoder, KeptFeatures(encoder), shown)
    forget(monkeypatch)
    other = encoder_of(background=255.0) if change == "options" else encoder_of()
    if change == "weights":
        with torch.no_grad():
            next(other.parameters())[0, 0, 0, 0] += 1e-3
    if change == "precision":
        store.close()
        store.precision = "float32"
    shape = (2, 2, 6, 24) if change == "size" else shown.shape
    means(other, KeptFeatures(other), shown.view(shape), "other" if change == "kind" else "mean")
    assert sum(Costly.seen) == 2


def test_only_costly_encoders_as_they_were_made_are_kept(store: FeatureStore) -> None:
    plain = encoder_of(ConvEncoder)
    means(plain, KeptFeatures(plain), images(2))
    assert files(store) == []
    trained = encoder_of()
    kept = KeptFeatures(trained)
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    with torch.no_grad():
        next(trained.parameters()).mul_(1.5)
    means(trained, kept, images(2))
    assert files(store) == []
    trained.load_state_dict(before)
    means(trained, kept, images(2))
    assert len(files(store)) == 1
    assert EfficientNetLite0.costly and not getattr(ConvEncoder, "costly", False)


def test_without_a_store_nothing_is_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)
    encoder = encoder_of()
    with torch.no_grad():
        exact = encoder(images(2)).flatten(2).mean(-1)
    assert torch.allclose(means(encoder, KeptFeatures(encoder), images(2)), exact, rtol=1e-6, atol=1e-7)
    assert not torch.equal(exact, exact.half().float())


def test_an_encoder_that_is_not_trained_computes_as_in_evaluation() -> None:
    encoder = encoder_of()
    encoder.layers.append(torch.nn.Dropout(0.5))
    encoder.layers[0].eval()
    means(encoder, KeptFeatures(encoder), images(2))
    modes = {name: part.training for name, part in encoder.named_modules()}
    assert not modes.pop("layers.0") and all(modes.values())  # as they were
    first = means(encoder, KeptFeatures(encoder), images(3, seed=5))
    assert torch.allclose(first, means(encoder.eval(), KeptFeatures(), images(3, seed=5), "anew"))


# ---------------------------------------------------------------------------------------------- by place
@pytest.fixture
def slides(tiny_slides: Path, tmp_path: Path) -> FlattenAction:
    """The environment of a copy of the tiny slides."""
    folder = shutil.copytree(tiny_slides.parent, tmp_path / "slides")
    sizes: dict[str, Any] = {"overview_size": 64, "glimpse_size": 16, "glimpse_extents": [32, 64], "max_glimpses": 3}
    return FlattenAction(gymnasium.make("glimpse/WSI-v0", cohort=str(folder / "cohort.csv"), split=None, **sizes))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The width of each read of a slide, but not of overviews."""
    honest, widths = SlideSource.read, []

    def read(self: SlideSource, center: Any, extent: Any, size: Any) -> np.ndarray:
        if tuple(size) != (64, 64):
            widths.append(int(size[0]))
        return honest(self, center, extent, size)

    monkeypatch.setattr(SlideSource, "read", read)
    return widths


def policy_of(env: FlattenAction) -> GlimpsePolicy:
    torch.manual_seed(0)
    inner: Any = env.unwrapped
    return GlimpsePolicy(env.observation_space, env.action_space, layout=inner.layout, encoder=Costly)


def encoded(env: FlattenAction, seed: int = 0, first: int = 0, **options: Any) -> dict[str, Tensor]:
    """What a warm-up keeps of four cases, of which `first` is the first one."""
    inner: Any = env.unwrapped
    given = {"seed": seed, "threads": 2, "glimpses_per_case": 6, **options}
    trainer = TokenWarmUp(policy_of(env), inner.cases[first : first + 4], inner.views, inner.task, **given)
    trainer.encode(at_once=2)
    return trainer.kept


def test_a_second_warm_up_neither_reads_nor_encodes(
    slides: FlattenAction, store: FeatureStore, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encoded(slides)
    assert len(reads) == 24 and sum(Costly.seen) == 24 + 4
    forget(monkeypatch), reads.clear()
    second = encoded(slides)
    assert not reads and not Costly.seen
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    with using(None):
        forget(monkeypatch), reads.clear()
        without = encoded(slides)
    assert len(reads) == 24 and sum(Costly.seen) == 28
    assert torch.allclose(without["features"], first["features"], rtol=2**-10, atol=1e-6)
    assert not torch.equal(without["features"], first["features"])


def test_another_seed_finds_the_places_that_both_have(
    slides: FlattenAction, store: FeatureStore, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encoded(slides)
    forget(monkeypatch), reads.clear()
    other = encoded(slides, seed=1)

    def places(kept: dict[str, Tensor], case: int) -> set[tuple[int, int]]:
        return set(zip(kept["cells"][case].tolist(), kept["zooms"][case].tolist(), strict=True))

    assert len(reads) == sum(len(places(other, case) - places(first, case)) for case in range(4))
    with using(None):
        forget(monkeypatch)
        assert torch.allclose(encoded(slides, seed=1)["features"], other["features"], rtol=2**-10, atol=1e-6)


def test_random_views_are_the_same_whatever_was_kept_before(
    slides: FlattenAction, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    augment = {"quarter_turns": True, "zoom": 0.0, "tilt": 0.0, "noise": 20.0}
    with using(None):
        fresh = [encoded(slides, first=first, augment=augment, glimpses_per_case=40) for first in (0, 1)]
    for first in (1, 0):  # the slides lie elsewhere in the cohort, and some of their places are the same
        forget(monkeypatch)
        kept = encoded(slides, first=first, augment=augment, glimpses_per_case=40)
        assert torch.allclose(kept["features"], fresh[first]["features"], rtol=2**-10, atol=1e-5)
    forget(monkeypatch)
    encoded(slides, augment=augment, glimpses_per_case=40)
    assert not Costly.seen  # but the same warm-up finds all of it


def test_a_slide_that_has_changed_is_read_again(
    slides: FlattenAction, store: FeatureStore, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded(slides)
    inner: Any = slides.unwrapped
    changed = Path(inner.cases[1].source.path)
    status = changed.stat()
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    forget(monkeypatch), reads.clear()
    encoded(slides)
    assert len(reads) == 6 and not Costly.seen  # the pixels are the same ones


def test_the_policy_finds_in_an_episode_what_the_warm_up_has_seen(
    slides: FlattenAction, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, inner = encoded(slides), slides.unwrapped
    forget(monkeypatch)
    policy: Any = policy_of(slides)
    policy.set_training_mode(False)
    location, zoom = policy.cells.numpy()[first["cells"][2, 3]], int(first["zooms"][2, 3])
    glimpse = inner.views.glimpse(inner.cases[2].source, location, zoom)  # type: ignore[attr-defined]
    assert torch.equal(policy.look(torch.from_numpy(glimpse)[None], conduct=FIXED)[0], first["features"][2, 3])
    assert not Costly.seen


def test_a_second_full_scan_neither_reads_nor_encodes(
    slides: FlattenAction, store: FeatureStore, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    inner: Any = slides.unwrapped
    first = FullScan(policy_of(slides), inner.views, inner.task).bags(inner.cases[:3])
    tiles = sum(len(bag.embeddings) for bag in first)
    assert reads and tiles <= sum(Costly.seen) - 1 <= tiles + 3  # the probe; the same tile may be there twice
    forget(monkeypatch), reads.clear()
    second = FullScan(policy_of(slides), inner.views, inner.task).bags(inner.cases[:3])
    assert not reads and sum(Costly.seen) == 1
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.embeddings, other.embeddings) and torch.equal(one.locations, other.locations)
    with using(None):
        without = FullScan(policy_of(slides), inner.views, inner.task).bags(inner.cases[:3])
    for one, other in zip(first, without, strict=True):
        assert torch.allclose(one.embeddings, other.embeddings, rtol=1e-2, atol=1e-3)


def test_the_statistics_of_tokens_come_from_what_is_kept(
    slides: FlattenAction, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    first = policy_of(slides)
    first.calibrate(pool)
    forget(monkeypatch)
    second = policy_of(slides)
    second.calibrate(pool)
    assert not Costly.seen and torch.equal(first.pool.shift, second.pool.shift)
    assert torch.equal(first.pool.spread, second.pool.spread)


# ---------------------------------------------------------------------------------------------- what may be kept
def test_places_of_images_without_files_are_not_kept() -> None:
    assert ArraySource(np.zeros((1, 8, 8), np.uint8)).lasting_identity is None
    case = Case("a", "a", ArraySource(np.zeros((1, 8, 8), np.uint8)), 0, "train")
    section = {"_target_": "glimpse.networks.feature_store.FeatureStore", "folder": "/nowhere"}
    assert feature_store({"features_cache": section}, [case]) is None
    assert feature_store({"features_cache": section}) is not None
    assert feature_store({"features_cache": None}) is None and feature_store({}) is None
    with pytest.raises(SettingsError, match=r"features_cache: expected a section or null, got True"):
        feature_store({"features_cache": True})


def test_damaged_parts_are_read_and_named_in_every_run(
    slides: FlattenAction, store: FeatureStore, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    inner: Any = slides.unwrapped
    honest = SlideSource.read

    def read(self: SlideSource, center: Any, extent: Any, size: Any) -> np.ndarray:
        if self.path == inner.cases[0].source.path and tuple(size) == (16, 16):
            raise RegionReadError("damaged")
        return honest(self, center, extent, size)

    monkeypatch.setattr(SlideSource, "read", read)
    cases = [Case(f"c{i}", f"c{i}", TolerantSource(inner.cases[i].source, f"c{i}"), 0, "train") for i in range(2)]
    for expected in (12, 0):
        with unread.named_at_the_end():
            forget(monkeypatch), reads.clear()
            TokenWarmUp(policy_of(slides), cases, inner.views, inner.task, threads=1, glimpses_per_case=6).encode()
            assert unread.failures("c0") == 6 and unread.failures("c1") == 0
            assert len(reads) == expected // 2


def test_identities_of_files(tmp_path: Path, tiny_mri: Path) -> None:
    path = next(tiny_mri.parent.rglob("*.nii.gz"))
    bodies = [lasting_identity(VolumeSource(path, windows=window)) for window in ("auto", [(0, 200)], [(0, 100)])]
    assert None not in bodies and len(set(bodies)) == 3
    near = lasting_identity(NeighbourSlices(VolumeSource(path)))
    assert near is not None and near not in bodies
    (tmp_path / "a").mkdir()
    for name in ("a.mrxs", "a/Data0000.dat", "b.dcm", "c.mrxs"):
        (tmp_path / name).write_bytes(b"x")
    before = SlideSource(tmp_path / "a.mrxs").lasting_identity
    (tmp_path / "a" / "Data0000.dat").write_bytes(b"xy")
    assert before is not None and SlideSource(tmp_path / "a.mrxs").lasting_identity != before
    assert SlideSource(tmp_path / "b.dcm").lasting_identity is None  # its pixels are in other files, too
    assert SlideSource(tmp_path / "c.mrxs").lasting_identity is None
