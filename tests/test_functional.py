"""adam_step on lists: the lane in C and the way round it do the same."""

import threading

import numpy as np
import pytest
from reference import bits, rule

import fastadam
from fastadam import _backend, _hyper

compiled_only = pytest.mark.skipif(
    not _backend.available[:-1], reason="only the compiled backend has a lane"
)
SHAPES = [(3,), (2, 5), (), (0,), (1, 1), (400,)]
OPTIONS = (1e-3, (0.9, 0.999), 1e-8, 0.0, False, False, False, False)


def make(dtype=np.float32, shapes=SHAPES, seed=30):
    """Columns of parameters, gradients and both moments."""
    rng = np.random.default_rng(seed)
    return [[np.array(abs(rng.standard_normal(s)), dtype) for s in shapes] for _ in "pgmv"]


def expected(columns, steps, **options):
    rows = zip(*columns, steps, strict=True)
    return [rule(p, g, m, v, None, t, **options)[:3] for p, g, m, v, t in rows]


def assert_equal(columns, want):
    p, _, m, v = columns
    for got, w in zip(zip(p, m, v, strict=True), want, strict=True):
        for a, b in zip(got, w, strict=True):
            assert bits(a) == bits(b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("steps", [4, [1, 2, 3, 4, 5, 10**9]])
def test_sequences(dtype, kind, steps):
    columns = make(dtype)
    each = steps if isinstance(steps, list) else [steps] * len(SHAPES)
    want = expected(columns, each, lr=0.1, weight_decay=0.1, loss_scale=4.0)
    fastadam.adam_step(*map(kind, columns), step=steps, lr=0.1, weight_decay=0.1, loss_scale=4.0)
    assert_equal(columns, want)


def test_options_of_the_last_call_do_not_stay():
    for lr, betas in (
        (0.1, (0.9, 0.99)),
        (0.2, (0.9, 0.99)),
        (0.2, [0.5, 0.99]),
        (0.1, (0.0, 0.0)),
    ):
        columns = make()
        want = expected(columns, [1] * len(SHAPES), lr=lr, betas=betas)
        fastadam.adam_step(*columns, step=1, lr=lr, betas=betas)
        assert_equal(columns, want)
    betas = [0.9, 0.99]
    for beta in (0.9, 0.3):
        betas[0] = beta  # the same list with another number in it
        columns = make()
        want = expected(columns, [1] * len(SHAPES), betas=betas)
        fastadam.adam_step(*columns, step=1, betas=betas)
        assert_equal(columns, want)


def test_none_skips():
    columns = make()
    before = [column[1].copy() for column in columns]
    columns[1][1] = None
    fastadam.adam_step(*columns, step=1)
    for k in (0, 2, 3):
        assert np.array_equal(columns[k][1], before[k])
    assert not np.array_equal(columns[0][0], make()[0][0])


@compiled_only
def test_plain_arrays_take_the_lane(backend):
    if backend == "numpy":
        return
    native = _backend.native()

    def takes(p, g, m, v, steps=1, options=OPTIONS, scale=1.0):
        return native.adam_step((p, m, v), g, steps, options, scale)

    for dtype in (np.float32, np.float64, np.complex64, np.complex128):
        assert takes(*make(dtype))
        assert takes(*(np.ones((4, 3), dtype, order="F") for _ in "pgmv"))
    p, g, m, v = make()
    assert takes(p, [None, *g[1:]], m, v, [1, 2, 3, 4, 5, 6])
    whole = np.ones((4, 300))
    assert takes(*whole)  # neighbours do not overlap
    refused = {
        "overlap": (whole[0], whole[1], whole[2], whole[2]),
        "partial overlap": (whole[0, :-1], whole[1, :-1], whole[2, :-1], whole[2, 1:]),
        "gradient overlaps": (whole[0, 1:], whole[0, :-1], whole[1, 1:], whole[2, 1:]),
        "strided": whole[:, ::2],
        "float16": whole.astype(np.float16),
        "mixed": (whole[0], whole[1].astype(np.float32), whole[2], whole[3]),
        "swapped": whole.astype(">f8"),
        "lists of other lengths": (p, g, m[1:], v),
        "gradients of another length": (p, g[1:], m, v),
        "a gradient for lists": (p, g[0], m, v),
        "numbers": (1.0, 1.0, 1.0, 1.0),
        "order": (whole, np.array(whole, order="F"), whole + 1, whole + 1),
        "step": (*whole, 0),
        "steps": (*make(), [1, 2]),
        "boolean step": (*whole, True),
        "options": (*whole, 1, (-1.0, *OPTIONS[1:])),
        "schedule": (*whole, 1, (abs, *OPTIONS[1:])),
        "scale": (*whole, 1, OPTIONS, 0.0),
    }
    before = whole.copy()
    for case, arguments in refused.items():
        assert not takes(*arguments), case
        assert np.array_equal(whole, before), case
    assert takes(*whole)


def test_an_overlap_is_found_again_and_again():
    """A refused call leaves nothing behind that a later one could believe."""
    p, m, v = ([np.ones(5), np.ones(5)] for _ in "pmv")
    g = [np.ones(5), np.ones(5)]
    fastadam.adam_step(p, g, m, v, step=1)
    for bad in ([v[0], m[0]], [v[0], v[0]], [v[0], p[1]]):
        for _ in range(3):
            with pytest.raises(ValueError, match="share memory"):
                fastadam.adam_step(p, g, m, bad, step=1)
            with pytest.raises(ValueError, match="share memory"):
                fastadam.adam_step([p[0]] * 2, g, m, v, step=1)
    fastadam.adam_step(p, g, m, v, step=1)


def test_lists_that_grow_and_shrink():
    for n in (1, 50, 3, 200, 2, 0, 1):
        columns = make(shapes=[(7,)] * n, seed=n)
        want = expected(columns, [2] * n)
        for _ in range(2):
            again = [[a.copy() for a in column] for column in columns]
            fastadam.adam_step(*again, step=2)
            assert_equal(again, want)


def test_an_option_that_steps():
    """User code runs before any address is taken, and may call adam_step itself."""

    class Number(float):
        def __float__(self):
            columns = make()
            fastadam.adam_step(*columns, step=1)
            return 0.1

    columns = make()
    want = expected(columns, [1] * len(SHAPES), lr=0.1)
    fastadam.adam_step(*columns, step=1, lr=Number(0.1))
    assert_equal(columns, want)


def test_threads_on_different_arrays():
    def work(seed):
        columns = make(shapes=[(5000,), (3,)], seed=seed)
        want = expected(columns, [1, 1])
        for _ in range(30):
            again = [[a.copy() for a in column] for column in columns]
            fastadam.adam_step(*again, step=1)
            try:
                assert_equal(again, want)
            except AssertionError:
                wrong.append(seed)

    wrong = []
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_is_fixed():
    assert _hyper.are_fixed(OPTIONS)
    assert not _hyper.are_fixed((0.1, [0.9, 0.99]))
    assert not _hyper.are_fixed((np.array(0.1),))
