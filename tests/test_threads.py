"""Threads: the same bits, the settings, forks."""

import json
import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest

import fastadam
from fastadam import _backend

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
compiled_only = pytest.mark.skipif(
    not _backend.available[:-1], reason="the NumPy backend has one thread"
)


@pytest.fixture(autouse=True)
def restore_threads():
    before = fastadam.get_num_threads()
    yield
    fastadam.set_num_threads(before)


def train(threads, sizes):
    fastadam.set_num_threads(threads)
    rng = np.random.default_rng(20)
    params = [rng.standard_normal(n).astype(np.float32) for n in sizes]
    opt = fastadam.AdamW(params, amsgrad=True)
    for _ in range(3):
        opt.step([rng.standard_normal(n).astype(np.float32) for n in sizes])
    return b"".join(p.tobytes() for p in params)


@pytest.mark.parametrize(
    "sizes",
    [[300_001], [70] * 2000, [200_000, 3, 0, 90_000, 4096, 4095, 1], [1] * 10 + [100_000]],
)
def test_the_same_bits(sizes):
    expected = train(1, sizes)
    for threads in (2, 3, 5, 16):
        assert train(threads, sizes) == expected


def test_setting(backend):
    fastadam.set_num_threads(np.int64(3))
    assert fastadam.get_num_threads() == (1 if backend == "numpy" else 3)
    for bad in (0, -1, 2**20):
        with pytest.raises(ValueError, match=f"at least 1, found {bad}|found {bad}"):
            fastadam.set_num_threads(bad)
    with pytest.raises(TypeError):
        fastadam.set_num_threads(1.5)


def threads_of(code="", **env):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FASTADAM_", "OMP_"))}
    result = subprocess.run(
        [sys.executable, "-P", "-c", f"import fastadam\n{code}\nprint(fastadam.get_num_threads())"],
        env={**clean, **env}, capture_output=True, text=True,
    )  # fmt: skip
    return result.stdout.strip() or result.stderr


@compiled_only
def test_environment():
    assert threads_of() == str(CORES)
    assert threads_of(OMP_NUM_THREADS="3") == "3"
    assert threads_of(FASTADAM_NUM_THREADS="5") == "5"
    assert threads_of(FASTADAM_NUM_THREADS="5", OMP_NUM_THREADS="3") == "5"
    assert threads_of("fastadam.set_num_threads(2)", FASTADAM_NUM_THREADS="5") == "2"
    for bad in ("zero", "0", "-2", "1.5"):
        assert f"FASTADAM_NUM_THREADS={bad}: expected" in threads_of(FASTADAM_NUM_THREADS=bad)


@compiled_only
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_affinity():
    code = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    out = subprocess.run(
        [sys.executable, "-P", "-c", code + "import fastadam; print(fastadam.get_num_threads())"],
        env={k: v for k, v in os.environ.items() if not k.startswith(("FASTADAM_", "OMP_"))},
        capture_output=True, text=True,
    )  # fmt: skip
    assert out.stdout == "1\n"


@compiled_only
def test_threadpoolctl():
    pytest.importorskip("threadpoolctl")
    code = """
import threadpoolctl
assert "openmp" in {pool["user_api"] for pool in threadpoolctl.threadpool_info()}
with threadpoolctl.threadpool_limits(1, user_api="openmp"):
    assert fastadam.get_num_threads() == 1
    fastadam.set_num_threads(4)
    assert fastadam.get_num_threads() == 1
assert fastadam.get_num_threads() == 4
"""
    assert threads_of(code, OMP_NUM_THREADS="6") == "4"


def step_in_child(queue):
    p = np.ones(400_000)
    opt = fastadam.Adam(p)
    for _ in range(3):
        opt.step(np.ones(400_000))
    queue.put(p[[0, -1]].tolist())


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_children(method):
    """libgomp's threads do not survive a fork; a child that waits for them hangs."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    fastadam.set_num_threads(4)
    p = np.ones(400_000)
    opt = fastadam.Adam(p)
    for _ in range(3):
        opt.step(np.ones(400_000))
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=step_in_child, args=(queue,))
    child.start()
    try:
        assert queue.get(timeout=60) == p[[0, -1]].tolist()
        child.join(10)
        assert child.exitcode == 0
    finally:
        child.kill()
    opt.step(np.ones(400_000))  # the parent still has its threads


def test_main(backend, capsys):
    from fastadam.__main__ import main

    assert main(["--json"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert config == fastadam.show_config(mode="dicts")
    assert config["threads"] == fastadam.get_num_threads()
    assert main(["--require-compiled"]) == (1 if backend == "numpy" else 0)
    assert f"version: {fastadam.__version__}" in capsys.readouterr().out


def test_bench_command(monkeypatch, capsys, tmp_path):
    """With tiny work: the figures are not looked at, only that there are some."""
    from fastadam._bench import cli

    monkeypatch.setattr(cli, "WORK", (cli.Work(1, 10), cli.Work(3, 20)))
    plot = None
    try:
        import matplotlib  # noqa: F401

        plot = str(tmp_path / "bench.png")
    except ImportError:
        pass
    assert cli.run(plot) == 0
    out = capsys.readouterr().out
    assert "1 x 10" in out
    assert "textbook NumPy" in out
    assert plot is None or (tmp_path / "bench.png").stat().st_size > 1000
