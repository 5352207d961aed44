"""Threads: the same bits, the settings, forks."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from children import step_in_child

import fastadam
from fastadam import _backend
from fastadam._threads import cpu_quota

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
THREADED = _backend.describe()["threading"] != "none"
threads_only = pytest.mark.skipif(
    not THREADED, reason="one thread: the NumPy backend, or a compiler without OpenMP"
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
    [[700_001], [300] * 2000, [400_000, 3, 0, 290_000, 4096, 4095, 1], [1] * 10 + [300_000]],
)
def test_the_same_bits(sizes):
    """In up to five parts, each of 131,072 elements or more."""
    expected = train(1, sizes)
    for threads in (2, 3, 16):
        assert train(threads, sizes) == expected


def test_setting(backend):
    fastadam.set_num_threads(np.int64(3))
    assert fastadam.get_num_threads() == (3 if THREADED and backend != "numpy" else 1)
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


@threads_only
def test_environment():
    assert threads_of() == str(CORES)
    assert threads_of(OMP_NUM_THREADS="3") == "3"
    assert threads_of(FASTADAM_NUM_THREADS="5") == "5"
    assert threads_of(FASTADAM_NUM_THREADS="5", OMP_NUM_THREADS="3") == "5"
    assert threads_of("fastadam.set_num_threads(2)", FASTADAM_NUM_THREADS="5") == "2"
    for bad in ("zero", "0", "-2", "1.5"):
        assert f"FASTADAM_NUM_THREADS={bad}: expected" in threads_of(FASTADAM_NUM_THREADS=bad)


@threads_only
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_affinity():
    code = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    out = subprocess.run(
        [sys.executable, "-P", "-c", code + "import fastadam; print(fastadam.get_num_threads())"],
        env={k: v for k, v in os.environ.items() if not k.startswith(("FASTADAM_", "OMP_"))},
        capture_output=True, text=True,
    )  # fmt: skip
    assert out.stdout == "1\n"


@threads_only
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


def test_a_waiting_thread_gets_its_turn():
    opt = fastadam.Adam(np.ones(300_000, np.float32))
    g = np.ones(300_000, np.float32)
    done = threading.Event()

    def work():
        while not done.is_set():
            opt.step(g)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(20):
            before = opt.state_dict()["state"][0]["step"]
            assert opt.state_dict()["state"][0]["step"] - before < 2000
    finally:
        done.set()
        thread.join()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
def test_a_signal_handler_that_saves_while_its_thread_waits():
    entered, release = threading.Event(), threading.Event()

    def schedule(finished):
        if threading.current_thread() is not threading.main_thread():
            entered.set()
            release.wait()
        return 0.1

    def handler(*_):
        release.set()
        saved.append(opt.state_dict())

    saved = []
    opt = fastadam.Adam(np.ones(3), lr=schedule)
    thread = threading.Thread(target=opt.step, args=(np.ones(3),))
    thread.start()
    entered.wait()
    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        opt.step(np.ones(3))
    finally:
        signal.signal(signal.SIGALRM, old)
        thread.join()
    assert len(saved) == 1
    assert opt.state_dict()["state"][0]["step"] == 2


def test_loading_while_another_thread_waits_to_step():
    """The step that waited is done on what was loaded."""
    entered, p = threading.Event(), np.ones(3)

    def slow(finished):
        entered.set()
        time.sleep(0.05)
        return 0.0

    opt = fastadam.Adam(p, lr=slow)
    state = opt.state_dict()
    state["state"][0]["step"] = 1000
    for _ in range(5):
        entered.clear()
        threads = [threading.Thread(target=opt.step, args=(np.ones(3),))]
        threads[0].start()
        entered.wait()
        for target, args in ((opt.load_state_dict, (state,)), (opt.step, (np.ones(3),))):
            threads.append(threading.Thread(target=target, args=args))
            threads[-1].start()
        for thread in threads:
            thread.join()
        assert opt.state_dict()["state"][0]["step"] in (1000, 1001)
    opt.load_state_dict(state)
    opt.step(np.ones(3))
    assert opt.state_dict()["state"][0]["step"] == 1001


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_fork_while_another_thread_steps():
    """The child's copy may be torn, and the lock's holder is not there: an error, no hang."""
    started = threading.Event()
    release = threading.Event()
    opt = fastadam.Adam(np.ones(3), lr=lambda finished: (started.set(), release.wait(), 0.1)[2])
    thread = threading.Thread(target=opt.step, args=(np.ones(3),))
    thread.start()
    started.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            opt.state_dict()
        except RuntimeError as error:
            os._exit(7 if "forked while another thread" in str(error) else 8)
        os._exit(9)
    release.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert opt.state_dict()["state"][0]["step"] == 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
def test_a_signal_handler_sees_no_half_step():
    """It gets the state before or after a step, or, on NumPy, an error."""
    opt = fastadam.Adam([np.ones(400_000) for _ in range(4)])
    grads = [np.ones(400_000) for _ in range(4)]
    seen = []

    def handler(*_):
        try:
            state = opt.state_dict()["state"].values()
        except RuntimeError as error:
            seen.append(str(error))
        else:
            seen.append({(s["step"], s["exp_avg"].min(), s["exp_avg"].max()) for s in state})

    old = signal.signal(signal.SIGALRM, handler)
    try:
        for delay in range(1, 12):
            signal.setitimer(signal.ITIMER_REAL, delay * 1e-3)
            while len(seen) < delay:
                opt.step(grads)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    for found in seen:
        if isinstance(found, str):
            assert "function that a step called" in found
        else:
            ((_, lowest, highest),) = found
            assert lowest == highest


def test_main(backend, capsys):
    from fastadam.__main__ import main

    assert main(["--json"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert config.items() >= fastadam.show_config(mode="dicts").items()
    assert config["threads"] == fastadam.get_num_threads()
    assert main(["--require-compiled"]) == (1 if backend == "numpy" else 0)
    assert f"fastadam {fastadam.__version__}\n" in capsys.readouterr().out


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


class TestQuota:
    """Of a fake /proc and /sys: control groups, as containers have them."""

    @staticmethod
    def quota(root, own, **limits):
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text(own)
        for group, text in limits.items():
            folder = root / "sys/fs/cgroup" / group.replace("_", "/")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "cpu.max").write_text(text)
        return cpu_quota(root)

    def test_the_least_of_all_groups_counts(self, tmp_path):
        found = self.quota(
            tmp_path,
            "0::/a/b/c\n",
            a="400000 100000\n",
            a_b="150000 100000\n",
            a_b_c="max 100000\n",
        )
        assert found == 1.5

    def test_a_group_of_one_s_own_is_the_outermost(self, tmp_path):
        (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
        (tmp_path / "sys/fs/cgroup/cpu.max").write_text("50000 100000\n")
        assert self.quota(tmp_path, "0::/\n") == 0.5

    @pytest.mark.parametrize("own", ["0::/a\n", "4:cpu:/\n", "4:cpu:/\n0::/\n", "", "0::/../x\n"])
    def test_elsewhere_there_is_none(self, tmp_path, own):
        assert self.quota(tmp_path, own) == math.inf
        assert cpu_quota(tmp_path / "none") == math.inf

    def test_bytes_that_are_no_text(self, tmp_path):
        self.quota(tmp_path, "0::/a\n", a="100000 100000\n")
        (tmp_path / "proc/self/cgroup").write_bytes(b"0::/caf\xe9.scope\n")
        assert cpu_quota(tmp_path) == math.inf

    @threads_only
    @pytest.mark.parametrize(("quota", "own", "expected"), [
        ("0.5", {}, 1), ("1.9", {}, 1), ("math.inf", {}, 3), ("2.0", {"OMP_NUM_THREADS": "3"}, 3),
    ])  # fmt: skip
    def test_holds_unless_the_user_says_otherwise(self, quota, own, expected):
        code = f"""
import math
import fastadam
from fastadam import _threads
fastadam.set_num_threads(3)
_threads.cpu_quota = lambda: {quota}
_threads._begin()
print(fastadam.get_num_threads())
"""
        names = ("FASTADAM_NUM_THREADS", "OMP_NUM_THREADS")
        clean = {key: value for key, value in os.environ.items() if key not in names}
        result = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env={**clean, **own}, capture_output=True, text=True,
        )  # fmt: skip
        assert result.stdout == f"{expected}\n", result.stderr
