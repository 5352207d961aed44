"""Parameters and gradients in half precision: float16, and bfloat16 of ml_dtypes."""

import formats
import numpy as np
import pytest
from members import VARIANTS, averaging
from reference import bits

import fastadam
from fastadam import _backend, schedules

ml_dtypes = pytest.importorskip("ml_dtypes")

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT16 = np.dtype(np.float16)
FLOAT32 = np.dtype(np.float32)
HALVES = [BFLOAT16, FLOAT16]
EVERY_CODE = np.arange(2**16).astype(np.uint16)
FLT_MAX = np.finfo(np.float32).max


def rounded(master, dtype):
    """The half-precision numbers nearest to float32 ones: of two, the even float16 and the
    bfloat16 away from zero."""
    with np.errstate(over="ignore"):
        if dtype == FLOAT16:
            return master.astype(FLOAT16)
        return formats.bfloat16_params(master).view(BFLOAT16)


def widened(array):
    """A half-precision array's numbers as float32."""
    return array.astype(np.float32)


def same(a, b):
    return a.dtype == b.dtype and formats.code_bits(a) == formats.code_bits(b)


def float32_patterns():
    """All kinds of float32 numbers: of every exponent, all near to half-way between neighbours in
    either half precision, and at random."""
    rng = np.random.default_rng(1)
    random = rng.integers(0, 2**32, 2**17)
    every = np.arange(2**16, dtype=np.int64) << 16
    near = [every + middle for middle in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]
    near += [every + middle for middle in (0x0FFF, 0x1000, 0x1001, 0x3000, 0xD000)]
    codes = np.arange(2**16).astype(np.uint16).view(FLOAT16)
    with np.errstate(over="ignore", invalid="ignore"):
        middles = (codes[:-1].astype(np.float64) + codes[1:].astype(np.float64)) / 2
        middles = middles.astype(np.float32).view(np.uint32).astype(np.int64)
    near += [middles - 1, middles, middles + 1]
    patterns = np.concatenate([random, *near, [0x7F7FFFFF, 0xFF7FFFFF]])
    return (patterns % 2**32).astype(np.uint32).view(np.float32)


# Formats


def test_the_oracle_rounds_as_ml_dtypes_does_but_for_ties():
    numbers = float32_patterns()
    with np.errstate(over="ignore", invalid="ignore"):
        theirs = numbers.astype(BFLOAT16)
    ours = formats.bfloat16_params(numbers).view(BFLOAT16)
    is_tie = numbers.view(np.uint32) % 2**16 == 2**15
    assert same(ours[~is_tie], theirs[~is_tie])
    odd = numbers.view(np.uint32)[is_tie] // 2**16 % 2 == 1
    assert same(ours[is_tie][odd], theirs[is_tie][odd])
    assert (ours[is_tie][~odd].view(np.uint16) == theirs[is_tie][~odd].view(np.uint16) + 1)[
        np.isfinite(numbers[is_tie][~odd])
    ].all()
    assert same(formats.bfloat16_numbers(EVERY_CODE), widened(EVERY_CODE.view(BFLOAT16)))


@pytest.mark.parametrize("dtype", HALVES)
def test_every_gradient_is_decoded(dtype):
    g = EVERY_CODE.view(dtype)
    for target in (FLOAT32, *HALVES):
        p = np.full(2**16, -0.0, target)
        fastadam.SGD(p, lr=1.0).step(g)  # -0 - g is -g, whatever the sign of a zero is
        assert same(p, rounded(-widened(g), target) if target != FLOAT32 else -widened(g))


@pytest.mark.parametrize("dtype", HALVES)
def test_every_parameter_stays_without_a_gradient(dtype):
    p = EVERY_CODE.view(dtype).copy()
    opt = fastadam.SGD(p, lr=1.0)
    for _ in range(3):
        opt.step(np.zeros(2**16, dtype))
        assert same(p, EVERY_CODE.view(dtype))


@pytest.mark.parametrize("dtype", HALVES)
def test_every_number_is_rounded_and_kept(dtype):
    """The array has the rounded number; going back by it gives zero: no bit of it is lost."""
    numbers = float32_patterns()
    p = np.full(numbers.size, -0.0, dtype)
    opt = fastadam.SGD(p, lr=1.0)
    opt.step(-numbers)
    assert same(p, rounded(numbers, dtype))
    for _ in range(2):
        opt.step(np.zeros_like(numbers))
        assert same(p, rounded(numbers, dtype))
    opt.step(numbers)
    finite = np.isfinite(numbers)
    assert not widened(p)[finite].any()
    assert np.isnan(widened(p)[~finite]).all()
    rest = formats.slot(opt).rest
    assert rest.dtype == (np.float32 if dtype == FLOAT16 else np.int16)
    assert not rest[finite].any()


# The rounded float32 run


def draws(n, steps, seed=2):
    """Gradients of many sizes, with some zeros."""
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.uniform(-4, 2, n)
    for _ in range(steps):
        g = (rng.standard_normal(n) * sizes).astype(np.float32)
        g[rng.random(n) < 0.1] = 0
        yield g


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("member", "chosen"), VARIANTS)
def test_parameters_are_the_rounded_float32_run(member, chosen, dtype):
    """Bit for bit at each of 1,000 steps, with gradients of each dtype, a schedule, clipping,
    a loss scale and an average."""
    n = 200 + 77
    start = np.random.default_rng(3).standard_normal(n).astype(dtype)
    p, q = start.copy(), widened(start)
    lr = schedules.join(
        [schedules.linear(1e-4, 0.01, 100), schedules.cosine_decay(0.01, 900)], [100]
    )
    options = {"lr": lr, "max_grad_norm": 30.0, **averaging(member, 0.99), **chosen}
    make = getattr(fastadam, member)
    opt, twin = make(p, **options), make(q, **options)
    for step, g in enumerate(draws(n, 1000)):
        with np.errstate(over="ignore"):
            g = g.astype([FLOAT32, FLOAT16, BFLOAT16][step % 3])
        for either, grad in ((opt, g), (twin, widened(g))):
            either.step(grad, loss_scale=1.0 if step % 2 else 8.0)
        assert same(p, rounded(q, dtype)), step
        assert opt.grad_norm == twin.grad_norm
    for found, expected in zip(formats.slot(opt).state, formats.slot(twin).state, strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            assert bits(found) == bits(expected)
    average = opt.averaged_params()
    assert average.dtype == np.float32
    assert bits(average) == bits(twin.averaged_params())
    assert (p != start).mean() > 0.4  # SGD moves by little where gradients are small
    with opt.use_averaged_params():
        assert same(p, average.astype(dtype))
    assert same(p, rounded(q, dtype))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("state_dtype", ["bfloat16", "int8"])
def test_they_are_with_compressed_state_too(state_dtype, dtype):
    n = 4096 + 77
    start = np.random.default_rng(4).standard_normal(n).astype(dtype)
    p, q = start.copy(), widened(start)
    opt, twin = (fastadam.AdamW(x, lr=1e-3, state_dtype=state_dtype, seed=3) for x in (p, q))
    for g in draws(n, 100):
        with np.errstate(over="ignore"):
            g = g.astype(dtype)
        opt.step(g)
        twin.step(widened(g))
        assert same(p, rounded(q, dtype))
    codes = formats.codes_of(twin)
    for name, found in formats.codes_of(opt).items():
        assert found.tobytes() == codes[name].tobytes()


@pytest.mark.parametrize("dtype", HALVES)
def test_rows_are_the_rounded_float32_run(dtype):
    rng = np.random.default_rng(5)
    start = rng.standard_normal((50, 7)).astype(dtype)
    p, q = start.copy(), widened(start)
    opt, twin = fastadam.Adam(p, lr=0.01), fastadam.Adam(q, lr=0.01)
    for step in range(200):
        rows = rng.integers(0, 50, 9)  # some of them twice
        values = rng.standard_normal((9, 7)).astype([FLOAT32, FLOAT16, BFLOAT16][step % 3])
        opt.step(fastadam.RowGrad(rows, values))
        twin.step(fastadam.RowGrad(rows, widened(values)))
        assert same(p, rounded(q, dtype))


@pytest.mark.parametrize("dtype", HALVES)
def test_accumulated_gradients_are_summed_in_float32(dtype):
    rng = np.random.default_rng(6)
    start = rng.standard_normal((9, 7)).astype(dtype)
    p, q = start.copy(), widened(start)
    opt, twin = fastadam.Adam(p, lr=0.01), fastadam.Adam(q, lr=0.01)
    for _ in range(20):
        for kind in (dtype, FLOAT32, FLOAT16, BFLOAT16):
            g = rng.standard_normal((9, 7)).astype(kind)
            opt.accumulate(g)
            twin.accumulate(widened(g))
        rows = fastadam.RowGrad([1, 1], np.ones((2, 7), dtype))
        opt.accumulate(rows)
        twin.accumulate(fastadam.RowGrad([1, 1], np.ones((2, 7), np.float32)))
        opt.step()
        twin.step()
        assert same(p, rounded(q, dtype))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("moments", [FLOAT32, BFLOAT16])
def test_adam_step_gives_what_adam_gives(moments, dtype):
    rng = np.random.default_rng(7)
    start = rng.standard_normal(130).astype(dtype)
    p, q = start.copy(), start.copy()
    state_dtype = "bfloat16" if moments == BFLOAT16 else None
    opt = fastadam.Adam(p, lr=0.1, state_dtype=state_dtype, seed=9)
    m, v = np.zeros((2, 130), moments)
    rest = np.zeros(130, np.int16) if dtype == BFLOAT16 else widened(start)
    for step in range(1, 20):
        g = rng.standard_normal(130).astype(dtype)
        opt.step(g)
        fastadam.adam_step(q, g, m, v, step=step, lr=0.1, param_rest=rest, seed=9)
        assert same(p, q)
    assert rest.tobytes() == formats.slot(opt).rest.tobytes()
    for mine, theirs in zip((m, v), formats.slot(opt).state, strict=False):
        assert mine.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("dtype", HALVES)
def test_adam_step_says_what_it_expects_beside_half_precision(dtype):
    p, rest = np.ones(3, dtype), np.int16 if dtype == BFLOAT16 else np.float32
    columns = {"exp_avg": np.zeros(3, np.float32), "exp_avg_sq": np.zeros(3, np.float32)}
    columns["param_rest"] = np.zeros(3, rest)
    for name in columns:
        wrong = {**columns, name: np.zeros(3)}
        expected = np.dtype(rest) if name == "param_rest" else "float32"
        message = f"{name}: dtype float64, expected {expected} as the parameter is {dtype}"
        with pytest.raises(TypeError, match=message):
            fastadam.adam_step(p, np.ones(3, dtype), **wrong, step=1)
    assert (p == 1).all()


def test_adam_step_refuses_a_tensor_of_bfloat16_by_name():
    torch = pytest.importorskip("torch")
    p, g, v = np.ones((3, 3), np.float32)
    with pytest.raises(TypeError, match=r"exp_avg is a Tensor; expected a numpy\.ndarray"):
        fastadam.adam_step(p, g, torch.zeros(3, dtype=torch.bfloat16), v, step=1)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("n", [1, 3, 63, 64, 65, 127, 257, 1100])
def test_every_offset(dtype, n):
    """Results do not depend on where in a cache line an array begins, nor its gradient."""
    rng = np.random.default_rng(8)
    start, g = rng.standard_normal((2, n)).astype(dtype)
    results = []
    for offset in range(9):
        p, grad = np.zeros((2, n + 64), dtype)
        p, grad = p[offset:][:n], grad[3 * offset :][:n]
        p[...], grad[...] = start, g
        opt = fastadam.Adam(p, lr=0.1, weight_decay=0.1, state_dtype="bfloat16")
        for _ in range(3):
            opt.step(grad)
        results.append(p.tobytes())
    with _backend.using("numpy"):
        p = start.copy()
        opt = fastadam.Adam(p, lr=0.1, weight_decay=0.1, state_dtype="bfloat16")
        for _ in range(3):
            opt.step(g)
    assert {*results} == {p.tobytes()}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("order", ["F", "strided", "K"])
def test_layouts(dtype, order):
    rng = np.random.default_rng(9)
    start, g = rng.standard_normal((2, 5, 6, 7)).astype(dtype)
    laid_out = {
        "F": np.asfortranarray,
        "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        "K": lambda x: np.ascontiguousarray(x.transpose(1, 2, 0)).transpose(2, 0, 1),
    }[order]
    p, q = laid_out(start), start.copy()
    opt, twin = fastadam.Adam(p, lr=0.1), fastadam.Adam(q, lr=0.1)
    for grads in ((g, g), (laid_out(g), g), (g[::-1], g[::-1]), (widened(g), widened(g))):
        for either, grad in zip((opt, twin), grads, strict=True):
            either.step(grad)
    assert p.tobytes() == q.tobytes()
    assert (q != start).any()


# What a user writes between steps


def after_some_steps(dtype):
    """An optimizer in the midst of its work, so that there is more than its parameter has."""
    p = np.random.default_rng(10).standard_normal(300).astype(dtype)
    opt = fastadam.SGD(p, lr=1.0)
    for g in draws(300, 5):
        opt.step(g)
    return p, opt


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    "value", [1.0, -2.5, 0.0, -0.0, np.inf, -np.inf, np.nan, 1e-4, "most", "least"]
)
def test_what_is_written_counts(value, dtype):
    """It is what the array has from then on, and what the next step begins with: exactly in
    float16, and in bfloat16 but for less than half a unit in the last place."""
    info = ml_dtypes.finfo(dtype)
    value = {"most": info.max, "least": info.smallest_subnormal}.get(value, value)
    written = np.full(300, value).astype(dtype)
    p, opt = after_some_steps(dtype)
    p[...] = written
    for _ in range(3):
        opt.step(np.zeros(300, dtype))
        assert same(p, written)
    g = next(draws(300, 1, seed=11))
    opt.step(g)
    begins = widened(written)
    if dtype == FLOAT16:
        assert same(p, rounded(begins - g, dtype))
    elif np.isfinite(begins[0]):
        low, high = (begins + side * unit_of(written) / 2 for side in (-1, 1))
        assert (rounded(low - g, dtype) <= p).all()
        assert (p <= rounded(high - g, dtype)).all()
    else:
        assert same(p, written)


@pytest.mark.parametrize("dtype", HALVES)
def test_every_number_can_be_written(dtype):
    """Each number of the format, written over each kind of remainder."""
    p = np.zeros(2**16, dtype)
    opt = fastadam.SGD(p, lr=1.0)
    rng = np.random.default_rng(15)
    for _ in range(3):
        opt.step((rng.standard_normal(2**16) * 10.0 ** rng.integers(-40, 38)).astype(np.float32))
        p[...] = EVERY_CODE.view(dtype)
        opt.step(np.zeros(2**16, dtype))
        assert same(p, EVERY_CODE.view(dtype))


def unit_of(array):
    """The distance to the next bfloat16 farther from zero."""
    bits = np.abs(widened(array)).view(np.uint32)
    return (bits + 2**16).view(np.float32) - bits.view(np.float32)


@pytest.mark.parametrize("dtype", HALVES)
def test_what_is_written_into_some_elements_changes_no_other(dtype):
    start = np.random.default_rng(12).standard_normal(300).astype(dtype)
    p, q = start.copy(), widened(start)
    opt, twin = fastadam.Adam(p, lr=0.1), fastadam.Adam(q, lr=0.1)
    written = np.arange(300) % 7 == 0
    for step, g in enumerate(draws(300, 20)):
        opt.step(g)
        twin.step(g)
        if step == 9:
            p[written] = 30.0
        assert same(p[~written], rounded(q, dtype)[~written])
    assert (np.abs(widened(p[written]) - 30) < 5).all()


# Gradients


@pytest.mark.parametrize("param", [FLOAT32, *HALVES])
@pytest.mark.parametrize("grad", [FLOAT32, *HALVES])
def test_gradients_of_another_dtype_are_what_they_are_in_float32(param, grad):
    rng = np.random.default_rng(13)
    start = rng.standard_normal((40, 9)).astype(param)
    p, q = start.copy(), start.copy()
    make = {"lr": 0.1, "max_grad_norm": 1.0}
    opt, twin = fastadam.Adam({"w": p}, **make), fastadam.Adam({"w": q}, **make)
    for _ in range(10):
        g = rng.standard_normal((40, 9)).astype(grad)
        for given in (g, np.asfortranarray(g)):
            opt.step({"w": given})
            twin.step({"w": widened(given)})
            assert p.tobytes() == q.tobytes()
            assert opt.grad_norm == twin.grad_norm
    assert (p != start).mean() > 0.9


@pytest.mark.parametrize("param", [FLOAT32, *HALVES, np.dtype(np.float64), np.dtype(np.complex64)])
def test_gradients_of_other_dtypes_are_refused_by_name(param):
    p = np.ones(3, param)
    opt = fastadam.Adam({"w": p})
    others = [np.uint16, np.int16, np.float64, np.complex64, ">f4", ">f2", bool]
    if param not in (FLOAT32, *HALVES):
        others += [np.float16, BFLOAT16, np.float32]
    for other in map(np.dtype, others):
        if other == param:
            continue
        with pytest.raises(TypeError, match=rf"grads\['w'\]: dtype {other}, expected {param}"):
            opt.step({"w": np.ones(3, other)})
    assert (p == 1).all()
    assert opt.finished_steps == 0


def test_parameters_of_other_dtypes_are_refused_by_name():
    for other in (np.uint16, np.int8, ">f2", ml_dtypes.float8_e4m3fn):
        with pytest.raises(
            TypeError, match=r"params\['w'\]: dtype .*, expected float32, .*bfloat16"
        ):
            fastadam.Adam({"w": np.ones(3, other)})


@pytest.mark.parametrize("param", [FLOAT32, *HALVES])
def test_an_overflow_under_a_loss_scale_is_skipped(param):
    start = np.random.default_rng(14).standard_normal(70).astype(param)
    p, q = start.copy(), start.copy()
    opt = fastadam.Adam(p, lr=0.1, skip_nonfinite=True)
    twin = fastadam.Adam(q, lr=0.1)
    scale = 2.0**16
    for step, g in enumerate(draws(70, 20)):
        with np.errstate(over="ignore"):
            scaled = (g * scale).astype(np.float16)
        if step % 4:
            scaled = (g * (scale / 2**13)).astype(np.float16)
            scaled = np.clip(scaled, -6e4, 6e4).astype(np.float16)
        before = p.copy()
        opt.step(scaled, loss_scale=scale)
        if np.isfinite(scaled).all():
            twin.step(widened(scaled), loss_scale=scale)
        else:
            assert p.tobytes() == before.tobytes()
        assert p.tobytes() == q.tobytes()
    assert opt.skipped_steps == 5
    assert opt.finished_steps == twin.finished_steps == 15


@pytest.mark.parametrize("param", [FLOAT32, *HALVES])
def test_without_skipping_an_overflow_becomes_nan_as_in_float32(param):
    p, q = np.ones(70, param), np.ones(70, param)
    g = np.ones(70, np.float16)
    g[3] = np.inf
    for x, grad in ((p, g), (q, widened(g))):
        fastadam.Adam(x, lr=0.1).step(grad)
    assert same(p, q)
    assert np.isnan(widened(p)).sum() == 1


def test_a_float16_parameter_beyond_its_range_comes_back():
    """Its float32 master goes on counting."""
    p = np.full(5, 65504, np.float16)
    opt = fastadam.SGD(p, lr=1.0)
    opt.step(np.full(5, -1000.0, np.float32))
    assert np.isinf(p).all()
    opt.step(np.full(5, 1000.0, np.float32))
    assert (p == 65504).all()


@pytest.mark.parametrize("start", [6e4, 1e-7])
@pytest.mark.parametrize("dtype", HALVES)
def test_an_average_beyond_the_range_is_put_there_in_silence(dtype, start):
    p = np.full(3, start, dtype)
    opt = fastadam.SGD(p, lr=1.0, ema_decay=0.5)
    opt.step(np.full(3, -start, FLOAT32))
    before = p.copy()
    with np.errstate(over="ignore", under="ignore"):
        expected = opt.averaged_params().astype(dtype)
    with np.errstate(all="raise"), opt.use_averaged_params():
        assert same(p, expected)
    assert same(p, before)


@pytest.mark.parametrize("dtype", HALVES)
def test_small_updates_add_up(dtype):
    """Each far smaller than the distance between neighbours."""
    p = np.ones(100, dtype)
    opt = fastadam.SGD(p, lr=1.0)
    for _ in range(2000):
        opt.step(np.full(100, 1e-4, np.float32))
    assert np.abs(widened(p) - 0.8).max() < 0.01
    p = np.ones(100, dtype)  # and so does weight decay
    opt = fastadam.AdamW(p, lr=1e-3, weight_decay=0.1)
    for _ in range(2000):
        opt.step(np.zeros(100, dtype))
    assert np.abs(widened(p) - np.exp(-0.2)).max() < 0.01


@pytest.mark.parametrize("dtype", HALVES)
def test_hyper_parameters_are_those_of_float32(dtype):
    with pytest.raises(ValueError, match="1 in float32"):
        fastadam.Adam(np.ones(3, dtype), betas=(0.9, 1 - 1e-9))
