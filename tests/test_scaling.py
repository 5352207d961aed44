"""The model of bench/scaling.py: its limits by hand, and that docs/scaling.md has its tables."""

import argparse
import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(
    not (ROOT / "bench" / "scaling.py").exists(), reason="bench/ is not beside the tests"
)


@pytest.fixture
def backend():
    """Formulas: once is enough."""


@pytest.fixture
def model(monkeypatch):
    return imported("scaling_model", monkeypatch)


def imported(name, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench"), *sys.path])
    return importlib.import_module(name)


@pytest.fixture
def machine(model):
    """One on which a step is memory alone, and a link without latency."""
    return model.Machine(
        cores=1, memory_bandwidth=28e9, thread_bandwidth=28e9, arithmetic=0.0, copying=0.0,
        adding=((1.0, 0.0),), call=0.0, handling=0.0, latency=0.0, link_bandwidth=4e9,
        overlap=0.0,
    )  # fmt: skip


N = 1 << 28  # whole buckets on any number of ranks here


def test_one_rank_sends_nothing(model, machine):
    machine = replace(machine, latency=1.0, adding=((1.0, 1.0),))
    for way in (model.ZERO, model.CLIPPED, model.PLAIN, model.SPREAD):
        cost = model.cost(machine, way, 1, N)
        assert cost.communication == cost.sent == 0
        assert cost.moved == (36 if way == model.CLIPPED else 28) * N
    assert model.cost(machine, model.PLAIN, 1, N).total == pytest.approx(N * 1e-9)


def test_bytes(model, machine):
    bucket = 1 << 24
    zero, plain, spread = (
        model.cost(machine, way, 4, N, bucket) for way in (model.ZERO, model.PLAIN, model.SPREAD)
    )
    assert (zero.sent, plain.sent, spread.sent) == (6 * N, 6 * N, 0)
    assert (zero.moved, plain.moved, spread.moved) == (7 * N, 28 * N, 7 * N)
    assert (zero.memory, plain.memory, spread.memory) == (10 * N + 4 * bucket, 16 * N, 4 * N)
    clipped = model.cost(machine, model.CLIPPED, 4, N, bucket)
    assert clipped.memory == zero.memory + N


def test_time_of_bytes(model, machine):
    """6 bytes at 4 GB/s and 7 bytes at 28 GB/s for each number; all-reduce steps 28."""
    assert model.cost(machine, model.ZERO, 4, N).total == pytest.approx(1.75e-9 * N)
    assert model.cost(machine, model.PLAIN, 4, N).total == pytest.approx(2.5e-9 * N)


def test_overlap_hides_the_shorter(model, machine):
    overlapping = replace(machine, overlap=1.0)
    buckets = N * 4 // model.FEW_BUCKET
    hidden = model.cost(overlapping, model.ZERO, 4, N).hidden
    assert hidden == pytest.approx(0.25e-9 * N * (buckets - 1) / buckets)
    # With clipping an allgather alone is beside the step, and is the longer one still.
    assert model.cost(overlapping, model.CLIPPED, 4, N).hidden == pytest.approx(hidden)
    fast = replace(overlapping, link_bandwidth=24e9)  # sends in 1/8 ns, where a step takes 1/4
    assert model.cost(fast, model.CLIPPED, 4, N).hidden == pytest.approx(hidden / 2)


def test_latencies(model, machine):
    """Of 8 ranks: 2 x 7 for a bucket and 2 x 3 for a step; 2 x 3 for a bucket of an all-reduce."""
    machine = replace(machine, latency=1.0, link_bandwidth=float("inf"))
    assert model.cost(machine, model.ZERO, 8, N, 4 * N // 16).communication == 16 * 14 + 6
    assert model.cost(machine, model.CLIPPED, 8, N, 4 * N // 16).communication == 16 * 14 + 9
    assert model.cost(machine, model.PLAIN, 8, N, 4 * N // 16).communication == 16 * 6
    assert model.cost(machine, model.SPREAD, 8, N).communication == 3
    # Buckets have 4,096 numbers for each rank at least.
    assert model.cost(machine, model.ZERO, 8, 1 << 20, 1).communication == 32 * 14 + 6


def test_small_arrays_are_for_all_reduce(model, machine):
    """Of 8 ranks ZeRO-1 has 14 latencies more in a bucket, and saves 7/8 ns for each number."""
    machine = replace(machine, latency=1e-5)
    for numbers, sooner in ((150_000, model.PLAIN), (170_000, model.ZERO)):  # equal at 160,000
        times = {w: model.cost(machine, w, 8, numbers).total for w in (model.ZERO, model.PLAIN)}
        assert min(times, key=times.get) == sooner


def test_threads_without_a_core_wait(model, machine):
    machine = replace(machine, cores=2, latency=1e-6, arithmetic=1e-8)
    one, crowd = (model.cost(replace(machine, ranks=ranks), model.ZERO, 4, N) for ranks in (2, 4))
    assert crowd.communication == pytest.approx(2 * one.communication)
    assert crowd.arithmetic == pytest.approx(2 * one.arithmetic)


def test_document_has_the_tables(model, monkeypatch):
    scaling = imported("scaling", monkeypatch)
    report = json.loads((ROOT / "docs" / "scaling.json").read_text())
    options = argparse.Namespace(
        link_bandwidth=12.5e9, latency=2e-6, memory_bandwidth=None, ranks_per_machine=1, overlap=0.0
    )
    machine = scaling.like(model.Machine(**report["constants"]), options)
    document = (ROOT / "docs" / "scaling.md").read_text()
    assert scaling.written(document, scaling.tables(report, machine, options)) == document
