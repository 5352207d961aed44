"""The rule against the papers' formulas and other people's."""

import decimal
import itertools

import numpy as np
import pytest
from reference import paper

import fastadam

OPTIONS = [
    dict(zip(("amsgrad", "maximize", "epsilon_hat"), flags, strict=True), **decay)
    for flags in itertools.product((False, True), repeat=3)
    for decay in ({}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True})
]


def paper_options(options):
    return {k.replace("decoupled_weight_decay", "decoupled"): x for k, x in options.items()}


@pytest.mark.parametrize("options", OPTIONS)
def test_float64_against_the_paper_in_decimal(options):
    """50 digits, 40 steps. The rule rounds about ten times a step, so 40 * 10 half ulps."""
    rng = np.random.default_rng(5)
    start, grads = rng.standard_normal(5), rng.standard_normal((40, 5))
    p = start.copy()
    opt = fastadam.Adam(p, lr=0.01, betas=(0.875, 0.96875), **options)  # exact in binary
    for g in grads:
        opt.step(g)
    with decimal.localcontext(prec=50):
        for i in range(5):
            want = paper(
                start[i].item(), grads[:, i].tolist(), lr=0.01, betas=(0.875, 0.96875),
                **paper_options(options),
            )  # fmt: skip
            assert abs(decimal.Decimal(p[i].item()) - want) < 400 * 2**-53


@pytest.mark.parametrize("options", OPTIONS)
def test_float32_updates_against_the_paper_in_double(options):
    """3,000 steps of noisy gradients: the mean relative error of updates stays below 1e-6."""
    steps, n, lr = 3000, 8, 1e-3
    rng = np.random.default_rng(6)
    grads = (rng.standard_normal((steps, n)) + 0.3).astype(np.float32)
    p = np.zeros(n, np.float32)
    options = {k: v for k, v in options.items() if "decay" not in k}  # p stays out of the update
    opt = fastadam.Adam(p, lr=lr, **options)
    m = v = vmax = np.zeros(n)
    errors = []
    for t, g in enumerate(grads, 1):
        p[:] = 0  # so that p is minus the update, unrounded by a large parameter
        opt.step(g)
        d = g.astype(float) * (-1 if options["maximize"] else 1)
        m, v = 0.9 * m + 0.1 * d, 0.999 * v + 0.001 * d * d
        vmax = np.maximum(vmax, v)
        second = vmax if options["amsgrad"] else v
        c1, c2 = 1 - 0.9**t, 1 - 0.999**t
        if options["epsilon_hat"]:
            update = lr * c2**0.5 / c1 * m / (second**0.5 + 1e-8)
        else:
            update = lr * (m / c1) / ((second / c2) ** 0.5 + 1e-8)
        errors.append(np.abs(-p - update) / np.abs(update).clip(lr / 100))
    assert np.mean(errors) < 1e-6


def test_equal_to_scikit_learns_expression():
    """In float64 the hat form is sklearn.neural_network's AdamOptimizer, bit for bit."""
    rng = np.random.default_rng(7)
    p, m, v = rng.standard_normal(999), np.zeros(999), np.zeros(999)
    ours = p.copy()
    opt = fastadam.Adam(ours, lr=0.003, epsilon_hat=True)
    for t in range(1, 200):
        g = rng.standard_normal(999) * 10.0 ** rng.uniform(-4, 4)
        opt.step(g)
        m = 0.9 * m + (1 - 0.9) * g
        v = 0.999 * v + (1 - 0.999) * (g**2)
        lr = 0.003 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        p = p + -lr * m / (np.sqrt(v) + 1e-8)
        assert (ours == p).all()


def run_amsgrad_problem(**options):
    """Reddi et al., arXiv:1904.09237, theorem 1, with C = 3.

    On [-1, 1] the gradient is C at every third step and -1 at the others, so -1 is
    best; Adam with betas (0, 1/(1 + C*C)) goes to +1.
    """
    c = 3.0
    x = np.zeros(1)
    opt = fastadam.Adam(x, betas=(0.0, 1 / (1 + c * c)), eps=0.0, **options)
    for t in range(1, 3001):
        opt.lr = 0.5 / t**0.5
        opt.step(np.array([c if t % 3 == 1 else -1.0]))
        np.clip(x, -1, 1, out=x)
    return x[0]


def test_adam_fails_where_amsgrad_does_not():
    assert run_amsgrad_problem() > 0.95
    assert run_amsgrad_problem(amsgrad=True) < -0.95


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_of_a_dead_gradient_become_zero(dtype):
    p = np.ones(100, dtype)
    opt = fastadam.Adam(p, betas=(0.5, 0.5))
    opt.step(np.ones(100, dtype))
    for _ in range(1100):
        opt.step(np.zeros(100, dtype))
        state = opt.state_dict()["state"][0]
        for moment in (state["exp_avg"], state["exp_avg_sq"]):
            assert not ((moment != 0) & (np.abs(moment) < np.finfo(dtype).smallest_normal)).any()
    assert (state["exp_avg"] == 0).all()
    assert (state["exp_avg_sq"] == 0).all()


def test_step_counts_beyond_float32():
    """2**24 + 1 is no float32, and 2**53 + 1 no float64; counts are integers."""
    opt = fastadam.Adam(np.ones(2))
    state = opt.state_dict()
    state["state"][0]["step"] = 2**53
    opt.load_state_dict(state)
    opt.step(np.ones(2))
    assert opt.state_dict()["state"][0]["step"] == 2**53 + 1


def test_loss_scale_divides_the_gradients():
    a, b = np.ones(5), np.ones(5)
    g = np.linspace(-1, 1, 5)
    fastadam.Adam(a).step(g)
    fastadam.Adam(b).step(g * 1024, loss_scale=1024)
    assert (a == b).all()
