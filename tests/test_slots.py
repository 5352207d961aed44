"""Where state lies in memory: so that no store looks like one to what is loaded next."""

import numpy as np
import pytest

import fastadam
from fastadam import _slots


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("how", ["new", "load", "load_state_dict"])
@pytest.mark.parametrize("n", [10, 20_000, 100_000])
def test_distances(n, how, tmp_path, backend):
    if backend != "numpy":  # it is the same for all
        return
    param = np.ones(n)
    opt = fastadam.Adam(param, amsgrad=True, ema_decay=0.5)
    if how == "load":
        opt.save(tmp_path / "x")
        opt.load(tmp_path / "x")
    elif how == "load_state_dict":
        opt.load_state_dict(opt.state_dict())
    (slot,) = opt._batch.arrays.slots
    unit = 4096 if param.nbytes >= 65536 else 64
    places = [(address(s) - address(param)) % unit for s in (*slot.state, slot.average)]
    assert places == ([1024, 2048, 3072, 0] if unit == 4096 else [0] * 4)


def test_what_caches_do_not_hold_is_taken_over():
    """To copy it would take its memory twice, and there the distance does not matter."""
    n = _slots.BEYOND_CACHE
    memory = np.zeros(2 * n + 8, np.float32)
    param, like = memory[:n], memory[n : 2 * n]
    assert _slots.lies_as_state(like, param, 0)
    assert not _slots.lies_as_state(like[:-1], param[:-1], 0)
    assert not _slots.lies_as_state(memory[n + 1 : 2 * n + 1], param, 0)
