"""Of fastadam.torch what torch.optim lacks: options, points of evaluation, other packages' state.

Tolerances over 20 steps are those of test_torch.py, and for the same reasons.
"""

import copy
import inspect
import pickle

import numpy as np
import pytest
from interrupts import interrupted
from members import FIRST, NAMES, OF_TORCH

import fastadam
from fastadam import _backend

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11}
OWN = [name for name in NAMES if name not in OF_TORCH]
#: For tests of checks, which compute nothing.
once = pytest.mark.parametrize("backend", _backend.available[:1], indirect=True)


def params_of(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def go_on(optimizers, seeds):
    """Steps with the same random gradients for all of them."""
    for seed in seeds:
        for optimizer in optimizers:
            draw = torch.Generator().manual_seed(seed)
            for p in params_of(optimizer):
                p.grad = torch.randn(p.shape, generator=draw, dtype=torch.float64).to(p.dtype)
            optimizer.step()


def params(dtype=torch.float32, shapes=((3, 4), (5,))):
    draw = torch.Generator().manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape, generator=draw).to(dtype)) for shape in shapes]


def bytes_of(tensors):
    return [t.detach().reshape(-1).view(torch.uint8).numpy().tobytes() for t in tensors]


def content(optimizer):
    """All that it is: parameters, state, options."""
    state = [entry for p in params_of(optimizer) for entry in sorted(optimizer.state[p].items())]
    groups = [{**group, "params": None} for group in optimizer.param_groups]
    return bytes_of([*params_of(optimizer), *(t for _, t in state)]), [k for k, _ in state], groups


# Options


@once
def test_all_members_are_here():
    assert sorted(fastadam.torch.__all__) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_options_are_those_for_arrays(name):
    """In the same order with the same defaults, but for what torch does in another way."""
    elsewhere = {"max_grad_norm", "skip_nonfinite", "ema_decay"}
    of_torch = {"foreach", "fused", "capturable", "differentiable"}
    ours, arrays = (
        {
            p.name: p.default
            for p in inspect.signature(getattr(module, name)).parameters.values()
            if p.name not in elsewhere | of_torch | {"params"}
        }
        for module in (fastadam.torch, fastadam)
    )
    assert ours == arrays
    if name in OWN:
        assert list(ours) == list(arrays)
        assert not of_torch & inspect.signature(getattr(fastadam.torch, name)).parameters.keys()


def bad_options(name):
    """Each of a group's options with a value that it cannot have."""
    group = getattr(fastadam.torch, name)(params()).param_groups[0]
    for key in getattr(fastadam.torch, name)._rule.options:
        if isinstance(group[key], bool):
            yield key, "yes"
        elif key == "betas":
            yield key, (1.0, *group[key][1:])
            if name in OWN:  # torch's own look at two
                yield key, group[key][1:]
        else:
            yield key, -1.0


@once
@pytest.mark.parametrize("name", NAMES)
def test_options_that_cannot_be_are_refused_when_they_come(name):
    cls = getattr(fastadam.torch, name)
    cases = list(bad_options(name))
    assert len(cases) >= 6
    for key, bad in cases:
        said = pytest.raises((TypeError, ValueError), match=rf"(?i){key}|learning|beta|eps")
        if key in inspect.signature(cls).parameters:
            with said:
                cls(params(), **{key: bad})
            with said:  # though no group has it
                cls([{"params": params(), key: FIRST[name].get(key, 0.5)}], **{key: bad})
        with said:
            cls([{"params": params(), key: bad}])
        ours = cls(params(), **FIRST[name])
        go_on([ours], range(2))
        before = content(ours)
        saved = copy.deepcopy(ours.state_dict())
        with said:
            ours.add_param_group({"params": params(), key: bad})
        assert content(ours) == before
        if key != "state_dtype" and key not in ours._fixed:  # which a state dict does not bring
            saved["param_groups"][0][key] = bad
            with said:
                ours.load_state_dict(saved)
            assert content(ours) == before
        go_on([ours], range(2, 4))


@once
@pytest.mark.parametrize("name", OWN)
def test_numbers_that_are_tensors(name):
    """As torch's classes take them."""
    optimizers = [
        getattr(fastadam.torch, name)(params(), lr=lr, weight_decay=decay)
        for lr, decay in ((0.1, 0.25), (torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.25)))
    ]
    go_on(optimizers, range(3))
    assert bytes_of(params_of(optimizers[0])) == bytes_of(params_of(optimizers[1]))


@once
@pytest.mark.parametrize("name", OF_TORCH)
def test_older_pickles_find_their_classes(name):
    assert pickle.loads(f"cfastadam.torch\n{name}\n.".encode()) is getattr(fastadam.torch, name)


@once
@pytest.mark.parametrize("name", OWN)
def test_what_is_fixed_stays(name):
    ours = getattr(fastadam.torch, name)(params())
    saved = ours.state_dict()
    for key, value in ours._fixed.items():
        saved["param_groups"][0][key] = not value
    ours.load_state_dict(saved)
    assert {key: ours.param_groups[0][key] for key in ours._fixed} == ours._fixed


@once
@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_that_lack_something_are_refused_when_they_come(name):
    """Such as those of another class, which torch's own classes take over."""
    ours = getattr(fastadam.torch, name)(params(), **FIRST[name])
    go_on([ours], range(3))
    before = content(ours)
    optional = {"max_exp_avg_sq", "momentum_buffer", "grad_avg"}  # torch's may lack them
    needed = ours.state[params_of(ours)[1]].keys() - optional
    assert needed or name == "SGD"
    saved = copy.deepcopy(ours.state_dict())
    for key in needed:
        saved = copy.deepcopy(ours.state_dict())
        saved["state"][1][key] = None
        with pytest.raises(KeyError, match=rf"state\[1\] lacks '{key}'"):
            ours.load_state_dict(saved)
        assert content(ours) == before
    saved["state"][1] = 3
    with pytest.raises(TypeError, match=r"state\[1\] must be a dict, found an int"):
        ours.load_state_dict(saved)
    saved["state"] = []
    with pytest.raises(TypeError, match="state must be a dict, found a list"):
        ours.load_state_dict(saved)
    assert content(ours) == before
    go_on([ours], [3])


@pytest.mark.parametrize("name", OWN)
def test_copies(name):
    ours = getattr(fastadam.torch, name)(params(), lr=0.1, **FIRST[name])
    go_on([ours], range(3))
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(other) is type(ours)
        assert content(other) == content(ours)
    go_on([ours, other], range(3, 6))
    assert content(other) == content(ours)


def test_sparse_gradients():
    """ADOPT, Lion and AdEMAMix step the rows that there are; the average needs all."""
    for name in OWN:
        table = torch.nn.Embedding(10, 3, sparse=True)
        array = table.weight.detach().numpy().copy()
        ours = getattr(fastadam.torch, name)([table.weight], lr=0.1)
        reference = getattr(fastadam, name)(array, lr=0.1)
        for words in ([1, 5, 1], [7, 5], [5, 5]):
            ours.zero_grad()
            table(torch.tensor(words)).square().sum().backward()
            grad = table.weight.grad
            if name == "AdamWScheduleFree":
                with pytest.raises(ValueError, match=r"gradient of param_groups\[0\].* all rows"):
                    ours.step()
                assert not ours.state
            else:
                ours.step()
                rows = fastadam.RowGrad(grad._indices()[0].numpy(), grad._values().numpy())
                reference.step(rows)
            assert table.weight.detach().numpy().tobytes() == array.tobytes()


# Points of evaluation

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.float16, torch.bfloat16]
SHAPES = [(3, 4), (5,), (), (0, 2)]


def free(dtype=torch.float32, steps=3, shapes=SHAPES, **options):
    """Tensors of several layouts, and those of an optimizer of arrays, stepped alike."""
    ours = fastadam.torch.AdamWScheduleFree(params(dtype, shapes), lr=0.1, **options)
    p = params_of(ours)[0]
    p.data = p.data.t().contiguous().t()
    go_on([ours], range(steps))
    return ours


def array_of(tensor):
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        ml_dtypes = pytest.importorskip("ml_dtypes")
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


@pytest.mark.parametrize("state_dtype", [None, "bfloat16", "int8"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_points_are_those_of_arrays(dtype, state_dtype, backend):
    if dtype == torch.float64 and state_dtype:
        return
    options = {"state_dtype": state_dtype, "warmup_steps": 2}
    ours = free(dtype, 0, [*SHAPES, (70, 80)], **options)
    arrays = [array_of(p).copy(order="K") for p in params_of(ours)]
    reference = fastadam.AdamWScheduleFree(arrays, lr=0.1, **options)

    def check():
        for p, array in zip(params_of(ours), arrays, strict=True):
            assert array_of(p).tobytes() == array.tobytes()

    for seed in range(4):  # after the first step both points are still the same
        go_on([ours], [seed])
        reference.step([array_of(p.grad) for p in params_of(ours)])
        check()
        before = bytes_of(params_of(ours))
        for change in ("eval", "eval", "train", "train"):
            for optimizer in (ours, reference):
                getattr(optimizer, change)()
            check()
            if change == "eval":
                assert (bytes_of(params_of(ours)) != before) == (seed > 0)
                assert ours.param_groups[0]["train_mode"] is False
    saved = reference.state_dict()["state"]
    for i, p in enumerate(params_of(ours)):
        for key, value in ours.state[p].items():
            found = np.asarray(saved[i][key], float if value.ndim == 0 and p.ndim else None)
            assert bytes_of([value]) == [found.tobytes()] or value == found, key
    if backend != "numpy":
        tensors = ours._kept.tensors
        go_on([ours], [5])
        assert ours._kept.tensors is tensors is not None


@once
def test_a_step_says_what_to_call():
    ours = free()
    ours.eval()
    before = content(ours)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"call train\(\) before a step"):
            go_on([ours], [7])
        assert content(ours) == before
    ours.param_groups[0]["train_mode"] = True
    go_on([ours], [7])
    again = free()
    with pytest.raises(RuntimeError, match=r"call train\(\) before a step"):
        again.step(again.eval)  # a closure that forgets


@once
def test_before_the_first_step_both_points_are_the_same():
    ours = free(steps=0)
    before = bytes_of(params_of(ours))
    ours.eval()
    assert bytes_of(params_of(ours)) == before
    assert not ours.state
    ours.train()
    params_of(ours)[1].grad = torch.ones(5)
    ours.step()
    ours.eval()  # of that parameter only
    assert len(ours.state) == 1


@once
def test_groups_have_betas_and_modes_of_their_own():
    first, second, third = params(shapes=[(3,)] * 3)
    ours = fastadam.torch.AdamWScheduleFree(
        [{"params": [first], "betas": (0.5, 0.9)}, {"params": [second]}], lr=0.1
    )
    go_on([ours], range(3))
    points = [
        p.detach() + (1 - 1 / group["betas"][0]) * (ours.state[p]["z"] - p.detach())
        for group, (p,) in ((group, group["params"]) for group in ours.param_groups)
    ]
    ours.eval()
    for p, point in zip((first, second), points, strict=True):
        assert torch.allclose(p, point, rtol=0, atol=1e-6)
    ours.add_param_group({"params": [third]})
    with pytest.raises(RuntimeError, match=r"call train\(\)"):
        go_on([ours], [4])
    ours.train()
    go_on([ours], [4])


@once
def test_older_graphs_are_refused():
    (p,) = params(shapes=[(3,)])
    ours = fastadam.torch.AdamWScheduleFree([p], lr=0.1)
    go_on([ours], range(2))
    for change in (ours.eval, ours.train):
        loss = (p * p).sum()
        change()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
        loss = (p * p).sum()
        change()  # nothing changes
        loss.backward()


@once
def test_what_cannot_be_moved_is_named_and_nothing_moves():
    changes = {
        "lacks 'z'": lambda o, e: e.pop("z"),
        "'z' of": lambda o, e: e.update(z=torch.ones(4)),
        "share memory": lambda o, e: e.update(z=params_of(o)[1].detach()),
        "Invalid beta": lambda o, e: o.param_groups[0].update(betas=(1.0, 0.9)),
        r"betas\[0\] is 0": lambda o, e: o.param_groups[0].update(betas=(0.0, 0.9)),
    }
    for message, change in changes.items():
        ours = free(shapes=[(3, 4), (5,)])
        change(ours, ours.state[params_of(ours)[1]])
        before = content(ours)
        with pytest.raises((KeyError, TypeError, ValueError), match=message):
            ours.eval()
        assert content(ours) == before


@once
def test_half_precision_that_lacks_nothing():
    """As after a state dict that says nothing of what it lacks."""
    ours = free(torch.bfloat16)
    other = fastadam.torch.AdamWScheduleFree(
        [torch.nn.Parameter(p.detach().clone()) for p in params_of(ours)]
    )
    other.load_state_dict(copy.deepcopy(ours.state_dict(decoded=True)))
    assert "param_remainder" not in other.state[params_of(other)[0]]
    for p in params_of(ours):
        ours.state[p]["param_remainder"].zero_()
    for optimizer in (ours, other):
        optimizer.eval()
    assert content(ours)[:2] == content(other)[:2]
    for optimizer in (ours, other):
        optimizer.train()
    go_on([ours, other], range(2))
    assert content(ours)[:2] == content(other)[:2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ctrl_c_at_every_moment_of_a_move(dtype):
    """All parameters are at the one point or at the other, as the groups say."""

    def seen(optimizer):
        return content(optimizer), [p._version for p in params_of(optimizer)]

    def made():
        return free(dtype, 2, [(3, 4), (5,)])

    before, done, other = made(), made(), made()
    n = interrupted(0, done.eval, other.eval)
    assert n > 20
    ends = [seen(before), seen(done)]
    assert ends[0][0][0] != ends[1][0][0]
    for moment in range(1, n + 1):
        ours, other = made(), made()
        try:
            interrupted(moment, ours.eval, other.eval)
        except KeyboardInterrupt:
            assert seen(ours) in ends, moment
        else:
            pytest.fail(f"nothing came at moment {moment} of {n}")
        ours.eval()
        assert seen(ours) == ends[1]


# Other packages

CASES = [
    ("Lion", {"betas": (0.8, 0.9), "weight_decay": 0.125}),
    ("AdamWScheduleFree", {"weight_decay": 0.125}),
    ("AdamWScheduleFree", {"warmup_steps": 15, "r": 0.5, "weight_lr_power": 1.0}),
    ("ADOPT", {"betas": (0.8, 0.9), "weight_decay": 0.125}),
    ("ADOPT", {"clip": None, "decoupled_weight_decay": True}),
    ("AdEMAMix", {"weight_decay": 0.125}),
    ("AdEMAMix", {"alpha": 2.0, "t_alpha": 15, "t_beta3": 15}),
]


def theirs_of(name, params, lr, **options):
    """The class of another package, in its form of our options."""
    if name == "Lion":
        return pytest.importorskip("lion_pytorch").Lion(params, lr=lr, **options)
    if name == "AdamWScheduleFree":
        theirs = pytest.importorskip("schedulefree").AdamWScheduleFree(params, lr=lr, **options)
        theirs.train()
        return theirs
    package = pytest.importorskip("pytorch_optimizer")
    if name == "ADOPT":
        clip = options.pop("clip", 0.25)
        options["weight_decouple"] = options.pop("decoupled_weight_decay", False)
        options["clip_lambda"] = None if clip is None else lambda step: (step - 1) ** clip
    else:
        options["t_alpha_beta3"] = options.pop("t_alpha", None)
        options.pop("t_beta3", None)
        options["weight_decouple"] = True
    return getattr(package, name)(params, lr=lr, **options)


def pair(name, dtype, lr=0.01, **options):
    ours = getattr(fastadam.torch, name)(params(dtype), lr=lr, **options)
    return ours, theirs_of(name, params(dtype), lr, **options)


def take_over(optimizer, other):
    """Take the parameters and the state dict of another class."""
    for p, q in zip(params_of(optimizer), params_of(other), strict=True):
        p.data.copy_(q.data)
    is_ours = isinstance(other, fastadam.torch._optimizer.Optimizer)
    saved = other.state_dict(decoded=True) if is_ours else other.state_dict()
    optimizer.load_state_dict(copy.deepcopy(saved))


def constructors(options):
    """Those that are no part of a state dict there."""
    return {key: options[key] for key in ("clip",) if key in options}


def off(ours, theirs):
    pairs = zip(params_of(ours), params_of(theirs), strict=True)
    return max((p - q).detach().abs().max().item() for p, q in pairs)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_twenty_steps_of_other_packages(name, options, dtype):
    """Between them, each goes on with the state of the other."""
    both = pair(name, dtype, **options)
    for part in range(4):
        go_on(both, range(5 * part, 5 * part + 5))
        assert off(*both) < TOLERANCE[dtype]
        swapped = pair(name, dtype, lr=0.5, **constructors(options))
        for optimizer, other in zip(swapped, reversed(both), strict=True):
            take_over(optimizer, other)
        both = swapped
    go_on(both, [20])
    assert off(*both) < TOLERANCE[dtype]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_arrays_go_on_with_their_state(name, options):
    ours, theirs = pair(name, torch.float64, **options)
    go_on([ours, theirs], range(5))
    arrays = [p.detach().numpy().copy() for p in params_of(theirs)]
    reference = getattr(fastadam, name)(arrays, **constructors(options))
    reference.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert "foreach" not in reference.param_groups[0]
    go_on([ours], [5])
    reference.step([p.grad.numpy() for p in params_of(ours)])
    for p, array in zip(params_of(ours), arrays, strict=True):
        assert np.abs(p.detach().numpy() - array).max() < 1e-11


@pytest.mark.parametrize(("name", "options"), CASES)
def test_state_from_before_the_first_step(name, options):
    """That of arrays has zeros there, of which others would know nothing."""
    ours, theirs = pair(name, torch.float64, **options)
    arrays = getattr(fastadam, name)(
        [p.detach().numpy().copy() for p in params_of(ours)], **options
    )
    saved = arrays.state_dict()
    for entry in saved["state"].values():
        entry.update(
            {k: torch.from_numpy(v) for k, v in entry.items() if isinstance(v, np.ndarray)}
        )
    ours.load_state_dict(saved)
    take_over(theirs, ours)
    if name == "AdamWScheduleFree":
        theirs.eval()  # which makes empty state
        theirs.train()
    take_over(ours, theirs)
    go_on([ours, theirs], range(5))
    assert off(ours, theirs) < 1e-11


@pytest.mark.parametrize("options", [chosen for name, chosen in CASES if "Free" in name])
def test_schedulefree_in_evaluation(options):
    ours, theirs = pair("AdamWScheduleFree", torch.float64, **options)
    go_on([ours, theirs], range(4))
    for optimizer in (ours, theirs):
        optimizer.eval()
    assert off(ours, theirs) < 1e-12
    swapped = pair("AdamWScheduleFree", torch.float64)
    for optimizer, other in zip(swapped, (theirs, ours), strict=True):
        take_over(optimizer, other)
        assert optimizer.param_groups[0]["train_mode"] is False
        optimizer.train()
    go_on(swapped, range(4, 8))
    assert off(*swapped) < 1e-11


@pytest.mark.parametrize("name", ["AdamWScheduleFree", "ADOPT", "AdEMAMix"])
def test_parameters_that_were_stepped_less(name):
    """A group that counts for all has the count of the one that was stepped most; it goes on."""
    ours, theirs = pair(name, torch.float64)
    first, second = params_of(ours)
    for seed in range(6):
        go_on([ours], [seed])
        if seed > 3:
            continue
        before = second.detach().clone()
        second.grad = first.grad = None
        first.grad = torch.ones(3, 4, dtype=torch.float64)
        ours.step()
        assert torch.equal(second.detach(), before)
    counts = {"k": "step", "weight_sum": "weight_sum", "lr_max": "lr_max"}
    if name != "AdamWScheduleFree":
        counts = {"step": "step"}
    (group,) = ours.state_dict(decoded=True)["param_groups"]
    assert [ours.state[p]["step"].item() for p in (first, second)] == [10, 6]
    for key, own in counts.items():
        assert group[key] == ours.state[first][own].item()
    take_over(theirs, ours)
    go_on([theirs], [6])
    assert theirs.state[params_of(theirs)[1]]["step"] == 6  # which it does not know
    again, _ = pair(name, torch.float64)
    take_over(again, theirs)
    assert [again.state[p]["step"].item() for p in params_of(again)] == [11, 11]
    exact, _ = pair(name, torch.float64)
    exact.load_state_dict(ours.state_dict(decoded=True))  # of which the arrays' own counts count
    assert [exact.state[p]["step"].item() for p in params_of(exact)] == [10, 6]
    saved = copy.deepcopy(ours.state_dict(decoded=True))
    for entry in saved["state"].values():  # as by the authors' programs
        entry["step"] += 3
    exact.load_state_dict(saved)
    assert [exact.state[p]["step"].item() for p in params_of(exact)] == [13, 9]
    plain = ours.state_dict()
    assert not counts.keys() & plain["param_groups"][0].keys()


@once
@pytest.mark.parametrize("arrays", [False, True])
def test_state_as_the_authors_programs_have_it(arrays):
    """Of which there is no package: their names, and what they are for."""
    moment, square = torch.full((3,), 0.5), torch.full((3,), 0.25)
    cases = {
        "ADOPT": (
            {"exp_avg": moment, "exp_avg_sq": square, "step": torch.tensor(7.0)},
            {"lr": 0.5, "betas": (0.8, 0.9), "eps": 1e-5, "weight_decay": 0.125, "decouple": True,
             "maximize": False, "foreach": None, "fused": None},
            {"decoupled_weight_decay": True, "clip": 0.25, "lr": 0.5},
        ),
        "AdEMAMix": (
            {"exp_avg_fast": moment, "exp_avg_slow": moment * 2, "exp_avg_sq": square, "step": 7},
            {"lr": 0.5, "betas": (0.8, 0.9, 0.99), "eps": 1e-5, "weight_decay": 0.125,
             "alpha": 2.0, "beta3_warmup": 30, "alpha_warmup": 20},
            {"t_alpha": 20, "t_beta3": 30, "alpha": 2.0, "decoupled_weight_decay": True},
        ),
    }  # fmt: skip
    for name, (state, group, expected) in cases.items():
        saved = {"state": {0: state}, "param_groups": [{**group, "params": [0]}]}
        start = torch.ones(3)
        module = fastadam if arrays else fastadam.torch
        param = start.numpy() if arrays else torch.nn.Parameter(start)
        ours = getattr(module, name)([param])
        ours.load_state_dict(copy.deepcopy(saved))
        assert expected.items() <= ours.param_groups[0].items()
        found = ours.state_dict()["state"][0]
        assert found["step"] == 7
        for key in state.keys() - {"step"}:
            assert np.array_equal(np.asarray(found[key]), state[key].numpy())


@once
def test_names_that_both_have():
    """What was ours stays in a state that went on in another package, perhaps as a copy."""
    ours = fastadam.torch.AdEMAMix(params())
    go_on([ours], range(2))
    saved = copy.deepcopy(ours.state_dict(decoded=True))
    assert saved["state"][0]["exp_avg"] is saved["state"][0]["exp_avg_fast"]
    for steps, wins in ((3, "exp_avg"), (2, "exp_avg_fast")):
        saved["param_groups"][0]["step"] = steps
        saved["state"][0].update(exp_avg=torch.ones(3, 4), exp_avg_fast=torch.zeros(3, 4))
        ours.load_state_dict(saved)
        assert torch.equal(ours.state[params_of(ours)[0]]["exp_avg_fast"], saved["state"][0][wins])


@once
@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("AdEMAMix", "weight_decouple", False),
        ("AdEMAMix", "fixed_decay", True),
        ("ADOPT", "fixed_decay", True),
    ],
)
def test_decay_that_is_another_is_refused(name, option, value):
    ours, arrays = getattr(fastadam.torch, name)(params()), getattr(fastadam, name)(np.ones(2))
    saved = {
        optimizer: copy.deepcopy(optimizer.state_dict(decoded=True)) for optimizer in (ours, arrays)
    }
    for optimizer, state_dict in saved.items():
        state_dict["param_groups"][0] |= {option: value, "weight_decay": 0.5}
        with pytest.raises(ValueError, match=rf"param_groups\[0\] has {option}={value} and weigh"):
            optimizer.load_state_dict(state_dict)
        assert optimizer.param_groups[0]["weight_decay"] == 0
        state_dict["param_groups"][0]["weight_decay"] = 0.0
        optimizer.load_state_dict(state_dict)
        assert option not in optimizer.param_groups[0]


@once
def test_options_that_are_one_there_and_two_here():
    ours = fastadam.torch.AdEMAMix(params(), t_alpha=5, t_beta3=6)
    assert "t_alpha_beta3" not in ours.state_dict(decoded=True)["param_groups"][0]
    ours.param_groups[0]["t_beta3"] = 5
    assert ours.state_dict(decoded=True)["param_groups"][0]["t_alpha_beta3"] == 5
