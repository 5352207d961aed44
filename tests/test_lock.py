"""Who may use an optimizer: threads in turn, forks, interrupts while one waits."""

import os
import signal
import threading
import time

import numpy as np
import pytest

import fastadam
from fastadam import _backend

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
timers = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
G = np.ones(3)


class Holder:
    """A thread in the middle of a step, until `finish`."""

    def __init__(self):
        self.entered, self.released = threading.Event(), threading.Event()
        self.opt = fastadam.SGD(np.zeros(3), lr=self.schedule)
        self.thread = threading.Thread(target=self.opt.step, args=(G,))
        self.thread.start()
        self.entered.wait()

    def schedule(self, finished):
        self.entered.set()
        self.released.wait()
        return 1.0

    def finish(self):
        self.released.set()
        self.thread.join()

    def steps(self):
        return self.opt.state_dict()["state"][0]["step"]


def said(call):
    try:
        call()
    except RuntimeError as error:
        return str(error)
    return ""


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@forks
def test_a_child_whose_threads_have_the_numbers_of_the_parents():
    """A new thread of the child may have that of the one that held the lock."""
    holder = Holder()
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        errors = []
        thread = threading.Thread(target=lambda: errors.append(said(lambda: holder.opt.step(G))))
        thread.start()
        thread.join()
        errors += [said(lambda: holder.opt.step(G)), said(holder.opt.state_dict)]
        os._exit(7 if all("forked while another thread" in error for error in errors) else 8)
    holder.finish()
    assert ended(child) == 7
    assert holder.steps() == 1


@forks
def test_a_schedule_that_forks():
    """The thread that steps goes on in both processes."""

    def schedule(finished):
        children.append(os.fork())
        if children == [0]:
            signal.alarm(30)
        return 1.0

    p, children = np.zeros(3), []
    opt = fastadam.SGD(p, lr=schedule)
    try:
        opt.step(G)
        opt.lr = 0.5
        opt.step(G)
    finally:
        if children == [0]:
            os._exit(7 if p.tolist() == [-1.5] * 3 else 8)
    assert ended(children[0]) == 7
    assert (p == -1.5).all()


@forks
@timers
def test_a_signal_handler_that_forks_while_its_thread_waits(backend):
    """Whom the child waits for is not there."""
    if backend == "numpy":  # whose lock is Python's
        return

    def handler(*_):
        children.append(os.fork())
        if children == [0]:
            signal.alarm(30)
        else:
            holder.released.set()

    children, holder = [], Holder()
    old = signal.signal(signal.SIGUSR1, handler)
    timer = threading.Timer(0.05, lambda: signal.pthread_kill(main, signal.SIGUSR1))
    main = threading.get_ident()
    timer.start()
    try:
        error = said(lambda: holder.opt.step(G))
    finally:
        signal.signal(signal.SIGUSR1, old)
        if children == [0]:
            os._exit(7 if "forked while another thread" in error else 8)
        timer.join()
        holder.finish()
    assert ended(children[0]) == 7
    assert not error
    assert holder.steps() == 2


@timers
def test_a_thread_that_is_interrupted_while_it_waits_leaves_its_place():
    def handler(*_):
        raise KeyboardInterrupt

    holder = Holder()
    waiting = threading.Thread(target=holder.opt.step, args=(G,))
    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            holder.opt.step(G)
        waiting.start()
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            holder.opt.step(G)
    finally:
        signal.signal(signal.SIGALRM, old)
        holder.finish()
    waiting.join()
    holder.opt.step(G)
    assert holder.steps() == 3


def test_an_error_while_a_thread_waits(monkeypatch, backend):
    """It leaves its place; nobody waits for it."""
    if backend == "numpy":  # whose lock is Python's
        return

    def sleep(seconds):
        raise MemoryError

    holder = Holder()
    with monkeypatch.context() as patch:
        patch.setattr(_backend.native(), "sleep", sleep)
        with pytest.raises(MemoryError):
            holder.opt.step(G)
    holder.finish()
    holder.opt.step(G)
    assert holder.steps() == 2


def test_who_waits_long_looks_seldom(monkeypatch, backend):
    if backend == "numpy":
        return
    pauses, holder = [], Holder()

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) > 100:
            holder.released.set()
            time.sleep(0.001)

    monkeypatch.setattr(_backend.native(), "sleep", sleep)
    holder.opt.step(G)
    holder.finish()
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[10] < 1e-3, pauses[100]) == (1e-4, True, 1e-2)


def test_a_signal_handler_cannot_use_an_optimizer_at_work():
    class Grad:
        def __array__(self, dtype=None, copy=None):
            errors.extend(map(said, uses))
            return G

    errors, opt = [], fastadam.SGD(np.zeros(3))
    uses = (lambda: opt.step(G), opt.state_dict, lambda: opt.accumulate(G), opt.step)
    opt.accumulate(Grad())
    assert len(errors) == len(uses)
    assert all("at work" in error for error in errors)
    opt.step()
