"""ADOPT, AdamWScheduleFree, Lion and AdEMAMix against their papers and other packages.

In float64, 300 steps of ours and of a paper's equations differ by their rounding alone, which is
below 1e-12 of the parameters. In float32 it is below 2e-6, with a learning rate near 1e-3, if the
oracle, too, stores parameters as float32 after each step, and rounding ``1 - lr*weight_decay``
changes nothing: both add up where steps are alike, and are what any float32 parameter suffers.
"""

import json
import math
import subprocess
import sys
import threading

import numpy as np
import pytest
from reference import bits

import fastadam
from fastadam import _backend

STEPS, N = 300, 64


def drawn(seed=0):
    """A start, and gradients over some decades; some elements have none at first."""
    rng = np.random.default_rng(seed)
    grads = rng.standard_normal((STEPS, N)) * 10.0 ** rng.uniform(-3, 1, N)
    grads[:5, ::7] = 0
    return rng.standard_normal(N), grads


def lion(p, grads, *, lr, betas=(0.9, 0.99), weight_decay=0.0, stored=np.float64):
    """arXiv:2302.06675, algorithm 2."""
    beta1, beta2 = betas
    m = np.zeros_like(p)
    for g in grads:
        c = beta1 * m + (1 - beta1) * g
        p = stored(p - lr * (np.sign(c) + weight_decay * p)).astype(np.float64)
        m = beta2 * m + (1 - beta2) * g
    return p


def adopt(p, grads, *, lr, betas=(0.9, 0.9999), eps=1e-6, weight_decay=0.0, clip=0.25,
          decoupled_weight_decay=False, stored=np.float64):  # fmt: skip
    """arXiv:2411.02853, algorithm 2: v_0 = g_0**2, and then a step for each t from 1 on."""
    beta1, beta2 = betas
    m = np.zeros_like(p)
    v = None
    for t, g in enumerate(grads):
        if not decoupled_weight_decay:
            g = g + weight_decay * p
        if t == 0:
            v = g**2
            continue
        ratio = g / np.maximum(np.sqrt(v), eps)
        if clip is not None:
            ratio = np.clip(ratio, -(t**clip), t**clip)
        m = beta1 * m + (1 - beta1) * ratio
        p = p - lr * m - (lr * weight_decay * p if decoupled_weight_decay else 0)
        p = stored(p).astype(np.float64)
        v = beta2 * v + (1 - beta2) * g**2
    return p


def ademamix(p, grads, *, lr, betas=(0.9, 0.999, 0.9999), eps=1e-8, weight_decay=0.0, alpha=5.0,
             t_alpha=None, t_beta3=None, stored=np.float64):  # fmt: skip
    """arXiv:2409.03137, algorithm 1, and the schedules of its section 3."""
    beta1, beta2, beta3 = betas
    fast, slow, v = (np.zeros_like(p) for _ in range(3))
    for t, g in enumerate(grads, 1):
        now_alpha = alpha if t_alpha is None else min(t * alpha / t_alpha, alpha)
        now_beta3 = beta3
        if t_beta3 is not None:
            start, end = math.log(beta1), math.log(beta3)
            part = min(t / t_beta3, 1)
            now_beta3 = min(math.exp(start * end / ((1 - part) * end + part * start)), beta3)
        fast = beta1 * fast + (1 - beta1) * g
        slow = now_beta3 * slow + (1 - now_beta3) * g
        v = beta2 * v + (1 - beta2) * g**2
        fast_hat, v_hat = fast / (1 - beta1**t), v / (1 - beta2**t)
        update = (fast_hat + now_alpha * slow) / (np.sqrt(v_hat) + eps)
        p = stored(p - lr * (update + weight_decay * p)).astype(np.float64)
    return p


def schedule_free(p, grads, *, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, warmup_steps=0,
                  r=0.0, weight_lr_power=2.0):  # fmt: skip
    """arXiv:2405.15682, algorithm 1, with the weights of its section 4: y, z and x."""
    beta1, beta2 = betas
    z = x = p
    v = np.zeros_like(p)
    weight_sum = lr_max = 0.0
    for t, g in enumerate(grads, 1):
        y = (1 - beta1) * z + beta1 * x
        v = beta2 * v + (1 - beta2) * g**2
        gamma = lr * min(1, t / warmup_steps) if warmup_steps else lr
        z = z - gamma * (g / (np.sqrt(v / (1 - beta2**t)) + eps) + weight_decay * y)
        lr_max = max(lr_max, gamma)
        weight = t**r * lr_max**weight_lr_power
        weight_sum += weight
        x = (1 - weight / weight_sum) * x + weight / weight_sum * z
    return (1 - beta1) * z + beta1 * x, z, x


CASES = {
    "Lion": (lion, [{}, {"betas": (0.95, 0.98), "weight_decay": 0.125}]),
    "ADOPT": (
        adopt,
        [
            {},
            {"clip": 0.4, "weight_decay": 0.125},
            {"clip": None, "eps": 0.1, "weight_decay": 0.125, "decoupled_weight_decay": True},
        ],
    ),
    "AdEMAMix": (
        ademamix,
        [
            {},
            {"alpha": 2.0, "weight_decay": 0.125, "t_alpha": 200, "t_beta3": 250.5},
            {"betas": (0.99, 0.999, 0.9), "t_beta3": 100},
        ],
    ),
}
EACH = [(name, chosen) for name, (_, all_of_it) in CASES.items() for chosen in all_of_it]
SCHEDULE_FREE = [{}, {"warmup_steps": 40, "r": 1.3, "weight_lr_power": 0.7, "weight_decay": 0.125}]


def off(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def trained(name, start, grads, dtype=np.float64, **options):
    p = start.astype(dtype)
    opt = getattr(fastadam, name)(p, **options)
    for g in grads:
        opt.step(g.astype(dtype))
    return p, opt


@pytest.mark.parametrize(("name", "chosen"), EACH)
def test_float64_is_the_paper(name, chosen):
    start, grads = drawn()
    p, _ = trained(name, start, grads, lr=0.01, **chosen)
    assert off(p, CASES[name][0](start, grads, lr=0.01, **chosen)) < 1e-12


def as_float32(start, grads, defaults, chosen):
    """What an oracle gets that is to know how float32 runs begin: rounded numbers and betas."""
    betas = tuple(float(np.float32(beta)) for beta in chosen.get("betas", defaults["betas"]))
    start, grads = (x.astype(np.float32).astype(np.float64) for x in (start, grads))
    return start, grads, {**chosen, "betas": betas}


LR = 2.0**-10


@pytest.mark.parametrize(("name", "chosen"), EACH)
def test_float32_is_the_paper(name, chosen):
    start, grads = drawn()
    p, opt = trained(name, start, grads, np.float32, lr=LR, **chosen)
    start, grads, chosen = as_float32(start, grads, opt.defaults, chosen)
    expected = CASES[name][0](start, grads, lr=LR, stored=np.float32, **chosen)
    assert off(p, expected) < 2e-6


@pytest.mark.parametrize("chosen", SCHEDULE_FREE)
def test_schedule_free_is_the_paper(chosen):
    start, grads = drawn()
    for dtype, lr, most in ((np.float64, 0.01, 1e-12), (np.float32, LR, 2e-6)):
        p, opt = trained("AdamWScheduleFree", start, grads, dtype, lr=lr, **chosen)
        known = start, grads, chosen
        if dtype == np.float32:
            known = as_float32(start, grads, opt.defaults, chosen)
        y, z, x = schedule_free(*known[:2], lr=lr, **known[2])
        assert off(p, y) < most
        assert off(opt.state_dict()["state"][0]["z"], z) < most
        assert off(opt.averaged_params(), x) < most
        opt.eval()
        assert off(p, x) < most
        opt.train()
        assert off(p, y) < most


@pytest.mark.parametrize("backend", _backend.available[:1], indirect=True)
class TestPackages:
    """The same 300 steps in float64, as the package computes them."""

    @pytest.fixture
    def step(self):
        torch = pytest.importorskip("torch")

        def step(make, before=None):
            start, grads = drawn()
            p = torch.nn.Parameter(torch.from_numpy(start))
            optimizer = make([p])
            if before:
                getattr(optimizer, before)()
            for g in grads:
                p.grad = torch.from_numpy(g.copy())
                optimizer.step()
            return p.detach().numpy(), optimizer

        return step

    def test_lion_pytorch(self, step):
        package = pytest.importorskip("lion_pytorch")
        want, _ = step(lambda p: package.Lion(p, lr=0.01, weight_decay=0.125))
        p, _ = trained("Lion", *drawn(), lr=0.01, weight_decay=0.125)
        assert off(p, want) < 1e-12

    @pytest.mark.parametrize("chosen", SCHEDULE_FREE)
    def test_schedulefree(self, step, chosen):
        package = pytest.importorskip("schedulefree")
        want, theirs = step(lambda p: package.AdamWScheduleFree(p, lr=0.01, **chosen), "train")
        p, opt = trained("AdamWScheduleFree", *drawn(), lr=0.01, **chosen)
        assert off(p, want) < 1e-12
        theirs.eval()
        assert off(opt.averaged_params(), want) < 1e-12

    @pytest.mark.parametrize("steps", [None, 200])
    def test_pytorch_optimizer_ademamix(self, step, steps):
        package = pytest.importorskip("pytorch_optimizer")
        options = {"weight_decay": 0.125, "weight_decouple": True, "t_alpha_beta3": steps}
        want, _ = step(lambda p: package.AdEMAMix(p, lr=0.01, **options))
        chosen = {"weight_decay": 0.125, "t_alpha": steps, "t_beta3": steps}
        p, _ = trained("AdEMAMix", *drawn(), lr=0.01, **chosen)
        assert off(p, want) < 1e-12

    @pytest.mark.parametrize("clip", [0.25, None])
    def test_pytorch_optimizer_adopt(self, step, clip):
        """It clips by the number of this step, where the authors and optax take the last one's."""
        package = pytest.importorskip("pytorch_optimizer")
        limit = None if clip is None else lambda step: (step - 1) ** clip
        want, _ = step(lambda p: package.ADOPT(p, lr=0.01, weight_decay=0.125, clip_lambda=limit))
        p, _ = trained("ADOPT", *drawn(), lr=0.01, weight_decay=0.125, clip=clip)
        assert off(p, want) < 1e-12

    @pytest.mark.parametrize("name", ["ADOPT", "AdEMAMix", "Lion"])
    def test_optax(self, name):
        """In a process of its own: JAX starts threads, which other tests' forks would lose."""
        pytest.importorskip("optax")
        transforms = {
            "ADOPT": "optax.contrib.adopt(0.01)",
            "AdEMAMix": "optax.contrib.ademamix(0.01)",
            "Lion": "optax.lion(0.01, weight_decay=0.0)",
        }
        code = (
            "import json, sys, jax, optax\n"
            "jax.config.update('jax_enable_x64', True)\n"
            "start, grads = json.load(sys.stdin)\n"
            f"transform = {transforms[name]}\n"
            "p = jax.numpy.array(start)\n"
            "state = transform.init(p)\n"
            "for g in grads:\n"
            "    updates, state = transform.update(jax.numpy.array(g), state, p)\n"
            "    p = optax.apply_updates(p, updates)\n"
            "print(json.dumps(p.tolist()))\n"
        )
        start, grads = drawn()
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps([start.tolist(), grads.tolist()]),
            capture_output=True,
            check=True,
            text=True,
        )
        p, _ = trained(name, start, grads, lr=0.01)
        assert off(p, np.array(json.loads(done.stdout))) < 1e-12


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_adopts_first_step_moves_nothing(dtype):
    p = np.ones(5, dtype)
    opt = fastadam.ADOPT(p, lr=0.1, weight_decay=0.5, decoupled_weight_decay=True)
    opt.step(np.full(5, 3.0, dtype))
    state = opt.state_dict()["state"][0]
    assert (p == 1).all()
    assert (state["exp_avg_sq"] == 9).all()
    assert (state["exp_avg"] == 0).all()
    assert state["step"] == 1


def test_lion_does_not_hide_a_nan():
    p = np.ones(40, np.float32)
    opt = fastadam.Lion(p, lr=0.1)
    g = np.ones(40, np.float32)
    g[7], g[9] = np.nan, 0
    opt.step(g)
    assert np.isnan(p[7])
    assert p[9] == 1
    assert (np.delete(p, [7, 9]) == np.float32(1) - np.float32(0.1)).all()


class TestEvaluation:
    """AdamWScheduleFree's two points."""

    def make(self, dtype=np.float32, steps=3, **options):
        rng = np.random.default_rng(5)
        params = {
            "W": rng.standard_normal((4, 6)).astype(dtype),
            "strided": rng.standard_normal((4, 6)).astype(dtype)[:, ::2],
            "F": np.asfortranarray(rng.standard_normal((3, 4)).astype(dtype)),
            "empty": np.zeros((0, 3), dtype),
        }
        opt = fastadam.AdamWScheduleFree(params, lr=0.1, **options)
        for _ in range(steps):
            self.step(opt, rng)
        return params, opt

    @staticmethod
    def step(opt, rng):
        opt.step({k: rng.standard_normal(p.shape).astype(p.dtype) for k, p in opt.params.items()})

    def test_averages_are_the_evaluation_point(self):
        params, opt = self.make()
        before = {k: p.copy() for k, p in params.items()}
        averages = opt.averaged_params()
        assert (averages["W"] != params["W"]).all()
        with opt.use_averaged_params():
            for k, p in params.items():
                assert bits(p) == bits(averages[k])
        for k, p in params.items():
            assert bits(p) == bits(before[k])
        opt.eval()
        for k, p in params.items():
            assert bits(p) == bits(averages[k])
            assert bits(opt.averaged_params()[k]) == bits(averages[k])

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, "bfloat16"])
    def test_train_leads_back(self, dtype):
        """But for what the ways there and back round: some 1e-7 of the numbers in float32, of which
        half-precision parameters have the rest in their state."""
        if dtype == "bfloat16":
            dtype = pytest.importorskip("ml_dtypes").bfloat16
        _, opt = self.make(dtype)
        _, twin = self.make(dtype)
        opt.eval()
        opt.eval()
        opt.train()
        opt.train()
        rng, other = np.random.default_rng(6), np.random.default_rng(6)
        self.step(opt, rng)
        self.step(twin, other)
        most = 1e-14 if dtype == np.float64 else 1e-6
        for k, p in opt.averaged_params().items():
            assert np.allclose(p, twin.averaged_params()[k], rtol=0, atol=most)

    def test_a_step_says_what_to_call(self):
        params, opt = self.make()
        opt.eval()
        before = {k: p.copy() for k, p in params.items()}
        with pytest.raises(RuntimeError, match=r"call train\(\) before a step"):
            self.step(opt, np.random.default_rng(7))
        for k, p in params.items():
            assert bits(p) == bits(before[k])
        opt.train()
        self.step(opt, np.random.default_rng(7))
        assert opt.finished_steps == 4

    def test_a_step_that_waited_for_eval_is_refused(self):
        _, opt = self.make()
        found = []

        def late():
            try:
                self.step(opt, np.random.default_rng(7))
            except RuntimeError as error:
                found.append(str(error))

        thread = threading.Thread(target=late)
        with opt._lock.hold():
            thread.start()
            thread.join(0.1)  # it has begun, and waits
            opt.param_groups[0]["train_mode"] = False  # as `eval` does while it has the lock
        thread.join()
        assert "call train() before a step" in found[0]
        assert opt.finished_steps == 3

    def test_before_the_first_step_there_is_one_point(self):
        params, opt = self.make(steps=0)
        before = {k: p.copy() for k, p in params.items()}
        opt.eval()
        for k, p in params.items():
            assert bits(p) == bits(before[k])
            assert bits(opt.averaged_params()[k]) == bits(before[k])
        params["W"][...] = 7  # as a user who loads weights may; z follows at the first step
        opt.train()
        opt.step({k: np.zeros_like(p) for k, p in params.items()})
        assert (opt.averaged_params()["W"] == 7).all()

    @pytest.mark.parametrize("evaluates", [False, True])
    def test_checkpoints_know_the_point(self, evaluates, tmp_path):
        _, opt = self.make()
        if evaluates:
            opt.eval()
        opt.save(tmp_path / "x", params=True)
        params, again = self.make(steps=1)
        again.load(tmp_path / "x")
        for k, p in params.items():
            assert bits(p) == bits(opt.params[k])
        for run in (opt, again):
            run.train()
            self.step(run, np.random.default_rng(8))
        for k, p in params.items():
            assert bits(p) == bits(opt.params[k])

    def test_groups_have_betas_and_points_of_their_own(self):
        a, b = np.ones(3), np.ones(3)
        opt = fastadam.AdamWScheduleFree(
            [{"params": a, "betas": (0.5, 0.9)}, {"params": b}], lr=0.1
        )
        for _ in range(3):
            opt.step([np.ones(3), np.ones(3)])
        (x,), (y,) = ([average] for average in opt.averaged_params())
        opt.eval()
        c = np.ones(2)
        opt.add_param_group({"params": c})
        assert bits(a) == bits(x)
        assert bits(b) == bits(y)
        assert not np.array_equal(a, b)
        opt.train()
        opt.step([None, None, np.ones(2)])
        opt.eval()
        assert np.abs(c - 0.9).max() < 1e-8  # epsilon's part

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match=r"betas\[0\] is 0"):
            fastadam.AdamWScheduleFree(np.ones(2), betas=(0.0, 0.9))
        with pytest.raises(ValueError, match=r"Invalid r value: 17\.0; expected a number from 0"):
            fastadam.AdamWScheduleFree(np.ones(2), r=17)
        with pytest.raises(TypeError, match="ema_decay"):
            fastadam.AdamWScheduleFree(np.ones(2), ema_decay=0.9)
        params, opt = self.make()
        params["W"].flags.writeable = False
        before = params["F"].copy()
        with pytest.raises(ValueError, match=r"params\['W'\] has become read-only"):
            opt.eval()
        assert bits(params["F"]) == bits(before)
        params["W"].flags.writeable = True
        self.step(opt, np.random.default_rng(9))  # it is in train mode


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ADOPT", {"clip": -0.1}, "Invalid clip value: -0.1; expected a number from 0 to 1, or No"),
        ("ADOPT", {"clip": "0.25"}, "clip must be a real number, found str"),
        ("AdEMAMix", {"betas": (0.9, 0.99)}, r"betas must be three numbers, found \(0.9, 0.99\)"),
        ("AdEMAMix", {"betas": (0.9, 0.99, 1.0)}, "Invalid beta parameter at index 2: 1.0"),
        ("AdEMAMix", {"alpha": -1.0}, "Invalid alpha value: -1.0"),
        ("AdEMAMix", {"t_alpha": -1}, "Invalid t_alpha value: -1.0"),
        ("Adam", {"betas": (0.9, 0.99, 0.999)}, "betas must be two numbers"),
        ("Lion", {"lr": -1.0}, "Invalid learning rate: -1.0"),
        ("AdamWScheduleFree", {"warmup_steps": -1}, "Invalid warmup_steps value: -1.0"),
        ("AdamWScheduleFree", {"weight_lr_power": np.nan}, "Invalid weight_lr_power value: nan"),
    ],
)
def test_options_out_of_range(name, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        getattr(fastadam, name)(np.ones(2), **options)
