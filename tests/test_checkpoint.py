"""save and load: training goes on bit for bit; what does not fit changes nothing."""

import copy
import importlib.util
import random
import re
import shutil
import sys
import threading
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from members import NAMES, averaging
from reference import bits

import fastadam
from fastadam import _files, schedules

SUFFIXES = ["ckpt", "safetensors"]


def make(member="Adam", **options):
    rng = np.random.default_rng(70)
    params = {
        "W": rng.standard_normal((3, 4)).astype(np.float32),
        "layers": [np.asfortranarray(rng.standard_normal((3, 4))), np.array(1 + 2j)],
        "strided": rng.standard_normal((4, 6))[:, ::2],
    }
    return params, getattr(fastadam, member)(params, **{"lr": 0.1, **options})


def draw(rng):
    return {
        "W": rng.standard_normal((3, 4)).astype(np.float32),
        "layers": [rng.standard_normal((3, 4)), np.array(rng.standard_normal() + 0j)],
        "strided": rng.standard_normal((4, 3)),
    }


def arrays(params):
    return [params["W"], *params["layers"], params["strided"]]


def snapshot(opt):
    saved = opt.state_dict()
    state = [
        [bits(v) if isinstance(v, np.ndarray) else v for v in entry.values()]
        for entry in saved["state"].values()
    ]
    return state, saved["param_groups"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("member", NAMES)
def test_training_goes_on(member, suffix, tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / f"state.{suffix}"
    params, opt = make(member, max_grad_norm=1.0, **averaging(member))
    rng = np.random.default_rng(71)
    for _ in range(3):
        opt.step(draw(rng))
    opt.param_groups[0]["name"] = "all"
    opt.save(path)
    copied = copy.deepcopy(params)
    again = getattr(fastadam, member)(copied, lr=0.5, max_grad_norm=1.0, **averaging(member))
    again.load(str(path))
    assert snapshot(again) == snapshot(opt)
    for _ in range(3):
        g = draw(rng)
        opt.step(g)
        again.step(g)
    for x, y in zip(arrays(params), arrays(copied), strict=True):
        assert bits(x) == bits(y)


def test_groups_lists_and_single_arrays(tmp_path):
    for params, grads in (
        (np.ones(3), np.ones(3)),
        ([np.ones(3), np.ones(2)], [np.ones(3), None]),
        (
            [{"params": np.ones(3), "lr": 0.5}, {"params": {"b": np.ones(2)}}],
            [None, {"b": np.ones(2)}],
        ),
        (
            {0: np.ones(2), "0": np.ones(2), (1, 2): np.ones(1)},
            {0: np.ones(2), "0": None, (1, 2): None},
        ),
    ):
        opt = fastadam.Adam(params)
        opt.step(grads)
        opt.save(tmp_path / "x")
        again = fastadam.Adam(copy.deepcopy(params))
        again.load(tmp_path / "x")
        assert snapshot(again) == snapshot(opt)


def test_keys_must_be_the_same(tmp_path):
    """In a file there is nothing of torch's, whose indices stand for keys in a state dict."""
    path = tmp_path / "x"
    fastadam.Adam(np.ones(2)).save(path)
    for params in ({"w": np.ones(2)}, {"0": np.ones(2)}, {False: np.ones(2)}):
        opt = fastadam.Adam(params)
        with pytest.raises(KeyError, match="it has a parameter 0, and the optimizer has none"):
            opt.load(path)
        opt.load_state_dict(fastadam.Adam(np.ones(2)).state_dict())
    fastadam.Adam([np.ones(2)]).load(path)


def test_schedules_stay_with_the_optimizer(tmp_path):
    path = tmp_path / "x"
    schedule = schedules.linear(1.0, 0.0, 10)
    opt = fastadam.SGD(np.zeros(1), lr=schedule)
    for _ in range(3):
        opt.step(np.ones(1))
    opt.save(path)
    q = np.zeros(1)
    again = fastadam.SGD(q, lr=schedule)
    again.load(path)
    again.step(np.ones(1))
    assert np.allclose(q, -0.7)
    plain = fastadam.SGD(np.zeros(1))
    with pytest.raises(ValueError, match="saved with a function as its learning rate"):
        plain.load(path)
    assert plain.lr == 1e-3


def test_what_does_not_fit(tmp_path):
    params, opt = make()
    opt.step(draw(np.random.default_rng(72)))
    path = tmp_path / "x"
    opt.save(path)

    def others():
        yield fastadam.AdamW(params), "state of Adam, expected AdamW"
        yield fastadam.Adam(copy.deepcopy(params) | {"more": np.ones(1)}), "no parameter 'more'"
        for key, value, match in (
            ("W", np.ones((4, 3), np.float32), r"shape \(3, 4\), expected \(4, 3\)"),
            ("W", np.ones((3, 4)), "dtype float32, expected float64"),
        ):
            yield fastadam.Adam({**copy.deepcopy(params), key: value}), match
        renamed = {"V" if k == "W" else k: v for k, v in copy.deepcopy(params).items()}
        yield fastadam.Adam(renamed), "it has a parameter 'W', and the optimizer has none"
        yield (
            fastadam.Adam([{"params": params["W"]}, {"params": params["strided"]}]),
            "has a parameter 'W'",
        )

    for other, match in others():
        before = snapshot(other)
        with pytest.raises((ValueError, TypeError, KeyError), match=match) as error:
            other.load(path)
        assert str(path) in str(error.value)
        assert snapshot(other) == before


def test_damage_changes_nothing(tmp_path):
    path = tmp_path / "x"
    _, opt = make()
    rng = np.random.default_rng(73)
    opt.step(draw(rng))
    opt.save(path)
    opt.step(draw(rng))
    before = snapshot(opt)
    whole = path.read_bytes()
    for position in (0, 9, 100, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="x: "):
            opt.load(path)
        path.write_bytes(whole[:position])
        with pytest.raises(ValueError, match="x: "):
            opt.load(path)
    with pytest.raises(FileNotFoundError):
        opt.load(tmp_path / "y")
    assert snapshot(opt) == before


def test_what_cannot_be_saved(tmp_path):
    path = tmp_path / "x"
    opt = fastadam.Adam(np.ones(2))
    opt.save(path)
    whole = path.read_bytes()
    opt.param_groups[0]["extra"] = object()
    with pytest.raises(TypeError, match="'extra' cannot be saved"):
        opt.save(path)
    del opt.param_groups[0]["extra"]
    with pytest.raises(FileNotFoundError):
        opt.save(tmp_path / "no folder" / "x")
    assert path.read_bytes() == whole
    opt.step(np.ones(2))
    shutil.copy(path, tmp_path / "copy")
    opt.load(tmp_path / "copy")
    assert opt.state_dict()["state"][0]["step"] == 0


def forge(path, change):
    """Change the header and the arrays of a file that `save` wrote, and write it anew."""
    header, stored = _files.read(path)
    change(header, stored)
    _files.write(path, header, stored)


def move(old, new):
    return lambda header, stored: stored.update({new: stored[old]})


def put(*keys_and_value):
    *keys, last, value = keys_and_value

    def change(header, stored):
        for key in keys:
            header = header[key]
        header[last] = value

    return change


def twice(header, stored):
    header["state"][1]["key"] = header["state"][0]["key"]


FORGED = {
    "an array more": (move("0.exp_avg", "exp_avg"), "array 'exp_avg' belongs to nothing"),
    "other digits": (move("0.exp_avg", "\u0660.exp_avg"), r"array '\u0660.exp_avg' belongs"),
    "an array less": (
        lambda header, stored: stored.pop("0.exp_avg"),
        r"array '0.exp_avg' of state\[0\] is not there",
    ),
    "an array for two": (
        put("state", 0, "arrays", "exp_avg", "0.exp_avg_sq"),
        r"array '0.exp_avg_sq' of state\[0\] is not there",
    ),
    "an array for a number": (
        put("state", 0, "arrays", {"step": "0.exp_avg", "exp_avg_sq": "0.exp_avg_sq"}),
        r"state\[0\] has 'step' twice",
    ),
    "an array of another state": (
        put("state", 0, "arrays", {"": "0.exp_avg", "exp_avg_sq": "0.exp_avg_sq"}),
        r"has the keys \['', 'exp_avg_sq'",
    ),
    "one parameter of three": (
        lambda header, stored: (
            header["state"][0]["arrays"].update(param="0"),
            stored.update({"0": np.ones(2)}),
        ),
        "1 parameters for 3 entries",
    ),
    "arrays": (put("state", 0, "arrays", None), r"state\[0\].arrays is null, expected an object"),
    "an array's name": (
        put("state", 0, "arrays", "exp_avg", 3),
        r"state\[0\].arrays.exp_avg is a whole number, expected a string",
    ),
    "schedules": (put("schedules", None), "schedules is null, expected a list"),
    "no schedules": (put("schedules", []), "damaged .0 schedules for 1 param groups"),
    "a schedule": (put("schedules", [{"lr": 1.0}]), r"rate of param_groups\[0\]: it remembers"),
    "rng": (put("rng", {}), "rng is an object, expected a list"),
    "a generator": (put("rng", [None]), "states of 1 random generators, and rng has 0"),
    "no optimizer": (lambda header, stored: header.pop("optimizer"), "optimizer is missing"),
    "optimizer": (put("optimizer", None), "optimizer is null, expected a string"),
    "no state": (lambda header, stored: header.pop("state"), "state is missing, expected a list"),
    "state": (put("state", {}), "state is an object, expected a list"),
    "entry": (put("state", 1, [["key", "0"]]), r"state\[1\] is a list, expected an object"),
    "no key": (lambda header, stored: header["state"][2].pop("key"), r"state\[2\].key is missing"),
    "key number": (put("state", 0, "key", 0), r"state\[0\].key is a whole number, expected a str"),
    "key list": (put("state", 0, "key", ["0"]), r"state\[0\].key is a list, expected a string"),
    "key null": (put("state", 0, "key", None), r"state\[0\].key is null, expected a string"),
    "key twice": (twice, "state has the key 0 twice"),
    "foreign key": (put("state", 0, "key", "\ud800"), "has none of that key"),
    "long key": (put("state", 0, "key", "9" * 5000), "9, and the optimizer has none of that key"),
    "an entry less": (
        lambda header, stored: header["state"].pop() and stored.clear(),
        "is not there",
    ),
    "groups": (put("param_groups", "ab"), "param_groups is a string, expected a list"),
    "group": (put("param_groups", 0, None), r"param_groups\[0\] is null, expected an object"),
    "no params": (
        lambda header, stored: header["param_groups"][0].pop("params"),
        r"param_groups\[0\].params is missing, expected a list",
    ),
    "params": (put("param_groups", 0, "params", "012"), "params is a string, expected a list"),
    "params number": (
        put("param_groups", 0, "params", ["0", 1, "2"]),
        r"param_groups\[0\].params\[1\] is a whole number, expected a string",
    ),
    "params null": (put("param_groups", 0, "params", 2, None), r"params\[2\] is null, expected a"),
    "lr": (put("param_groups", 0, "lr", None), "lr must be a real number"),
    "lr of a function": (put("param_groups", 0, "lr", "<function>"), "saved with a function"),
    "step": (put("state", 0, "step", 10**400), "expected a step count"),
    "product": (put("state", 0, "mu_product", 10**400), "mu_product.*expected a number from 0"),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("case", FORGED)
def test_forged_headers(case, suffix, tmp_path):
    pytest.importorskip("safetensors")
    change, match = FORGED[case]
    path = tmp_path / f"x.{suffix}"
    opt = fastadam.NAdam([np.ones(2), np.ones(3), np.ones(4)])
    opt.step([np.ones(2), np.ones(3), np.ones(4)])
    opt.save(path)
    forge(path, change)
    opt.step([np.ones(2), np.ones(3), np.ones(4)])
    before = snapshot(opt)
    with pytest.raises((TypeError, ValueError, KeyError), match=match) as caught:
        opt.load(path)
    assert type(caught.value) in (TypeError, ValueError, KeyError)
    assert caught.value.args[0].startswith(f"{path}: ")
    assert snapshot(opt) == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_header_that_is_nested_deeply(suffix, tmp_path):
    """At some depth JSON can just be read, and the state dict no longer be walked."""
    pytest.importorskip("safetensors")
    path = tmp_path / f"x.{suffix}"
    opt = fastadam.Adam(np.ones(2))
    opt.save(path)
    opt.step(np.ones(2))
    before, limit = snapshot(opt), sys.getrecursionlimit()
    for depth in range(limit - 100, limit, 3):
        betas = []
        for _ in range(depth):
            betas = [betas]
        sys.setrecursionlimit(10 * limit)
        try:
            forge(path, put("param_groups", 0, "betas", betas))
        finally:
            sys.setrecursionlimit(limit)
        with pytest.raises(ValueError, match=r"nested too deeply|betas must be two") as caught:
            opt.load(path)
        assert caught.value.args[0].startswith(f"{path}: ")
    assert snapshot(opt) == before


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["0", "1", "'a'", "<function>", 10**400, 2**62]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
KEYS = st.text(max_size=8) | st.builds(
    "{}.{}".format,
    st.integers(-3, 3) | st.sampled_from(["00", "²", "1e0", 10**9]),
    st.sampled_from(["exp_avg", "exp_avg_sq", "averaged_param", "step", "key", "", "a.b"]),
)
PYTHONS_OWN = re.compile(
    "object is not|has no attribute|not subscriptable|unpack|out of range|invalid literal|argument"
)


def spoil(draw, header, stored):
    """Change something somewhere in a header, or an array's name or shape."""
    if draw(st.integers(0, 3)) == 0:
        name = draw(st.sampled_from(sorted(stored)))
        array = stored[name] if draw(st.booleans()) else stored.pop(name)
        stored[draw(KEYS)] = draw(st.sampled_from([array, array.astype(np.complex64), np.ones(1)]))
        return
    place = header
    while True:
        keys = range(len(place)) if isinstance(place, list) else sorted(place)
        if not keys:
            return
        key = draw(st.sampled_from(keys))
        if not isinstance(place[key], list | dict) or draw(st.integers(0, 2)) == 0:
            break
        place = place[key]
    change = draw(st.sampled_from(["replace", "delete", "repeat", "add"]))
    if change == "replace":
        place[key] = draw(JSON)
    elif change == "delete":
        del place[key]
    elif isinstance(place, list):
        place.append(place[key] if change == "repeat" else draw(JSON))
    else:
        place[draw(st.text(max_size=5))] = place[key] if change == "repeat" else draw(JSON)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_header_is_taken_or_refused_in_words(tmp_path, data):
    member = data.draw(st.sampled_from(NAMES))
    formats = ["x", "x.safetensors"] if importlib.util.find_spec("safetensors") else ["x"]
    path = tmp_path / data.draw(st.sampled_from(formats))

    def make():
        groups = [
            {"params": {"a": np.ones(2), 1: np.ones(3, np.float32)}},
            {"params": {"b": np.ones(())}, "lr": schedules.linear(0.1, 0.0, 9)},
        ]
        opt = getattr(fastadam, member)(groups, lr=0.1, **averaging(member))
        opt.step([{"a": np.ones(2), 1: np.ones(3, np.float32)}, {"b": np.ones(())}])
        return opt

    opt = make()
    opt.save(path)
    opt.step([{"a": np.ones(2), 1: None}, {"b": None}])
    before = snapshot(opt)

    def change(header, stored):
        for _ in range(data.draw(st.integers(1, 3))):
            spoil(data.draw, header, stored)

    forge(path, change)
    error = None
    try:
        opt.load(path)
    except (TypeError, ValueError, KeyError) as caught:
        error = caught
    if error is not None:
        assert type(error) in (TypeError, ValueError, KeyError)
        assert error.args[0].startswith(f"{path}: ")
        assert not PYTHONS_OWN.search(error.args[0])
        assert snapshot(opt) == before
    opt.step([{"a": np.ones(2), 1: None}, {"b": None}])


class Key(str):
    """A key that calls a function whenever somebody asks for its text."""

    asked = staticmethod(lambda: None)

    def __str__(self):
        self.asked()
        return super().__str__()


def test_no_other_thread_steps_while_a_file_is_compared(tmp_path, monkeypatch):
    opt = fastadam.SGD({Key("a"): np.zeros(1)}, lr=1.0)
    opt.save(tmp_path / "x")
    done, threads = [], []

    def step():
        opt.step({"a": np.ones(1)})
        done.append(True)

    def ask():
        threads.append(threading.Thread(target=step))
        threads[-1].start()
        threads[-1].join(0.2)
        assert not done

    monkeypatch.setattr(Key, "asked", staticmethod(ask))
    opt.load(tmp_path / "x")
    for thread in threads:
        thread.join()
    assert len(done) == len(threads) == 1


class Whole:
    """A training run with all that a checkpoint can hold, and gradients that are drawn."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.params = {
            "layers": [{"W": rng.standard_normal((3, 4)), "b": rng.standard_normal(4)}],
            "F": np.asfortranarray(rng.standard_normal((5, 2)).astype(np.float32)),
            "strided": rng.standard_normal(12)[::3],
            "z": np.array(seed + 1j),
        }
        self.plateau = schedules.ReduceOnPlateau(0.5, patience=0, threshold=0.0)
        warmup = schedules.linear(0.0, 0.5, 3)
        self.opt = fastadam.NAdam(
            [
                {
                    "params": self.params["layers"],
                    "lr": schedules.join([warmup, self.plateau], [3]),
                },
                {"params": [self.params[key] for key in ("F", "strided", "z")], "lr": 0.25},
            ],
            ema_decay=0.9,
            max_grad_norm=3.0,
        )
        self.rng = [np.random.Generator(np.random.SFC64(seed)), np.random.RandomState(seed)]

    def train(self, steps):
        for _ in range(steps):
            generator, old = self.rng
            grads = _nested(self.opt.params, partial(_drawn, generator))
            self.opt.step(grads)
            self.plateau.update(old.random_sample())
        return self

    def seen(self):
        state, groups = snapshot(self.opt)
        for group in groups:
            group["lr"] = repr(group["lr"])
        return state, groups, [bits(p) for p in _flat(self.opt.params)]


def _drawn(generator, param):
    return np.array(generator.standard_normal(param.shape)).astype(param.dtype)


def _nested(nest, function):
    if isinstance(nest, dict):
        return {key: _nested(child, function) for key, child in nest.items()}
    return function(nest) if isinstance(nest, np.ndarray) else [_nested(x, function) for x in nest]


def _flat(nest):
    if isinstance(nest, np.ndarray):
        return [nest]
    return [leaf for x in (nest.values() if isinstance(nest, dict) else nest) for leaf in _flat(x)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_whole_run_goes_on_with_the_same_bits(suffix, tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / f"x.{suffix}"
    first = Whole(1).train(7)
    assert first.plateau.lr < 0.5
    first.opt.save(path, params=True, rng=first.rng)
    others = [Whole(2), Whole(3).train(2)]
    for run in others:
        run.opt.load(path, params=True, rng=run.rng)
        assert run.seen() == first.seen()
    first.train(5)
    for run in others:
        assert run.train(5).seen() == first.seen()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_a_run_lacks_changes_nothing(suffix, tmp_path):
    pytest.importorskip("safetensors")
    path, bare = tmp_path / f"x.{suffix}", tmp_path / f"bare.{suffix}"
    first = Whole(1).train(3)
    first.opt.save(path, params=True, rng=first.rng)
    first.opt.save(bare)
    run = Whole(2).train(1)

    def states():
        generators = [bits(g.random(3)) for g in copy.deepcopy(run.rng)]
        return run.seen(), generators

    def refused(match, where, **options):
        before = states()
        with pytest.raises((ValueError, TypeError), match=match):
            run.opt.load(where, **options)
        assert states() == before

    refused("has no parameters; save.path, params=True. writes them", bare, params=True)
    refused("states of 2 random generators, and rng has 0", path)
    refused("states of 2 random generators, and rng has 1", path, rng=run.rng[0])
    refused("states of 0 random generators, and rng has 2", bare, rng=run.rng)
    refused("is the state of a SFC64, and rng is a MT19937", path, rng=run.rng[::-1])
    refused("rng is a Random; expected a numpy.random.Generator", path, rng=[random.Random(0)] * 2)
    run.plateau.mode = "max"  # is no part of it
    run.opt.param_groups[1]["lr"] = schedules.constant(1.0)
    refused("saved with 0.25 as its learning rate, and the optimizer's is a f", path, rng=run.rng)
    run.opt.param_groups[1]["lr"] = 1.0
    run.opt.param_groups[0]["lr"] = schedules.constant(1.0)
    refused(r"rate of param_groups\[0\]: it remembers \[None, {'lr'", path, rng=run.rng)
    run.opt.param_groups[0]["lr"] = 1.0
    refused("saved with a function as its learning rate, and the optimizer's is a n", path, rng=[])
    run.opt.param_groups[0]["lr"] = schedules.join([run.plateau, run.plateau], [3])
    refused(r"rate of param_groups\[0\]: it was saved without a ReduceOnPlateau", path, rng=[])
    run.opt.param_groups[0]["lr"] = schedules.join([schedules.linear(0, 1, 2), run.plateau], [3])
    run.params["F"].flags.writeable = False
    refused("read-only", path, rng=[])
    run.params["F"].flags.writeable = True
    params = [bits(p) for p in _flat(run.opt.params)]
    run.opt.load(path, rng=[], params=False)
    assert [bits(p) for p in _flat(run.opt.params)] == params
    assert run.seen()[0] == first.seen()[0]


def test_parameters_come_back_without_being_asked_for(tmp_path):
    opt = fastadam.Adam({"w": np.ones(2)})
    opt.save(tmp_path / "x", params=True)
    other = fastadam.Adam({"w": np.zeros(2)})
    other.load(tmp_path / "x")
    assert other.params["w"].tolist() == [1.0, 1.0]


def test_the_order_of_keys_does_not_matter(tmp_path):
    opt = fastadam.Adam({"a": np.zeros(2), "b": np.ones(2)})
    opt.step({"a": np.ones(2), "b": -np.ones(2)})
    opt.save(tmp_path / "x", params=True)
    other = fastadam.Adam({"b": np.zeros(2), "a": np.zeros(2)})
    other.load(tmp_path / "x")
    for key, value in opt.params.items():
        assert bits(other.params[key]) == bits(value)
        assert (other.state_dict()["state"][key]["exp_avg"] > 0).all() == (key == "a")


def test_a_replaced_parameter_is_not_saved(tmp_path):
    params = {"w": np.zeros(2)}
    opt = fastadam.Adam(params)
    params["w"] = np.ones(2)
    with pytest.raises(ValueError, match="was replaced"):
        opt.save(tmp_path / "x", params=True)
    opt.save(tmp_path / "x")


def test_safetensors_have_the_parameters_names(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    params = {"layers": [{"W": np.ones((2, 3))}], "b": np.zeros(2, np.float32)}
    opt = fastadam.Adam(params)
    opt.step({"layers": [{"W": np.ones((2, 3))}], "b": np.ones(2, np.float32)})
    opt.save(tmp_path / "x.safetensors", params=True)
    found = library.load_file(tmp_path / "x.safetensors")
    assert found.keys() == {
        f"{name}{part}" for name in ("layers.0.W", "b") for part in ("", ".exp_avg", ".exp_avg_sq")
    }
    np.testing.assert_array_equal(found["layers.0.W"], params["layers"][0]["W"], strict=True)


@pytest.mark.parametrize(
    "params",
    [
        {"w": np.ones(1), "w.exp_avg": np.ones(2)},
        {"0": np.ones(1), 0: np.ones(2)},
        {"__metadata__": np.ones(1)},
        {"1": np.ones(1), "": np.ones(2)},
    ],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_that_would_be_the_same(params, suffix, tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / f"x.{suffix}"
    opt = fastadam.Adam(params)
    opt.step({key: 2 * param for key, param in params.items()})
    opt.save(path, params=True)
    before = snapshot(opt), [bits(p) for p in params.values()]
    opt.step(copy.deepcopy(params))
    opt.load(path, params=True)
    assert (snapshot(opt), [bits(p) for p in params.values()]) == before


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_generators_of_every_kind(kind, tmp_path):
    opt = fastadam.Adam(np.ones(1))
    rng = np.random.Generator(getattr(np.random, kind)(3))
    rng.integers(0, 9, 3, np.int32)
    opt.save(tmp_path / "x", rng=rng)
    expected = rng.random(1000)
    other = np.random.Generator(getattr(np.random, kind)(4))
    opt.load(tmp_path / "x", rng=(other,))
    assert bits(other.random(1000)) == bits(expected)
    header, arrays = _files.read(tmp_path / "x")
    good = header["rng"][0]
    for bad in (
        {**good, "state": None},
        {"bit_generator": kind},
        {**good, "has_uint32": "a"},
        {**good, "state": dict.fromkeys(good["state"], "x")},
        {**good, "state": dict.fromkeys(good["state"], -1)},
        {**good, "state": {key: [1] for key in good["state"]}},
    ):
        _files.write(tmp_path / "bad", {**header, "rng": [bad]}, arrays)
        before = bits(copy.deepcopy(other).random(9))
        with pytest.raises(ValueError, match=r"bad: damaged \(rng\[0\]"):
            opt.load(tmp_path / "bad", rng=other)
        assert bits(copy.deepcopy(other).random(9)) == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_key_that_utf_8_cannot_write(suffix, tmp_path):
    pytest.importorskip("safetensors")
    opt = fastadam.Adam({"\ud800": np.ones(1)})
    opt.save(tmp_path / f"x.{suffix}", params=True)
    opt.load(tmp_path / f"x.{suffix}", params=True)


def test_parameters_that_became_read_only_can_be_saved(tmp_path):
    param = np.ones(2)
    opt = fastadam.Adam(param)
    param.flags.writeable = False
    opt.save(tmp_path / "x", params=True)
    with pytest.raises(ValueError, match="read-only; make it writable"):
        opt.load(tmp_path / "x")
    param.flags.writeable = True
    param.resize((3,), refcheck=False)
    with pytest.raises(ValueError, match="was resized"):
        opt.save(tmp_path / "x", params=True)


def test_a_load_drops_accumulated_gradients(tmp_path):
    param = np.ones(2)
    opt = fastadam.SGD(param, lr=1.0)
    opt.save(tmp_path / "x")
    for load in (lambda: opt.load(tmp_path / "x"), lambda: opt.load_state_dict(opt.state_dict())):
        opt.accumulate(np.full(2, 9.0))
        load()
        with pytest.raises(ValueError, match="accumulate was not called"):
            opt.step()
        opt.step(np.zeros(2))
    assert param.tolist() == [1.0, 1.0]


def test_a_plateau_of_numpy_numbers_is_saved(tmp_path):
    plateau = schedules.ReduceOnPlateau(0.5)
    opt = fastadam.Adam(np.ones(1), lr=plateau)
    plateau.lr *= np.float32(0.5)
    plateau.best = np.int64(3)
    opt.save(tmp_path / "x")
    plateau.lr = plateau.best = 1.0
    opt.load(tmp_path / "x")
    assert plateau.state_dict() == {"lr": 0.25, "best": 3.0, "bad_updates": 0, "cooldown_left": 0}
