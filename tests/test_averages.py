"""use_averaged_params: what it puts aside comes back, once."""

from contextlib import ExitStack

import numpy as np
import pytest

import fastadam


def make():
    params = [np.zeros(3), np.zeros(2)]
    opt = fastadam.SGD(params, lr=1.0, ema_decay=0.5)
    opt.step([np.ones(3), np.ones(2)])
    return params, opt


@pytest.mark.parametrize("change", ["read-only", "reshaped"])
def test_a_parameter_that_cannot_be_exchanged(change):
    """It is said before anything is written, and the optimizer stays as it was."""
    (a, b), opt = make()
    if change == "read-only":
        b.flags.writeable = False
    else:
        b.shape = (2, 1)
    with pytest.raises(ValueError, match=r"params\[1\] (has become read-only|was resized)"):
        opt.use_averaged_params().__enter__()
    assert (a == -1).all()
    b.flags.writeable = True
    b.shape = (2,)
    with opt.use_averaged_params():
        assert (a == -0.5).all()
        assert (b == -0.5).all()
    opt.step([np.ones(3), np.ones(2)])
    assert (b == -2).all()


def test_a_block_that_is_left_without_its_end():
    (a, _), opt = make()
    block = opt.use_averaged_params()
    block.__enter__()
    assert (a == -0.5).all()
    del block
    assert (a == -1).all()
    opt.step([np.ones(3), np.ones(2)])


def test_a_block_that_is_kept():
    (a, _), opt = make()
    block = opt.use_averaged_params()
    with block:
        pass
    opt.step([np.ones(3), np.ones(2)])
    with pytest.raises(RuntimeError, match="within"), block, block:
        pass
    assert (a == -2).all()
    opt.step([np.ones(3), np.ones(2)])
    del block
    assert (a == -3).all()


def test_other_ways_to_begin_a_block():
    (a, _), opt = make()

    @opt.use_averaged_params()
    def evaluate(times):
        assert (a == -0.5).all()
        return evaluate(times - 1) if times else a.sum()

    assert evaluate(0) == -1.5
    with pytest.raises(RuntimeError, match="within"):
        evaluate(1)
    with ExitStack() as stack:
        stack.enter_context(opt.use_averaged_params())
        assert (a == -0.5).all()
    assert (a == -1).all()


def test_a_block_that_is_entered_twice():
    p = np.zeros(2)
    opt = fastadam.SGD(p, lr=1.0, ema_decay=0.5)
    opt.step(-np.ones(2))
    block = opt.use_averaged_params()
    with block:
        with pytest.raises(RuntimeError, match="within use_averaged_params"), block:
            pass
        assert p.tolist() == [0.5, 0.5]
        with pytest.raises(RuntimeError, match="within use_averaged_params"):
            opt.step(np.ones(2))
    assert p.tolist() == [1.0, 1.0]
    opt.step(np.ones(2))


@pytest.mark.parametrize("params", [None, True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_an_average_that_a_checkpoint_lacks_begins_with_its_parameters(tmp_path, dtype, params):
    saved, p = np.full(2, 100, dtype), np.zeros(2, dtype)
    opt = fastadam.Adam(saved, lr=0.5)
    opt.step(np.ones(2, dtype))
    opt.save(tmp_path / "x.ckpt", params=True)
    again = fastadam.Adam(p, ema_decay=0.5)
    again.load(tmp_path / "x.ckpt", params=params)
    assert p.tolist() == (saved if params is not False else np.zeros(2)).tolist()
    assert again.averaged_params().tolist() == p.tolist()
