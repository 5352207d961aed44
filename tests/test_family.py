"""Every optimizer of the family: the same bits everywhere, torch's numbers, state, errors."""

import numpy as np
import pytest
from formats import slot
from members import MEMBERS, NAMES, OF_TORCH, averaging
from reference import bits

import fastadam
from fastadam import _backend, family

CASES = [(member.name, chosen) for member in MEMBERS for chosen in member.combinations]
CASES_OF_TORCH = [(name, chosen) for name, chosen in CASES if name in OF_TORCH]
#: For tests of the table, which compute nothing.
once = pytest.mark.parametrize("backend", _backend.available[:1], indirect=True)


def draw(rng, shape, dtype):
    x = rng.standard_normal((2, *shape))
    return (x[0] + 1j * x[1] if np.dtype(dtype).kind == "c" else x[0]).astype(dtype)


def wide(rng, n, dtype):
    """Numbers over many decades, with special ones among them."""
    info = np.finfo(dtype)
    x = (rng.standard_normal(n) * 10.0 ** rng.uniform(-18, 18, n)).astype(dtype)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, info.max, info.smallest_normal,
               info.smallest_subnormal, 1.0]  # fmt: skip
    where = rng.integers(0, n, n // 16)
    x[where] = rng.choice(np.array(special, dtype), where.size)
    return x


def train(name, chosen, dtype, lengths, steps=4, **more):
    rng = np.random.default_rng(40)
    params = [wide(rng, n, dtype) for n in lengths]
    opt = getattr(fastadam, name)(params, lr=0.1, **chosen, **more)
    for _ in range(steps):
        grads = [wide(rng, n, dtype) for n in lengths]
        grads[0] = None if rng.random() < 0.3 else grads[0]
        opt.step(grads, loss_scale=3.0)
    state = opt.state_dict()["state"]
    return [*params, *(x for entry in state.values() for x in entry.values())]


@once
def test_the_table_has_every_member():
    """Or tests that run over the members would leave one out."""
    assert sorted(NAMES) == sorted(family.__all__)
    optimizers = [x for x in vars(family).values() if isinstance(x, type)]
    optimizers = {x for x in optimizers if issubclass(x, fastadam.Optimizer)}
    assert optimizers - {fastadam.Optimizer} == {getattr(fastadam, name) for name in NAMES}
    assert set(NAMES) <= set(fastadam.__all__)


@once
@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_the_tables_states_are_those_that_its_variants_keep(member):
    kept = []
    for chosen in member.variants:
        states = slot(getattr(fastadam, member.name)(np.ones(1), **chosen)).state
        kept.append([state is not None for state in states])
    assert {len(states) for states in kept} == {len(member.states)}
    assert all(map(any, zip(*kept, strict=True)))
    assert any(kept[0])  # of what tests take that try only one


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "chosen"), CASES)
def test_the_bits_are_those_of_numpy(name, chosen, dtype, backend):
    lengths = [7, 1, 33, 1100]
    for ema_decay in (None, 0.75):
        more = averaging(name, ema_decay)
        got = train(name, chosen, dtype, lengths, **more)
        with _backend.using("numpy"):
            want = train(name, chosen, dtype, lengths, **more)
        assert len(got) == len(want)
        for x, y in zip(got, want, strict=True):
            assert bits(x) == bits(y)


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_threads_and_large_arrays_change_no_bit(member):
    name, chosen = member.name, member.combinations[-1]
    before = fastadam.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            fastadam.set_num_threads(threads)
            lengths = [2**21 + 77, 70_000]
            results.append(train(name, chosen, np.float32, lengths, 2, **averaging(name)))
    finally:
        fastadam.set_num_threads(before)
    for other in results[1:]:
        for x, y in zip(results[0], other, strict=True):
            assert bits(x) == bits(y)


class TestAgainstTorch:
    """Over 20 steps both round some ten times a step; in float32 torch also rounds 1 - beta2 by
    itself, which alone is 5e-6 of an update."""

    TOLERANCE = {np.float32: 2e-5, np.float64: 1e-11, np.complex64: 2e-5, np.complex128: 1e-11}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def torch(self):
        """NAdam's mu_product is of torch's default dtype: float32 would be 6e-8 off."""
        torch = pytest.importorskip("torch")
        torch.set_default_dtype(torch.float64)
        yield torch
        torch.set_default_dtype(torch.float32)

    @once
    def test_the_table_knows_what_torch_has(self, torch):
        assert [name for name in NAMES if hasattr(torch.optim, name)] == OF_TORCH
        assert set(OF_TORCH) <= set(fastadam.torch.__all__) <= set(NAMES)

    @pytest.mark.parametrize("dtype", TOLERANCE)
    @pytest.mark.parametrize(("name", "chosen"), CASES_OF_TORCH)
    def test_twenty_steps(self, torch, name, chosen, dtype):
        rng = np.random.default_rng(41)
        ours = draw(rng, (7, 5), dtype)
        theirs = torch.nn.Parameter(torch.from_numpy(ours.copy()))
        opt = getattr(fastadam, name)(ours, lr=0.01, **chosen)
        reference = getattr(torch.optim, name)([theirs], lr=0.01, **chosen)
        for step in range(20):
            g = draw(rng, (7, 5), dtype)
            opt.step(g)
            theirs.grad = torch.from_numpy(g)
            reference.step()
            if step == 9:  # and torch's state goes on in ours
                again = getattr(fastadam, name)(ours.copy(), lr=0.5)
                again.load_state_dict(reference.state_dict())
        assert np.abs(ours - theirs.detach().numpy()).max() < self.TOLERANCE[dtype]
        state = again.state_dict()["state"][0]
        assert set(state) == set(opt.state_dict()["state"][0])

    @pytest.mark.parametrize("name", OF_TORCH)
    def test_defaults(self, torch, name):
        ours = getattr(fastadam, name)(np.ones(2)).param_groups[0]
        theirs = getattr(torch.optim, name)([torch.ones(2)]).param_groups[0]
        for key in set(ours) - {"params", "epsilon_hat", "state_dtype", "seed"}:
            assert ours[key] == theirs[key], key

    @pytest.mark.parametrize("name", OF_TORCH)
    def test_range_errors_have_torchs_wording(self, torch, name):
        group = getattr(fastadam, name)(np.ones(1)).param_groups[0]
        for key in group:
            if isinstance(group[key], bool) or key in (
                "params",
                "dampening",
                "state_dtype",
                "seed",
            ):
                continue
            bad = {"betas": (1.0, 0.5)}.get(key, -1.0)
            with pytest.raises(ValueError, match="Invalid") as theirs:
                getattr(torch.optim, name)([torch.ones(2)], **{key: bad})
            with pytest.raises(ValueError, match="Invalid") as ours:
                getattr(fastadam, name)(np.ones(2), **{key: bad})
            assert str(ours.value).startswith(f"{theirs.value}; expected ")
        if name == "SGD":
            with pytest.raises(ValueError, match="Nesterov momentum requires") as theirs:
                torch.optim.SGD([torch.ones(2)], nesterov=True)
            with pytest.raises(ValueError, match="Nesterov momentum requires") as ours:
                fastadam.SGD(np.ones(2), nesterov=True)
            assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize(("name", "chosen"), CASES)
def test_state_dicts_go_on_bit_for_bit(name, chosen):
    rng = np.random.default_rng(42)
    p = {"w": draw(rng, (3, 4), np.float32), "b": draw(rng, (4,), np.float64)}
    opt = getattr(fastadam, name)(p, lr=0.1, **averaging(name), **chosen)
    grads = [{k: draw(rng, x.shape, x.dtype) for k, x in p.items()} for _ in range(6)]
    for g in grads[:3]:
        opt.step(g)
    q = {k: x.copy() for k, x in p.items()}
    again = getattr(fastadam, name)(q, **averaging(name))
    again.load_state_dict(opt.state_dict())
    for g in grads[3:]:
        opt.step(g)
    for g in grads[3:]:
        again.step(g)
    for k in p:
        assert bits(p[k]) == bits(q[k])
        assert bits(opt.averaged_params()[k]) == bits(again.averaged_params()[k])


def test_options_that_need_state_cannot_be_switched_on_later():
    for name, key, value in (
        ("Adam", "amsgrad", True), ("SGD", "momentum", 0.9), ("RMSprop", "momentum", 0.9),
        ("RMSprop", "centered", True),
    ):  # fmt: skip
        opt = getattr(fastadam, name)(np.ones(2))
        opt.step(np.ones(2))
        opt.param_groups[0][key] = value
        with pytest.raises(ValueError, match=f"{key} was switched on after"):
            opt.step(np.ones(2))
        made_with = getattr(fastadam, name)(np.ones(2), **{key: value})
        made_with.param_groups[0][key] = type(value)(0)
        made_with.step(np.ones(2))
        made_with.param_groups[0][key] = value
        made_with.step(np.ones(2))


def test_centered_never_takes_the_root_of_a_negative_number():
    """A constant gradient brings v - mean*mean to zero, and rounding below it."""
    rng = np.random.default_rng(43)
    g = rng.standard_normal(2000).astype(np.float32)
    p = np.ones(2000, np.float32)
    opt = fastadam.RMSprop(p, centered=True, alpha=0.5)
    for _ in range(100):
        opt.step(g)
    assert np.isfinite(p).all()


def test_the_options_of_another_member_are_refused():
    with pytest.raises(TypeError, match="amsgrad"):
        fastadam.SGD(np.ones(2), amsgrad=True)
    with pytest.raises(TypeError, match="dampening"):
        fastadam.Adam(np.ones(2), dampening=0.1)
    with pytest.raises(KeyError, match="exp_avg"):
        fastadam.SGD(np.ones(2), momentum=0.5).load_state_dict(
            {**(d := fastadam.Adam(np.ones(2)).state_dict()), "state": d["state"]}
        )
