"""fastadam.torch with half-precision parameters and moments stored in fewer bits.

The bits are those of the optimizers for arrays, whose numbers other files test.
"""

import copy
import io
import pickle

import numpy as np
import pytest
from members import FIRST, OF_TORCH

import fastadam
from fastadam import _backend

torch = pytest.importorskip("torch")
ml_dtypes = pytest.importorskip("ml_dtypes")

import fastadam.torch  # noqa: E402
from fastadam.torch import _memory, _optimizer  # noqa: E402

NAMES = fastadam.torch.__all__
STATE_DTYPES = [None, "bfloat16", "int8"]
DTYPES = {
    torch.float32: np.float32,
    torch.complex64: np.complex64,
    torch.bfloat16: ml_dtypes.bfloat16,
    torch.float16: np.float16,
}
REAL = [torch.float32, torch.bfloat16, torch.float16]
MOMENTS = ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]  # of Adam, of which `trained` has all
BLOCKS = (70, 80)  # the shape of an array that is stored in 8 bits

#: For tests that choose nothing here.
once = pytest.mark.parametrize("backend", _backend.available[:1], indirect=True)


def array_of(tensor):
    """The tensor's memory, or that of a copy without gaps, as a user of arrays has it."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def tensor_of(array):
    """What the module's docstring says of the way from arrays to tensors."""
    return torch.from_numpy(array.copy())


class Draw:
    """Random tensors of a dtype."""

    def __init__(self, dtype, seed=1):
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape):
        dtype = torch.complex64 if self.dtype == torch.complex64 else torch.float32
        return torch.randn(shape, dtype=dtype, generator=self.generator).to(self.dtype)


def trained(name="Adam", dtype=torch.float32, steps=3, shapes=(BLOCKS, (5,)), **options):
    """An optimizer after some steps."""
    draw = Draw(dtype)
    params = [torch.nn.Parameter(draw(*shape)) for shape in shapes]
    cls = getattr(fastadam.torch, name)
    optimizer = cls(params, **{"lr": 0.1, **FIRST[name], **options})
    go_on(optimizer, steps, seed=2)
    return optimizer


def anew(optimizer, **options):
    """Another one of its class, with copies of its parameters and no state."""
    params = [torch.nn.Parameter(p.detach().clone()) for p in params_of(optimizer)]
    name = type(optimizer).__name__
    options = {**FIRST[name], **options}
    return getattr(fastadam.torch, name)(params, **{"lr": 0.1, **options})


def params_of(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def state_of(optimizer, i=0):
    return optimizer.state[params_of(optimizer)[i]]


def go_on(optimizer, steps=2, seed=3):
    draw = Draw(params_of(optimizer)[0].dtype, seed)
    for _ in range(steps):
        for p in params_of(optimizer):
            p.grad = draw(*p.shape)
        optimizer.step()


def bytes_of(tensor):
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes()


def content(optimizer):
    """All bytes of the parameters and of the state."""
    return [
        [bytes_of(p), *(bytes_of(value) for _, value in sorted(optimizer.state[p].items()))]
        for p in params_of(optimizer)
    ]


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_bits_are_those_of_arrays(name, dtype, state_dtype, backend):
    """Whatever the layout of a parameter and of its gradient; and a step is one call of C."""
    draw = Draw(dtype)
    tensors = [
        draw(*BLOCKS),
        draw(90, 71).t(),
        draw(9000)[::2],
        draw(8, 16, 8, 8).to(memory_format=torch.channels_last),
        draw(5, 7).t(),
        draw(),
        draw(0, 3),
        draw(1),
    ]
    arrays = [array_of(t).copy(order="K") for t in tensors]
    params = [torch.nn.Parameter(t) for t in tensors]
    options = {"lr": 0.1, "state_dtype": state_dtype, "seed": 3, **FIRST[name]}
    optimizer = getattr(fastadam.torch, name)(params, **options)
    reference = getattr(fastadam, name)(arrays, **options)
    for i in range(4):
        grads = [draw(*p.shape) for p in params]
        if i == 1:  # no gradient lies as its parameter
            grads = [torch.stack([g, g], -1)[..., 0] for g in grads]
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        optimizer.step()
        reference.step([array_of(g) for g in grads])
        for p, array in zip(params, arrays, strict=True):
            assert array_of(p).tobytes() == array.tobytes()
    tensors = optimizer._kept.tensors
    assert (tensors is None) == (backend == "numpy")
    if tensors is not None:
        optimizer.step()
        assert optimizer._kept.tensors is tensors
        assert not tensors.is_shared  # so it does not look at the state


@pytest.mark.parametrize("state_dtype", [None, "int8"])
@pytest.mark.parametrize("grad_dtype", REAL)
@pytest.mark.parametrize("dtype", REAL)
def test_gradients_of_another_dtype(monkeypatch, backend, dtype, grad_dtype, state_dtype):
    """They come where somebody replaces their data, or sets Parameter.grad_dtype."""
    asked = []
    read = _optimizer.gradient_of
    for module in (_memory, _optimizer):
        monkeypatch.setattr(module, "gradient_of", lambda *args: asked.append(args) or read(*args))
    draw, draw_grad = Draw(dtype), Draw(grad_dtype)
    params = [torch.nn.Parameter(draw(*shape)) for shape in (BLOCKS, (3,))]
    arrays = [array_of(p).copy() for p in params]
    optimizer = fastadam.torch.AdamW(params, state_dtype=state_dtype)
    reference = fastadam.AdamW(arrays, state_dtype=state_dtype)
    for i in range(3):
        for p in params:
            p.grad = torch.zeros_like(p)
            p.grad.data = draw_grad(*p.shape)
            assert p.grad.dtype == grad_dtype
        if i == 1:
            asked.clear()
        optimizer.step()
        reference.step([array_of(p.grad) for p in params])
        for p, array in zip(params, arrays, strict=True):
            assert array_of(p).tobytes() == array.tobytes()
    assert bool(asked) == (backend == "numpy")  # C reads each as it is


@pytest.mark.parametrize(
    ("dtype", "grad_dtype"),
    [
        (torch.float32, torch.float64),
        (torch.bfloat16, torch.complex64),
        (torch.complex64, torch.bfloat16),
        (torch.float64, torch.float32),
    ],
)
def test_gradients_that_cannot_be(dtype, grad_dtype):
    p = torch.nn.Parameter(torch.ones(3, dtype=dtype))
    optimizer = fastadam.torch.Adam([p])
    for _ in range(2):
        p.grad = torch.zeros_like(p)
        p.grad.data = torch.ones(3, dtype=grad_dtype)
        with pytest.raises(TypeError, match=r"the gradient of .*\['params'\]\[0\]: dtype"):
            optimizer.step()
        assert torch.equal(p.detach(), torch.ones(3, dtype=dtype))
        p.grad = torch.zeros_like(p)  # of which Adam's first step changes nothing
        optimizer.step()


def test_what_state_is_made_of():
    plain = {"amsgrad": False}
    optimizer = trained(dtype=torch.bfloat16, state_dtype="int8", shapes=(BLOCKS, (5, 3)), **plain)
    n_blocks = -(-BLOCKS[0] * BLOCKS[1] // 64)
    large, small = ({k: v for k, v in state_of(optimizer, i).items()} for i in (0, 1))
    assert {k: (v.dtype, tuple(v.shape)) for k, v in large.items()} == {
        "exp_avg": (torch.uint8, (n_blocks, 65)),
        "exp_avg_sq": (torch.uint8, (n_blocks, 65)),
        "param_remainder": (torch.uint8, (*BLOCKS, 2)),
        "step": (torch.float64, ()),
    }
    assert {k: (v.dtype, tuple(v.shape)) for k, v in small.items()} == {
        "exp_avg": (torch.float32, (5, 3)),
        "exp_avg_sq": (torch.float32, (5, 3)),
        "param_remainder": (torch.uint8, (5, 3, 2)),
        "step": (torch.float64, ()),
    }
    half = trained(dtype=torch.float16, state_dtype="bfloat16", shapes=[(5, 3)], **plain)
    assert {k: (v.dtype, tuple(v.shape)) for k, v in state_of(half).items()} == {
        "exp_avg": (torch.bfloat16, (5, 3)),
        "exp_avg_sq": (torch.bfloat16, (5, 3)),
        "master_param": (torch.float32, (5, 3)),
        "step": (torch.float64, ()),
    }
    imaginary = trained(dtype=torch.complex64, state_dtype="bfloat16", shapes=[(5, 3)])
    assert state_of(imaginary)["exp_avg"].shape == (5, 3, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_parameter_is_the_rounded_master(dtype):
    optimizer = trained(dtype=dtype, steps=20, lr=1e-4)
    p, state = params_of(optimizer)[0].detach(), state_of(optimizer)
    if dtype == torch.float16:
        assert torch.equal(state["master_param"].half(), p)
        return
    remainder = state["param_remainder"].view(torch.int16).squeeze(-1)
    bits = (p.view(torch.int16).int() << 16) + remainder.int()
    master = bits.view(torch.float32)
    assert ((master - p.float()).abs() <= p.float().abs() * 2**-8).all()
    assert not torch.equal(master, p.float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_written_into_a_parameter_counts(dtype):
    optimizer = trained(dtype=dtype)
    (p, _), (before, _) = params_of(optimizer), copy.deepcopy(params_of(optimizer))
    with torch.no_grad():
        p.fill_(7.0)
        p[0] = 0.0
    optimizer.param_groups[0]["lr"] = 0.0
    go_on(optimizer, 1)
    assert torch.equal(p[1:].detach(), torch.full_like(before[1:], 7.0))
    assert torch.equal(p[0].detach(), torch.zeros_like(before[0]))


@pytest.mark.parametrize("way", ["state dict", "torch.save", "pickle", "deepcopy"])
@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_is_resumed(name, dtype, state_dtype, way):
    """It has the bytes of one that was not interrupted, and so has its state."""
    whole = trained(name, dtype, state_dtype=state_dtype, seed=5)
    if way == "pickle":
        resumed = pickle.loads(pickle.dumps(whole))
    elif way == "deepcopy":
        resumed = copy.deepcopy(whole)
    else:
        resumed = anew(whole, state_dtype=state_dtype)
        saved = whole.state_dict()
        if way == "torch.save":
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
        resumed.load_state_dict(copy.deepcopy(saved))
        assert resumed.param_groups[0]["seed"] == 5
    assert content(resumed) == content(whole)
    for optimizer in (whole, resumed):
        go_on(optimizer)
    assert content(resumed) == content(whole)


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_goes_from_tensors_to_arrays_and_back(name, dtype, state_dtype):
    options = {"state_dtype": state_dtype, "lr": 0.1, **FIRST[name]}
    whole = trained(name, dtype, state_dtype=state_dtype, seed=5)
    back = anew(whole, state_dtype=state_dtype)
    arrays = [array_of(p) for p in params_of(back)]
    reference = getattr(fastadam, name)(arrays, **options)
    reference.load_state_dict(whole.state_dict())
    draw = Draw(dtype, 3)
    for _ in range(2):
        reference.step([array_of(draw(*a.shape)) for a in arrays])
    go_on(whole, 2, seed=3)
    assert [a.tobytes() for a in arrays] == [bytes_of(p) for p in params_of(whole)]
    saved = reference.state_dict()
    for state in saved["state"].values():
        for key, value in state.items():
            if isinstance(value, np.ndarray):
                state[key] = tensor_of(value)
    back.load_state_dict(saved)
    if dtype == torch.bfloat16:  # in bytes, and not as arrays have it
        assert state_of(back)["param_remainder"].dtype == torch.uint8
    for optimizer in (whole, back):
        go_on(optimizer, seed=4)
    assert [c[0] for c in content(back)] == [c[0] for c in content(whole)]


@pytest.mark.parametrize("to", STATE_DTYPES)
@pytest.mark.parametrize("of", STATE_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_state_of_another_state_dtype_is_converted_as_that_of_arrays(dtype, of, to):
    """By rounding once, with the seed of the state dict."""
    source = trained("AdamW", dtype, state_dtype=of, seed=7, amsgrad=True)
    target = anew(source, state_dtype=to)
    arrays = [array_of(p) for p in params_of(source)]
    reference = fastadam.AdamW(arrays, state_dtype=to)
    saved = source.state_dict()
    before = content(source)
    target.load_state_dict(saved)
    reference.load_state_dict(saved)
    assert content(source) == before
    assert target.param_groups[0]["state_dtype"] == to
    for i, entry in reference.state_dict()["state"].items():
        found = state_of(target, i)
        assert found.keys() == entry.keys()
        for key, value in found.items():
            assert (
                bytes_of(value)
                == np.asarray(entry[key], None if key != "step" else float).tobytes()
            )
    go_on(target, 1)


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_state_in_the_order_of_a_transposed_parameter(state_dtype):
    """What is decoded or rounded lies as what a step would have made, and nothing is copied."""
    p = torch.nn.Parameter(torch.randn(90, 71).t())
    source = fastadam.torch.Adam([p])
    go_on(source)
    target = fastadam.torch.Adam([torch.nn.Parameter(p.detach())], state_dtype=state_dtype)
    target.load_state_dict(copy.deepcopy(source.state_dict()))
    moment = state_of(target)["exp_avg"]
    if state_dtype == "int8":
        assert moment.is_contiguous()
    else:
        assert moment.stride() == p.stride()
        assert torch.allclose(moment.float(), state_of(source)["exp_avg"], rtol=2**-7)


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("name", OF_TORCH)
def test_a_state_dict_of_torchs_loads_and_ours_loads_there(name, dtype, state_dtype):
    ours = trained(name, dtype, state_dtype=state_dtype, seed=4)
    params = [torch.nn.Parameter(p.detach().clone()) for p in params_of(ours)]
    theirs = getattr(torch.optim, name)(params, lr=0.1, **FIRST[name])
    theirs.load_state_dict(ours.state_dict(decoded=True))
    moments = set(ours._rule.kept(ours.param_groups[0]))
    for p in params:
        assert moments <= theirs.state[p].keys() <= {"step", "mu_product", *moments}
        for key in moments:
            assert (theirs.state[p][key].shape, theirs.state[p][key].dtype) == (p.shape, dtype)
        p.grad = torch.ones_like(p)
    theirs.step()
    again = anew(ours, state_dtype=state_dtype)
    again.load_state_dict(theirs.state_dict())
    for i, numbers in again.state_dict(decoded=True)["state"].items():
        for key in moments:
            expected = theirs.state[params[i]][key].float()
            assert (numbers[key] - expected).abs().mean() < 0.15 * expected.abs().mean()
    go_on(again, 1)


def test_a_decoded_state_dict_has_float32_numbers():
    exact = trained(dtype=torch.bfloat16)
    for state_dtype in ("bfloat16", "int8"):
        optimizer = trained(dtype=torch.bfloat16, state_dtype=state_dtype)
        before, plain = content(optimizer), anew(optimizer)
        saved = optimizer.state_dict(decoded=True)
        assert content(optimizer) == before
        assert saved["param_groups"] == optimizer.state_dict()["param_groups"]
        plain.load_state_dict(optimizer.state_dict())
        for i, entry in saved["state"].items():
            assert entry.keys() == {"step", *MOMENTS}
            for key in MOMENTS:
                assert torch.equal(entry[key], state_of(plain, i)[key])
                assert entry[key].dtype == torch.float32
                if state_dtype == "bfloat16":
                    assert torch.equal(entry[key], state_of(optimizer, i)[key].float())
                expected = state_of(exact, i)[key]
                assert (entry[key] - expected).abs().mean() < 0.15 * expected.abs().mean()
    plain = exact.state_dict(decoded=True)["state"][0]
    assert plain["exp_avg"] is state_of(exact)["exp_avg"]
    imaginary = trained(dtype=torch.complex64, state_dtype="int8")
    for entry, p in zip(
        imaginary.state_dict(decoded=True)["state"].values(), params_of(imaginary), strict=True
    ):
        assert (entry["exp_avg"].dtype, entry["exp_avg"].shape) == (p.dtype, p.shape)


def test_a_decoded_state_dict_of_a_tensor_without_axes():
    p = torch.nn.Parameter(torch.ones(()))
    optimizer = fastadam.torch.Adam([p], state_dtype="bfloat16")
    p.grad = torch.ones(())
    optimizer.step()
    moment = optimizer.state_dict(decoded=True)["state"][0]["exp_avg"]
    assert (moment.dtype, moment.shape) == (torch.float32, ())
    assert moment == state_of(optimizer)["exp_avg"].float()


@pytest.mark.filterwarnings("error")
def test_damaged_codes_give_odd_numbers_and_no_more():
    optimizer = trained(state_dtype="int8")
    generator = torch.Generator().manual_seed(6)
    for moment in (state_of(optimizer)["exp_avg"], state_of(optimizer)["exp_avg_sq"]):
        moment.random_(0, 256, generator=generator)
    numbers = optimizer.state_dict(decoded=True)["state"][0]
    assert numbers["exp_avg_sq"].isinf().any()
    plain = anew(optimizer)
    plain.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for key in ("exp_avg", "exp_avg_sq"):
        assert bytes_of(state_of(plain)[key]) == bytes_of(numbers[key])
    go_on(optimizer, 1)


def test_options_that_a_state_dict_brings():
    """The seed is taken over, how state is stored is not; torch's has neither."""
    source = trained(state_dtype="bfloat16", seed=5)
    target = anew(source, state_dtype=None, seed=2)
    theirs = torch.optim.Adam(
        [torch.nn.Parameter(p.detach().clone()) for p in params_of(source)], lr=0.5
    )
    target.load_state_dict(theirs.state_dict())
    group = target.param_groups[0]
    assert (group["lr"], group["state_dtype"], group["seed"]) == (0.5, None, 2)
    target.load_state_dict(source.state_dict())
    group = target.param_groups[0]
    assert (group["lr"], group["state_dtype"], group["seed"]) == (0.1, None, 5)


def test_what_a_parameter_lacks_is_left_out_where_it_lacks_nothing():
    source = trained(dtype=torch.bfloat16)
    params = [torch.nn.Parameter(p.detach().float()) for p in params_of(source)]
    target = fastadam.torch.Adam(params)
    target.load_state_dict(source.state_dict())
    assert state_of(target).keys() == {"step", *MOMENTS}
    assert torch.equal(state_of(target)["exp_avg"], state_of(source)["exp_avg"])
    back = anew(source)
    back.load_state_dict(target.state_dict())
    assert "param_remainder" not in state_of(back)
    back.param_groups[0]["lr"] = 0.0
    go_on(back, 1)
    assert not state_of(back)["param_remainder"].any()


@once
def test_users_hooks_see_a_state_dict_as_it_is():
    source, seen = trained(state_dtype="bfloat16"), []
    target = anew(source, state_dtype="bfloat16")

    def hook(optimizer, state_dict):
        seen.append(state_dict["state"][0]["exp_avg"].dtype)
        return None

    handle = target.register_load_state_dict_pre_hook(hook)
    target.load_state_dict(source.state_dict())
    handle.remove()
    assert seen == [torch.bfloat16]
    assert not target._optimizer_load_state_dict_pre_hooks
    assert content(target) == content(source)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda e: e.update(exp_avg=torch.ones(3)), ValueError, r"state\[0\]\['exp_avg'\]: shape"),
        (
            lambda e: e.update(exp_avg=e["exp_avg"].to(torch.int32)),
            TypeError,
            r"state\[0\]\['exp_avg'\]: dtype int32",
        ),
        (
            lambda e: e.update(exp_avg=torch.zeros(88, 65, dtype=torch.uint8)),
            ValueError,
            r"state\[0\] has moments in 8 bits beside others",
        ),
        (
            lambda e: e.update(exp_avg=torch.zeros(87, 65, dtype=torch.uint8)),
            ValueError,
            r"state\[0\]\['exp_avg'\]: shape \(87, 65\), expected \(88, 65\)",
        ),
        (lambda e: e.update(step=torch.tensor(0.5)), TypeError, r"state\[0\]\['step'\]"),
    ],
)
def test_state_dicts_that_cannot_be(change, error, message):
    source, target = trained(), trained(state_dtype="bfloat16")
    saved = copy.deepcopy(source.state_dict())
    change(saved["state"][0])
    before, groups = content(target), copy.deepcopy(target.state_dict()["param_groups"])
    with pytest.raises(error, match=message):
        target.load_state_dict(saved)
    assert content(target) == before
    assert target.state_dict()["param_groups"] == groups
    assert not target._optimizer_load_state_dict_pre_hooks
    with pytest.raises(ValueError, match="different number of parameter groups"):
        target.load_state_dict({**source.state_dict(), "param_groups": []})


@pytest.mark.parametrize("dtype", REAL)
def test_state_that_is_there_before_the_first_step(dtype):
    p = torch.nn.Parameter(torch.ones(5, dtype=dtype))
    moments = [torch.full((5,), 0.5, dtype=torch.bfloat16), torch.zeros(5, dtype=torch.bfloat16)]
    optimizer = fastadam.torch.Adam([p], state_dtype="bfloat16")
    optimizer.state[p].update(step=torch.tensor(0.0), exp_avg=moments[0], exp_avg_sq=moments[1])
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state[p]["exp_avg"] is moments[0]
    assert torch.allclose(moments[0].float(), torch.full((5,), 0.55), rtol=2**-7)
    assert ("param_remainder" in optimizer.state[p]) == (dtype == torch.bfloat16)


@pytest.mark.parametrize(
    ("state_dtype", "found", "error", "message"),
    [
        (None, torch.ones(5, dtype=torch.bfloat16), TypeError, "bfloat16, expected torch.float32"),
        (None, torch.ones(5, dtype=torch.uint8), TypeError, "uint8, expected torch.float32"),
        (None, torch.ones(5, dtype=torch.float16), TypeError, "float16, expected torch.float32"),
        ("bfloat16", torch.ones(5), TypeError, "float32, expected torch.bfloat16"),
        ("bfloat16", torch.ones(4).bfloat16(), ValueError, r"the shape \(4,\), expected \(5,\)"),
        ("int8", torch.ones(1, 65, dtype=torch.uint8), TypeError, "uint8, expected torch.float32"),
    ],
)
@pytest.mark.parametrize("dtype", REAL)
def test_state_that_does_not_fit_is_refused_by_name(dtype, state_dtype, found, error, message):
    p = torch.nn.Parameter(torch.ones(5, dtype=dtype))
    optimizer = fastadam.torch.Adam([p], state_dtype=state_dtype)
    zeros = torch.zeros(5, dtype=torch.bfloat16 if state_dtype == "bfloat16" else torch.float32)
    optimizer.state[p].update(step=torch.tensor(0.0), exp_avg=found, exp_avg_sq=zeros)
    p.grad = torch.ones_like(p)
    name = r"'exp_avg' of param_groups\[0\]\['params'\]\[0\] (is torch\.|has )"
    for _ in range(2):
        with pytest.raises(error, match=name + message):
            optimizer.step()
    assert optimizer.state[p].keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert optimizer.state[p]["exp_avg"] is found
    assert torch.equal(p.detach(), torch.ones(5, dtype=dtype))


@pytest.mark.parametrize(
    ("found", "error", "message"),
    [
        (torch.zeros(5, 3), TypeError, "is torch.float32, expected torch.uint8"),
        (torch.zeros(5, 3, dtype=torch.uint8), ValueError, r"\(5, 3\), expected \(5, 3, 2\)"),
        (torch.zeros(3, 5, dtype=torch.int16), ValueError, r"\(3, 5, 2\), expected \(5, 3, 2\)"),
        (torch.zeros(2, 5, 3, dtype=torch.uint8).permute(1, 2, 0), ValueError, "expected 1 as the"),
    ],
)
def test_a_remainder_that_does_not_fit_is_refused_by_name(found, error, message):
    optimizer = trained(dtype=torch.bfloat16, shapes=[(5, 3)])
    state_of(optimizer)["param_remainder"] = found
    was = content(optimizer)
    name = r"'param_remainder' of param_groups\[0\]\['params'\]\[0\] "
    for _ in range(2):
        with pytest.raises(error, match=name + ".*" + message):
            go_on(optimizer, 1)
    assert content(optimizer) == was
    assert state_of(optimizer)["param_remainder"] is found


@pytest.mark.parametrize("before", STATE_DTYPES)
@pytest.mark.parametrize("after", STATE_DTYPES)
def test_state_dtype_is_fixed_once_there_is_state(before, after):
    optimizer = trained(state_dtype=before, shapes=[BLOCKS])
    was = content(optimizer)
    optimizer.param_groups[0]["state_dtype"] = after
    if before == after:
        go_on(optimizer, 1)
        return
    for _ in range(2):
        with pytest.raises(TypeError, match=rf"'exp_avg' of param_groups.*state_dtype={after!r}"):
            go_on(optimizer, 1)
    assert content(optimizer) == was
    optimizer.param_groups[0]["state_dtype"] = before
    go_on(optimizer, 1)


@pytest.mark.parametrize("name", NAMES)
def test_options_that_cannot_be(name):
    cls, p = getattr(fastadam.torch, name), torch.nn.Parameter(torch.ones(5))
    for bad in ("float8", 8, torch.bfloat16):
        with pytest.raises(ValueError, match=r"Invalid state_dtype: .*'bfloat16' or 'int8'"):
            cls([p], state_dtype=bad)
        with pytest.raises(ValueError, match="Invalid state_dtype"):
            cls([{"params": [p], "state_dtype": bad}])
    with pytest.raises(TypeError, match="seed must be an integer"):
        cls([p], seed=1.5)
    with pytest.raises(ValueError, match="Invalid seed: -1"):
        cls([p], seed=-1)
    optimizer = cls([p])
    for bad in ({"state_dtype": "float8"}, {"seed": -1}):
        q = torch.nn.Parameter(torch.ones(5))
        with pytest.raises(ValueError, match="Invalid"):
            optimizer.add_param_group({"params": [q], **bad})
        assert len(optimizer.param_groups) == 1
        optimizer.add_param_group({"params": [q]})
        del optimizer.param_groups[1]
        kept = {key: optimizer.param_groups[0][key] for key in bad}
        optimizer.param_groups[0].update(bad)
        p.grad = torch.ones(5)
        with pytest.raises(ValueError, match="Invalid"):
            optimizer.step()
        optimizer.param_groups[0].update(kept)
    optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("state_dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("name", NAMES)
def test_parameters_in_double_precision_are_refused(name, state_dtype, dtype):
    cls = getattr(fastadam.torch, name)
    good, bad = (torch.nn.Parameter(torch.ones(5, dtype=d)) for d in (torch.float32, dtype))
    message = r"^param_groups\[{}\]\['params'\]\[{}\] is " + f"{dtype}, and state_dtype="
    with pytest.raises(ValueError, match=message.format(0, 1)):
        cls([good, bad], state_dtype=state_dtype)
    optimizer = cls([good], state_dtype=state_dtype)
    with pytest.raises(ValueError, match=message.format(1, 0)):
        optimizer.add_param_group({"params": [bad]})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [bad], "state_dtype": None})
    for p in (good, bad):
        p.grad = torch.ones_like(p)
    optimizer.step()
    frozen = torch.nn.Parameter(torch.ones(5, dtype=dtype), requires_grad=False)
    optimizer = cls([good, frozen], state_dtype=state_dtype)
    optimizer.step()
    frozen.grad = torch.ones_like(frozen)
    with pytest.raises(ValueError, match=message.format(0, 1)):
        optimizer.step()


def test_centered_refuses_fewer_bits():
    p = torch.nn.Parameter(torch.ones(5))
    with pytest.raises(ValueError, match="centered subtracts two nearly equal averages"):
        fastadam.torch.RMSprop([p], centered=True, state_dtype="int8")
    optimizer = fastadam.torch.RMSprop([p], centered=True)
    with pytest.raises(ValueError, match="centered"):
        optimizer.add_param_group({"params": [torch.ones(5)], "state_dtype": "bfloat16"})
    assert len(optimizer.param_groups) == 1


def test_groups_may_differ():
    params = [torch.nn.Parameter(torch.ones(BLOCKS)) for _ in range(3)]
    groups = [{"params": params[:1]}, {"params": params[1:2], "state_dtype": None}]
    optimizer = fastadam.torch.Adam(groups, state_dtype="int8", seed=3)
    optimizer.add_param_group({"params": params[2:], "state_dtype": "bfloat16", "seed": 4})
    go_on(optimizer)
    found = [optimizer.state[p]["exp_avg"].dtype for p in params]
    assert found == [torch.uint8, torch.float32, torch.bfloat16]
    assert [group["seed"] for group in optimizer.param_groups] == [3, 3, 4]
    assert (optimizer.defaults["state_dtype"], optimizer.defaults["seed"]) == ("int8", 3)


@pytest.mark.parametrize("name", NAMES)
def test_pickles_from_before_there_were_these_options(name):
    optimizer = trained(name)
    content_of_pickle = optimizer.__getstate__()
    for options in (content_of_pickle["defaults"], *content_of_pickle["param_groups"]):
        del options["state_dtype"], options["seed"]
    old = type(optimizer).__new__(type(optimizer))
    old.__setstate__(copy.deepcopy(content_of_pickle))
    old.add_param_group({"params": [torch.nn.Parameter(torch.ones(3))]})
    for group in old.param_groups:
        assert (group["state_dtype"], group["seed"]) == (None, 0)
    go_on(old, 1)


def test_a_copy_takes_more_groups():
    optimizer = copy.deepcopy(trained(state_dtype="bfloat16", seed=5))
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(3))]})
    assert optimizer.param_groups[1]["state_dtype"] == "bfloat16"
    assert optimizer.param_groups[1]["seed"] == 5
    go_on(optimizer)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_an_embeddings_sparse_gradient(dtype, state_dtype):
    """Rows of whole blocks in 8 bits; of others the parameter is named."""
    width = 64 if state_dtype == "int8" else 3
    table = torch.nn.Embedding(100, width, sparse=True, dtype=dtype)
    array = array_of(table.weight).copy()
    optimizer = fastadam.torch.Adam([table.weight], lr=0.1, state_dtype=state_dtype)
    reference = fastadam.Adam([array], lr=0.1, state_dtype=state_dtype)
    for words in ([1, 5, 1], [7, 2], [5, 5]):
        optimizer.zero_grad()
        table(torch.tensor(words)).sum().backward()
        sparse = table.weight.grad
        rows, values = sparse._indices()[0].numpy(), array_of(sparse._values())
        optimizer.step()
        reference.step([fastadam.RowGrad(rows, values.astype(np.float32))])
        assert array_of(table.weight).tobytes() == array.tobytes()


def test_rows_of_no_whole_blocks_are_refused_in_8_bits():
    table = torch.nn.Embedding(100, 80, sparse=True)
    optimizer = fastadam.torch.Adam([table.weight], state_dtype="int8")
    before = table.weight.detach().clone()
    table(torch.tensor([1, 5])).sum().backward()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"gradient of param_groups\[0\].*rows of 80 numbers"):
            optimizer.step()
    assert torch.equal(before, table.weight.detach())
    assert not optimizer.state


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
@pytest.mark.parametrize("dtype", REAL)
def test_an_error_in_the_first_step_leaves_no_state(dtype, state_dtype):
    params = [torch.nn.Parameter(torch.ones(5, dtype=dtype)) for _ in range(2)]
    optimizer = fastadam.torch.AdamW(params, state_dtype=state_dtype)
    params[0].grad = torch.ones_like(params[0])
    params[1].grad = torch.zeros_like(params[1])
    params[1].grad.data = torch.ones(5, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"the gradient of .*\['params'\]\[1\]"):
        optimizer.step()
    assert not optimizer.state
    assert torch.equal(params[0].detach(), torch.ones(5, dtype=dtype))


CHANGES = {
    "moment's data replaced": lambda o: setattr(
        state_of(o)["exp_avg"], "data", torch.zeros_like(state_of(o)["exp_avg"])
    ),
    "moment moved": lambda o: state_of(o)["exp_avg"].share_memory_(),
    "remainder replaced": lambda o: state_of(o).update(
        param_remainder=torch.full((*BLOCKS, 2), 99, dtype=torch.uint8)
    ),
    "remainder as it once was": lambda o: state_of(o).update(
        param_remainder=torch.full(BLOCKS, 99, dtype=torch.int16)
    ),
    "remainder moved": lambda o: state_of(o)["param_remainder"].share_memory_(),
    "remainder removed": lambda o: state_of(o).pop("param_remainder"),
    "parameter's data replaced": lambda o: setattr(
        params_of(o)[0], "data", torch.ones_like(params_of(o)[0].data)
    ),
    "another seed": lambda o: o.param_groups[0].update(seed=99),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("state_dtype", ["bfloat16", "int8"])
def test_what_happens_between_steps_is_seen(monkeypatch, state_dtype, change):
    """The step is that of an optimizer that looks at everything."""
    seeing, watching = (trained(dtype=torch.bfloat16, state_dtype=state_dtype) for _ in range(2))
    unchanged = trained(dtype=torch.bfloat16, state_dtype=state_dtype)
    for optimizer in (seeing, watching):
        change(optimizer)
    seeing._kept.tensors = None
    for optimizer in (seeing, watching, unchanged):
        go_on(optimizer)
    assert content(watching) == content(seeing)
    moved = change in (CHANGES["moment moved"], CHANGES["remainder moved"])
    assert (content(unchanged) == content(seeing)) == moved
