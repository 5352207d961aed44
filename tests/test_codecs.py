"""What is stored between steps in fewer bits than a float32, and how it is rounded."""

import formats
import numpy as np
import pytest
from reference import bits

import fastadam
from fastadam import _backend

STATE_DTYPES = ["bfloat16", "int8"]
MEMBERS = [
    ("Adam", {}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1}),
    ("AdamW", {"betas": (0.5, 0.75), "maximize": True}),
    ("NAdam", {}),
    ("RAdam", {"betas": (0.8, 0.9)}),
    ("Adamax", {}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9, "alpha": 0.5}),
    ("SGD", {"momentum": 0.9, "dampening": 0.5}),
    ("SGD", {"momentum": 0.5, "nesterov": True}),
]
N = 4096 + 77  # from 4,096 on arrays have state in 8 bits; the last block is not whole
EVERY_16_BITS = np.arange(2**16).astype(np.uint16)


def wide(rng, n, spread=15):
    """Numbers over many decades, with zeros, infinities, NaNs, subnormal and huge ones among
    them; most blocks of 64 have none of these."""
    info = np.finfo(np.float32)
    x = (rng.standard_normal(n) * 10.0 ** rng.uniform(-spread, spread, n)).astype(np.float32)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, info.max, -info.max, info.smallest_normal,
               info.smallest_subnormal, 2.8e38, 3e38]  # fmt: skip
    where = rng.integers(0, n, n // 300)
    x[where] = rng.choice(np.array(special, np.float32), where.size)
    return x


def write_codes(opt, codes):
    """Put codes into an optimizer's state."""
    for name, array in zip(formats.STATES[type(opt).__name__], formats.slot(opt).state, strict=True):
        if array is not None:
            array[...] = codes[name].reshape(array.shape)


def assert_same_codes(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        assert formats.code_bits(found[name]) == formats.code_bits(expected[name]), name


def float32_twin(opt, p, numbers, **options):
    """A float32 optimizer with this state, that has done as many steps."""
    twin = type(opt)(p, **options)
    saved, entry = twin.state_dict(), opt.state_dict()["state"][0]
    saved["state"][0] = {**entry, **numbers}
    twin.load_state_dict(saved)
    return twin


def state_of(opt):
    """The arrays of float32 state, by name."""
    arrays = zip(formats.STATES[type(opt).__name__], formats.slot(opt).state, strict=True)
    return {name: array for name, array in arrays if array is not None}


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
@pytest.mark.parametrize(("member", "chosen"), MEMBERS)
def test_a_step_is_the_float32_step_between_decoding_and_encoding(member, chosen, state_dtype):
    rng = np.random.default_rng(1)
    p = wide(rng, N, 3)
    p[~np.isfinite(p)] = 1
    options = {"lr": 0.1, **chosen}
    opt = getattr(fastadam, member)(p, state_dtype=state_dtype, seed=5, **options)
    for step in range(1, 4):
        codes = formats.codes_of(opt)
        numbers = formats.decoded(member, codes, N)
        expected = p.copy()
        twin = float32_twin(opt, expected, numbers, **options)
        g = wide(rng, N) if step < 3 else np.zeros(N, np.float32)
        opt.step(g)
        twin.step(g)
        assert bits(p) == bits(expected)
        assert_same_codes(
            formats.codes_of(opt), formats.encoded(member, state_of(twin), state_dtype, 5, step)
        )


def test_every_bfloat16_moment_is_decoded():
    p, expected = np.full((2, 2**16), -0.0, np.float32)
    opt = fastadam.SGD(p, lr=1.0, momentum=0.5, state_dtype="bfloat16")
    opt.step(np.zeros_like(p))
    write_codes(opt, {"momentum_buffer": EVERY_16_BITS})
    numbers = formats.bfloat16_numbers(EVERY_16_BITS)
    twin = float32_twin(opt, expected, {"momentum_buffer": numbers}, lr=1.0, momentum=0.5)
    for either in (opt, twin):
        either.step(np.zeros_like(p))
    assert bits(p) == bits(expected)
    normal = np.isfinite(numbers) & (np.abs(numbers) >= 2.0**-125)
    assert normal.sum() > 2**16 - 1024
    assert (p[normal] == -numbers[normal] / 2).all()


def blocks_of_every_code(scales):
    """For each scale and each code a number, in blocks."""
    codes = np.tile(np.arange(256).reshape(4, 64), (len(scales), 1))
    return np.hstack([np.repeat(scales, 4)[:, None], codes]).astype(np.uint8)


@pytest.mark.parametrize("kind", ["signed", "beside a root", "beside a number"])
def test_every_8_bit_moment_is_decoded(kind):
    """All codes under all scales that encoding gives (first moments of all sizes, as their unit
    is that of the second)."""
    member, options = {
        "signed": ("SGD", {"momentum": 0.5}),
        "beside a root": ("Adam", {"betas": (0.5, 0.5), "eps": 1e-30}),
        "beside a number": ("Adamax", {"betas": (0.5, 0.5), "eps": 1e-30}),
    }[kind]
    signed = blocks_of_every_code(np.arange(5, 219))
    codes = {"momentum_buffer": signed}
    if kind != "signed":
        positive = blocks_of_every_code(np.tile(np.arange(33, 255), 1)[: signed.shape[0] // 4])
        second = "exp_avg_sq" if kind == "beside a root" else "exp_inf"
        codes = {"exp_avg": np.roll(signed, 3, axis=0), second: positive}
        codes["exp_avg"][:, 1:] = np.roll(codes["exp_avg"][:, 1:], 11, axis=1)
    n = signed.shape[0] * 64
    p, expected = np.zeros((2, n), np.float32)
    opt = getattr(fastadam, member)(p, lr=1.0, state_dtype="int8", **options)
    opt.step(np.zeros(n, np.float32))
    assert not p.any()
    write_codes(opt, codes)
    numbers = formats.decoded(member, codes, n)
    twin = float32_twin(opt, expected, numbers, lr=1.0, **options)
    for either in (opt, twin):
        either.step(np.zeros(n, np.float32))
    assert bits(p) == bits(expected)
    assert np.isfinite(p).mean() > 0.9
    assert (p != 0).mean() > 0.9
