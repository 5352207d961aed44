"""The user's dicts and lists of parameters: arrays that are replaced in them are noticed."""

import copy
import pickle
import types
from collections import OrderedDict, UserDict, namedtuple

import numpy as np
import pytest

import fastadam

Layer = namedtuple("Layer", "w b")


def make(kind):
    return kind({"w": np.zeros(3), "layers": [np.zeros(2), (np.zeros(1), {"b": np.zeros(())})]})


def grads():
    return {"w": -np.ones(3), "layers": [np.ones(2), (np.ones(1), {"b": np.ones(())})]}


def refuse(opt, message, *, given=None):
    before = opt.state_dict()
    for call in (opt.step, opt.accumulate):
        with pytest.raises(ValueError, match=message):
            call(grads() if given is None else given)
    np.testing.assert_equal(opt.state_dict(), before)


@pytest.mark.parametrize("seen_as", [lambda content: content, types.MappingProxyType])
def test_a_replaced_array_is_refused_with_its_key_and_the_cure(seen_as):
    content = make(dict)
    opt = fastadam.Adam(seen_as(content), lr=0.1)
    opt.step(grads())
    kept = content["w"]
    content["w"] = np.clip(content["w"], 0, 0.05)
    refuse(opt, r"params\['w'\] was replaced by another array.*params\['w'\]\[...\] = values")
    content["w"] = 3.5
    refuse(opt, r"params\['w'\] was replaced by 3.5")
    content["w"] = kept
    content["layers"][0] = content["layers"][0] + 1
    refuse(opt, r"params\['layers'\]\[0\] was replaced")
    content["layers"] = make(dict)["layers"]
    refuse(opt, r"params\['layers'\]\[0\] was replaced")


@pytest.mark.parametrize("kind", [OrderedDict, UserDict])
def test_other_mappings(kind):
    params = make(kind)
    opt = fastadam.Adam(params)
    opt.step(grads())
    params["layers"][1][1]["b"] = params["layers"][1][1]["b"] - 1.0
    refuse(opt, r"params\['layers'\]\[1\]\[1\]\['b'\] was replaced")


def test_lists_and_groups():
    weights, biases = [np.zeros(2), np.zeros(2)], {"b": np.zeros(2)}
    opt = fastadam.Adam([{"params": weights}])
    opt.add_param_group({"params": biases})
    given = [[np.ones(2)] * 2, {"b": np.ones(2)}]
    opt.step(given)
    weights[1] = weights[1] * 2
    refuse(opt, r"params\[0\]\[1\] was replaced", given=given)
    weights[1] = opt.param_groups[0]["params"][1]
    opt.step(given)
    biases["b"] = biases["b"] * 2
    refuse(opt, r"params\[1\]\['b'\] was replaced", given=given)


def test_what_changes_no_parameter_is_allowed():
    params = make(dict)
    before = copy.deepcopy(params)
    opt = fastadam.SGD(params, lr=1.0)
    params["w"] *= 2
    params["w"][...] = 0
    params["more"] = "of the user's"
    params["layers"].append(np.ones(7))
    opt.step(grads())
    params["layers"] = list(params["layers"])
    params["w"] = params["w"][:]  # a view: steps change it
    opt.step(grads())
    w = params.pop("w")
    opt.step(grads())
    assert w.tolist() == [3.0, 3.0, 3.0]
    params["w"] = w
    opt.step(grads())
    assert params["w"].tolist() == (before["w"] + 4).tolist()
    params["w"] = w.copy()
    refuse(opt, "params.'w'. was replaced")


def test_empty_arrays_may_be_replaced():
    params = {"none": np.zeros((0, 3)), "w": np.zeros(2)}
    opt = fastadam.Adam(params)
    params["none"] = np.zeros((0, 3))
    opt.step({"none": np.zeros((0, 3)), "w": np.ones(2)})


def test_after_a_load_it_is_noticed_all_the_same():
    params = make(dict)
    opt = fastadam.Adam(params)
    params["w"] = params["w"].copy()
    opt.load_state_dict(opt.state_dict())
    refuse(opt, "params.'w'. was replaced")


def test_averages_are_not_put_where_nobody_looks():
    params = {"w": np.zeros(2)}
    opt = fastadam.SGD(params, ema_decay=0.5)
    params["w"] = np.ones(2)
    with pytest.raises(ValueError, match="was replaced"), opt.use_averaged_params():
        pass


def test_params_are_the_user_s_own():
    for params in (np.zeros(2), [np.zeros(2)], make(dict)):
        assert fastadam.Adam(params).params is params
    opt = fastadam.Adam([{"params": params}])
    assert opt.params[0] is params
    with pytest.raises(AttributeError):
        opt.params = params


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_watch_their_own(again):
    params = make(dict)
    opt = fastadam.Adam(params)
    same, also = again((params, opt))
    assert also.params is same
    same["w"] = same["w"].copy()
    refuse(also, "params.'w'. was replaced")
    opt.step(grads())
    alone = again(opt)
    alone.params["w"] = np.ones(3)
    refuse(alone, "params.'w'. was replaced")


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_of_more_than_parameters(again):
    """What else is in the user's containers, or what these are, does not matter."""

    class Local(dict):
        pass

    params = Local(w=np.zeros(2), layer=Layer(np.zeros(2), np.zeros(1)), draw=lambda: 0)
    del params["draw"]
    opt = fastadam.Adam(params)
    params["draw"] = lambda: 0
    alone = again(opt)
    assert alone.params.keys() == {"w", "layer"}
    alone.step({"w": np.ones(2), "layer": [np.ones(2), np.ones(1)]})
    assert params["w"].tolist() == [0.0, 0.0]
    assert np.allclose(alone.params["w"], -0.001)


def test_arrays_without_a_gradient_may_be_replaced():
    """Such as statistics that the user keeps among the parameters, and computes."""
    params = {"w": np.zeros(2), "mean": np.zeros(2)}
    opt = fastadam.SGD(params, lr=1.0)
    params["mean"] = params["mean"] + 1
    opt.step({"w": np.ones(2), "mean": None})
    opt.accumulate({"w": np.ones(2), "mean": None})
    opt.step()
    assert params["w"].tolist() == [-2.0, -2.0]
    with pytest.raises(ValueError, match=r"params.'mean'. was replaced"):
        opt.step({"w": np.ones(2), "mean": np.ones(2)})


@pytest.mark.parametrize("other", [np.ones((2, 2)), None, 3.0])
def test_what_stands_in_place_of_a_list_or_a_dict(other):
    params = {"list": [np.zeros(2), np.zeros(2)], "dict": {"w": np.zeros(2)}}
    given = {"list": [np.ones(2)] * 2, "dict": {"w": np.ones(2)}}
    for key, name in (("list", r"'list'\]\[0"), ("dict", r"'dict'\]\['w'")):
        opt = fastadam.SGD(params)
        before = params[key]
        params[key] = other
        refuse(opt, rf"params\[{name}\] was replaced by ", given=given)
        params[key] = before
        opt.step(given)


def test_entries_that_change_places():
    params = [np.zeros(2), np.zeros(2)]
    opt = fastadam.SGD(params)
    params.reverse()
    refuse(opt, r"params\[0\] was replaced by what was params\[1\]", given=[np.ones(2)] * 2)


@pytest.mark.parametrize("how", ["by a schedule", "by a gradient"])
def test_what_is_replaced_within_a_step(how):
    params = {"w": np.zeros(2), "b": np.zeros(2)}

    def replace():
        params["w"] = params["w"].copy()

    class Gradient:
        def __array__(self, dtype=None, copy=None):
            replace()
            return np.ones(2)

    def schedule(finished):
        if how == "by a schedule":
            replace()
        return 1.0

    opt = fastadam.SGD(params, lr=schedule)
    with pytest.raises(ValueError, match=r"params.'w'. was replaced"):
        opt.step({"w": np.ones(2), "b": Gradient() if how == "by a gradient" else np.ones(2)})
    assert opt.finished_steps == 0


@pytest.mark.parametrize("again", [copy.deepcopy, pickle.dumps])
def test_no_copy_is_made_of_what_was_replaced(again):
    """It could never notice."""
    params = {"w": np.zeros(2)}
    opt = fastadam.SGD(params)
    params["w"] = np.ones(2)
    with pytest.raises(ValueError, match=r"params.'w'. was replaced"):
        again((params, opt))


def test_the_list_of_groups_is_the_user_s_to_change():
    opt = fastadam.SGD([{"params": np.zeros(2)}])
    opt.params.append(np.zeros(3))
    opt.add_param_group({"params": np.ones(4)})
    opt.step([np.ones(2), np.ones(4)])
    assert len(opt.params) == 2
