"""Keys of arrays in groups, and options of groups: kept, followed, checked."""

import os
import subprocess
import sys

import numpy as np
import pytest

import fastadam


def keys_of(opt):
    return list(opt.state_dict()["state"])


def nested():
    return {"params": [np.ones(1), [np.ones(1), np.ones(1)]]}


class TestKeys:
    def test_of_groups_that_are_nested_alike(self):
        opt = fastadam.Adam([nested(), nested(), nested()], lr=0.5)
        added = fastadam.Adam([nested()], lr=0.5)
        added.add_param_group(nested())
        added.add_param_group(nested())
        expected = [
            *("0", "1.0", "1.1"),
            *("group1.0", "group1.1.0", "group1.1.1"),
            *("2.0", "2.1.0", "2.1.1"),
        ]
        assert keys_of(opt) == keys_of(added) == expected
        opt.step([[np.ones(1), [None, np.ones(1)]]] * 3)
        added.load_state_dict(opt.state_dict())
        steps = [entry["step"] for entry in added.state_dict()["state"].values()]
        assert steps == [1, 0, 1] * 3

    def test_that_others_took_by_name(self):
        names = {"0": np.ones(1), "1": {"0": np.ones(1)}, "group1": [np.ones(1)]}
        opt = fastadam.Adam([{"params": names}, {"params": [np.ones(1), [np.ones(1)]]}])
        assert keys_of(opt)[:3] == ["0", "1.0", "group1.0"]
        assert keys_of(opt)[3:] == ["groupgroup1.0", "groupgroup1.1.0"]

    def test_of_many_groups_are_compared_in_linear_time(self):
        class Key(str):
            def __hash__(self):
                hashed.append(self)
                return super().__hash__()

        counts, hashed = [], []
        for n in (50, 100):
            groups = [{"params": {Key(f"w{i}"): np.ones(1)}} for i in range(n)]
            hashed.clear()
            fastadam.SGD(groups)
            counts.append(len(hashed))
        assert counts[1] == 2 * counts[0]

    def test_with_a_name_are_refused_as_ever(self):
        opt = fastadam.Adam({"w": np.ones(1), "1": {"w": np.ones(1)}})
        with pytest.raises(ValueError, match=r"same key '1\.w'; rename one"):
            opt.add_param_group({"params": {"w": np.ones(1)}})
        assert len(opt.param_groups) == 1
        opt.step({"w": np.ones(1), "1": {"w": np.ones(1)}})


class TestOptions:
    def test_set_while_they_are_checked_are_not_lost(self):
        """As another thread or a signal handler may."""

        class Number(float):
            def __float__(self):
                opt.param_groups[0]["lr"] = 0.25
                return 0.0

        p = np.zeros(1)
        opt = fastadam.SGD(p, lr=1.0)
        opt.param_groups[0]["weight_decay"] = Number()
        opt.step(np.ones(1))
        assert (p.item(), opt.lr) == (-1.0, 0.25)
        opt.step(np.ones(1))
        assert p == -1.25

    def test_that_change_in_place_are_followed(self):
        lr, betas = np.array(0.5), [0.5, 0.5]
        p, q = np.zeros(2), np.zeros(2)
        opt, other = fastadam.Adam(p), fastadam.Adam(q)
        opt.param_groups[0].update(lr=lr, betas=betas)
        for value, beta in ((0.5, 0.5), (0.25, 0.75), (0.125, np.float32(0.25))):
            lr[...], betas[1] = value, beta
            other.param_groups[0].update(lr=value, betas=(0.5, float(beta)))
            for optimizer in (opt, other):
                optimizer.step(np.array([1.0, -2.0]))
            assert (p == q).all()
        assert opt.param_groups[0]["lr"] is lr
        assert opt.param_groups[0]["betas"] is betas

    def test_are_shown_as_plain_numbers(self, tmp_path):
        opt = fastadam.Adam(np.zeros(2))
        opt.param_groups[0].update(lr=np.array(0.5), betas=[np.float32(0.5), 0], eps=np.float64(1))
        saved = opt.state_dict()["param_groups"][0]
        assert repr([saved[k] for k in ("lr", "betas", "eps")]) == "[0.5, (0.5, 0.0), 1.0]"
        assert repr(opt).startswith("Adam(1 array, lr=0.5, betas=(0.5, 0.0), eps=1.0,")
        opt.save(tmp_path / "x")
        opt.load(tmp_path / "x")
        assert opt.param_groups[0]["betas"] == (0.5, 0.0)
        opt.param_groups[0]["lr"] = "fast"  # what a step refuses is shown as it is
        assert opt.state_dict()["param_groups"][0]["lr"] == "fast"

    def test_of_a_dict_that_computes_them(self):
        class Growing(dict):
            def __getitem__(self, key):
                if key == "lr":
                    asked.append(key)
                    return 10.0 ** len(asked)
                return super().__getitem__(key)

        p, asked = np.zeros(1), []
        opt = fastadam.SGD(p, lr=1.0)
        opt.step(np.ones(1))
        opt.param_groups[0] = Growing(opt.param_groups[0])
        for total in (-11, -111, -1111):
            opt.step(np.ones(1))
            assert p == total

    def test_are_missed(self):
        p = np.ones(1)
        opt = fastadam.SGD(p, lr=1.0, momentum=0.5)
        for _ in range(2):
            group = dict(opt.param_groups[0])
            opt.param_groups[0].clear()
            with pytest.raises(KeyError, match="a param group lacks 'lr'"):
                opt.step(np.ones(1))
            opt.param_groups[0].update(group)
            opt.load_state_dict(opt.state_dict())
        assert p == 1

    def test_that_no_rule_has(self):
        w, v = np.ones(2), np.ones(2)
        opt = fastadam.Adam(w)
        for key, hint in (
            ("lrr", r"; did you mean 'lr'\? Known are 'params', 'lr', 'betas', .*, 'name'$"),
            ("momentum", ""),
            ("something", r"\. Known are"),
            (3, r"\. Known are"),
        ):
            match = f"param group 1 has the unknown key {key!r}{hint}"
            with pytest.raises(ValueError, match=match):
                opt.add_param_group({"params": v, key: 0.1})
            with pytest.raises(ValueError, match=f"param group 0 has the unknown key {key!r}"):
                fastadam.Adam([{"params": v, key: 0.1}])
        assert len(opt.param_groups) == 1
        opt.step(np.ones(2))

    def test_names_and_what_comes_later(self):
        """A user's name for a group, and keys that torch's schedulers and state dicts add."""
        opt = fastadam.Adam([{"params": np.ones(2), "name": "head"}])
        opt.param_groups[0]["initial_lr"] = 0.1
        opt.step([np.ones(2)])
        state = opt.state_dict()
        state["param_groups"][0].update(foreach=None, fused=True, capturable=False)
        other = fastadam.Adam([{"params": np.ones(2)}])
        other.load_state_dict(state)
        assert other.param_groups[0]["name"] == "head"
        assert other.param_groups[0]["initial_lr"] == 0.1
        other.step([np.ones(2)])

    def test_that_are_lists_stay_lists(self):
        opt = fastadam.SGD(np.ones(1))
        opt.param_groups[0].update(milestones=[10, [20, np.array(30)]], size=(1, 2))
        opt.load_state_dict(opt.state_dict())
        assert opt.param_groups[0]["milestones"] == [10, [20, 30]]
        assert opt.param_groups[0]["size"] == (1, 2)


def test_errors_do_not_depend_on_the_hash_seed(backend):
    if backend != "numpy":  # the processes choose their own
        return
    code = """
import numpy as np, fastadam
opt = fastadam.RMSprop(np.ones(1))
opt.param_groups[0].update(momentum=0.5, centered=True)
try:
    opt.step(np.ones(1))
except ValueError as error:
    print(error)
"""
    for seed in range(5):
        result = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed)}, capture_output=True, text=True,
        )  # fmt: skip
        assert result.stdout.startswith("momentum was switched on"), result.stderr


def test_a_frozen_parameter_without_a_gradient():
    a, b = np.zeros(2), np.zeros(2)
    opt = fastadam.SGD([a, b], lr=1.0)
    b.flags.writeable = False
    opt.step([np.ones(2), None])
    opt.accumulate([np.ones(2), None])
    opt.step()
    assert a.tolist() == [-2.0, -2.0]


def test_loading_into_groups_that_were_reordered():
    opt = fastadam.SGD([{"params": np.zeros(2), "lr": 0.1}, {"params": np.zeros(2), "lr": 0.2}])
    state = opt.state_dict()
    opt.param_groups.reverse()
    with pytest.raises(ValueError, match="groups were reordered"):
        opt.load_state_dict(state)
    opt.param_groups.reverse()
    assert [group["lr"] for group in opt.param_groups] == [0.1, 0.2]


def test_names_after_a_second_group_came():
    opt = fastadam.SGD([np.zeros(3), np.zeros(4)])
    opt.add_param_group({"params": np.zeros(2)})
    with pytest.raises(ValueError, match=r"grads\[0\]\[1\]: shape \(5,\)"):
        opt.step([[np.ones(3), np.ones(5)], np.ones(2)])
