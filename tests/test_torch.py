"""Against torch.optim, where torch is installed.

Tolerances over 20 steps of size lr: in float64 both round some ten times a step;
in float32 torch rounds 1 - beta2 by itself, which alone is 5e-6 of an update.
"""

import itertools

import numpy as np
import pytest

import fastadam

torch = pytest.importorskip("torch")

TOLERANCE = {np.float32: 2e-5, np.float64: 1e-11, np.complex64: 2e-5, np.complex128: 1e-11}
OPTIONS = [
    {"amsgrad": a, "maximize": m, "weight_decay": w}
    for a, m, w in itertools.product([False, True], [False, True], [0.0, 0.1])
]


def train(cls, torch_cls, dtype, options, steps=20):
    rng = np.random.default_rng(12)

    def draw():
        x = rng.standard_normal((2, 7, 5))
        return (x[0] + 1j * x[1] if np.dtype(dtype).kind == "c" else x[0]).astype(dtype)

    ours = draw()
    theirs = torch.nn.Parameter(torch.from_numpy(ours.copy()))
    opt, reference = cls(ours, **options), torch_cls([theirs], **options)
    for _ in range(steps):
        g = draw()
        opt.step(g)
        theirs.grad = torch.from_numpy(g)
        reference.step()
    return ours, theirs.detach().numpy(), opt, reference


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_every_option(name, options, dtype):
    settings = {**options, "lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6}
    ours, theirs, *_ = train(getattr(fastadam, name), getattr(torch.optim, name), dtype, settings)
    assert np.abs(ours - theirs).max() < TOLERANCE[dtype]


def test_defaults_are_torchs():
    for name in ("Adam", "AdamW"):
        ours = getattr(fastadam, name)(np.ones(2)).param_groups[0]
        theirs = getattr(torch.optim, name)([torch.ones(2)]).param_groups[0]
        for key in set(ours) - {"params", "epsilon_hat", "state_dtype", "seed"}:
            assert ours[key] == theirs[key], key


@pytest.mark.parametrize("amsgrad", [False, True])
def test_a_state_dict_of_torchs_loads(amsgrad):
    options = {"lr": 0.01, "amsgrad": amsgrad}
    ours, theirs, opt, reference = train(
        fastadam.Adam, torch.optim.Adam, np.float64, options, steps=5
    )
    p = theirs.copy()
    loaded = fastadam.Adam(p)
    loaded.load_state_dict(reference.state_dict())
    g = np.random.default_rng(13).standard_normal(p.shape)
    loaded.step(g)
    opt.step(g)
    assert loaded.state_dict()["state"][0]["step"] == 6
    assert np.abs(p - ours).max() < 1e-14


@pytest.mark.parametrize("shape", [(), (1,)])
def test_options_that_are_tensors_load(shape):
    """torch takes tensors of one element, whatever their axes."""
    half, quarter = (torch.full(shape, number) for number in (0.5, 0.25))
    options = {"lr": half, "betas": (quarter, half), "foreach": False}
    reference = torch.optim.Adam([torch.ones(2)], **options)
    loaded = fastadam.Adam(np.ones(2, np.float32))
    loaded.load_state_dict(reference.state_dict())
    group = loaded.param_groups[0]
    assert (group["lr"], group["betas"]) == (0.5, (0.25, 0.5))
    assert {type(number) for number in (group["lr"], *group["betas"])} == {float}


def test_tensors_have_optimizers_of_their_own():
    for params in ([torch.ones(2)], list(torch.nn.Linear(1, 1).parameters())):
        with pytest.raises(TypeError, match=r"\[0\] is a \w+; .* fastadam\.torch has"):
            fastadam.Adam(params)


@pytest.mark.parametrize("key", ["lr", "eps", "weight_decay"])
def test_range_errors_have_torchs_wording(key):
    with pytest.raises(ValueError) as theirs:  # noqa: PT011
        torch.optim.Adam([torch.ones(2)], **{key: -1.0})
    with pytest.raises(ValueError) as ours:  # noqa: PT011
        fastadam.Adam(np.ones(2), **{key: -1.0})
    assert str(ours.value) == f"{theirs.value}; expected a finite number from 0 on"


def test_float32_is_closer_to_the_paper_than_torch():
    """Mean relative error of updates over 3,000 noisy steps."""
    rng = np.random.default_rng(14)
    p, q = np.zeros(16, np.float32), torch.nn.Parameter(torch.zeros(16))
    opt, reference = fastadam.Adam(p), torch.optim.Adam([q], fused=True)
    m = v = np.zeros(16)
    errors = []
    for t in range(1, 3001):
        g = (rng.standard_normal(16) + 0.3).astype(np.float32)
        p[:] = 0
        with torch.no_grad():
            q.zero_()
        q.grad = torch.from_numpy(g)
        opt.step(g)
        reference.step()
        d = g.astype(float)
        m, v = 0.9 * m + 0.1 * d, 0.999 * v + 0.001 * d * d
        update = -1e-3 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
        scale = np.abs(update).clip(1e-5)
        errors.append([np.abs(x - update) / scale for x in (p, q.detach().numpy())])
    ours, theirs = np.mean(errors, axis=(0, 2))
    assert ours < 1e-6 < theirs
