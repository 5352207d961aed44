"""Ctrl-C at any moment: what it interrupts was done or was not, and the optimizer goes on."""

import contextlib
import copy
import os
import pickle
import random
import shutil
import signal
import tempfile
import time
from functools import cache

import numpy as np
import pytest
from interrupts import interrupted
from reference import bits

import fastadam
from fastadam import RowGrad, _files, schedules


class Training:
    """An optimizer that has all that one can have, and what can be seen of it."""

    saves = None  # the file to which it is saved

    def __init__(self, rows=True):
        self.params = [np.arange(2.0), np.ones(1, np.float32), np.zeros((3, 2))]
        self.more = np.ones(4)
        self.plateau = schedules.ReduceOnPlateau(0.5, patience=0)
        self.rng = np.random.default_rng(0)
        self.opt = fastadam.NAdam(
            [{"params": self.params[:2]}, {"params": self.params[2], "name": "table"}],
            lr=self.plateau,
            max_grad_norm=100.0,
            ema_decay=None if rows else 0.5,
        )
        self.opt.step(self.grads(1.0))

    def grads(self, factor, rows=()):
        table = np.full((3, 2), factor)
        if len(rows):
            table = RowGrad(rows, np.full((len(rows), 2), factor))
        grads = [[np.array([factor, -2.0]), np.full(1, factor, np.float32)], table]
        return [*grads, np.full(4, factor)][: len(self.opt.param_groups)]

    def accumulate(self):
        self.opt.accumulate(self.grads(2.0, [2, 0] if self.opt._ema_decay is None else []))

    def add(self):
        self.opt.add_param_group({"params": self.more, "lr": 0.25, "momentum_decay": 0.1})

    def save(self):
        self.saved = saved = self.opt.state_dict()
        for entry in saved["state"].values():
            entry.update(step=7, mu_product=0.5, exp_avg=entry["exp_avg"] + 1)
        for group in saved["param_groups"]:
            group.update(lr=0.125, name="loaded", finished_steps=9)

    def save_file(self):
        self.opt.save(self.saves, params=True, rng=self.rng)

    def load(self):
        """Of a file with other parameters, and other states of the schedule and the generator."""
        self.opt.load(self.path, params=True, rng=self.rng)

    def use_averages(self):
        with self.opt.use_averaged_params():
            self.params[0][...] = 7.0

    def seen(self):
        saved = self.opt.state_dict()
        shown = [bits(p) for p in [*self.params, self.more]]
        for entry in saved["state"].values():
            shown += [bits(v) if isinstance(v, np.ndarray) else v for v in entry.values()]
        groups = [{**group, "lr": repr(group["lr"])} for group in saved["param_groups"]]
        if self.saves:
            header, arrays = _files.read(self.saves)
            shown += [header, *map(bits, arrays.values())]
        return [*shown, repr((self.opt.grad_norm, groups, self.rng.bit_generator.state))]

    def goes_on(self):
        with contextlib.suppress(ValueError):  # if there is nothing from accumulate
            self.opt.step()
        self.opt.step(self.grads(3.0))
        return self.seen()


def accumulated(rows=True):
    training = Training(rows)
    training.accumulate()
    training.accumulate()
    return training


@cache
def folder_with(name):
    """Made once: to write a file takes longer than to try a moment."""
    folder = tempfile.TemporaryDirectory()
    other = accumulated()
    other.opt.step()
    other.plateau.update(1.0)
    other.plateau.update(2.0)
    other.rng.random(3)
    other.opt.save(os.path.join(folder.name, name), params=True, rng=other.rng)
    return folder


def with_file(name="x"):
    training = accumulated()
    training.path = os.path.join(folder_with(name).name, name)
    return training


def to_save():
    """Over a file of another state."""
    training = with_file()
    training.saves = os.path.join(tempfile.mkdtemp(dir=folder_with("x").name), "saved")
    shutil.copyfile(training.path, training.saves)
    return training


def with_plateau():
    training = Training()
    other = schedules.ReduceOnPlateau(0.125, patience=0)
    other.update(3.0)
    training.remembered = other.state_dict()
    return training


def to_load():
    training = accumulated()
    training.save()
    return training


#: {case: (what there is, what is interrupted)}
CASES = {
    "accumulate": (Training, Training.accumulate),
    "accumulate more": (accumulated, Training.accumulate),
    "step on the mean": (accumulated, lambda t: t.opt.step()),
    "step": (Training, lambda t: t.opt.step(t.grads(0.5, [1, 1]))),
    "state_dict": (accumulated, lambda t: t.opt.state_dict()),
    "load_state_dict": (to_load, lambda t: t.opt.load_state_dict(t.saved)),
    "load": (with_file, Training.load),
    "load safetensors": (lambda: with_file("x.safetensors"), Training.load),
    "load a schedule": (with_plateau, lambda t: t.plateau.load_state_dict(t.remembered)),
    "save": (to_save, Training.save_file),
    "add_param_group": (accumulated, Training.add),
    "averaged_params": (lambda: accumulated(False), lambda t: t.opt.averaged_params()),
    "use_averaged_params": (lambda: accumulated(False), Training.use_averages),
    "deepcopy": (accumulated, lambda t: copy.deepcopy(t.opt)),
    "pickle": (accumulated, lambda t: pickle.dumps(t.opt)),
}


#: A file that an interrupt finds between `open` and its `with` block is closed by its finalizer,
#: which warns. Whether that moment is among those that are tried depends on how many there are.
UNCLOSED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
WITH_FILES = ("save", "load", "load safetensors")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=UNCLOSED if case in WITH_FILES else ()) for case in CASES],
)
def test_at_every_moment(case, backend):
    if case == "load safetensors":
        pytest.importorskip("safetensors")
    make, act = CASES[case]
    before, done, other = make(), make(), make()
    n = interrupted(0, lambda: act(done), lambda: act(other))
    assert n > 5
    ends = [(one.seen(), one.goes_on()) for one in (before, done)]
    for moment in sorted({*range(1, n, 1 + n // 200), *range(max(1, n - 80), n + 1)}):
        training, other = make(), make()
        try:
            interrupted(
                moment,
                lambda training=training: act(training),
                lambda other=other: act(other),
            )
        except KeyboardInterrupt:
            seen = training.seen()  # the exception, and with it the frames, are still there
        else:
            # A file's arrays are taken over or copied, as they happen to lie in memory.
            if not case.startswith("load") or moment < n - 60:
                pytest.fail(f"nothing came at moment {moment} of {n}")
            seen = training.seen()
        assert (seen, training.goes_on()) in ends, moment
    assert np.geterr() == {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}


class Signals:
    """Has signals raise KeyboardInterrupt at random moments of what is called in between."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.came = False

    def handle(self, *_):
        self.came = True
        raise KeyboardInterrupt

    def interrupt(self, call, longest):
        """Call again and again until a signal comes; longest is in seconds.

        The exception can vanish in a finalizer, say, which Python does not let raise anything.
        """
        self.came = False
        # Not the loop itself: in Python 3.12 and 3.13 its end is not within the block.
        with contextlib.suppress(KeyboardInterrupt):
            self._until_it_comes(call, self.random.uniform(1e-6, longest))

    def _until_it_comes(self, call, delay):
        signal.setitimer(signal.ITIMER_REAL, delay)
        while not self.came:
            call()


#: An exception that comes within a finalizer, or a callback of the garbage collector, cannot be
#: raised; Python tells of it and goes on.
VANISHING = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def signals():
    if not hasattr(signal, "setitimer"):
        pytest.skip("needs timers")

    signals = Signals(80)
    old = signal.signal(signal.SIGALRM, signals.handle)
    yield signals
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)


@VANISHING
def test_signals_in_accumulation(signals, backend):
    p, g = np.zeros(2), np.ones(2)
    opt = fastadam.SGD(p, lr=1.0)

    def train():
        opt.accumulate(g)
        opt.step()

    for _ in range(150):
        signals.interrupt(train, 5e-4)
        with contextlib.suppress(ValueError):
            opt.step()
        steps = opt.state_dict()["state"][0]["step"]
        if backend != "numpy":  # whose steps may be half done
            assert (p == -steps).all()
    assert steps > 0


@VANISHING
def test_signals_in_blocks_with_averages(signals):
    for size in (3, 100_000):
        p = np.zeros(size)
        opt = fastadam.SGD(p, lr=1.0, ema_decay=0.5)
        opt.step(np.ones(size))

        def use(opt=opt, p=p):
            with opt.use_averaged_params():
                p[0] = 7.0

        for _ in range(150):
            signals.interrupt(use, 5e-4)
            assert (p == -1).all()
            assert (opt.averaged_params() == -0.5).all()
        opt.step(np.ones(size))


@VANISHING
def test_signals_in_state_and_groups(signals):
    p = np.zeros(3)
    opt = fastadam.Adam([{"params": p}], lr=0.0)
    states = []
    for n in (1, 2):
        opt.lr = float(n)
        opt.step([np.full(3, float(n))])
        states.append(opt.state_dict())

    def use():
        for state in states:
            opt.load_state_dict(state)
            opt.state_dict()

    for _ in range(150):
        signals.interrupt(use, 5e-4)
        assert repr(opt.state_dict()) in map(repr, states)

    def add(to):
        to.add_param_group({"params": np.zeros(3)})

    other = fastadam.Adam([{"params": np.zeros(3)}])
    begin = time.perf_counter()
    for _ in range(10):
        add(other)
    took = (time.perf_counter() - begin) / 10  # under a sanitizer more than 0.5 ms
    for _ in range(100):
        signals.interrupt(lambda: add(opt), max(5e-4, 2 * took))
        groups = opt.state_dict()["param_groups"]
        assert len(groups) == len(opt.param_groups)
        opt.step([np.ones(3)] * len(groups))
    assert len(groups) > 10
