"""Nestings, groups, schedules, skipped arrays, state dicts, threads."""

import threading
from collections import OrderedDict
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import pytest

import fastadam


def grads_like(nest, value=1.0):
    if isinstance(nest, dict):
        return {k: grads_like(v, value) for k, v in nest.items()}
    if isinstance(nest, list | tuple):
        return [grads_like(v, value) for v in nest]
    return np.full_like(nest, value)


def leaves(nest):
    if isinstance(nest, dict):
        return [leaf for v in nest.values() for leaf in leaves(v)]
    if isinstance(nest, list | tuple):
        return [leaf for v in nest for leaf in leaves(v)]
    return [nest]


NESTINGS = {
    "array": (lambda: np.ones(3), [0]),
    "list": (lambda: [np.ones(3), np.ones(2)], [0, 1]),
    "tuple": (lambda: (np.ones(3), np.ones(2)), [0, 1]),
    "dict": (lambda: {"W": np.ones((2, 2)), "b": np.ones(2)}, ["W", "b"]),
    "dict of odd keys": (lambda: {(1, 2): np.ones(2), 7: np.ones(1)}, [(1, 2), 7]),
    "layers": (
        lambda: {"layers": [{"W": np.ones(2)}, {"W": np.ones(3)}], "out": np.ones(1)},
        ["layers.0.W", "layers.1.W", "out"],
    ),
    "empty layers": (lambda: [{"W": np.ones(2)}, {}, [], np.ones(3)], ["0.W", "3"]),
    "deep": (lambda: [[[np.ones(1)], (np.ones(2),)]], ["0.0.0", "0.1.0"]),
}


@pytest.mark.parametrize("case", NESTINGS)
def test_nestings(case):
    build, keys = NESTINGS[case]
    params = build()
    opt = fastadam.Adam(params, lr=0.25)
    opt.step(grads_like(params))
    assert all(np.allclose(p, 0.75) for p in leaves(params))
    assert list(opt.state_dict()["state"]) == keys
    assert opt.state_dict()["param_groups"][0]["params"] == keys


def test_dict_gradients_may_come_in_any_order_and_kind():
    params = {"a": np.ones(2), "b": np.ones(3)}
    opt = fastadam.Adam(params, lr=0.25)
    opt.step({"b": np.ones(3), "a": np.zeros(2)})
    opt.step(OrderedDict(a=np.zeros(2), b=np.ones(3)))
    opt.step(MappingProxyType({"a": np.zeros(2), "b": np.ones(3)}))
    assert (params["a"] == 1).all()
    assert np.allclose(params["b"], 0.25)


def test_none_skips_an_array_and_its_count():
    params = [np.ones(2), np.ones(2)]
    opt = fastadam.Adam(params, lr=0.25)
    opt.step([np.ones(2), None])
    opt.step([None, None])
    opt.step([np.ones(2), np.ones(2)])
    assert [entry["step"] for entry in opt.state_dict()["state"].values()] == [2, 1]
    alone = np.ones(2)
    fastadam.Adam(alone, lr=0.25).step(np.ones(2))
    assert (params[1] == alone).all()


def test_groups_have_their_own_options():
    a, b, c = np.ones(2), np.ones(2), np.ones(2)
    opt = fastadam.Adam([{"params": [a, b], "lr": 0.5}, {"params": {"c": c}, "maximize": True}])
    assert [g["lr"] for g in opt.param_groups] == [0.5, 1e-3]
    opt.step([[np.ones(2), None], {"c": np.ones(2)}])
    assert np.allclose(a, 0.5)
    assert np.allclose(b, 1)
    assert np.allclose(c, 1.001)
    opt.param_groups[0]["lr"] = 0.25
    opt.step([[None, np.ones(2)], {"c": None}])
    assert np.allclose(b, 0.75)
    assert list(opt.state_dict()["state"]) == [0, 1, "c"]


def test_groups_with_the_same_keys():
    layers = [{"W": np.ones(2), "b": np.ones(1)} for _ in range(2)]
    opt = fastadam.Adam([{"params": layer} for layer in layers], lr=0.25)
    opt.step([{"W": np.ones(2), "b": np.ones(1)}] * 2)
    assert list(opt.state_dict()["state"]) == ["W", "b", "1.W", "1.b"]
    assert np.allclose(layers[1]["b"], 0.75)
    mixed = fastadam.Adam([{"params": {1: np.ones(1)}}, {"params": [np.ones(1)]}])
    assert list(mixed.state_dict()["state"]) == [1, "1.1"]
    with pytest.raises(ValueError, match=r"same key '1\.w'"):
        fastadam.Adam(
            [
                {"params": {"w": np.ones(1), "1": {"w": np.ones(1)}}},
                {"params": {"w": np.ones(1)}},
            ]
        )


def test_add_param_group_keeps_what_there_is():
    a, b = np.ones(2), np.ones(2)
    opt = fastadam.Adam(a, lr=0.25)
    opt.step(np.ones(2))
    groups = opt.param_groups
    opt.add_param_group({"params": b, "lr": 0.5})
    assert opt.param_groups is groups
    opt.step([np.ones(2), np.ones(2)])
    assert np.allclose(a, 0.5)
    assert np.allclose(b, 0.5)
    assert [entry["step"] for entry in opt.state_dict()["state"].values()] == [2, 1]


def test_lr_may_be_edited():
    p = np.ones(2)
    opt = fastadam.Adam(p, lr=0.5)
    opt.step(np.ones(2))
    opt.lr = 0.25
    assert opt.lr == 0.25
    opt.step(np.ones(2))
    assert np.allclose(p, 0.25)
    with pytest.raises(ValueError, match="Invalid learning rate"):
        opt.lr = -1
    assert opt.lr == 0.25


def test_every_option_may_be_edited():
    rng = np.random.default_rng(9)
    edits = {
        "lr": 0.3, "betas": [0.5, 0.75], "eps": 0.1, "weight_decay": 0.2, "amsgrad": False,
        "maximize": True, "decoupled_weight_decay": True, "epsilon_hat": True,
    }  # fmt: skip
    for key, value in edits.items():
        p, q = np.ones(3), np.ones(3)
        g = rng.standard_normal((2, 3))
        one = fastadam.Adam(p, weight_decay=0.1, amsgrad=True)
        one.step(g[0])
        one.param_groups[0][key] = value
        one.step(g[1])
        other = fastadam.Adam(q, weight_decay=0.1, amsgrad=True)
        other.step(g[0])
        state = other.state_dict()
        state["param_groups"][0][key] = value
        other.load_state_dict(state)
        other.step(g[1])
        assert (p == q).all(), key
        third = np.ones(3)
        plain = fastadam.Adam(third, weight_decay=0.1, amsgrad=True)
        plain.step(g[0])
        plain.step(g[1])
        assert key == "amsgrad" or (p != third).any(), key


def test_numbers_of_all_kinds():
    p = np.ones(3, np.float32)
    opt = fastadam.Adam(
        p, lr=np.float32(0.5), betas=[np.float64(0.5), 0], eps=np.array(0.0), weight_decay=0
    )
    opt.step(np.ones(3, np.float32))
    assert (p == 0.5).all()
    assert opt.param_groups[0]["betas"] == (0.5, 0.0)


def test_schedule_counts_finished_steps():
    seen = []

    def schedule(finished):
        seen.append(finished)
        return 0.5 ** (finished + 1)

    p, q = np.ones(2), np.ones(2)
    opt = fastadam.Adam([p, q], lr=schedule)
    with pytest.raises(ValueError, match="shape"):
        opt.step([np.ones(3), None])
    opt.step([np.ones(2), None])
    opt.step([None, np.ones(2)])
    opt.step([np.ones(2), None])
    assert seen == [0, 0, 1, 2]  # twice for the step that was refused
    assert np.allclose(p, 1 - 0.5 - 0.125)
    assert np.allclose(q, 0.75)
    assert opt.lr is schedule
    other = fastadam.Adam([p, q], lr=schedule)
    other.load_state_dict(opt.state_dict())
    other.step([None, None])
    assert seen[-1] == 3


class TestStateDict:
    def train(self, opt, params, steps, seed):
        rng = np.random.default_rng(seed)
        for _ in range(steps):
            opt.step([rng.standard_normal(p.shape).astype(p.dtype) for p in params])

    def params(self):
        rng = np.random.default_rng(10)
        return [
            rng.standard_normal((3, 4)).astype(np.float32),
            np.asfortranarray(rng.standard_normal((5, 2))),
            (rng.standard_normal(6) + 1j).astype(np.complex64)[::2],
        ]

    @pytest.mark.parametrize("options", [{}, {"amsgrad": True, "epsilon_hat": True}])
    def test_resumes_bit_for_bit(self, options):
        through, resumed = self.params(), self.params()
        opt = fastadam.AdamW(through, lr=0.1, **options)
        self.train(opt, through, 5, 1)
        state = opt.state_dict()
        for p, q in zip(through, resumed, strict=True):
            q[...] = p
        self.train(opt, through, 5, 2)
        again = fastadam.AdamW(resumed, **options)
        again.load_state_dict(state)
        self.train(again, resumed, 5, 2)
        for p, q in zip(through, resumed, strict=True):
            assert p.tobytes() == q.tobytes()

    def test_is_a_copy(self):
        params = self.params()
        opt = fastadam.Adam(params)
        self.train(opt, params, 1, 1)
        state = opt.state_dict()
        before = state["state"][0]["exp_avg"].copy()
        self.train(opt, params, 1, 1)
        assert (state["state"][0]["exp_avg"] == before).all()
        opt.load_state_dict(state)
        state["state"][0]["exp_avg"][...] = 7
        assert (opt.state_dict()["state"][0]["exp_avg"] == before).all()

    def test_layout(self):
        opt = fastadam.Adam(np.ones(2), amsgrad=True)
        state = opt.state_dict()
        assert set(state) == {"state", "param_groups"}
        assert set(state["state"][0]) == {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
        (group,) = state["param_groups"]
        assert group["lr"] == 1e-3
        assert group["params"] == [0]

    def test_torchs_indices_and_missing_state(self):
        params = {"W": np.ones((2, 2)), "b": np.ones(2)}
        opt = fastadam.Adam(params)
        moments = {"exp_avg": np.full((2, 2), 0.5), "exp_avg_sq": np.full((2, 2), 0.25)}
        opt.load_state_dict(
            {
                "state": {0: {"step": np.array(7.0, np.float32), **moments}},
                "param_groups": [
                    {"lr": 0.5, "betas": (0.9, 0.99), "fused": None, "params": [0, 1]}
                ],
            }
        )
        state = opt.state_dict()["state"]
        assert [entry["step"] for entry in state.values()] == [7, 0]
        assert (state["W"]["exp_avg"] == 0.5).all()
        assert (state["b"]["exp_avg"] == 0).all()
        assert opt.lr == 0.5

    def test_keys_go_before_positions(self):
        a, b = np.ones(1), np.ones(1)
        first = fastadam.Adam({1: a, 0: b})
        first.step({1: np.ones(1), 0: None})
        second = fastadam.Adam({0: b, 1: a})
        second.load_state_dict(first.state_dict())
        steps = {k: entry["step"] for k, entry in second.state_dict()["state"].items()}
        assert steps == {0: 0, 1: 1}

    def test_adamw_stays_adamw(self):
        """As in torch: loading Adam's state dict does not couple the decay."""
        opt = fastadam.AdamW(np.ones(2))
        opt.load_state_dict(fastadam.Adam(np.ones(2), lr=0.5).state_dict())
        assert opt.param_groups[0]["decoupled_weight_decay"]
        assert opt.lr == 0.5

    def test_numbers_in_0d_arrays(self):
        """torch's lr and betas may be tensors."""
        opt = fastadam.Adam(np.ones(2))
        state = opt.state_dict()
        state["param_groups"][0].update(lr=np.array(0.5), betas=(np.array(0.5), 0.75))
        opt.load_state_dict(state)
        assert opt.lr == 0.5
        assert opt.param_groups[0]["betas"] == (0.5, 0.75)

    def test_loading_amsgrads_maximum(self):
        with_max, without = fastadam.Adam(np.ones(2), amsgrad=True), fastadam.Adam(np.ones(2))
        with_max.step(np.ones(2))
        without.load_state_dict(with_max.state_dict())
        without.step(np.ones(2))
        assert "max_exp_avg_sq" in without.state_dict()["state"][0]

    BROKEN: ClassVar = {
        "no dict": (lambda s: [], TypeError, "must be a dict"),
        "no groups": (lambda s: {"state": s["state"]}, KeyError, "'param_groups'"),
        "groups are no list": (lambda s: {**s, "param_groups": None}, TypeError, "not a list"),
        "a group is no dict": (
            lambda s: {**s, "param_groups": [3]},
            TypeError,
            r"param_groups\[0\]",
        ),
        "a group without params": (lambda s: {**s, "param_groups": [{}]}, KeyError, "'params'"),
        "state is no dict": (lambda s: {**s, "state": []}, TypeError, "state must be a dict"),
        "an odd key": (lambda s: edit(s, **{"1": 2}), KeyError, "has the keys"),
        "another number of groups": (
            lambda s: {**s, "param_groups": s["param_groups"] * 2},
            ValueError,
            "different number of parameter groups",
        ),
        "another number of parameters": (
            lambda s: {**s, "param_groups": [{**s["param_groups"][0], "params": ["a"]}]},
            ValueError,
            "doesn't match the size",
        ),
        "other names": (
            lambda s: {**s, "param_groups": [{**s["param_groups"][0], "params": ["a", "c"]}]},
            KeyError,
            "no parameter 'b'",
        ),
        "state of nothing": (
            lambda s: {**s, "state": {**s["state"], "z": s["state"]["a"]}},
            KeyError,
            "'z', which has no parameter",
        ),
        "shape": (
            lambda s: edit(s, exp_avg=np.ones(3)),
            ValueError,
            r"\['b'\]\['exp_avg'\].*\(3,\)",
        ),
        "dtype": (lambda s: edit(s, exp_avg_sq=np.ones(2, "f4")), TypeError, "float32.*float64"),
        "list": (lambda s: edit(s, exp_avg=[1.0, 2.0]), TypeError, "is a list"),
        "no moment": (lambda s: edit(s, exp_avg=None), KeyError, "has the keys"),
        "unknown moment": (lambda s: edit(s, momentum=np.ones(2)), KeyError, "momentum"),
        "half a step": (lambda s: edit(s, step=1.5), TypeError, r"\['step'\].*whole number"),
        "a negative step": (lambda s: edit(s, step=-1), ValueError, "found -1"),
        "a NaN step": (lambda s: edit(s, step=float("nan")), TypeError, "whole number"),
        "lr": (
            lambda s: {**s, "param_groups": [{**s["param_groups"][0], "lr": -1}]},
            ValueError,
            "Invalid learning rate",
        ),
        "amsgrad without a maximum": (
            lambda s: {**s, "param_groups": [{**s["param_groups"][0], "amsgrad": True}]},
            KeyError,
            "max_exp_avg_sq",
        ),
    }

    @pytest.mark.parametrize("case", BROKEN)
    def test_what_does_not_fit(self, case):
        breaks, error, match = self.BROKEN[case]
        params = {"a": np.ones(2), "b": np.ones(2)}
        opt = fastadam.Adam(params)
        opt.step({"a": np.ones(2), "b": np.ones(2)})
        before = repr(opt.state_dict())
        with pytest.raises(error, match=match):
            opt.load_state_dict(breaks(opt.state_dict()))
        assert repr(opt.state_dict()) == before
        opt.step({"a": np.ones(2), "b": np.ones(2)})


def edit(state_dict, **changes):
    entry = {**state_dict["state"]["b"], **changes}
    entry = {k: v for k, v in entry.items() if v is not None}
    return {**state_dict, "state": {**state_dict["state"], "b": entry}}


def test_threads_on_one_optimizer_take_turns():
    p = np.zeros(200_000)
    opt = fastadam.Adam(p, lr=1.0)
    g = np.ones(200_000)

    def work():
        for _ in range(20):
            opt.step(g)
            opt.state_dict()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opt.state_dict()["state"][0]["step"] == 60
    assert (p == p[0]).all()
    alone = np.zeros(1)
    single = fastadam.Adam(alone, lr=1.0)
    for _ in range(60):
        single.step(np.ones(1))
    assert alone[0] == p[0]


def test_threads_on_different_optimizers():
    results = {}

    def work(i):
        rng = np.random.default_rng(i % 2)
        p = np.ones(30_000)
        opt = fastadam.Adam(p)
        for _ in range(20):
            opt.step(rng.standard_normal(30_000))
        results[i] = p.tobytes()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[2]
    assert results[1] == results[3]


def test_repr():
    assert repr(fastadam.Adam(np.ones(2), lr=0.5)).startswith("Adam(1 array, lr=0.5, betas=")
    opt = fastadam.SGD([np.ones(2), np.ones(3)], lr=0.5, ema_decay=0.9)
    assert repr(opt) == (
        "SGD(2 arrays, lr=0.5, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, "
        "maximize=False, state_dtype=None, seed=0, ema_decay=0.9)"
    )
    groups = [{"params": np.ones(2)}, {"params": np.ones(2), "lr": 2.0}]
    opt = fastadam.RMSprop(groups, skip_nonfinite=True, max_grad_norm=2)
    assert "group 0: {lr=0.01, alpha=0.99," in repr(opt)
    assert "group 1: {lr=2.0, " in repr(opt)
    assert repr(opt).endswith("}, max_grad_norm=2.0, skip_nonfinite=True)")


def test_finished_steps_and_the_current_lr():
    opt = fastadam.Adam(np.ones(2), lr=lambda finished: 1 / (1 + finished), skip_nonfinite=True)
    for finished in range(3):
        assert opt.finished_steps == finished
        assert opt.current_lr == 1 / (1 + finished)
        opt.step(np.ones(2))
    opt.step(np.full(2, np.nan))
    assert opt.finished_steps == 3
    opt.lr = np.float32(0.5)
    assert type(opt.current_lr) is float
    opt.add_param_group({"params": np.ones(1)})
    with pytest.raises(AttributeError, match=r"2 param groups.*param_groups\[i\]\['lr'\]"):
        opt.current_lr  # noqa: B018
    for name in ("finished_steps", "current_lr", "skipped_steps"):
        with pytest.raises(AttributeError):
            setattr(opt, name, 0)


def test_slips_in_names_are_refused():
    opt = fastadam.Adam(np.ones(2))
    with pytest.raises(AttributeError, match=r"opt.param_groups\[i\]\['weight_decay'\]"):
        opt.weight_decay = 3
    with pytest.raises(AttributeError, match="Adam has no attribute 'learning_rate' to be set"):
        opt.learning_rate = 3

    class Own(fastadam.Adam):
        pass

    own = Own(np.ones(2))
    own.history = [1.0]
    with pytest.raises(AttributeError, match="an option of each param group"):
        own.eps = 1.0
    own.lr = 0.5
    assert own.history == [1.0]


def test_gradients_beside_accumulated_ones_are_refused():
    opt = fastadam.SGD(np.zeros(2), lr=1.0)
    opt.accumulate(np.ones(2))
    with pytest.raises(ValueError, match=r"call step\(\) without gradients first"):
        opt.step(np.ones(2))
    assert opt.finished_steps == 0
    opt.step()
    opt.step(np.ones(2))
    assert opt.params.tolist() == [-2.0, -2.0]


def test_adam_step_is_a_step_of_adam():
    rng = np.random.default_rng(11)
    params = [rng.standard_normal(5), rng.standard_normal((2, 2)).astype(np.float32)]
    copies = [p.copy() for p in params]
    m, v, x = ([np.zeros_like(p) for p in params] for _ in range(3))
    opt = fastadam.Adam(params, amsgrad=True, weight_decay=0.1)
    for t in range(1, 6):
        grads = [rng.standard_normal(p.shape).astype(p.dtype) for p in params]
        opt.step(grads)
        fastadam.adam_step(
            copies, grads, m, v, step=t if t % 2 else [t, t], max_exp_avg_sq=x, weight_decay=0.1
        )
    for p, q in zip(params, copies, strict=True):
        assert p.tobytes() == q.tobytes()
    before = copies[0].copy()
    fastadam.adam_step(copies, [None, grads[1]], m, v, step=6)
    assert (copies[0] == before).all()


def test_a_time_without_any_gradient_counts_in_the_mean():
    params = {"w": np.zeros(2), "b": np.zeros(1)}
    opt = fastadam.SGD(params, lr=1.0)
    opt.accumulate({"w": None, "b": None})
    opt.accumulate({"w": np.full(2, 4.0), "b": None})
    opt.step()
    assert params["w"].tolist() == [-2.0, -2.0]
    assert params["b"].tolist() == [0.0]
