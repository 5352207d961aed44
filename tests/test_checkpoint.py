"""save and load: training goes on bit for bit; what does not fit changes nothing."""

import copy
import shutil

import numpy as np
import pytest
from reference import bits

import fastadam
from fastadam import schedules

MEMBERS = ["Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "SGD"]
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
@pytest.mark.parametrize("member", MEMBERS)
def test_training_goes_on(member, suffix, tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / f"state.{suffix}"
    params, opt = make(member, ema_decay=0.9, max_grad_norm=1.0)
    rng = np.random.default_rng(71)
    for _ in range(3):
        opt.step(draw(rng))
    opt.param_groups[0]["name"] = "all"
    opt.save(path)
    copied = copy.deepcopy(params)
    again = getattr(fastadam, member)(copied, lr=0.5, ema_decay=0.9, max_grad_norm=1.0)
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
        yield fastadam.Adam(copy.deepcopy(params) | {"more": np.ones(1)}), "parameter"
        for key, value, match in (
            ("W", np.ones((4, 3), np.float32), r"shape \(3, 4\), expected \(4, 3\)"),
            ("W", np.ones((3, 4)), "dtype float32, expected float64"),
        ):
            yield fastadam.Adam({**copy.deepcopy(params), key: value}), match
        renamed = {"V" if k == "W" else k: v for k, v in copy.deepcopy(params).items()}
        yield fastadam.Adam(renamed), "no parameter"
        yield fastadam.Adam([{"params": params["W"]}, {"params": params["strided"]}]), "groups"

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
