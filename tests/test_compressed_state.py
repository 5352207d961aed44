"""State dicts, checkpoints, pickles and copies of compressed state and half precision."""

import copy
import json
import pickle
import tracemalloc

import formats
import numpy as np
import pytest
from members import FIRST, OF_TORCH, averaging
from reference import bits

import fastadam
from fastadam import _files

ml_dtypes = pytest.importorskip("ml_dtypes")

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT32, FLOAT16, COMPLEX64 = map(np.dtype, (np.float32, np.float16, np.complex64))
DTYPES = [FLOAT32, FLOAT16, BFLOAT16, COMPLEX64]
STATE_DTYPES = [None, "bfloat16", "int8"]
SHAPE = (65, 70)  # 4,550 numbers, of which the last block of 64 has 6


def drawn(rng, like):
    """Numbers over some decades, of an array's shape and dtype."""
    x = rng.standard_normal((2, *like.shape)) * 10.0 ** rng.uniform(-3, 1, (2, *like.shape))
    return (x[0] + 1j * x[1] if like.dtype.kind == "c" else x[0]).astype(like.dtype)


def make(member="Adam", dtype=FLOAT32, state_dtype=None, start=0, **options):
    """An optimizer of arrays in several layouts, and a small one."""
    rng = np.random.default_rng(start)
    params = {
        "c": drawn(rng, np.empty(SHAPE, dtype)),
        "f": np.asfortranarray(drawn(rng, np.empty(SHAPE, dtype))),
        "s": drawn(rng, np.empty((SHAPE[0], 2 * SHAPE[1]), dtype))[:, ::2],
        "small": drawn(rng, np.empty((2, 3), dtype)),
    }
    options = {"lr": 0.1, "state_dtype": state_dtype, **FIRST[member], **options}
    return getattr(fastadam, member)(params, **options)


def train(opt, rng, steps):
    for _ in range(steps):
        opt.step({key: drawn(rng, param) for key, param in opt.params.items()})
    return opt


def seen(opt):
    """All that there is of an optimizer, byte for byte; but not where its arrays lie."""
    saved = opt.state_dict()
    entries = {
        key: {name: bits_of(value) for name, value in entry.items()}
        for key, entry in saved["state"].items()
    }
    return entries, saved["param_groups"], {k: bits(p) for k, p in opt.params.items()}


def bits_of(value):
    if isinstance(value, np.ndarray):
        return value.dtype.name, value.shape, value.tobytes()
    return value


def stored(opt, i=0):
    """The names, dtypes and shapes of an array's state."""
    entry = list(opt.state_dict()["state"].values())[i]
    return {
        name: (value.dtype.name, value.shape)
        for name, value in entry.items()
        if isinstance(value, np.ndarray)
    }


# A run that is interrupted


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("member", FIRST)
def test_an_interrupted_run_has_the_same_bytes(member, dtype, state_dtype, tmp_path):
    def other():
        """Of other parameters and options, which a load replaces."""
        return train(
            make(member, dtype, state_dtype, start=1, seed=9, **averaging(member)),
            np.random.default_rng(2),
            1,
        )

    opt = make(member, dtype, state_dtype, seed=3, **averaging(member))
    rng = np.random.default_rng(4)
    train(opt, rng, 3)
    runs = {"copy": copy.deepcopy(opt), "pickle": pickle.loads(pickle.dumps(opt))}
    runs["state dict"] = other()
    for key, param in runs["state dict"].params.items():
        param[...] = opt.params[key]
    runs["state dict"].load_state_dict(opt.state_dict())
    for name in "x.ckpt", "x.safetensors":
        opt.save(tmp_path / name, params=True)
        runs[name] = other()
        runs[name].load(tmp_path / name, params=True)
    for name, run in runs.items():
        assert seen(run) == seen(opt), name
        assert run.state_bytes == opt.state_bytes
    later = rng.bit_generator.state
    train(opt, rng, 3)
    for name, run in runs.items():
        rng.bit_generator.state = later
        assert seen(train(run, rng, 3)) == seen(opt), name


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)
def test_what_the_user_writes_before_a_save_is_loaded(dtype, state_dtype, tmp_path):
    opt = train(make("Adam", dtype, state_dtype), np.random.default_rng(5), 2)
    opt.params["c"][:3] = 0.25
    opt.save(tmp_path / "x", params=True)
    again = make("Adam", dtype, state_dtype, start=1)
    again.load(tmp_path / "x")
    assert seen(again) == seen(opt)
    for run in opt, again:
        train(run, np.random.default_rng(6), 1)
    assert seen(again) == seen(opt)


# What a state dict holds


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_names_dtypes_and_shapes(dtype):
    real = "complex64" if dtype == COMPLEX64 else "float32"
    n = 4550 * (2 if dtype == COMPLEX64 else 1)
    expected = {
        None: (real, SHAPE),
        "bfloat16": ("uint16", (*SHAPE, 2) if dtype == COMPLEX64 else SHAPE),
        "int8": ("uint8", (-(-n // 64), 65)),
    }
    rest = {
        BFLOAT16: {"param_remainder": ("int16", SHAPE)},
        FLOAT16: {"master_param": ("float32", SHAPE)},
    }.get(dtype, {})
    moments = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    for state_dtype, form in expected.items():
        opt = make("Adam", dtype, state_dtype, ema_decay=0.5)
        average = {"averaged_param": (real, SHAPE)}
        assert stored(opt) == {**dict.fromkeys(moments, form), **average, **rest}
        small = ("float32" if real == "float32" else real, (2, 3))
        if state_dtype == "bfloat16":
            small = ("uint16", (2, 3, 2) if dtype == COMPLEX64 else (2, 3))
        assert stored(opt, 3)["exp_avg"] == small
        decoded = opt.state_dict(decoded=True)
        for entry in decoded["state"].values():
            assert set(entry) == {"step", *moments, "averaged_param"}
            for name in moments:
                assert entry[name].dtype == real
                assert entry[name].shape == entry["averaged_param"].shape


def test_the_remainder_and_the_master_are_the_float32_run():
    runs = [
        fastadam.Adam(np.linspace(-2, 2, 100).astype(FLOAT16).astype(dtype), lr=1e-4)
        for dtype in (FLOAT32, FLOAT16, BFLOAT16)
    ]
    runs[0].params[...] = runs[2].params  # of both dtypes
    runs[1].params[...] = runs[2].params
    for run in runs[:2]:
        run.load_state_dict(fastadam.Adam(run.params.copy()).state_dict())
        run.lr = 1e-4
    for _ in range(5):
        for run in runs:
            run.step(np.ones(100, np.float32))
    numbers, full, upper = (run.params for run in runs)
    assert bits(runs[1].state_dict()["state"][0]["master_param"]) == bits(numbers)
    assert full.tolist() == numbers.astype(np.float16).tolist()
    remainder = runs[2].state_dict()["state"][0]["param_remainder"]
    whole = (upper.view(np.uint16).astype(np.uint32) << 16) + remainder.astype(np.uint32)
    assert bits(whole.view(np.float32)) == bits(numbers)


@pytest.mark.parametrize("state_dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("member", FIRST)
def test_decoded_moments_are_what_the_codes_stand_for(member, state_dtype):
    param = np.zeros(SHAPE, np.float32)
    opt = getattr(fastadam, member)(param, state_dtype=state_dtype, **FIRST[member])
    rng = np.random.default_rng(7)
    for _ in range(3):
        opt.step(drawn(rng, param))
    expected = formats.decoded(member, formats.codes_of(opt), param.size)
    entry = opt.state_dict(decoded=True)["state"][0]
    assert expected.keys() == {k for k, v in entry.items() if isinstance(v, np.ndarray)}
    for name, numbers in expected.items():
        assert bits(entry[name].reshape(-1)) == bits(numbers), name


@pytest.mark.parametrize("state_dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_decoded_moments_step_the_parameters_alike(dtype, state_dtype):
    """In every layout the numbers belong to the elements to which the codes belong."""
    opt = train(make("Adam", dtype, state_dtype), np.random.default_rng(8), 3)
    other = make("Adam", dtype)
    for key, param in other.params.items():
        param[...] = opt.params[key]
    saved = opt.state_dict()
    other.load_state_dict(saved)
    for entry, decoded in zip(
        other.state_dict()["state"].values(),
        opt.state_dict(decoded=True)["state"].values(),
        strict=True,
    ):
        for name in "exp_avg", "exp_avg_sq", "max_exp_avg_sq":
            assert bits_of(entry[name]) == bits_of(decoded[name])
    for run in opt, other:
        train(run, np.random.default_rng(9), 1)
    for key, param in other.params.items():
        assert bits(param) == bits(opt.params[key]), key


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("state_dtype", [None, "bfloat16"])
def test_moments_of_an_array_without_axes_are_arrays(state_dtype, dtype):
    opt = fastadam.Adam(np.ones((), dtype), state_dtype="bfloat16")
    opt.step(np.ones((), dtype))
    entry = opt.state_dict(decoded=True)["state"][0]
    expected = COMPLEX64 if dtype == COMPLEX64 else FLOAT32
    for name in "exp_avg", "exp_avg_sq":
        assert isinstance(entry[name], np.ndarray)
        assert (entry[name].dtype, entry[name].shape) == (expected, ())
    other = fastadam.Adam(np.ones((), dtype), state_dtype=state_dtype)
    other.load_state_dict(opt.state_dict())
    loaded = other.state_dict(decoded=True)["state"][0]
    assert [bits_of(loaded[name]) for name in entry] == [bits_of(entry[name]) for name in entry]
    saved = other.state_dict()["state"][0]
    assert saved["exp_avg"].dtype == (expected if state_dtype is None else np.uint16)


# Loading what is stored in another way


@pytest.mark.parametrize("state_dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("member", FIRST)
def test_float32_moments_are_rounded_as_in_the_step(member, dtype, state_dtype):
    """After the first step, before which all are zero, the same numbers were rounded there."""
    options = {"seed": 11, **averaging(member)}
    plain, coded = make(member, dtype, **options), make(member, dtype, state_dtype, **options)
    for run in plain, coded:
        train(run, np.random.default_rng(10), 1)
    loaded = make(member, dtype, state_dtype, **averaging(member))
    for key, param in loaded.params.items():
        param[...] = plain.params[key]
    saved = plain.state_dict()
    loaded.load_state_dict(saved)
    assert seen(loaded) == seen(coded)
    again = make(member, dtype, state_dtype, **averaging(member))
    saved["param_groups"][0]["seed"] = 12
    again.load_state_dict(saved)
    if (member, dtype, state_dtype) != ("SGD", BFLOAT16, "bfloat16"):  # whose first is a gradient
        assert seen(again)[0] != seen(coded)[0]  # the seed decides


@pytest.mark.parametrize("state_dtype", ["bfloat16", "int8"])
def test_long_arrays_are_converted_in_parts(state_dtype):
    n = 2 * 65536 + 70
    plain = fastadam.Adam(np.zeros(n, np.float32), seed=1)
    coded = fastadam.Adam(np.zeros(n, np.float32), seed=1, state_dtype=state_dtype)
    gradient = drawn(np.random.default_rng(12), plain.params)
    for run in plain, coded:
        run.step(gradient)
    loaded = fastadam.Adam(plain.params.copy(), state_dtype=state_dtype)
    loaded.load_state_dict(plain.state_dict())
    assert bits(loaded.params) == bits(coded.params)
    found, expected = (run.state_dict()["state"][0] for run in (loaded, coded))
    decoded = coded.state_dict(decoded=True)["state"][0]
    numbers = formats.decoded("Adam", formats.codes_of(coded), n)
    for name in "exp_avg", "exp_avg_sq":
        assert bits(found[name]) == bits(expected[name])
        assert bits(decoded[name]) == bits(numbers[name])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ways", [("bfloat16", "int8"), ("int8", "bfloat16")])
def test_between_formats_numbers_are_rounded_once(ways, dtype):
    first, second = ways
    opt = train(make("Adam", dtype, first, seed=2), np.random.default_rng(13), 3)
    saved = opt.state_dict()
    runs = []
    for given in saved, opt.state_dict(decoded=True):
        runs.append(make("Adam", dtype, second))
        runs[-1].load_state_dict(given)
    entries = [run.state_dict()["state"] for run in runs]
    for key in entries[0]:
        for name in "exp_avg", "exp_avg_sq", "max_exp_avg_sq":
            assert bits_of(entries[0][key][name]) == bits_of(entries[1][key][name])
    assert {group["state_dtype"] for run in runs for group in run.param_groups} == {second}
    assert {group["seed"] for run in runs for group in run.param_groups} == {2}


@pytest.mark.parametrize("dtype", [FLOAT32, COMPLEX64], ids=str)
def test_decoded_bfloat16_comes_back_exactly(dtype):
    """A number that has a code is not rounded."""
    opt = train(make("Adam", dtype, "bfloat16"), np.random.default_rng(14), 3)
    before = seen(opt)
    opt.load_state_dict(opt.state_dict(decoded=True))
    assert seen(opt) == before


@pytest.mark.parametrize("name", ["x.ckpt", "x.safetensors"])
def test_files_of_other_formats_are_converted(name, tmp_path):
    opts = {s: make("Adam", BFLOAT16, s, start=i) for i, s in enumerate(STATE_DTYPES)}
    for opt in opts.values():
        train(opt, np.random.default_rng(15), 2)
    for opt in opts.values():
        opt.save(tmp_path / name, params=True)
        for state_dtype in STATE_DTYPES:
            loaded, expected = (make("Adam", BFLOAT16, state_dtype) for _ in range(2))
            loaded.load(tmp_path / name, params=True)
            for key, param in expected.params.items():
                param[...] = opt.params[key]
            expected.load_state_dict(opt.state_dict())
            assert seen(loaded) == seen(expected)


def test_ml_dtypes_arrays_are_taken_like_codes():
    opt = train(make("Adam", FLOAT32, "bfloat16"), np.random.default_rng(16), 2)
    saved = opt.state_dict()
    for entry in saved["state"].values():
        for name in "exp_avg", "exp_avg_sq", "max_exp_avg_sq":
            entry[name] = entry[name].view(BFLOAT16)
    before, _, _ = seen(opt)
    train(opt, np.random.default_rng(17), 1).load_state_dict(saved)
    assert seen(opt)[0] == before


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
@pytest.mark.parametrize("stored_in", [FLOAT16, BFLOAT16], ids=str)
def test_state_of_torch_for_half_precision(stored_in, state_dtype):
    """torch.optim keeps moments in the parameters' dtype."""
    torch = pytest.importorskip("torch")
    name = {FLOAT16: "float16", BFLOAT16: "bfloat16"}[stored_in]
    tensor = torch.linspace(0.5, 1, 5000).to(getattr(torch, name))
    theirs = torch.optim.Adam([tensor])
    tensor.grad = tensor * 2
    theirs.step()
    param = np.linspace(0.5, 1, 5000).astype(stored_in)
    ours = fastadam.Adam(param, state_dtype=state_dtype)
    ours.load_state_dict(theirs.state_dict())
    found = ours.state_dict(decoded=True)["state"][0]
    expected = theirs.state_dict()["state"][0]
    assert found["step"] == 1
    for moment in "exp_avg", "exp_avg_sq":
        numbers = expected[moment].float().numpy()
        if state_dtype == "int8":
            np.testing.assert_allclose(found[moment], numbers, rtol=1 / 8)
        elif state_dtype is None or stored_in == BFLOAT16:
            assert bits(found[moment]) == bits(numbers)
        else:
            np.testing.assert_allclose(found[moment], numbers, rtol=2**-7)
    ours.step(param)


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
@pytest.mark.parametrize("member", OF_TORCH)
def test_torch_loads_what_is_decoded(member, state_dtype):
    torch = pytest.importorskip("torch")
    param = np.linspace(-1, 1, 5000).astype(np.float32)
    ours = getattr(fastadam, member)(param, state_dtype=state_dtype, **FIRST[member])
    for _ in range(3):
        ours.step(np.cos(param))
    saved = ours.state_dict(decoded=True)
    (entry,) = saved["state"].values()
    for name, value in entry.items():
        if isinstance(value, np.ndarray):
            entry[name] = torch.from_numpy(value)
        elif member != "SGD":
            entry[name] = torch.tensor(float(value))
    tensor = torch.from_numpy(param.copy())
    theirs = getattr(torch.optim, member)([tensor], **FIRST[member])
    theirs.load_state_dict(saved)
    grad = np.sin(param)
    tensor.grad = torch.from_numpy(grad)
    before = param.copy()
    theirs.step()
    ours.step(grad)
    np.testing.assert_allclose(tensor.numpy() - before, param - before, rtol=1e-3, atol=1e-6)


# What is missing, left over or wrong


@pytest.mark.parametrize(
    ("dtype", "name"), [(BFLOAT16, "param_remainder"), (FLOAT16, "master_param")], ids=str
)
def test_without_what_it_lacks_a_parameter_is_what_it_is(dtype, name):
    opt = train(make("SGD", dtype, momentum=0.5, lr=0.01), np.random.default_rng(18), 3)
    saved = opt.state_dict()
    for entry in saved["state"].values():
        del entry[name]
    opt.load_state_dict(saved)
    expected = make("SGD", FLOAT32, momentum=0.5, lr=0.01)
    for key, param in expected.params.items():
        param[...] = opt.params[key]
    expected.load_state_dict(saved)
    for run in opt, expected:
        rng = np.random.default_rng(19)
        run.step({key: drawn(rng, np.empty(p.shape, FLOAT32)) for key, p in run.params.items()})
    for key, param in expected.params.items():
        found = opt.params[key]
        if dtype == FLOAT16:
            assert bits(found) == bits(param.astype(FLOAT16))
        else:
            plain = np.ascontiguousarray(param)
            assert bits(np.ascontiguousarray(found)) == bits(formats.bfloat16_params(plain))


def test_what_a_float32_parameter_does_not_lack_is_left_out():
    for dtype in BFLOAT16, FLOAT16:
        saved = train(make("Adam", dtype, "bfloat16"), np.random.default_rng(20), 2).state_dict()
        opt = make("Adam", FLOAT32, "bfloat16")
        opt.load_state_dict(saved)
        for key, entry in opt.state_dict()["state"].items():
            assert set(entry) == {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
            for name, value in entry.items():
                assert bits_of(value) == bits_of(saved["state"][key][name])


def test_groups_of_old_files_lack_the_options_of_storage(tmp_path):
    opt = make("Adam")
    train(opt, np.random.default_rng(21), 2).save(tmp_path / "x")
    header, arrays = _files.read(tmp_path / "x")
    for group in header["param_groups"]:
        del group["state_dtype"], group["seed"]
    _files.write(tmp_path / "x", header, arrays)
    assert (tmp_path / "x").read_bytes()[8] == 1  # the version that there was
    for state_dtype in None, "int8":
        loaded = make("Adam", state_dtype=state_dtype, seed=5)
        loaded.load(tmp_path / "x")
        assert loaded.param_groups[0]["seed"] == 5
        assert loaded.param_groups[0]["state_dtype"] == state_dtype
        expected = make("Adam", state_dtype=state_dtype)
        saved = opt.state_dict()
        saved["param_groups"][0]["seed"] = 5
        expected.load_state_dict(saved)
        assert seen(loaded) == seen(expected)


def replaced(name, value):
    return lambda entry: entry.update({name: value})


WRONG = {
    "shape of codes": (
        replaced("exp_avg", np.zeros((65, 71), np.uint16)),
        ValueError,
        r"\['c'\]\['exp_avg'\]: shape \(65, 71\), expected \(65, 70\) as the parameter's",
    ),
    "blocks": (
        replaced("exp_avg", np.zeros((71, 65), np.uint8)),
        ValueError,
        r"\['c'\]\['exp_avg'\]: shape \(71, 65\), expected \(72, 65\) as uint8 of a parameter of "
        r"shape \(65, 70\)",
    ),
    "blocks of another width": (
        replaced("exp_avg_sq", np.zeros((72, 64), np.uint8)),
        ValueError,
        r"\['exp_avg_sq'\]: shape \(72, 64\), expected \(72, 65\)",
    ),
    "float64": (
        replaced("exp_avg", np.zeros(SHAPE)),
        TypeError,
        r"\['c'\]\['exp_avg'\]: dtype float64, expected float32, bfloat16, uint8 or float16, as "
        "the parameter is bfloat16",
    ),
    "int8": (replaced("exp_avg", np.zeros(SHAPE, np.int8)), TypeError, "dtype int8, expected"),
    "foreign order": (replaced("exp_avg", np.zeros(SHAPE, ">u2")), TypeError, "dtype >u2, expec"),
    "a list": (replaced("exp_avg", [0]), TypeError, r"\['exp_avg'\] is a list; expected a numpy"),
    "one in 8 bits": (
        replaced("exp_avg", np.zeros((72, 65), np.uint8)),
        ValueError,
        r"\['c'\] has moments of different dtypes: .*uint8",
    ),
    "remainder of another dtype": (
        replaced("param_remainder", np.zeros(SHAPE, np.uint16)),
        TypeError,
        r"\['param_remainder'\]: dtype bfloat16, expected int16, as the parameter is bfloat16",
    ),
    "remainder of another shape": (
        replaced("param_remainder", np.zeros(65 * 70, np.int16)),
        ValueError,
        r"\['param_remainder'\]: shape \(4550,\), expected \(65, 70\)",
    ),
    "average of another dtype": (
        replaced("averaged_param", np.zeros(SHAPE, np.uint16)),
        TypeError,
        r"\['averaged_param'\]: dtype bfloat16, expected float32, as the parameter is bfloat16",
    ),
    "an unknown key": (replaced("scale", np.ones(1)), KeyError, "has the keys"),
    "no moment": (lambda entry: entry.pop("exp_avg"), KeyError, "has the keys"),
}


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_changes_nothing(case, state_dtype):
    change, error, match = WRONG[case]
    opt = train(make("Adam", BFLOAT16, state_dtype, ema_decay=0.5), np.random.default_rng(22), 2)
    if case == "one in 8 bits" and state_dtype == "int8":
        change = replaced("exp_avg", np.zeros(SHAPE, np.float32))
    saved = opt.state_dict()
    saved["param_groups"][0]["lr"] = 5.0
    change(saved["state"]["c"])
    before = seen(opt)
    with pytest.raises(error, match=match):
        opt.load_state_dict(saved)
    assert seen(opt) == before


@pytest.mark.parametrize("dtype", [np.dtype(np.float64), np.dtype(np.complex128)], ids=str)
def test_codes_do_not_stand_for_double_precision(dtype):
    opt = make("Adam", dtype)
    saved = opt.state_dict()
    for name, codes in {
        "uint8": np.zeros((72, 65), np.uint8),
        "bfloat16": np.zeros(SHAPE, np.uint16),
    }.items():
        saved["state"]["c"]["exp_avg"] = codes
        with pytest.raises((TypeError, ValueError), match=rf"shape \(72, 65\)|dtype {name}, exp"):
            opt.load_state_dict(saved)


@pytest.mark.parametrize("name", ["x.ckpt", "x.safetensors"])
def test_a_file_with_parameters_of_another_dtype_is_refused(name, tmp_path):
    words = {FLOAT32: "float32", FLOAT16: "float16", BFLOAT16: "bfloat16", COMPLEX64: "complex64"}
    for dtype, word in words.items():
        train(make("SGD", dtype, momentum=0.5), np.random.default_rng(23), 1).save(
            tmp_path / name, params=True
        )
        for other in words:
            opt = train(make("SGD", other, momentum=0.5), np.random.default_rng(24), 1)
            before = seen(opt)
            if other == dtype:
                continue
            with pytest.raises(TypeError, match=rf"\['c'\]: dtype {word}, expected {words[other]}"):
                opt.load(tmp_path / name)
            assert seen(opt) == before


@pytest.mark.parametrize("target", STATE_DTYPES)
@pytest.mark.parametrize("source", ["bfloat16", "int8"])
@pytest.mark.parametrize("member", FIRST)
def test_any_codes_are_numbers(member, source, target):
    """What was damaged, or made to do harm, is loaded, stepped and saved like other codes."""
    rng = np.random.default_rng(25)
    opt, other = make(member, BFLOAT16, source), make(member, BFLOAT16, target)
    saved = opt.state_dict()
    for entry in saved["state"].values():
        for value in entry.values():
            if isinstance(value, np.ndarray):
                data = rng.integers(0, 256, value.nbytes, np.uint8)
                value[...] = data.view(value.dtype).reshape(value.shape)
    expected = {key: dict(entry) for key, entry in saved["state"].items()}
    opt.load_state_dict(saved)
    for key, entry in opt.state_dict()["state"].items():
        for name, value in entry.items():
            assert bits_of(value) == bits_of(expected[key][name])
    other.load_state_dict(saved)
    train(other, rng, 2)
    other.load_state_dict(other.state_dict())


# Files


def test_safetensors_hold_what_their_dtypes_say(tmp_path):
    for state_dtype, kind in ("bfloat16", "BF16"), ("int8", "U8"), (None, "F32"):
        opt = train(make("AdamW", BFLOAT16, state_dtype), np.random.default_rng(26), 1)
        opt.save(tmp_path / "x.safetensors", params=True)
        content = (tmp_path / "x.safetensors").read_bytes()
        n_head = int.from_bytes(content[:8], "little")
        head = json.loads(content[8 : 8 + n_head])
        kinds = {"c": "BF16", "c.param_remainder": "I16", "c.exp_avg": kind, "c.exp_avg_sq": kind}
        assert {name: head[name]["dtype"] for name in kinds} == kinds
        begin, end = head["c"]["data_offsets"]
        assert content[8 + n_head :][begin:end] == opt.params["c"].tobytes()
        saved = opt.state_dict()["state"]["c"]
        for name in "exp_avg", "exp_avg_sq", "param_remainder":
            begin, end = head[f"c.{name}"]["data_offsets"]
            assert content[8 + n_head :][begin:end] == saved[name].tobytes()


# Memory


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("member", FIRST)
def test_state_bytes_are_those_of_the_arrays(member, dtype, state_dtype):
    opt = make(member, dtype, state_dtype, **averaging(member))
    for _ in range(2):
        assert opt.state_bytes == sum(
            value.nbytes
            for entry in opt.state_dict()["state"].values()
            for value in entry.values()
            if isinstance(value, np.ndarray)
        )
        train(opt, np.random.default_rng(27), 1)


@pytest.mark.parametrize(
    ("dtype", "state_dtype", "most"),
    [
        (FLOAT32, "bfloat16", 4.3),
        (FLOAT32, "int8", 2.4),
        (BFLOAT16, "bfloat16", 6.4),
        (BFLOAT16, "int8", 4.4),
        (FLOAT16, "bfloat16", 8.4),
    ],
    ids=str,
)
def test_memory_for_state(dtype, state_dtype, most, backend):
    """Of the compiled backend; NumPy's has scratch as large as the parameter besides."""
    n = 1 << 20
    param, gradient = np.zeros(n, dtype), np.ones(n, dtype)
    tracemalloc.start()
    try:
        opt = fastadam.Adam(param, state_dtype=state_dtype)
        opt.step(gradient)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert opt.state_bytes <= most * n
    if backend != "numpy":
        assert opt.state_bytes <= taken <= most * n
