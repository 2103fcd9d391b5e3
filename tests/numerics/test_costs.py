"""What a case costs, counted by hand."""

import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces

from glimpse.agents.full_scan import FullScan
from glimpse.cohort import Case
from glimpse.geometry import Extent
from glimpse.networks import ConvEncoder, GlimpsePolicy, MeanPooling
from glimpse.networks.records import Conduct
from glimpse.reading.costs import Meter, PolicyCosts, multiply_adds
from glimpse.reading.lanes import Access
from glimpse.reading.readers import reader_named
from glimpse.report.tables import SPENT_CAPTION, summarise, table
from glimpse.sources import ArraySource
from glimpse.spaces import ActionLayout, observation_space
from glimpse.tasks import Classification
from glimpse.views import Views

EMBED, CELLS, OVERVIEW, GLIMPSE = 4, 16, 16, 8
CONVOLUTION = EMBED * 1 * 6 * 6  # of one cell of 4 x 4 pixels, seen with a kernel of 6 x 6
LINEAR = EMBED * EMBED
POSITION = 2 * 4 * 2 * EMBED + LINEAR  # sines and cosines of four octaves of two coordinates
POOL = 2 * LINEAR
MEMORY = 3 * LINEAR + 3 * LINEAR
HEADS = EMBED * (1 + 1 + 1 + 2)  # stop, zoom and value of the memory; two classes of the answer
DECIDING = LINEAR + CELLS * EMBED + HEADS  # the query, and its product with every key
OF_OVERVIEW = CELLS * CONVOLUTION + POOL + CELLS * (POSITION + LINEAR + LINEAR + EMBED) + MEMORY + DECIDING
OF_LOOK = 4 * CONVOLUTION + POOL + POSITION + MEMORY + DECIDING
VIEWS = Views((OVERVIEW,) * 2, (GLIMPSE,) * 2, (Extent.parse(GLIMPSE),))


def made_policy(overview_dropout: float = 0.0) -> GlimpsePolicy:
    layout = ActionLayout(2, 2, 1)
    parts = {"encoder": partial(ConvEncoder, widths=(EMBED,), strides=(4,), groups=2), "aggregator": MeanPooling}
    space: spaces.Dict = observation_space(1, VIEWS)
    policy = GlimpsePolicy(space, layout.box_space(), layout=layout, overview_dropout=overview_dropout, **parts)
    policy.set_training_mode(False)
    return policy


def test_a_case_costs_what_was_counted_by_hand() -> None:
    costs = PolicyCosts(made_policy(), Conduct)
    assert costs.of([]) == OF_OVERVIEW
    assert costs.of([0, 0, 0]) == OF_OVERVIEW + 3 * OF_LOOK


def test_a_reader_that_needs_no_overview_does_not_pay_for_it() -> None:
    policy = made_policy(overview_dropout=1.0)
    access = Access(VIEWS, Classification(2))
    found = {}
    for name in ("policy", "random"):
        reader = reader_named(name, policy, access, 2)
        (found[name],) = reader.counted(reader.read([case()]))
    assert found["policy"].multiply_adds == OF_OVERVIEW + 2 * OF_LOOK
    query = LINEAR + CELLS * EMBED  # random places are not computed from the state
    expected = OF_OVERVIEW - CELLS * CONVOLUTION - POOL - query + 2 * (OF_LOOK - query)
    assert found["random"].multiply_adds == expected


def case(name: str = "one", target: int = 0) -> Case:
    pixels = np.random.default_rng(target).integers(0, 256, (1, 32, 32), np.uint8)
    return Case(name, name, ArraySource(pixels, name=name), target)


def test_a_full_scan_costs_every_patch_and_its_head() -> None:
    cases = [case(f"case-{index}", index % 2) for index in range(4)]
    scan = FullScan(made_policy(), VIEWS, Classification(2), epochs=1, head="top_k").fit(cases, cases)
    (reading,) = scan.read(cases[:1])
    assert scan.head is not None and reading.glimpses == 16
    of_head = multiply_adds(lambda: scan.head([torch.zeros(16, 2 * EMBED)]))
    assert of_head > 0 and reading.multiply_adds == 16 * 4 * CONVOLUTION + of_head


def test_tables_say_what_a_case_costs() -> None:
    policy, task = made_policy(), Classification(2)
    reader = reader_named("policy", policy, Access(VIEWS, task), 2)
    readings = reader.counted(reader.read([case(), case("two", 1)]))
    meter = Meter(torch.device("cpu"))
    with meter:
        held = np.ones(4 << 20)
    meter.peak_mib = None if meter.peak_mib is None else held.nbytes / 2**20
    row = summarise(readings, task) | meter.record(2)
    assert row["megapixels_per_case"] == pytest.approx(2 * 64 / 1e6)
    assert row["multiply_adds_per_case"] == OF_OVERVIEW + 2 * OF_LOOK
    assert row["joules_per_case"] is None
    text = table({"ppo": row, "older": {**row, "multiply_adds_per_case": None}})
    caption, lines = text.split("\n\n")
    assert SPENT_CAPTION in " ".join(caption.split())
    header, _, first, second = lines.splitlines()
    assert header.split()[-4:] == ["s/case", "Mpixel", "GMAC", "MiB"] and len(header) <= 120
    assert first.split()[-3:] == ["0.00", "0.00", "32"] and second.split()[-3:] == ["0.00", "n/a", "32"]
    assert summarise([replace(readings[0], multiply_adds=None)], task)["multiply_adds_per_case"] is None


def test_the_highest_memory_is_that_of_the_work_inside() -> None:
    """In a process of its own: the tests before this one have memory that is given back meanwhile."""
    told = subprocess.run([sys.executable, "-c", _MEASURED], capture_output=True, text=True, check=True).stdout.split()
    if told[0] == "None":
        pytest.skip("only Linux says how much memory a process has had")
    assert 400 < float(told[1]) - float(told[0]) < 560


_MEASURED = """
import numpy as np, torch
from glimpse.reading.costs import Meter
with Meter(torch.device("cpu")) as little:
    pass
with Meter(torch.device("cpu")) as much:
    np.ones(64 << 20)  # 512 MiB
print(little.peak_mib, much.peak_mib)
"""


def test_energy_is_shared_among_the_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = iter([1000.0, 3500.0])
    monkeypatch.setattr("glimpse.reading.costs._millijoules", lambda device: next(counter))
    with Meter(torch.device("cpu")) as meter:
        pass
    assert meter.joules == 2.5 and meter.record(2)["joules_per_case"] == 1.25


def test_energy_of_all_processes_adds_up_and_the_highest_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[tuple[float | None, float | None]] = [(900.0, 6.0), (200.0, 1.0)]
    monkeypatch.setattr("glimpse.reading.costs.everyones", lambda own: [*own, *others])
    meter = Meter(torch.device("cpu"))
    meter.peak_mib, meter.joules = 300.0, 3.0
    meter.over_all()
    assert meter.record(4) == {"peak_mib": 900.0, "joules_per_case": 2.5}
    others[1] = (None, 1.0)
    meter.over_all()
    assert meter.record(4) == {"peak_mib": None, "joules_per_case": 4.25}
    others[0] = (900.0, None)
    meter.over_all()
    assert meter.record(4) == {"peak_mib": None, "joules_per_case": None}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_energy_of_a_device_is_above_zero() -> None:
    pytest.importorskip("pynvml")
    device = torch.device("cuda")
    with Meter(device) as meter:
        for _ in range(200):
            torch.randn(2048, 2048, device=device) @ torch.randn(2048, 2048, device=device)
        torch.cuda.synchronize(device)
    assert meter.joules is not None and meter.joules > 0 and meter.peak_mib is not None
