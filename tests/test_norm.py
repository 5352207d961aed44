"""The gradients' norm: right, the same bits everywhere, and what is made of it."""

import math

import numpy as np
import pytest
from reference import bits

import fastadam
from fastadam import _backend


def draw(rng, sizes, scale=1.0):
    dtypes = (np.float32, np.float64)
    return [(rng.standard_normal(n) * scale).astype(dtypes[i % 2]) for i, n in enumerate(sizes)]


def exact_norm(grads):
    """With exactly rounded sums, scaled against overflow."""
    numbers = np.concatenate([g.astype(float).ravel() for g in grads])
    largest = np.abs(numbers).max(initial=0.0) or 1.0
    return largest * math.sqrt(math.fsum(((numbers / largest) ** 2).tolist()))


SIZES = [(1,), (10,), (0, 3), (4095, 4096, 4097), (100_003, 17, 70_000, 1), (1,) * 300]


@pytest.mark.parametrize("sizes", SIZES)
def test_is_the_norm(sizes):
    grads = draw(np.random.default_rng(15), sizes)
    opt = fastadam.Adam([np.zeros_like(g) for g in grads], max_grad_norm=1.0)
    assert math.isnan(opt.grad_norm)
    opt.step(grads)
    assert opt.grad_norm == pytest.approx(exact_norm(grads), rel=1e-14)


@pytest.mark.parametrize("scale", [1e30, 1e-40])
def test_float32_neither_overflows_nor_underflows(scale):
    g = np.full(1000, scale, np.float32)
    opt = fastadam.Adam(np.zeros_like(g), max_grad_norm=1.0)
    opt.step(g)
    assert opt.grad_norm == pytest.approx(exact_norm([g]), rel=1e-14)


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1e306, 5e-324, 1e-160])
def test_float64_neither_overflows_nor_underflows(scale):
    rng = np.random.default_rng(16)
    grads = [np.full(5000, scale), rng.uniform(0, 1, 10) * scale, np.zeros(3, np.float32)]
    opt = fastadam.Adam([np.zeros_like(g) for g in grads], skip_nonfinite=True)
    opt.step(grads)
    assert opt.grad_norm == pytest.approx(exact_norm(grads), rel=1e-14)
    assert opt.skipped_steps == 0


def test_a_norm_that_only_the_loss_scale_makes_overflow():
    opt = fastadam.Adam(np.zeros(4), skip_nonfinite=True)
    opt.step(np.full(4, 1e308), loss_scale=1e10)
    assert opt.grad_norm == pytest.approx(2e298, rel=1e-14)
    assert opt.skipped_steps == 0


@pytest.mark.parametrize("kind", ["array", "two", "complex", "rows"])
def test_a_gradient_that_only_the_loss_scale_makes_infinite(kind):
    """In float32; the norm is a double, and finite."""
    w = np.ones((4, 2), np.complex64 if kind == "complex" else np.float32)
    params = [np.ones(5000), w]
    opt = fastadam.SGD(params, lr=1e-30, skip_nonfinite=True)
    finite = np.zeros_like(w)
    finite[2] = 3e37 * (1j if kind == "complex" else 1)
    large = finite * w.dtype.type(10)
    give = (lambda g: fastadam.RowGrad([1, 2], g[1:3])) if kind == "rows" else (lambda g: g)
    for g, skipped in ((finite, 0), (large, 1), (-large, 2), (finite, 2)):
        before, finished = w.copy(), opt.state_dict()["param_groups"][0]["finished_steps"]
        opt.step([np.ones(5000) if kind == "two" else None, give(g)], loss_scale=0.1)
        assert opt.grad_norm == pytest.approx(float(np.abs(g).max()) * 10 * 2**0.5, rel=1e-6)
        assert opt.skipped_steps == skipped
        after = opt.state_dict()["param_groups"][0]["finished_steps"]
        assert (w == before).all() == (after == finished) == (g is not finite)
        assert np.isfinite(w).all()


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_a_float32_norm_beyond_float32_is_no_infinity(scale):
    """Neither a double's numbers, nor many large ones of float32, nor what clipping makes small."""
    opt = fastadam.SGD([np.ones(1), np.ones(9000, np.float32)], skip_nonfinite=True)
    opt.step([np.full(1, 1e200), np.full(9000, 3e37, np.float32)], loss_scale=scale)
    assert opt.skipped_steps == 0
    w = np.zeros(1, np.float32)
    opt = fastadam.SGD(w, lr=1.0, skip_nonfinite=True, max_grad_norm=0.5)
    opt.step(np.full(1, 3e38, np.float32), loss_scale=scale)
    assert opt.skipped_steps == 0
    assert w[0] == pytest.approx(-0.5)


def test_zero_and_nothing():
    opt = fastadam.Adam([np.ones(3), np.ones(0)], max_grad_norm=1.0)
    opt.step([np.zeros(3), np.zeros(0)])
    assert opt.grad_norm == 0.0
    opt.step([None, None])
    assert opt.grad_norm == 0.0
    assert fastadam.Adam(np.ones(3)).grad_norm is None


def run(name, sizes, scale, **options):
    """Bits of norm and parameters after some clipped steps on a backend."""
    rng = np.random.default_rng(17)
    with _backend.using(name):
        params = draw(rng, sizes)
        opt = fastadam.AdamW(params, max_grad_norm=0.7, **options)
        norms = []
        for _ in range(3):
            opt.step(draw(rng, sizes, scale), loss_scale=3.0)
            norms.append(opt.grad_norm.hex())
        return norms, [bits(p) for p in params]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e20])
def test_the_same_bits_for_any_backend_and_thread_count(sizes, scale, backend):
    """float32 overflows at 1e20 squared, so the sums must be double."""
    expected = run("numpy", sizes, scale)
    threads = fastadam.get_num_threads()
    try:
        for n in (1, 2, 3, 7):
            fastadam.set_num_threads(n)
            assert run(backend, sizes, scale) == expected
    finally:
        fastadam.set_num_threads(threads)


def test_clips_as_if_the_gradients_were_scaled():
    rng = np.random.default_rng(18)
    grads = draw(rng, (5, 400))
    clipped, scaled = ([np.ones_like(g) for g in grads] for _ in range(2))
    opt = fastadam.Adam(clipped, max_grad_norm=2.0, eps=0.1)
    plain = fastadam.Adam(scaled, eps=0.1)
    for _ in range(5):
        grads = draw(rng, (5, 400))
        before = [g.copy() for g in grads]
        opt.step(grads)
        coefficient = min(1.0, 2.0 / (exact_norm(grads) + 1e-6))
        plain.step([(g * g.dtype.type(coefficient)) for g in grads])
        for g, kept in zip(grads, before, strict=True):
            assert np.array_equal(g, kept)
    for p, q in zip(clipped, scaled, strict=True):
        assert np.allclose(p, q, rtol=1e-6)


def test_small_gradients_are_not_scaled_up():
    a, b, g = np.ones(5), np.ones(5), np.linspace(-1e-3, 1e-3, 5)
    fastadam.Adam(a, max_grad_norm=10.0).step(g)
    fastadam.Adam(b).step(g)
    assert (a == b).all()


def test_the_norm_is_of_the_unscaled_gradients():
    opt = fastadam.Adam(np.ones(2), max_grad_norm=1.0)
    opt.step(np.array([3.0, 4.0]) * 1024, loss_scale=1024)
    assert opt.grad_norm == 5.0


def test_complex_gradients():
    opt = fastadam.Adam(np.ones(1, complex), max_grad_norm=1.0)
    opt.step(np.array([3 + 4j]))
    assert opt.grad_norm == 5.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 5000, 9999])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_skipping_changes_nothing(bad, where, dtype):
    seen = []
    params = [np.ones(3), np.ones(10_000, dtype)[::-1], np.ones((2, 2), order="F")]
    opt = fastadam.Adam(
        params, lr=lambda finished: seen.append(finished) or 0.1, skip_nonfinite=True
    )
    good = [np.ones(3), np.ones(10_000, dtype), np.ones((2, 2))]
    opt.step(good)
    spoilt = [g.copy() for g in good]
    spoilt[1][where] = bad
    before = [p.tobytes() for p in params]
    state = repr(opt.state_dict()["state"])
    opt.step(spoilt)
    assert [p.tobytes() for p in params] == before
    assert repr(opt.state_dict()["state"]) == state
    assert opt.skipped_steps == 1
    assert not math.isfinite(opt.grad_norm)
    opt.step(good)
    assert seen == [0, 1, 1]
    again = fastadam.Adam([p.copy() for p in params], skip_nonfinite=True)
    again.load_state_dict(opt.state_dict())
    assert again.skipped_steps == 1


def test_without_skipping_a_nan_spreads_as_in_torch():
    p = np.ones(3)
    fastadam.Adam(p, max_grad_norm=1.0).step(np.array([1.0, np.nan, 1.0]))
    assert np.isnan(p).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_grad_norm": 0.0}, "Invalid max_grad_norm value: 0.0; expected a number above 0"),
        ({"max_grad_norm": -1.0}, "Invalid max_grad_norm value: -1.0"),
        ({"max_grad_norm": math.nan}, "Invalid max_grad_norm value: nan"),
        ({"max_grad_norm": "1"}, "max_grad_norm must be a real number"),
        ({"skip_nonfinite": 1}, "skip_nonfinite must be True or False"),
    ],
)
def test_errors(options, match):
    with pytest.raises((ValueError, TypeError), match=match):
        fastadam.Adam(np.ones(2), **options)


def test_infinity_only_measures():
    a, b, g = np.ones(2), np.ones(2), np.array([3e5, 4e5])
    opt = fastadam.Adam(a, max_grad_norm=math.inf)
    opt.step(g)
    fastadam.Adam(b).step(g)
    assert (a == b).all()
    assert opt.grad_norm == 5e5


def test_against_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(19)
    sizes = (50, 700, 3)
    ours = draw(rng, sizes)
    theirs = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in ours]
    opt = fastadam.AdamW(ours, lr=0.01, max_grad_norm=1.5)
    reference = torch.optim.AdamW(theirs, lr=0.01)
    for _ in range(20):
        grads = draw(rng, sizes)
        opt.step(grads)
        for p, g in zip(theirs, grads, strict=True):
            p.grad = torch.from_numpy(g.copy())
        norm = torch.nn.utils.clip_grad_norm_(theirs, 1.5)
        assert opt.grad_norm == pytest.approx(float(norm), rel=1e-5)
        reference.step()
    for p, q in zip(ours, theirs, strict=True):
        assert np.abs(p - q.detach().numpy()).max() < 2e-5
