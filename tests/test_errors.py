"""Errors come before anything is written and name what does not fit."""

from collections import deque

import numpy as np
import pytest

import fastadam
from fastadam import schedules

NAN, INF = float("nan"), float("inf")


def make():
    params = {"W": np.ones((2, 3), np.float32), "layers": [np.ones(4), np.zeros((), np.complex64)]}
    opt = fastadam.Adam(params, amsgrad=True)
    grads = {
        "W": np.ones((2, 3), np.float32),
        "layers": [np.ones(4), np.ones((), np.complex64)],
    }
    opt.step(grads)
    return params, opt, grads


def snapshot(params, opt):
    arrays = [params["W"], *params["layers"]]
    state = opt.state_dict()["state"]
    arrays += [a for entry in state.values() for k, a in entry.items() if k != "step"]
    return [a.tobytes() for a in arrays], [entry["step"] for entry in state.values()]


def with_w(value):
    return lambda grads: {**grads, "W": value}


BAD_GRADIENTS = {
    "shape": (with_w(np.ones((3, 2), np.float32)), ValueError, r"grads\['W'\].*\(3, 2\).*\(2, 3\)"),
    "float64": (with_w(np.ones((2, 3))), TypeError, r"grads\['W'\].*float64.*float32"),
    "uint16": (with_w(np.ones((2, 3), np.uint16)), TypeError, r"grads\['W'\].*uint16.*float32"),
    "integers": (with_w(np.ones((2, 3), int)), TypeError, r"grads\['W'\].*int64.*float32"),
    "objects": (with_w(np.ones((2, 3), object)), TypeError, r"grads\['W'\].*object.*float32"),
    "byte order": (with_w(np.ones((2, 3), ">f4")), TypeError, r"grads\['W'\].*>f4.*float32"),
    "masked": (with_w(np.ma.ones((2, 3), "f4")), TypeError, r"grads\['W'\] is a masked array"),
    "list": (with_w([[1.0] * 3] * 2), TypeError, r"grads\['W'\] is a list.*ndarray"),
    "number": (with_w(1.0), TypeError, r"grads\['W'\] is a float.*ndarray"),
    "missing key": (lambda g: {"layers": g["layers"]}, KeyError, "grads lacks the key 'W'"),
    "unexpected key": (lambda g: {**g, "b": g["W"]}, KeyError, "unexpected key 'b'"),
    "too few": (
        lambda g: {**g, "layers": g["layers"][:1]},
        ValueError,
        r"grads\['layers'\]: expected 2 entries, found 1",
    ),
    "no nesting": (lambda g: g["W"], TypeError, "grads: expected a dict, found an ndarray"),
    "None for a list": (
        lambda g: {**g, "layers": None},
        TypeError,
        r"grads\['layers'\]: expected a list or tuple, found None; give None for each array",
    ),
    "last is bad": (
        lambda g: {**g, "layers": [g["layers"][0], np.ones(1, np.complex64)]},
        ValueError,
        r"grads\['layers'\]\[1\].*\(1,\).*\(\)",
    ),
}


@pytest.mark.parametrize("case", BAD_GRADIENTS)
def test_gradients(case):
    change, error, match = BAD_GRADIENTS[case]
    params, opt, grads = make()
    before = snapshot(params, opt)
    with pytest.raises(error, match=match):
        opt.step(change(grads))
    assert snapshot(params, opt) == before
    opt.step(grads)  # and the optimizer still works
    assert snapshot(params, opt) != before


BAD_VALUES = {
    ("lr", -1.0): "Invalid learning rate: -1.0; expected a (finite )?number from 0 ",
    ("lr", schedules.cosine_decay): r"lr is cosine_decay itself.*call it, as in lr=cosine_decay",
    ("lr", schedules.constant): "lr is constant itself",
    ("lr", schedules.ReduceOnPlateau): "lr is ReduceOnPlateau itself",
    ("lr", NAN): "Invalid learning rate: nan",
    ("lr", INF): "Invalid learning rate: inf",
    ("lr", "0.1"): "lr must be a real number or a function.*found str",
    ("lr", None): "lr must be a real number or a function.*found NoneType",
    ("eps", -1e-8): "Invalid epsilon value: -1e-08",
    ("eps", NAN): "Invalid epsilon value: nan",
    ("eps", 1j): "eps must be a real number, found complex",
    ("betas", (1.0, 0.9)): "index 0: 1.0; expected a number from 0 to less than 1",
    ("betas", (0.9, -0.1)): "Invalid beta parameter at index 1: -0.1",
    ("betas", (NAN, 0.9)): "Invalid beta parameter at index 0: nan",
    ("betas", (0.9, 1 - 1e-12)): "index 1: .* is 1 in float32; expected at most 0.9999999",
    ("betas", 0.9): "betas must be two numbers, found 0.9",
    ("betas", (0.9, 0.99, 0.999)): "betas must be two numbers",
    ("weight_decay", -0.1): "Invalid weight_decay value: -0.1",
    ("weight_decay", NAN): "Invalid weight_decay value: nan",
    # These are infinite in float32.
    ("lr", 1e39): r"Invalid learning rate: 1e\+39; .* less than 3\.403e\+38, float32's largest",
    ("lr", 10**400): "Invalid learning rate: inf",
    ("lr", True): "lr must be a real number",
    ("eps", 1e39): r"Invalid epsilon value: 1e\+39",
    ("weight_decay", 1e39): r"Invalid weight_decay value: 1e\+39",
    ("amsgrad", 1): "amsgrad must be True or False, found 1",
    ("maximize", "no"): "maximize must be True or False, found 'no'",
}


@pytest.mark.parametrize(("key", "value"), BAD_VALUES)
def test_hyper_parameters_of_a_new_optimizer(key, value):
    with pytest.raises((ValueError, TypeError), match=BAD_VALUES[key, value]):
        fastadam.Adam(np.ones(2, np.float32), **{key: value})


@pytest.mark.parametrize(("key", "value"), BAD_VALUES)
def test_hyper_parameters_of_an_edited_group(key, value):
    params, opt, grads = make()
    before = snapshot(params, opt)
    good = opt.param_groups[0][key]
    opt.param_groups[0][key] = value
    for _ in range(2):  # the error comes back as long as the value stays
        with pytest.raises((ValueError, TypeError), match=BAD_VALUES[key, value]):
            opt.step(grads)
    assert snapshot(params, opt) == before
    opt.param_groups[0][key] = good
    opt.step(grads)


@pytest.mark.parametrize("lr", [lambda n: 0.5, lambda n, steps=9: 0.5, lambda *counts: 0.5])
def test_functions_of_one_number_are_schedules(lr):
    w = np.zeros(2)
    fastadam.SGD(w, lr=lr).step(np.ones(2))
    assert w.tolist() == [-0.5, -0.5]


def test_a_schedule_that_was_not_called_is_refused_when_it_is_set():
    opt = fastadam.SGD(np.zeros(2), lr=0.5)
    with pytest.raises(TypeError, match=r"lr is linear itself.*lr=linear\(\.\.\.\)"):
        opt.lr = fastadam.schedules.linear
    assert opt.lr == 0.5
    opt.lr = schedule = fastadam.schedules.linear(1.0, 0.0, 4)
    assert opt.lr is schedule


@pytest.mark.parametrize("nest", [lambda x: x, lambda x: {"w": x}, lambda x: [x]])
def test_none_in_place_of_all_gradients(nest):
    """As a function gives that forgot to return them."""
    w = np.ones(3)
    opt = fastadam.SGD(nest(w))
    opt.step(nest(np.ones(3)))
    before = w.copy()
    for use in (opt.step, opt.accumulate):
        with pytest.raises(TypeError, match=r"grads is None; did .* forget to return"):
            use(None)
    assert (w == before).all()
    assert opt.state_dict()["param_groups"][0]["finished_steps"] == 1
    with pytest.raises(ValueError, match="accumulate"):
        opt.step()  # nothing was


@pytest.mark.parametrize("value", [NAN, -1.0, "fast", None, schedules.constant(1.0)])
def test_a_schedule_that_returns_nonsense(value):
    params, opt, grads = make()
    before = snapshot(params, opt)
    opt.lr = lambda finished: value
    with pytest.raises((ValueError, TypeError), match=r"function lr\(1\)"):
        opt.step(grads)
    assert snapshot(params, opt) == before


def test_a_schedule_that_raises_or_steps():
    params, opt, grads = make()
    before = snapshot(params, opt)
    opt.lr = lambda finished: 1 / 0
    with pytest.raises(ZeroDivisionError):
        opt.step(grads)
    saved = opt.state_dict()
    for use in (
        lambda: opt.step(grads),
        lambda: opt.load_state_dict(saved),
        lambda: opt.add_param_group({"params": np.ones(1)}),
        opt.state_dict,
    ):
        opt.lr = lambda finished, use=use: use()
        with pytest.raises(RuntimeError, match="function that a step called"):
            opt.step(grads)
        assert snapshot(params, opt) == before


def test_a_schedule_that_changes_what_is_stepped():
    """Gradients become pointers only when all user code has run."""

    def popping(finished):
        opt.param_groups.pop()
        return 0.1

    opt = fastadam.Adam([{"params": np.ones(3), "lr": popping}, {"params": np.ones(3)}])
    opt.step([np.ones(3), np.ones(3)])  # the groups were read before
    with pytest.raises(ValueError, match="param_groups has 1 entries, expected 2"):
        opt.step([np.ones(3), np.ones(3)])

    p = np.ones(5000)
    opt = fastadam.Adam(p, lr=lambda finished: p.resize(8, refcheck=False) or 0.1)
    with pytest.raises(ValueError, match="was resized"):
        opt.step(np.ones(5000))

    p = np.ones((4, 4))
    view = p[:, ::2]
    opt = fastadam.Adam(view, lr=lambda finished: setattr(view.flags, "writeable", False) or 0.1)
    with pytest.raises(ValueError, match="has become read-only"):
        opt.step(np.ones((4, 2)))
    assert opt.state_dict()["state"][0]["step"] == 0
    assert (opt.state_dict()["state"][0]["exp_avg"] == 0).all()

    for order in "CF":
        p, g = np.ones((2, 2)), np.ones((2, 2), order=order)
        fastadam.Adam(p, lr=lambda finished, g=g: g.fill(-1) or 0.5).step(g)
        assert np.allclose(p, 1.5)


@pytest.mark.parametrize("scale", [0.0, -1.0, NAN, INF, "1", 1e-40, 1e50])
def test_loss_scale(scale):
    params, opt, grads = make()
    before = snapshot(params, opt)
    with pytest.raises((ValueError, TypeError), match="loss_scale"):
        opt.step(grads, loss_scale=scale)
    assert snapshot(params, opt) == before


def test_a_lacking_key_in_a_group():
    _, opt, grads = make()
    del opt.param_groups[0]["eps"]
    with pytest.raises(KeyError, match="lacks 'eps'"):
        opt.step(grads)


def test_params_of_a_group_that_were_replaced():
    p, q = np.ones(2), np.ones(2)
    opt = fastadam.Adam([{"params": p, "lr": 0.5}, {"params": q, "lr": 0.0}])
    opt.step([np.ones(2), np.ones(2)])
    opt.param_groups.reverse()
    with pytest.raises(ValueError, match="groups were reordered"):
        opt.step([np.ones(2), np.ones(2)])
    opt.param_groups.reverse()
    opt.param_groups[0]["params"] = [np.ones(2)]
    with pytest.raises(ValueError, match="'params' were replaced"):
        opt.step([np.ones(2), np.ones(2)])
    opt.param_groups[0]["params"] = [p]
    opt.step([np.ones(2), np.ones(2)])


def test_a_parameter_resized_by_a_key():
    """Keys that run code take the slow path, which reads no pointer before all have run."""

    class Key:
        def __hash__(self):
            if armed:
                w.resize(0, refcheck=False)
            return 1

    armed = False
    w, key = np.ones(5000), Key()
    opt = fastadam.Adam([w, {key: np.ones(2)}])
    grads = [np.ones(5000), {key: np.ones(2)}]
    opt.step(grads)
    armed = True
    with pytest.raises(ValueError, match="was resized"):
        opt.step(grads)


def test_groups_that_grow_while_they_are_checked():
    class Betas:
        def __iter__(self):
            opt.param_groups.append({})
            return iter((0.9, 0.99))

    opt = fastadam.Adam(np.ones(2))
    opt.param_groups[0]["betas"] = Betas()
    with pytest.raises(ValueError):  # noqa: PT011
        opt.step(np.ones(2))


def test_a_dict_appended_to_param_groups():
    _, opt, grads = make()
    opt.param_groups.append({"params": [np.ones(2)]})
    with pytest.raises(ValueError, match="add_param_group"):
        opt.step(grads)


def test_amsgrad_switched_on_later():
    opt = fastadam.Adam(np.ones(2))
    opt.param_groups[0]["amsgrad"] = True
    with pytest.raises(ValueError, match="amsgrad was switched on after"):
        opt.step(np.ones(2))


class OfAnother:
    """An array of another library."""

    def __array__(self, dtype=None, copy=None):
        return np.ones(2)


def read_only():
    array = np.ones(3)
    array.flags.writeable = False
    return array


BAD_PARAMETERS = {
    "integers": (lambda: [np.ones(2), np.arange(3)], TypeError, r"params\[1\].*int64.*float32"),
    "uint16": (lambda: {"W": np.ones(2, np.uint16)}, TypeError, r"params\['W'\].*uint16"),
    "long double": (lambda: np.ones(2, np.longdouble), TypeError, "params.*float128|longdouble"),
    "objects": (lambda: np.ones(2, object), TypeError, "params.*object"),
    "byte order": (lambda: np.ones(2, ">f8"), TypeError, "params.*native byte order"),
    "read-only": (lambda: [read_only()], ValueError, r"\[0\] is read-only.* copy, np\.array\(x\)"),
    "masked": (lambda: np.ma.ones(3), TypeError, "params is a masked array"),
    "number": (lambda: [np.ones(2), 3.0], TypeError, r"params\[1\] is a float"),
    "list of numbers": (lambda: [1.0, 2.0], TypeError, r"params\[0\] is a float.*ndarray"),
    "a string": (lambda: "weights", TypeError, "params is a str"),
    "None": (lambda: None, TypeError, "params is None; expected a numpy.ndarray, or a dict, list"),
    "a generator": (lambda: (x for x in [np.ones(2)]), TypeError, r"is a generator.*list\(x\)"),
    "values of a dict": (lambda: {"w": np.ones(2)}.values(), TypeError, r"dict_values.*list\(x\)"),
    "a deque": (
        lambda: deque([np.ones(2)]),
        TypeError,
        r"params is a deque.*list\(x\) makes a list",
    ),
    "an integer": (lambda: {"b": 0}, TypeError, r"params\['b'\] is an int; expected"),
    "a NumPy number": (
        lambda: [np.float64(3)],
        TypeError,
        r"is a float64.*np\.array\(x\) makes one",
    ),
    "another library's": (
        lambda: [OfAnother()],
        TypeError,
        r"is an OfAnother.*np\.array\(x\) makes",
    ),
    "a param group": (
        lambda: {"params": np.ones(2), "lr": 0.1},
        ValueError,
        r"looks like a param group; put it into a list",
    ),
    "options without params": (
        lambda: [{"params": np.ones(2)}, {"lr": 0.1}],
        ValueError,
        "looks like a list of param groups, but entry 1 has no 'params'",
    ),
    "empty": (lambda: [], ValueError, "optimizer got an empty parameter list"),
    "empty dict": (lambda: {}, ValueError, "optimizer got an empty parameter list"),
    "broadcast": (
        lambda: np.lib.stride_tricks.as_strided(np.ones(1), (3,), (0,)),
        ValueError,
        "elements may share memory",
    ),
    "same keys": (
        lambda: {"a.b": np.ones(1), "a": {"b": np.ones(1)}},
        ValueError,
        "same key 'a.b'",
    ),
}


@pytest.mark.parametrize("case", BAD_PARAMETERS)
def test_parameters(case):
    build, error, match = BAD_PARAMETERS[case]
    with pytest.raises(error, match=match):
        fastadam.Adam(build())


def test_parameters_that_share_memory():
    w = np.ones((4, 4))
    with pytest.raises(ValueError, match=r"params\['a'\] and params\['b'\] share memory"):
        fastadam.Adam({"a": w, "b": w})
    with pytest.raises(ValueError, match=r"params\[0\] and params\[1\] share memory"):
        fastadam.Adam([w[:, ::2], w[1]])
    opt = fastadam.Adam(w)
    with pytest.raises(ValueError, match="share memory"):
        opt.add_param_group({"params": w[0]})
    assert len(opt.param_groups) == 1
    opt.step(np.ones((4, 4)))


def test_groups():
    with pytest.raises(TypeError, match="a param group must be a dict, found a list"):
        fastadam.Adam(np.ones(2)).add_param_group([np.ones(2)])
    with pytest.raises(ValueError, match="'params'"):
        fastadam.Adam(np.ones(2)).add_param_group({"lr": 1.0})
    with pytest.raises(ValueError, match="Invalid learning rate"):
        fastadam.Adam([{"params": np.ones(2), "lr": -1}])
    two = fastadam.Adam([{"params": np.ones(2)}, {"params": np.ones(2)}])
    with pytest.raises(AttributeError, match="2 param groups"):
        _ = two.lr
    with pytest.raises(TypeError, match="grads: expected a list or tuple, found a dict"):
        two.step({})


def test_parameters_that_change_under_the_optimizer():
    p = np.ones(6)
    opt = fastadam.Adam(p)
    p.flags.writeable = False
    with pytest.raises(ValueError, match="params has become read-only"):
        opt.step(np.ones(6))
    p.flags.writeable = True
    p.resize((2, 3), refcheck=False)
    with pytest.raises(ValueError, match=r"are \(\(2, 3\), .*expected \(\(6,\), "):
        opt.step(np.ones((2, 3)))


@pytest.mark.filterwarnings("ignore:Setting the :DeprecationWarning")
def test_a_parameter_whose_strides_or_dtype_were_set():
    p = np.ones((3, 3))
    opt = fastadam.Adam(p)
    p.strides = (8, 24)
    with pytest.raises(ValueError, match="its shape, strides, dtype"):
        opt.step(np.ones((3, 3)))
    p.strides = (24, 8)
    p.dtype = np.int64
    with pytest.raises(ValueError, match="int64"):
        opt.step(np.ones((3, 3)))


def test_gradients_that_refuse_to_be_arrays():
    class Refuses:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("no")

    opt = fastadam.Adam({"w": np.ones(2)})
    with pytest.raises(TypeError, match=r"grads\['w'\] gives no numpy.ndarray: no"):
        opt.step({"w": Refuses()})
    with pytest.raises(TypeError, match=r"grads\['w'\] is a type"):
        opt.step({"w": Refuses})


def test_a_parameter_that_was_resized():
    p = np.ones(6)
    opt = fastadam.Adam(p)
    p.resize(100_000, refcheck=False)
    for grad in (np.ones(6), np.ones(100_000)):
        with pytest.raises(ValueError, match="was resized"):
            opt.step(grad)


class TestAdamStep:
    def test_names_what_does_not_fit(self):
        a = [np.ones(3) for _ in range(4)]
        with pytest.raises(ValueError, match=r"exp_avg: shape \(2,\), expected \(3,\)"):
            fastadam.adam_step(a[0], a[1], np.ones(2), a[3], step=1)
        with pytest.raises(TypeError, match="exp_avg_sq: dtype float32, expected float64"):
            fastadam.adam_step(*a[:3], np.ones(3, np.float32), step=1)
        with pytest.raises(ValueError, match="grad: shape"):
            fastadam.adam_step(a[0], np.ones(2), *a[2:], step=1)
        with pytest.raises(TypeError, match=r"grad\[1\] is a float"):
            fastadam.adam_step(a[:2], [np.ones(3), 1.0], a[2:], [np.ones(3), np.ones(3)], step=1)
        with pytest.raises(ValueError, match="exp_avg and exp_avg_sq share memory"):
            fastadam.adam_step(a[0], a[1], a[2], a[2], step=1)
        with pytest.raises(ValueError, match="exp_avg: expected a list or tuple of 2 arrays"):
            fastadam.adam_step(a[:2], a[2:], a[2:3], a[3:], step=1)
        with pytest.raises(TypeError, match="grad is None; did the function"):
            fastadam.adam_step(a[0], None, *a[2:], step=1)
        with pytest.raises(TypeError, match=r"real number; .* give lr=schedule\(step - 1\)"):
            fastadam.adam_step(*a, step=1, lr=schedules.constant(1.0))
        with pytest.raises(ValueError, match="max_exp_avg_sq is read-only"):
            fastadam.adam_step(*a, step=1, max_exp_avg_sq=read_only())
        assert all((x == 1).all() for x in a)

    @pytest.mark.parametrize("step", [0, -1, 2**62, 1.0, "1", True, [1, 2]])
    def test_step(self, step):
        a = [np.ones(3) for _ in range(4)]
        with pytest.raises((ValueError, TypeError), match="step"):
            fastadam.adam_step(*a, step=step)
        assert all((x == 1).all() for x in a)

    @pytest.mark.parametrize(("key", "value"), [kv for kv in BAD_VALUES if kv[0] != "amsgrad"])
    def test_hyper_parameters(self, key, value):
        a = [np.ones(3, np.float32) for _ in range(4)]
        with pytest.raises((ValueError, TypeError)):
            fastadam.adam_step(*a, step=1, **{key: value})
        assert all((x == 1).all() for x in a)
