"""What is stored between steps in fewer bits than a float32, and how it is rounded."""

import formats
import numpy as np
import pytest
from members import FIRST, VARIANTS, averaging, has_codes
from reference import bits

import fastadam
from fastadam import _backend

STATE_DTYPES = ["bfloat16", "int8"]
CODED = [(name, chosen) for name, chosen in VARIANTS if has_codes(chosen)]
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
    for name, array in zip(
        formats.STATES[type(opt).__name__], formats.slot(opt).state, strict=True
    ):
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
@pytest.mark.parametrize(("member", "chosen"), CODED)
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
    scales = np.arange(12, 224)  # the odd ones are of blocks with numbers that are not finite
    signed = blocks_of_every_code(scales)
    codes = {"momentum_buffer": signed}
    if kind != "signed":
        positive = blocks_of_every_code(scales)
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


def with_moment(g, state_dtype, momentum=1.0, seed=0):
    """An optimizer whose moment is this gradient."""
    opt = fastadam.SGD(
        np.zeros_like(g), lr=0.0, momentum=momentum, state_dtype=state_dtype, seed=seed
    )
    opt.step(g)
    return opt


def moment_of(opt, n=N):
    return formats.decoded("SGD", formats.codes_of(opt), n)["momentum_buffer"]


def test_a_number_that_bfloat16_has_keeps_its_code():
    g = formats.bfloat16_numbers(EVERY_16_BITS)
    g[np.abs(g) < np.finfo(np.float32).smallest_normal] = 0
    opt = with_moment(g, "bfloat16")
    for _ in range(20):
        opt.step(np.zeros_like(g))
        assert bits(moment_of(opt, g.size)) == bits(g)


def test_a_number_that_8_bits_have_keeps_its_code():
    """As long as the block keeps its scale; its largest number may grow beyond that when it is
    rounded up."""
    opt = with_moment(np.random.default_rng(2).standard_normal(N).astype(np.float32), "int8")
    before, scales = moment_of(opt), formats.codes_of(opt)["momentum_buffer"][:, 0]
    for _ in range(20):
        opt.step(np.zeros(N, np.float32))
    same = (scales == formats.codes_of(opt)["momentum_buffer"][:, 0]).repeat(64)[:N]
    assert same.mean() > 0.9
    assert (before == moment_of(opt))[same].all()


def test_how_far_8_bits_are_off():
    """By less than an eighth for numbers that are not negative, and for others by less than a
    sixteenth, and besides by a share of the block's largest."""
    rng = np.random.default_rng(3)
    g = (rng.standard_normal(N) * 10.0 ** rng.uniform(-3, 3, N)).astype(np.float32)
    opt = fastadam.RMSprop(np.zeros(N, np.float32), alpha=0.0, state_dtype="int8")
    opt.step(g)  # the moment is the gradient's square
    positive = formats.decoded("RMSprop", formats.codes_of(opt), N)["square_avg"]
    largest = formats.in_blocks(np.abs(g)).max(1).repeat(64)[:N]
    share = largest * largest * 2.0**-29
    assert 0.5 < (g * g >= share).mean() < 1
    assert 0.1 < (np.abs(positive - g * g) / (g * g + share)).max() < 1 / 8
    assert (positive > 0).all()
    signed = moment_of(with_moment(g, "int8"))
    assert (np.abs(signed - g) < np.abs(g) / 16 + largest / 896).all()
    assert (signed * g >= 0).all()


def test_a_first_moment_in_8_bits_is_off_by_little_beside_the_root_of_the_second():
    """However different the numbers of a block are: so no update is wrong by much."""
    rng = np.random.default_rng(4)
    scales = np.float32(10) ** rng.uniform(-2, 2, N).astype(np.float32)
    p, expected = np.zeros((2, N), np.float32)
    opt = fastadam.Adam(p, lr=1.0, state_dtype="int8")
    twin = fastadam.Adam(expected, lr=1.0)
    for _ in range(30):
        g = scales * rng.standard_normal(N).astype(np.float32)
        opt.step(g)
        twin.step(g)
    found = formats.decoded("Adam", formats.codes_of(opt), N)
    off = np.abs(found["exp_avg"] - state_of(twin)["exp_avg"])
    beside = np.sqrt(state_of(twin)["exp_avg_sq"])
    assert 0.001 < (off / beside).mean() < 0.1
    assert (off / beside).max() < 1


# Rounding


def draws(g, state_dtype, by, n=256):
    """What a moment is rounded to with many seeds, or in many steps."""
    numbers = np.empty((n, g.size), np.float32)
    if by == "seed":
        for seed in range(n):
            numbers[seed] = moment_of(with_moment(g, state_dtype, seed=seed), g.size)
        return numbers
    opt = with_moment(g, state_dtype, momentum=1e-30)  # of which nothing is left
    for step in range(n):
        opt.step(g)
        numbers[step] = moment_of(opt, g.size)
    return numbers


@pytest.mark.parametrize("by", ["seed", "step"])
@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_rounding_has_the_right_mean(state_dtype, by):
    """For each element over all draws, and in each draw over all elements."""
    rng = np.random.default_rng(5)
    g = np.tile(rng.uniform(0.5, 2, 64) * rng.choice([-1, 1], 64), 66).astype(np.float32)
    g[::64] = 1.5  # each block has the same scale
    spacing = np.exp2(np.floor(np.log2(np.abs(g)))) / 128
    if state_dtype == "int8":  # no larger than this
        spacing = (np.abs(g) + 2 / 56) / 16
    off = (draws(g, state_dtype, by) - g) / spacing
    assert np.abs(off).max() <= 1
    assert np.abs(off).mean() > 0.1
    assert np.abs(off.mean(axis=0)).max() < 0.2  # 6 standard deviations of a mean of 256
    assert np.abs(off.mean(axis=1)).max() < 0.05
    assert abs(off.mean()) < 0.002


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_a_positive_moment_has_the_right_mean(state_dtype):
    rng = np.random.default_rng(6)
    g = rng.uniform(0.5, 2, N).astype(np.float32)
    total = np.zeros(N)
    for seed in range(256):
        opt = fastadam.RMSprop(
            np.zeros(N, np.float32), alpha=0.0, state_dtype=state_dtype, seed=seed
        )
        opt.step(g)
        total += formats.decoded("RMSprop", formats.codes_of(opt), N)["square_avg"]
    spacing = np.exp2(np.floor(np.log2(g * g))) / (8 if state_dtype == "int8" else 128)
    off = (total / 256 - g * g) / spacing
    assert np.abs(off).max() < 0.2
    assert abs(off.mean()) < 0.002


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_rounding_depends_on_seed_step_and_place_alone(state_dtype):
    g = np.random.default_rng(7).standard_normal(2 * 4096 + 5).astype(np.float32)
    n = 4096 + 64
    whole = formats.codes_of(with_moment(g, state_dtype))["momentum_buffer"]
    again = formats.codes_of(with_moment(g, state_dtype))["momentum_buffer"]
    assert whole.tobytes() == again.tobytes()
    part = formats.codes_of(with_moment(g[:n].copy(), state_dtype))["momentum_buffer"]
    assert whole[: len(part)].tobytes() == part.tobytes()
    shifted = formats.codes_of(with_moment(g[64:].copy(), state_dtype))["momentum_buffer"]
    moved = whole[1:] if state_dtype == "int8" else whole[64:]
    assert 0.2 < (shifted != moved).mean() < 0.8
    other = formats.codes_of(with_moment(g, state_dtype, seed=1))["momentum_buffer"]
    assert 0.2 < (other != whole).mean() < 0.8
    opt = with_moment(g, state_dtype, momentum=1e-30)
    first = formats.codes_of(opt)["momentum_buffer"]
    opt.step(g)
    assert 0.2 < (formats.codes_of(opt)["momentum_buffer"] != first).mean() < 0.8


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_the_states_of_an_array_are_rounded_apart(state_dtype):
    """Or a moment that was rounded up would often be divided by one that was, too."""
    g = np.full(N, 1.03, np.float32)
    p = np.zeros(N, np.float32)
    opt = fastadam.Adam(p, lr=1.0, betas=(0.0, 0.0), state_dtype=state_dtype)
    ups = []
    for _ in range(600):
        opt.step(g)
        found = formats.decoded("Adam", formats.codes_of(opt), N)
        ups.append([found["exp_avg"] > g, found["exp_avg_sq"] > g * g])
    m, v = np.array(ups, float).transpose(1, 0, 2)
    both = np.corrcoef(m.ravel(), v.ravel())[0, 1]
    assert abs(both) < 0.1


@pytest.mark.parametrize("state_dtype", [None, *STATE_DTYPES])
@pytest.mark.parametrize(("member", "chosen"), CODED)
def test_an_element_with_nothing_but_zeros_stays(member, chosen, state_dtype):
    rng = np.random.default_rng(8)
    p = rng.standard_normal(N).astype(np.float32)
    before, still = p.copy(), rng.random(N) < 0.5
    chosen = {**chosen, "weight_decay": 0.0}
    opt = getattr(fastadam, member)(p, lr=0.1, state_dtype=state_dtype, **chosen)
    for _ in range(30):
        g = rng.standard_normal(N).astype(np.float32)
        g[still] = 0
        opt.step(g)
    assert p[still].tobytes() == before[still].tobytes()
    assert (p[~still] != before[~still]).mean() > 0.7  # Lion's steps of one size may lead back


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_a_second_moment_is_never_lost(state_dtype):
    """Not beside others 1e15 times as large, nor after thousands of steps that halve it."""
    g = np.ones(N, np.float32)
    g[::64] = 1e15
    p = np.zeros(N, np.float32)
    opt = fastadam.RMSprop(p, lr=1.0, alpha=0.5, state_dtype=state_dtype)
    opt.step(g)
    for _ in range(100):
        opt.step(np.zeros(N, np.float32))
        assert (formats.decoded("RMSprop", formats.codes_of(opt), N)["square_avg"] > 0).all()


# The same bytes everywhere


def bytes_of(opt):
    """Of the parameters, and of all that an optimizer keeps of them."""
    found = []
    for i, slot in enumerate(opt._batch.arrays.slots):
        arrays = [slot.user, slot.average, slot.rest, *formats.codes_of(opt, i).values()]
        found += [formats.code_bits(array) for array in arrays if array is not None]
    return found


def trained(member, chosen, state_dtype, lengths, dtype=np.float32, steps=3, **more):
    rng = np.random.default_rng(9)
    with np.errstate(over="ignore"):
        params = [wide(rng, n).astype(dtype) for n in lengths]
    options = {"lr": 0.1, "state_dtype": state_dtype, "seed": 2**32 - 1, **averaging(member)}
    opt = getattr(fastadam, member)(params, **options, **chosen, **more)
    for step in range(steps):
        grads = [wide(rng, n) for n in lengths]
        if step == 1:
            grads[-1] = None
        opt.step(grads, loss_scale=3.0)
    return bytes_of(opt)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, "bfloat16"])
@pytest.mark.parametrize("state_dtype", [None, *STATE_DTYPES])
@pytest.mark.parametrize(("member", "chosen"), CODED)
def test_the_bits_are_those_of_numpy(member, chosen, state_dtype, dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    lengths = [4096, 4097, 4096 + 63, 1, 63, 64, 65, 4999, 0, 200]
    got = trained(member, chosen, state_dtype, lengths, dtype)
    with _backend.using("numpy"):
        assert got == trained(member, chosen, state_dtype, lengths, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, "bfloat16"])
@pytest.mark.parametrize("state_dtype", [None, *STATE_DTYPES])
def test_threads_change_no_bit(state_dtype, dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    before, results = fastadam.get_num_threads(), []
    lengths = [3 * 2**17 + 77, 70_001]  # of which three threads get parts
    try:
        for threads in (1, 2, 3):
            fastadam.set_num_threads(threads)
            results.append(trained("Adam", {}, state_dtype, lengths, dtype, 2, max_grad_norm=9))
    finally:
        fastadam.set_num_threads(before)
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_arrays_beyond_the_caches(state_dtype):
    """From 2**21 elements on kernels prefetch plain numbers, but none beside codes."""
    got = trained("Adam", {}, state_dtype, [2**21 + 77, 3], steps=2)
    with _backend.using("numpy"):
        assert got == trained("Adam", {}, state_dtype, [2**21 + 77, 3], steps=2)


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
@pytest.mark.parametrize("member", FIRST)
def test_damaged_codes_give_the_same_odd_numbers_everywhere(member, state_dtype, backend):
    """As a file may have them: no such codes come out of a step."""
    results = []
    for used in (backend, "numpy"):
        rng = np.random.default_rng(16)
        p = rng.standard_normal(2**14).astype(np.float32)
        with _backend.using(used):
            opt = getattr(fastadam, member)(p, state_dtype=state_dtype, **FIRST[member])
            for array in formats.slot(opt).state:
                if array is not None:
                    array[...] = np.frombuffer(rng.bytes(array.nbytes), array.dtype).reshape(
                        array.shape
                    )
            for _ in range(3):
                opt.step(rng.standard_normal(2**14).astype(np.float32))
        results.append(bytes_of(opt))
    assert results[0] == results[1]


# What an array may look like


def of_layout(values, layout):
    """An array with these numbers, of shape (67, 64)."""
    if layout == "F":
        return np.asfortranarray(values)
    if layout == "strided":
        return np.repeat(values, 2, axis=0)[::2]
    if layout == "transposed":
        return np.ascontiguousarray(values.T).T
    if layout == "unaligned":
        memory = np.zeros(values.nbytes + 1, np.uint8)
        array = np.ndarray(values.shape, values.dtype, memory, 1)
        array[...] = values
        return array
    return np.ascontiguousarray(values)


@pytest.mark.parametrize("layout", ["F", "strided", "transposed", "unaligned"])
@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_layouts(state_dtype, layout):
    """Elements are counted as they are in memory; in 8 bits always in C order."""
    rng = np.random.default_rng(10)
    start, *grads = rng.standard_normal((4, 67, 64)).astype(np.float32)
    in_memory = state_dtype == "bfloat16" and layout in ("F", "transposed")
    order = np.transpose if in_memory else np.asarray
    p, plain = of_layout(start, layout), np.ascontiguousarray(order(start))
    opt = fastadam.Adam(p, lr=0.1, state_dtype=state_dtype)
    twin = fastadam.Adam(plain, lr=0.1, state_dtype=state_dtype)
    for g, of in zip(grads, ["C", "F", "strided"], strict=True):
        opt.step(of_layout(g, of))
        twin.step(np.ascontiguousarray(order(g)))
    assert p.tobytes() == np.ascontiguousarray(order(plain)).tobytes()
    assert_same_codes(formats.codes_of(opt), formats.codes_of(twin))
    names = formats.codes_of(opt)
    shape = (67, 65) if state_dtype == "int8" else (67, 64)
    assert [array.shape for array in formats.slot(opt).state if array is not None] == [
        shape for _ in names
    ]


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_complex_is_two_reals(state_dtype):
    rng = np.random.default_rng(11)
    p = wide(rng, 2 * N, 5)
    q = p.copy().view(np.complex64)
    one, two = (fastadam.Adam(x, lr=0.1, state_dtype=state_dtype) for x in (p, q))
    for _ in range(3):
        g = wide(rng, 2 * N)
        one.step(g)
        two.step(g.view(np.complex64))
    assert bits(p) == bits(q)
    assert_same_codes(formats.codes_of(one), formats.codes_of(two))


def test_complex_arrays_are_large_by_their_real_numbers():
    for n, stored in ((2047, np.complex64), (2048, np.uint8)):
        opt = fastadam.Adam(np.zeros(n, np.complex64), state_dtype="int8")
        assert formats.slot(opt).state[0].dtype == stored


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (4095,), (63, 65)])
def test_small_arrays_have_float32_state_in_place_of_8_bits(shape):
    rng = np.random.default_rng(12)
    p = rng.standard_normal(shape).astype(np.float32)
    p = np.array(p)
    q = p.copy()
    opt, twin = fastadam.Adam(p, state_dtype="int8"), fastadam.Adam(q)
    for _ in range(3):
        g = np.array(rng.standard_normal(shape), np.float32)
        opt.step(g)
        twin.step(g)
    assert p.tobytes() == q.tobytes()
    assert_same_codes(formats.codes_of(opt), formats.codes_of(twin))


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0)])
def test_tiny_arrays_have_bfloat16_state(shape):
    p = np.ones(shape, np.float32)
    opt = fastadam.Adam(p, lr=0.5, state_dtype="bfloat16")
    opt.step(np.ones(shape, np.float32))
    assert [array.dtype for array in formats.codes_of(opt).values()] == [np.uint16] * 2
    assert np.allclose(p, 0.5, atol=0.01)


# Rows


@pytest.mark.parametrize(("state_dtype", "width"), [("bfloat16", 5), ("int8", 64), ("int8", 128)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, "bfloat16"])
@pytest.mark.parametrize(
    ("member", "chosen"), [("Adam", {"amsgrad": True}), ("RMSprop", {"momentum": 0.9})]
)
def test_rows_are_stepped_as_with_a_dense_gradient_and_others_left_alone(
    member, chosen, state_dtype, width, dtype
):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    rng = np.random.default_rng(13)
    start = rng.standard_normal((100, width)).astype(dtype)
    tables = [start.copy(), start.copy()]
    make = getattr(fastadam, member)
    opt, dense = (make(table, lr=0.1, state_dtype=state_dtype, **chosen) for table in tables)
    first = rng.standard_normal((100, width)).astype(np.float32)
    opt.step(first)
    dense.step(first)
    before, codes = tables[0].copy(), formats.codes_of(opt)
    rows = np.array([3, 4, 5, 99, 0, 50])
    values = rng.standard_normal((6, width)).astype(np.float32)
    everything = rng.standard_normal((100, width)).astype(np.float32)
    everything[rows] = values
    opt.step(fastadam.RowGrad(rows, values))
    dense.step(everything)
    others = np.ones(100, bool)
    others[rows] = False
    for found, expected, old in [
        (tables[0], tables[1], before),
        *zip(
            formats.codes_of(opt).values(),
            formats.codes_of(dense).values(),
            codes.values(),
            strict=True,
        ),
    ]:
        found, expected, old = (x.reshape(100, -1) for x in (found, expected, old))
        assert found[rows].tobytes() == expected[rows].tobytes()
        assert found[others].tobytes() == old[others].tobytes()
        assert found[rows].tobytes() != old[rows].tobytes()


@pytest.mark.parametrize("width", [64, 320 * 64, 1094 * 64])
@pytest.mark.parametrize("state_dtype", [None, *STATE_DTYPES])
def test_rows_with_more_numbers_than_are_decoded_at_a_time(state_dtype, width):
    """Which are 65,536 in NumPy: many rows, a few, or a part of one."""
    rng = np.random.default_rng(15)
    rows = np.delete(np.arange(max(5, 150_000 // width)), [1])
    start, first, values = rng.standard_normal((3, rows[-1] + 1, width)).astype(np.float32)
    table, whole = start.copy(), start.copy()
    opt, dense = (fastadam.Adam(x, lr=0.1, state_dtype=state_dtype) for x in (table, whole))
    opt.step(first)
    dense.step(first)
    others = [
        formats.code_bits(x.reshape(len(table), -1)[1]) for x in formats.codes_of(opt).values()
    ]
    opt.step(fastadam.RowGrad(rows, values[rows]))
    dense.step(values)
    assert table[rows].tobytes() == whole[rows].tobytes()
    found, expected = (
        [x.reshape(len(table), -1) for x in formats.codes_of(o).values()] for o in (opt, dense)
    )
    assert [x[rows].tobytes() for x in found] == [x[rows].tobytes() for x in expected]
    assert [formats.code_bits(x[1]) for x in found] == others


@pytest.mark.parametrize("width", [1, 63, 65, 96])
def test_rows_of_parts_of_blocks_are_refused_in_8_bits(width):
    p = np.ones((4096, width), np.float32)
    opt = fastadam.Adam({"W": p}, state_dtype="int8")
    opt.step({"W": np.ones_like(p)})
    before, codes = p.copy(), formats.codes_of(opt)
    grad = fastadam.RowGrad([1], np.ones((1, width), np.float32))
    with pytest.raises(
        ValueError, match=rf"grads\['W'\] is for rows of {width} numbers, .* blocks"
    ):
        opt.step({"W": grad})
    with pytest.raises(ValueError, match="blocks"):
        opt.accumulate({"W": grad})
    assert p.tobytes() == before.tobytes()
    assert_same_codes(formats.codes_of(opt), codes)
    assert opt.finished_steps == 1


def test_a_complex_element_is_two_numbers_of_a_block():
    for width, is_refused in ((32, False), (16, True)):
        p = np.zeros((4096 // width, width), np.complex64)
        opt = fastadam.Adam(p, state_dtype="int8")
        grad = fastadam.RowGrad([3], np.ones((1, width), np.complex64))
        if is_refused:
            with pytest.raises(ValueError, match="grads is for rows of 32 numbers"):
                opt.step(grad)
        else:
            opt.step(grad)
            assert (p != 0).all(axis=1).nonzero()[0].tolist() == [3]


def test_single_elements_are_refused_in_8_bits():
    sparse = pytest.importorskip("scipy.sparse")
    p = np.ones((64, 64), np.float32)
    grad = sparse.coo_array((np.ones(1, np.float32), ([1], [2])), shape=p.shape)
    opt = fastadam.Adam(p, state_dtype="int8")
    with pytest.raises(ValueError, match="single elements"):
        opt.step(grad)
    assert (p == 1).all()
    fastadam.Adam(p, lr=0.5, state_dtype="bfloat16").step(grad)
    assert p[1, 2] < 0.6
    assert (p == 1).sum() == 64 * 64 - 1


def test_rows_of_small_arrays_need_no_blocks():
    p = np.ones((10, 3), np.float32)
    opt = fastadam.Adam(p, state_dtype="int8")
    opt.step(fastadam.RowGrad([1], np.ones((1, 3), np.float32)))
    assert (p == 1).all(axis=1).sum() == 9


# The options


@pytest.mark.parametrize("member", FIRST)
def test_values_that_the_options_do_not_have(member):
    make, p = getattr(fastadam, member), np.ones(3, np.float32)
    for value in ("float16", "int4", "", 8, True, np.float32, ["int8"], "BFLOAT16"):
        with pytest.raises(ValueError, match=r"state_dtype.*expected None, 'bfloat16' or 'int8'"):
            make(p, state_dtype=value)
    for value in (1.0, "1", None, True, [1]):
        with pytest.raises(TypeError, match="seed must be an integer, found"):
            make(p, seed=value)
    for value in (-1, 2**32, 2**64):
        with pytest.raises(ValueError, match=f"Invalid seed: {value}; expected an integer from 0"):
            make(p, seed=value)
    group = make(p, state_dtype="int8", seed=np.int64(7)).param_groups[0]
    assert (group["state_dtype"], group["seed"]) == ("int8", 7)
    assert type(group["seed"]) is int
    group = make(p).param_groups[0]
    assert (group["state_dtype"], group["seed"]) == (None, 0)


@pytest.mark.parametrize("made_with", [None, *STATE_DTYPES])
@pytest.mark.parametrize("changed_to", [None, *STATE_DTYPES])
def test_a_state_dtype_cannot_change(made_with, changed_to):
    p = np.ones(N, np.float32)
    opt = fastadam.Adam(p, state_dtype=made_with)
    opt.step(np.ones_like(p))
    before, codes = p.copy(), formats.codes_of(opt)
    opt.param_groups[0]["state_dtype"] = changed_to
    if changed_to != made_with:
        found = f"state_dtype was set to {changed_to!r} after the state was made with {made_with!r}"
        with pytest.raises(ValueError, match=found):
            opt.step(np.ones_like(p))
        assert p.tobytes() == before.tobytes()
        assert_same_codes(formats.codes_of(opt), codes)
        opt.param_groups[0]["state_dtype"] = made_with
    opt.step(np.ones_like(p))
    assert opt.finished_steps == 2


def test_a_seed_may_change():
    results = []
    for seeds in ([1, 1], [1, 2], [2, 2]):
        p = np.zeros(N, np.float32)
        opt = fastadam.SGD(p, lr=0.0, momentum=1.0, state_dtype="bfloat16")
        for seed in seeds:
            opt.param_groups[0]["seed"] = seed
            opt.step(np.full(N, 0.7, np.float32))
        results.append(formats.codes_of(opt)["momentum_buffer"].tobytes())
    assert len({*results}) == 3
    opt.param_groups[0]["seed"] = -1
    with pytest.raises(ValueError, match="Invalid seed: -1"):
        opt.step(np.zeros(N, np.float32))


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_wider_arrays_are_refused_by_name(state_dtype, dtype):
    params = {"a": np.ones(3, np.float32), "b": np.ones(3, dtype)}
    found = rf"params\['b'\] is {np.dtype(dtype)}, and state_dtype='{state_dtype}' is for arrays"
    with pytest.raises(ValueError, match=found):
        fastadam.Adam(params, state_dtype=state_dtype)
    opt = fastadam.Adam([{"params": params["a"]}], state_dtype=state_dtype)
    with pytest.raises(ValueError, match=r"params\[1\] is"):
        opt.add_param_group({"params": params["b"]})
    assert len(opt.param_groups) == 1
    opt.add_param_group({"params": params["b"], "state_dtype": None})
    opt.step([np.ones(3, np.float32), np.ones(3, dtype)])
    assert (params["b"] != 1).all()


def test_centered_keeps_float32():
    p = np.ones(N, np.float32)
    for state_dtype in STATE_DTYPES:
        with pytest.raises(ValueError, match="centered subtracts"):
            fastadam.RMSprop(p, centered=True, state_dtype=state_dtype)
        opt = fastadam.RMSprop(p, state_dtype=state_dtype)
        opt.param_groups[0]["centered"] = True
        with pytest.raises(ValueError, match="centered"):
            opt.step(np.ones_like(p))
    assert (p == 1).all()
    fastadam.RMSprop(p, centered=True, state_dtype=None).step(np.ones_like(p))


def test_groups_have_a_state_dtype_and_a_seed_each():
    rng = np.random.default_rng(14)
    start, *grads = rng.standard_normal((3, N)).astype(np.float32)
    options = [{"state_dtype": None}, {"state_dtype": "bfloat16"}, {"state_dtype": "int8"},
               {"seed": 8}, {}]  # fmt: skip
    params = [start.copy() for _ in options]
    groups = [{"params": p, **chosen} for p, chosen in zip(params, options, strict=True)]
    opt = fastadam.Adam(groups, state_dtype="bfloat16", seed=3)
    alone = []
    for chosen in options:
        p = start.copy()
        alone.append(fastadam.Adam(p, **{"state_dtype": "bfloat16", "seed": 3, **chosen}))
    for g in grads:
        opt.step([g] * len(options))
        for other in alone:
            other.step(g)
    for i, other in enumerate(alone):
        assert params[i].tobytes() == other.params.tobytes()
        assert_same_codes(formats.codes_of(opt, i), formats.codes_of(other))
    kinds = [array.dtype for i in range(5) for array in [formats.slot(opt, i).state[0]]]
    assert kinds == [np.float32, np.uint16, np.uint8, np.uint16, np.uint16]
    assert params[1].tobytes() == params[4].tobytes()
    assert params[1].tobytes() != params[3].tobytes()


def test_an_optimizer_without_moments_takes_the_options():
    p = np.ones(N, np.float32)
    opt = fastadam.SGD(p, lr=1.0, state_dtype="int8")
    opt.step(np.ones_like(p))
    assert not p.any()
    assert formats.codes_of(opt) == {}


def test_repr_says_how_state_is_stored():
    opt = fastadam.Adam(np.ones(3, np.float32), state_dtype="bfloat16", seed=4)
    assert "state_dtype='bfloat16', seed=4" in repr(opt)
