"""A step makes no arrays, and nothing is left behind."""

import copy
import gc
import os
import pickle
import tracemalloc

import numpy as np
import pytest

import fastadam
from fastadam import RowGrad

LONG = int(os.environ.get("FASTADAM_TEST_LEAKS", "0"))


@pytest.mark.parametrize(
    "case", ["plain", "nested", "strided parameter", "gradient of another order"]
)
def test_no_array_memory_after_the_first_step(case):
    n = 500
    if case == "nested":
        params = {"a": [np.ones((n, n))], "b": np.ones((n, n))}
        grads = {"a": [np.ones((n, n))], "b": np.ones((n, n))}
    else:
        params = np.ones((n, 2 * n))[:, ::2] if case == "strided parameter" else np.ones((n, n))
        grads = np.ones((n, n), order="F" if "order" in case else "C")
    opt = fastadam.Adam(params, weight_decay=0.1, amsgrad=True)
    opt.step(grads)
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(5):
            opt.step(grads)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000  # bytes; an array has 2,000,000


#: Dtypes of a parameter and of its gradient.
PAIRS = [("float32", "float32"), ("float32", "bfloat16"), ("complex64", "complex64"),
         ("float16", "float16"), ("float16", "float32"), ("bfloat16", "bfloat16"),
         ("bfloat16", "float32")]  # fmt: skip
WITH_ROWS = [pair for pair in PAIRS if pair[1] in ("float32", "complex64")]
CASES = [(*pair, False) for pair in PAIRS] + [(*pair, True) for pair in WITH_ROWS]


@pytest.mark.parametrize("state_dtype", [None, "bfloat16", "int8"])
@pytest.mark.parametrize(("dtype", "grad_dtype", "rows"), CASES)
def test_a_compressed_array_is_all_that_is_kept_of_it(dtype, grad_dtype, rows, state_dtype):
    """And a step decodes a part at a time."""
    if "bfloat16" in (dtype, grad_dtype):
        pytest.importorskip("ml_dtypes")
    params, g = np.ones((2**16, 64), dtype), np.ones((2**16, 64), grad_dtype)
    given = RowGrad(np.arange(2**16), g) if rows else g
    gc.collect()
    tracemalloc.start()
    try:
        opt = fastadam.Adam(params, state_dtype=state_dtype, amsgrad=True, max_grad_norm=1.0)
        tracemalloc.reset_peak()
        opt.step(given)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - opt.state_bytes < 8_000_000  # an array of float32 has 16,777,216 bytes


def test_nothing_leaks():
    opt = fastadam.Adam(np.ones(4))
    g = np.ones(4)
    import sys

    before = sys.getrefcount(g)
    for _ in range(100):
        opt.step(g)
        with pytest.raises(ValueError, match="shape"):
            opt.step(np.ones(5))
        opt.step(g, loss_scale=2.0)
    assert sys.getrefcount(g) == before


#: {case: what makes a call that must leave no memory behind}
CALLS = {}


def repeated(case):
    def keep(make):
        CALLS[case] = make
        return make

    return keep


@repeated("step")
def _(folder):
    opt, g = fastadam.Adam(np.ones(4)), np.ones(4)
    return lambda: opt.step(g)


@repeated("step of odd gradients")
def _(folder):
    params = [np.ones((3, 2)), np.ones(4, np.complex64)[::2], np.ones(3, np.float32)]
    opt = fastadam.AdamW(params, weight_decay=0.0, max_grad_norm=1.0, lr=lambda finished: 0.1)
    rows = RowGrad([1, 1], np.ones((2, 2)))
    grads = [rows, np.ones(2, np.complex64), np.ones(6, np.float32)[::2]]
    return lambda: opt.step(grads)


@repeated("adam_step")
def _(folder):
    arrays = [np.ones(3) for _ in range(4)]
    lists = [[array] for array in arrays]

    def call():
        fastadam.adam_step(*arrays, step=1)
        fastadam.adam_step(*lists, step=1)
        with pytest.raises(ValueError, match="shape"):
            fastadam.adam_step(*arrays[:3], np.ones(2), step=1)

    return call


@repeated("accumulate")
def _(folder):
    opt, g = fastadam.SGD([np.ones(40), np.ones(2)], ema_decay=0.5), [np.ones(40), None]

    def call():
        opt.accumulate(g)
        opt.accumulate(g)
        opt.step()
        with opt.use_averaged_params():
            pass

    return call


@repeated("construction")
def _(folder):
    params, g = {"a": [np.ones(30)], "b": np.ones((3, 3))[:, ::2]}, np.ones((3, 2))

    def call():
        opt = fastadam.NAdam(params, ema_decay=0.5)
        opt.step({"a": [None], "b": g})
        with pytest.raises(ValueError, match="learning rate"):
            fastadam.NAdam(params, lr=-1.0)

    return call


@repeated("groups")
def _(folder):
    def call():
        opt = fastadam.RMSprop([{"params": np.ones(30)}], momentum=0.9)
        opt.add_param_group({"params": [np.ones(3)], "lr": 0.5})
        with pytest.raises(ValueError, match="unknown key"):
            opt.add_param_group({"params": np.ones(3), "rate": 0.5})
        opt.step([np.ones(30), [np.ones(3)]])

    return call


@repeated("errors")
def _(folder):
    opt = fastadam.Adam([np.ones(4), np.ones(2)], amsgrad=True)

    class Bad:
        def __array__(self, dtype=None, copy=None):
            raise ValueError("no array")

    wrong = [[np.ones(5), None], [np.ones(4), Bad()], [np.ones(4)], None, [np.ones(4), "text"]]

    def call():
        for grads in wrong:
            for use in (opt.step, opt.accumulate):
                with pytest.raises((TypeError, ValueError)):
                    use(grads)
        opt.step([np.ones(4), None])

    return call


@repeated("state dicts")
def _(folder):
    opt = fastadam.RAdam([np.ones(40), np.ones(2, np.complex128)])

    def call():
        state = opt.state_dict()
        opt.load_state_dict(state)
        state["state"][1]["exp_avg"] = np.ones(3)
        with pytest.raises((TypeError, ValueError)):
            opt.load_state_dict(state)
        copy.deepcopy(opt).step([np.ones(40), None])
        pickle.loads(pickle.dumps(opt))

    return call


@repeated("files")
def _(folder):
    opt, rng = fastadam.Adamax(np.ones(40)), np.random.default_rng(0)
    good, bad = str(folder / "good"), str(folder / "bad")
    opt.save(good, params=True, rng=rng)
    with open(good, "rb") as file, open(bad, "wb") as other:
        other.write(file.read()[:-1])

    def call():
        opt.load(good, rng=rng)
        with pytest.raises(ValueError, match="truncated"):
            opt.load(bad, rng=rng)

    return call


@repeated("torch")
def _(folder):
    torch = pytest.importorskip("torch")
    import fastadam.torch

    p = [torch.nn.Parameter(torch.ones(n)) for n in (3, 40)]
    opt = fastadam.torch.AdamW(p)

    def call():
        for one in p:
            one.grad = torch.ones_like(one)
        opt.step()
        opt.step()
        opt.load_state_dict(opt.state_dict())
        fastadam.torch.AdamW(p).step()
        p[0].grad = torch.ones(3).to_sparse()
        with pytest.raises(ValueError, match="weight_decay"):
            opt.step()

    return call


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def traced():
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.parametrize("case", CALLS)
def test_nothing_is_left_behind(case, tmp_path):
    """With FASTADAM_TEST_LEAKS=1000000 that many steps, a hundredth of all else, and by what the
    process has from the system, which tells of memory that Python does not know of.
    """
    call = CALLS[case](tmp_path)
    times = LONG if case == "step" else LONG // 100
    measure, most = (resident, 1_000_000) if LONG else (traced, 3_000)
    if not LONG:
        times = 60
        tracemalloc.start()
    try:
        for _ in range(30):  # caches grow at first, and a leak each time
            gc.collect()
            before = measure()
            for _ in range(times):
                call()
            gc.collect()
            grown = measure() - before
            if grown < most:
                break
    finally:
        tracemalloc.stop()
    assert grown < most
