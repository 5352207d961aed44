"""Other people's code that runs in the middle of a call, and what it may do there.

Options, gradients and keys are objects of the user's; their methods run while a step reads
them. Whatever these do to the arrays and lists that the step was given, it must end in a
right step or an error, and must not read or write freed memory.
"""

import contextlib
import itertools
import sys
import threading

import numpy as np
import pytest

import fastadam
from fastadam._rows import Rows


def columns(count=50, size=3):
    return [[np.ones(size) for _ in range(count)] for _ in range(4)]


@contextlib.contextmanager
def repeated_meanwhile(change):
    """During the block another thread changes something again and again, with a turn each us."""
    stop = threading.Event()

    def keep_changing():
        while not stop.is_set():
            change()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=keep_changing)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)


class Odd(float):
    """A number that does something when it is read."""

    def __new__(cls, value, act):
        number = super().__new__(cls, value)
        number.act = act
        return number

    def __float__(self):
        self.act()
        return 0.1


class Array:
    """A gradient that does something when it becomes an array."""

    def __init__(self, values, act):
        self.values, self.act = values, act

    def __array__(self, dtype=None, copy=None):
        self.act()
        return self.values


@pytest.mark.parametrize("shortened", range(4))
@pytest.mark.parametrize("option", ["lr", "eps", "loss_scale"])
def test_an_option_that_shortens_a_list_of_adam_step(option, shortened):
    lists = columns()
    before = [array.copy() for array in lists[0]]
    params = list(lists[0])
    try:
        fastadam.adam_step(*lists, step=1, **{option: Odd(1.0, lists[shortened].clear)})
    except ValueError:
        assert all(map(np.array_equal, params, before))
    else:  # the call had taken the arrays before
        assert not any(map(np.array_equal, params, before))


def test_betas_that_shorten_the_lists_of_adam_step():
    lists = columns()

    class Betas:
        def __iter__(self):
            for arrays in lists:
                arrays.clear()
            return iter((0.9, 0.999))

    fastadam.adam_step(*lists, step=1, betas=Betas())


def test_lists_of_adam_step_that_another_thread_changes():
    source = columns(200)
    lists = [list(arrays) for arrays in source]

    def change():
        for arrays in lists:
            arrays.clear()
        for arrays, full in zip(lists, source, strict=True):
            arrays.extend(full)

    with repeated_meanwhile(change):
        for n in range(3000):
            with contextlib.suppress(ValueError):
                fastadam.adam_step(*lists, step=1, lr=1e-3 + n * 1e-12)
    fastadam.adam_step(*lists, step=1)
    for array in itertools.chain.from_iterable(source):
        assert (array == array[0]).all()  # each was stepped as a whole, or not


def emptied_and_filled(container):
    full = container.copy()
    container.clear()
    container.extend(full) if isinstance(container, list) else container.update(full)


def turned_round(container):
    """The keys in another order, or another array first; at the end all is as before."""
    if isinstance(container, dict):
        for _ in range(2):
            key = next(iter(container))
            container[key] = container.pop(key)
    else:
        container.reverse()
        container.reverse()


@pytest.mark.parametrize("change", [emptied_and_filled, turned_round])
@pytest.mark.parametrize("what", ["params", "grads", "inner", "groups", "group", "state"])
@pytest.mark.parametrize("use", ["step", "accumulate", "load_state_dict", "save"])
def test_what_another_thread_changes_meanwhile(what, change, use, tmp_path, backend):
    """A call is done or refused as a whole; afterwards all is as it was."""
    n = 30
    nest = {"a": [np.zeros(3) for _ in range(n)], "b": np.zeros(2)}
    grads = [{"a": [np.ones(3) for _ in range(n)], "b": np.ones(2)}]
    opt = fastadam.SGD([{"params": nest, "lr": 1.0}])
    state = opt.state_dict()
    containers = {
        "params": nest["a"], "grads": grads[0], "inner": grads[0]["a"], "groups": opt.param_groups,
        "group": opt.param_groups[0], "state": state["state"],
    }  # fmt: skip
    uses = {
        "step": lambda: opt.step(grads),
        "accumulate": lambda: (opt.accumulate(grads), opt.step()),
        "load_state_dict": lambda: (opt.load_state_dict(state), opt.step(grads)),
        "save": lambda: opt.save(tmp_path / "x"),
    }
    done = 0
    with repeated_meanwhile(lambda: change(containers[what])):
        for _ in range(60):
            with contextlib.suppress(TypeError, ValueError, KeyError, RuntimeError):
                uses[use]()
                done += use != "save"
    moved = {float(value) for array in [*nest["a"], nest["b"]] for value in array}
    assert len(moved) == 1
    assert moved == {-float(done)} or use == "load_state_dict"  # which may leave out the step
    with contextlib.suppress(ValueError):  # if nothing was accumulated
        opt.step()
    opt.step(grads)


@pytest.mark.parametrize("place", ["exp_avg", "exp_avg_sq", "param"])
def test_a_gradient_that_resizes_or_locks_what_adam_step_writes(place):
    n = 1 << 16

    def resize(array):
        array.resize(0, refcheck=False)

    def lock(array):
        array.flags.writeable = False

    for act in (resize, lock):
        arrays = {"param": np.ones(n), "exp_avg": np.zeros(n), "exp_avg_sq": np.zeros(n)}
        others = {name: array.copy() for name, array in arrays.items() if name != place}
        grad = Array(np.ones(n), lambda act=act, arrays=arrays: act(arrays[place]))
        with pytest.raises(ValueError, match=f"^{place}"):
            fastadam.adam_step(
                arrays["param"], grad, arrays["exp_avg"], arrays["exp_avg_sq"], step=1
            )
        for name, before in others.items():
            assert np.array_equal(arrays[name], before), name


def test_an_error_of_an_option_is_raised():
    """TimeoutError, say, of a signal handler that ran while it was read."""
    answers = iter([TimeoutError("time is up")])

    def act():
        for error in answers:
            raise error

    p, g, m, v = (np.ones(3) for _ in "pgmv")
    with pytest.raises(TimeoutError, match="time is up"):
        fastadam.adam_step(p, g, m, v, step=1, lr=Odd(0.1, act))
    assert np.array_equal(p, np.ones(3))


def test_a_key_of_the_gradients_that_resizes_a_parameter():
    n = 1 << 16
    params = {"a": np.ones(n), "b": np.ones(n)}
    opt = fastadam.Adam(params)

    class Key(str):
        __hash__ = str.__hash__

        def __eq__(self, other):
            params["a"].resize(0, refcheck=False)
            return str.__eq__(self, other)

    with pytest.raises(ValueError, match="was resized"):
        opt.step({"a": np.ones(n), Key("b"): np.ones(n)})
    assert np.array_equal(params["b"], np.ones(n))


def test_a_key_of_the_gradients_that_shortens_their_list():
    params = [{"a": np.ones(3)}, np.ones(3), np.ones(3)]
    opt = fastadam.Adam(params)
    grads = []

    class Key(str):
        __hash__ = str.__hash__

        def __eq__(self, other):
            del grads[1:]
            return str.__eq__(self, other)

    grads += [{Key("a"): np.ones(3)}, np.ones(3), np.ones(3)]
    before = [params[0]["a"].copy(), *map(np.copy, params[1:])]
    try:
        opt.step(grads)
    except ValueError:
        assert all(map(np.array_equal, [params[0]["a"], *params[1:]], before))
    else:  # the list had been copied before
        assert not any(map(np.array_equal, [params[0]["a"], *params[1:]], before))


def moved(array):
    """Give an array other memory."""
    size, before, kept = array.size, array.ctypes.data, []
    for _ in range(100):
        kept.append(np.zeros(size))  # where it could grow
        array.resize(4 * size, refcheck=False)
        kept.append(np.zeros(size))
        array.resize(size, refcheck=False)
        if array.ctypes.data != before:
            return
    raise AssertionError("it stayed where it was")


@pytest.mark.parametrize("how", ["load_state_dict", "add_param_group"])
def test_a_parameter_that_moved_before_its_arrays_are_taken_anew(how):
    p = np.zeros(100_000)
    opt = fastadam.SGD([{"params": p}], lr=1.0)
    state = opt.state_dict()
    moved(p)
    if how == "load_state_dict":
        opt.load_state_dict(state)
    else:
        opt.add_param_group({"params": np.zeros(2)})
    grads = [np.ones(100_000), np.ones(2)][: len(opt.param_groups)]
    with pytest.raises(ValueError, match="was resized"):
        opt.step(grads)


def test_a_parameter_that_moves_while_its_optimizer_is_made():
    p = np.zeros(100_000)
    acts = iter([lambda: None, lambda: moved(p)])
    opt = fastadam.SGD(p, lr=Odd(1.0, lambda: next(acts, lambda: None)()))
    with pytest.raises(ValueError, match="was resized"):
        opt.step(np.ones(100_000))


def test_a_parameter_that_lies_about_its_axes():
    class Liar(np.ndarray):
        answers = 0

        @property
        def ndim(self):
            Liar.answers += 1
            return 1 if Liar.answers < 2 else 10_000

    p = np.zeros(3).view(Liar)
    fastadam.SGD(p, lr=1.0).step(np.ones(3))
    assert np.asarray(p).tolist() == [-1.0, -1.0, -1.0]


def test_a_refused_overlap_leaves_no_intervals_behind():
    """adam_step keeps what it wrote to last; a refused call must not half replace that."""
    n = 16
    memory = np.random.default_rng(0).random(4 * n)
    p, m, v = memory[:n], memory[n : 2 * n], memory[2 * n + 4 : 3 * n + 4]
    overlapping, apart = memory[2 * n + 3 : 3 * n + 3], np.ones(n)

    def refused():
        with pytest.raises(ValueError, match="share memory"):
            fastadam.adam_step(p, apart, m, v, step=1, max_exp_avg_sq=p[:])

    start = memory.copy()
    expected = [array.copy() for array in (p, m, v)]
    fastadam.adam_step(expected[0], overlapping.copy(), *expected[1:], step=2)
    refused()
    fastadam.adam_step(p, apart, m, v, step=1)
    refused()
    memory[:] = start
    fastadam.adam_step(p, overlapping, m, v, step=2)
    assert [a.tobytes() for a in (p, m, v)] == [a.tobytes() for a in expected]


def test_an_option_that_takes_groups_away():
    a, b = np.zeros(2), np.zeros(2)
    opt = fastadam.SGD([{"params": a}, {"params": b}], lr=1.0)
    opt.param_groups[0]["lr"] = Odd(0.1, lambda: opt.param_groups.pop())
    with pytest.raises(ValueError, match="param_groups has 1 entries, expected 2"):
        opt.step([np.ones(2), np.ones(2)])
    assert not a.any()
    assert not b.any()


def test_rows_that_nobody_checked():
    opt = fastadam.SGD(np.zeros((3, 2)), lr=1.0)
    with pytest.raises(TypeError, match="grads is a Rows"):
        opt.step(Rows(np.array([7]), np.ones((1, 2))))
