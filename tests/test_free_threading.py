"""Many threads at once, with a GIL and without: one after the other, or an error, never a crash."""

import os
import signal
import subprocess
import sys
import sysconfig
import threading
from contextlib import suppress

import numpy as np
import pytest

import fastadam

N_THREADS = 4
#: What a step may say of a list or dict that another thread changes meanwhile.
REFUSED = (ValueError, TypeError, KeyError, RuntimeError)


@pytest.fixture(autouse=True)
def hasty():
    """With a GIL threads take turns every 5 ms, which is thousands of steps."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def together(*works):
    """Run functions at once, each in a thread; what they returned."""
    start, results, errors = threading.Barrier(len(works)), [None] * len(works), []

    def run(i):
        start.wait()
        try:
            results[i] = works[i]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error
    return results


def while_changing(change, work, times=2000):
    """Work at least so often, and change something in another thread at least as often.

    How often the work was not refused.
    """
    ended, changed, done = threading.Event(), 0, 0

    def keep_changing():
        nonlocal changed
        while not ended.is_set():
            change()
            changed += 1

    def keep_working():
        nonlocal done
        worked = 0
        try:
            while worked < times or changed < times:
                worked += 1
                try:
                    work()
                except REFUSED:
                    continue
                done += 1
        finally:
            ended.set()

    together(keep_working, keep_changing)
    return done


def ones():
    """New ones: memory that is freed when they are replaced."""
    return np.ones(3)


def test_the_gil_stays_off():
    """A module that does not say that it can do without turns the GIL on, with a warning."""
    code = "import sys, fastadam; print(getattr(sys, '_is_gil_enabled', lambda: True)())"
    clean = {key: value for key, value in os.environ.items() if key != "PYTHON_GIL"}
    result = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code], env=clean, capture_output=True, text=True
    )
    assert result.stdout == f"{not sysconfig.get_config_var('Py_GIL_DISABLED')}\n", result.stderr


@pytest.mark.parametrize("n", [3, 2000])
def test_one_optimizer(n):
    p, g = np.zeros(n), np.ones(n)
    opt = fastadam.SGD(p, lr=1.0)
    together(*[lambda: [opt.step(g) for _ in range(200)]] * N_THREADS)
    assert (p == -200 * N_THREADS).all()
    assert opt.finished_steps == opt.state_dict()["state"][0]["step"] == 200 * N_THREADS


def trained(seed, sizes):
    rng = np.random.default_rng(seed)
    params = [rng.standard_normal(n) for n in sizes]
    opt = fastadam.Adam(params, lr=lambda finished: 0.1 / (1 + finished), ema_decay=0.9)
    for _ in range(30):
        opt.step([rng.standard_normal(n) for n in sizes])
        opt.accumulate([rng.standard_normal(n)[::-1] for n in sizes])
        opt.step()
    return b"".join(p.tobytes() for p in params + opt.averaged_params())


def test_an_optimizer_for_each_thread():
    """They are made, step and go at once, and know nothing of each other."""
    sizes = [[3], [700, 5], [1] * 40, [0, 2000]]
    expected = [trained(seed, sizes[seed]) for seed in range(N_THREADS)]
    works = [lambda seed=seed: trained(seed, sizes[seed]) for seed in range(N_THREADS)]
    for _ in range(3):
        assert together(*works) == expected


def test_adam_step_from_many_threads():
    def stepped(n):
        params, m, v = [[np.full(k + 1, x) for k in range(n)] for x in (1.0, 0.0, 0.0)]
        grads = [np.full(k + 1, 0.5) for k in range(n)]
        for step in range(1, 100):
            fastadam.adam_step(params, grads, m, v, step=step)
            fastadam.adam_step(params[0], grads[0], m[0], v[0], step=step)
        return b"".join(array.tobytes() for column in (params, m, v) for array in column)

    works = [lambda n=n: stepped(n) for n in range(1, 1 + 3 * N_THREADS, 3)]
    assert together(*works) == [work() for work in works]


def nestings():
    """A nesting of zeros, and functions that change one of ones like it, but for their values."""

    def in_list(grads):
        grads[1] = ones()
        grads.append(grads.pop())
        grads.append(ones())
        del grads[-1]
        grads[:] = [ones() for _ in range(8)]

    def in_dict(grads):
        grads["b"] = ones()
        grads["d"] = grads.pop("b")
        grads["b"] = grads.pop("d")
        grads["c"] = [ones() for _ in range(4)]
        grads["c"].pop()
        grads["c"] = [ones() for _ in range(4)]
        grads["c"].append({"e": ones()})
        grads["c"][-1] = {"e": ones()}

    def in_tuples(grads):
        grads[0] = (ones(), [ones()])
        grads[0][1][0] = ones()
        grads[0][1].clear()
        grads[0] = (ones(), [ones()])

    def dict_of(make):
        return {"a": make(), "b": make(), "c": [make() for _ in range(4)] + [{"e": make()}]}

    return {
        "list": (lambda make: [make() for _ in range(8)], in_list),
        "dict": (dict_of, in_dict),
        "tuples": (lambda make: [(make(), [make()])], in_tuples),
    }


@pytest.mark.parametrize("kind", ["list", "dict", "tuples"])
def test_gradients_that_are_replaced_meanwhile(kind, backend):
    """All of them are ones, so a step takes each parameter one down, or does nothing at all."""
    make, change = nestings()[kind]
    opt = fastadam.SGD(make(lambda: np.zeros(3)), lr=1.0)
    grads = make(ones)
    times = 2000 if backend == "numpy" else 20_000
    done = while_changing(lambda: change(grads), lambda: opt.step(grads), times)
    assert opt.finished_steps == done
    assert all((slot.param == -done).all() for slot in opt._batch.arrays.slots)


@pytest.mark.parametrize("kind", ["list", "dict", "tuples"])
def test_parameters_that_are_replaced_meanwhile(kind):
    """The right ones are put back, so that at last a step is done."""
    make, _ = nestings()[kind]
    params, grads = make(lambda: np.zeros(3)), make(ones)
    opt = fastadam.SGD(params, lr=1.0)

    def change():
        container = params[0] if kind == "tuples" else params
        for place in {"list": [0, 3], "dict": ["c", "a"], "tuples": []}[kind]:
            right = container[place]
            container[place] = [ones()] if place == "c" else ones()
            container[place] = right
        if kind == "dict":
            params["more"] = ones()
            del params["more"]
            params["c"].append(ones())
            params["c"].pop()
        else:
            (params if kind == "list" else params[0][1]).append(ones())
            (params if kind == "list" else params[0][1]).pop()

    done = while_changing(change, lambda: opt.step(grads))
    opt.step(grads)
    assert opt.finished_steps == done + 1
    assert all((slot.param == -done - 1).all() for slot in opt._batch.arrays.slots)


def test_groups_that_are_edited_meanwhile():
    """A step takes one of the learning rates that there were."""
    p = np.zeros(3)
    opt = fastadam.SGD([{"params": p, "lr": 1.0}])

    def change():
        opt.param_groups[0]["lr"] = float("1")
        opt.param_groups[0]["note"] = object()
        opt.param_groups[0]["lr"] = float("2")
        del opt.param_groups[0]["note"]

    done = while_changing(change, lambda: opt.step([ones()]))
    assert opt.finished_steps == done > 0
    assert p[0] == p[1] == p[2] == np.round(p[0])
    assert done <= -p[0] <= 2 * done


def test_state_dicts_meanwhile():
    """Each is that of one moment: what is in it depends on nothing but the number of steps."""
    params = [np.zeros(3), np.zeros(2000), np.zeros((2, 2))]
    grads = [np.ones_like(p) for p in params]
    opt, again = fastadam.Adam(params, lr=0.1), fastadam.Adam(np.zeros(1))
    expected = []
    for _ in range(401):
        expected.append((*again.state_dict()["state"][0].values(),))
        again.step(np.ones(1))

    def look():
        return [opt.state_dict()["state"] for _ in range(100)]

    def step():
        for _ in range(200):
            opt.step(grads)

    for seen in together(look, look, step, step)[:2]:
        for state in seen:
            step_now = state[0]["step"]
            for entry in state.values():
                assert entry["step"] == step_now
                assert (entry["exp_avg"] == expected[step_now][1]).all()
                assert (entry["exp_avg_sq"] == expected[step_now][2]).all()


def test_loading_and_adding_meanwhile():
    opt = fastadam.SGD([{"params": np.zeros(3)}], lr=1.0)
    state = opt.state_dict()

    def step():
        done = 0
        for _ in range(200):
            groups = len(opt.params)
            try:
                opt.step([ones() for _ in range(groups)])
            except ValueError:  # a group came
                continue
            done += 1
        return done

    def load():
        for _ in range(50):
            with suppress(ValueError):  # a group came
                opt.load_state_dict(state)

    def add():
        for _ in range(20):
            opt.add_param_group({"params": np.zeros(3)})

    *_, done = together(load, add, step)
    first, *others = [slot.param for slot in opt._batch.arrays.slots]
    assert len(others) == 20
    assert (first == -done).all()
    assert all(-done <= p[0] <= 0 for p in others)


def test_checkpoints_meanwhile(tmp_path):
    opt = fastadam.Adam([np.zeros(300), np.zeros(3)])
    path = tmp_path / "opt.ckpt"
    opt.save(path, params=True)

    def step():
        for _ in range(30):
            opt.step([np.ones(300), ones()])

    def keep():
        for _ in range(10):
            opt.save(path, params=True)
            opt.load(path, params=True)

    together(step, step, keep, keep)
    first, second = opt.params
    assert (first == second[0]).all()
    assert len({entry["step"] for entry in opt.state_dict()["state"].values()}) == 1


def test_averages_in_place_meanwhile():
    """In the block a step is refused; behind it all is as if it had not been."""
    p = np.zeros(3)
    opt = fastadam.SGD(p, lr=1.0, ema_decay=0.5)

    def average():
        with opt.use_averaged_params():
            assert p[0] == p[1] == p[2]

    done = while_changing(average, lambda: opt.step(ones()), 300)
    opt.step(ones())
    assert (p == -done - 1).all()
    assert opt.finished_steps == done + 1


def test_accumulating_from_many_threads():
    p = np.zeros(3)
    opt = fastadam.SGD(p, lr=1.0)
    works = [lambda k=k: [opt.accumulate(np.full(3, float(k))) for _ in range(25)] for k in (1, 3)]
    together(*works, *works)
    opt.step()
    assert (p == -2.0).all()


def test_the_number_of_threads_is_set_meanwhile():
    before = fastadam.get_num_threads()
    p, g = np.zeros(300_000, np.float32), np.ones(300_000, np.float32)
    opt = fastadam.SGD(p, lr=1.0)
    counts = iter(range(10**9))
    try:
        done = while_changing(
            lambda: fastadam.set_num_threads(1 + next(counts) % 3), lambda: opt.step(g), 20
        )
    finally:
        fastadam.set_num_threads(before)
    assert (p == -done).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_forks_meanwhile(backend):
    """In the child the optimizer is whole, or says that it is not; nothing hangs.

    Without a GIL that is so with the compiled backend. NumPy's walks dicts of the optimizer, and a
    thread that was stopped may have the locks that CPython gives them.
    """
    if backend == "numpy" and sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("locks of CPython's own")
    opt, own, m, v = fastadam.SGD(np.zeros(3), lr=1.0), np.zeros(3), np.zeros(3), np.zeros(3)
    fastadam.adam_step(expected := np.zeros(3), ones(), np.zeros(3), np.zeros(3), step=1)
    ended = threading.Event()

    def step():
        x, a, b = np.zeros(3), np.zeros(3), np.zeros(3)
        while not ended.is_set():
            opt.step(ones())
            fastadam.adam_step(x, ones(), a, b, step=1)

    def fork():
        codes = []
        try:
            for _ in range(20):
                child = os.fork()
                if child == 0:
                    signal.alarm(30)
                    os._exit(in_child())
                codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        finally:
            ended.set()
        return codes

    def in_child():
        try:
            fastadam.adam_step(own, ones(), m, v, step=1)
            if not (own == expected).all():
                return 4
            state = opt.state_dict()["state"][0]["step"]
            opt.step(ones())
            return 0 if (opt.params == -state - 1).all() else 1
        except RuntimeError as error:
            return 0 if "forked while another thread" in str(error) else 2
        except BaseException:
            return 3

    assert together(fork, step, step)[0] == [0] * 20
