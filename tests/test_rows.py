"""RowGrad and scipy.sparse gradients: only those rows change, as a dense step would change them."""

import copy

import numpy as np
import pytest
from members import BY_NAME, FIRST
from reference import bits

import fastadam
from fastadam import RowGrad

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]


def draw(rng, shape, dtype=np.float32):
    x = rng.standard_normal((2, *shape))
    return (x[0] + 1j * x[1] if np.dtype(dtype).kind == "c" else x[0]).astype(dtype)


def check(table, grads, dense, member="Adam", **options):
    """Steps of rows of a table, and dense steps of copies of those rows alone.

    A row's copy has an optimizer of its own, which is told of the steps that it was not in: of
    their number, and of running numbers, such as NAdam's product of momenta, which are the table's.
    """
    options = {"lr": 0.1, **options}
    opt = getattr(fastadam, member)(table, **options)
    start = table.copy()
    each = {}
    for grad, rows in zip(grads, dense, strict=True):
        before = opt.state_dict()["state"][0]
        numbers = {k: x for k, x in before.items() if not isinstance(x, np.ndarray)}
        opt.step(grad)
        for row, g in rows.items():
            if row not in each:
                p = start[row : row + 1].copy()
                each[row] = p, getattr(fastadam, member)(p, **options)
            p, own = each[row]
            state = own.state_dict()
            state["state"][0].update(numbers)
            own.load_state_dict(state)
            own.step(g[None])
    for row in range(len(table)):
        want = each[row][0][0] if row in each else start[row]
        assert bits(table[row]) == bits(want), row


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(20, 7), (20,), (20, 1), (20, 3, 2), (20, 0)])
@pytest.mark.parametrize("member", [name for name in FIRST if BY_NAME[name].takes_rows])
def test_rows_are_stepped_as_dense_ones(dtype, shape, member):
    rng = np.random.default_rng(50)
    table = draw(rng, shape, dtype)
    chosen = [[3, 4, 5, 11], [0, 19], [5, 4], list(range(20))]
    grads, dense = [], []
    for rows in chosen:
        values = draw(rng, (len(rows), *shape[1:]), dtype)
        grads.append(RowGrad(rows, values))
        dense.append(dict(zip(rows, values, strict=True)))
    check(table, grads, dense, member, **{**FIRST[member], "weight_decay": 0.0})


def test_nadam():
    """All rows at once are a dense step; NAdam's product of momenta is the array's."""
    rng = np.random.default_rng(51)
    p = draw(rng, (6, 4))
    q = p.copy()
    one, other = fastadam.NAdam(p), fastadam.NAdam(q)
    for _ in range(4):
        g = draw(rng, (6, 4))
        order = rng.permutation(6)
        one.step(g)
        other.step(RowGrad(order, g[order]))
    assert bits(p) == bits(q)


@pytest.mark.parametrize("dtype", DTYPES)
def test_repeated_rows_are_added_in_order(dtype):
    rng = np.random.default_rng(52)
    rows = rng.integers(0, 10, 300)
    values = draw(rng, (300, 3), dtype) * 10.0 ** rng.integers(-6, 7, (300, 1))
    values = values.astype(dtype)
    sums = {}
    for row, value in zip(rows.tolist(), values, strict=True):
        sums[row] = value if row not in sums else sums[row] + value
    check(draw(rng, (12, 3), dtype), [RowGrad(rows, values)], [sums])


@pytest.mark.parametrize(
    "kind", [np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64, list]
)
def test_kinds_of_rows(kind):
    rows = [2, 0, 1] if kind is list else np.array([2, 0, 1], kind)
    values = np.arange(6.0).reshape(3, 2)
    check(np.ones((4, 2)), [RowGrad(rows, values)], [{2: values[0], 0: values[1], 1: values[2]}])


def test_layouts_of_values():
    values = np.arange(24.0).reshape(2, 3, 4)
    dense = {1: values[0], 4: values[1]}
    rows = np.arange(10)[1:8:3][:2]
    unaligned = np.frombuffer(b"x" + values.tobytes(), np.uint8)[1:].view(float).reshape(2, 3, 4)
    backwards = values[::-1].copy()[::-1]
    strided = np.repeat(values, 2, axis=2)[..., ::2]
    for view in (np.asfortranarray(values), strided, backwards, unaligned):
        check(np.ones((5, 3, 4)), [RowGrad(rows, view)], [dense])


def test_values_that_overlap_the_parameter():
    table = np.arange(8.0).reshape(4, 2)
    values = table[2:]
    check(table, [RowGrad([1, 2], values)], [{1: values[0].copy(), 2: values[1].copy()}])


def test_no_rows_is_a_step():
    table = np.ones((3, 2))
    opt = fastadam.Adam(table)
    opt.step(RowGrad([], np.ones((0, 2))))
    assert (table == 1).all()
    assert opt.state_dict()["state"][0]["step"] == 1


def test_norm_and_clipping_are_of_the_sums():
    table = np.zeros((5, 2))
    opt = fastadam.SGD(table, lr=1.0, max_grad_norm=1.0, skip_nonfinite=True)
    values = np.array([[3.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    opt.step(RowGrad([0, 3, 3], values))
    assert opt.grad_norm == 5.0
    assert np.allclose(table[[0, 3]], [[-0.6, 0.0], [0.0, -0.8]], atol=1e-6)
    values[0, 0] = np.nan
    before = table.copy()
    opt.step(RowGrad([0, 3, 3], values))
    assert (table == before).all()
    assert opt.skipped_steps == 1


def test_among_dense_gradients():
    rng = np.random.default_rng(53)
    params = {"table": draw(rng, (9, 4)), "w": draw(rng, (4, 4)), "b": draw(rng, (4,))}
    start = copy.deepcopy(params)
    opt = fastadam.Adam(params, lr=0.1)
    g = {k: draw(rng, x.shape) for k, x in params.items()}
    opt.step({**g, "table": RowGrad([1, 8], g["table"][[1, 8]])})
    alone = copy.deepcopy(start)
    fastadam.Adam(alone, lr=0.1).step(g)
    for key in ("w", "b"):
        assert bits(params[key]) == bits(alone[key])
    assert bits(params["table"][[1, 8]]) == bits(alone["table"][[1, 8]])
    rest = [0, 2, 3, 4, 5, 6, 7]
    assert bits(params["table"][rest]) == bits(start["table"][rest])


def test_threads():
    rng = np.random.default_rng(54)
    rows = rng.permutation(30_000)[:20_000]
    values = draw(rng, (20_000, 33))
    results = []
    before = fastadam.get_num_threads()
    for threads in (1, 2, 5):
        fastadam.set_num_threads(threads)
        table = np.ones((30_000, 33), np.float32)
        fastadam.Adam(table).step(RowGrad(rows, values))
        results.append(table.tobytes())
    fastadam.set_num_threads(before)
    assert len(set(results)) == 1


BAD = {
    "negative": (
        RowGrad([0, -2], np.ones((2, 3))),
        ValueError,
        "row -2 is negative; .*from the end",
    ),
    "beyond": (RowGrad([0, 5], np.ones((2, 3))), ValueError, "row 5 is out of range for 5 rows"),
    "huge": (RowGrad(np.array([2**63], np.uint64), np.ones((1, 3))), ValueError, "row 9223"),
    "width": (RowGrad([0], np.ones((1, 4))), ValueError, r"shape \(1, 4\), expected \(1, 3\)"),
    "dtype": (RowGrad([0], np.ones((1, 3), np.float32)), TypeError, "float32, expected float64"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit(case):
    grad, error, match = BAD[case]
    table, other = np.ones((5, 3)), np.ones(2)
    opt = fastadam.Adam({"other": other, "table": table})
    with pytest.raises(error, match=r"grads\['table'\].*" + match):
        opt.step({"other": np.ones(2), "table": grad})
    assert (table == 1).all()
    assert (other == 1).all()
    assert opt.state_dict()["state"]["other"]["step"] == 0


def test_what_would_touch_other_rows():
    grad = RowGrad([0], np.ones((1, 3)))
    for options in ({"weight_decay": 0.1}, {"ema_decay": 0.9}):
        for member in ("Adam", "SGD"):
            table = np.ones((5, 3))
            opt = getattr(fastadam, member)(table, **options)
            with pytest.raises(
                ValueError, match="is a RowGrad, which leaves other rows alone, but"
            ):
                opt.step(grad)
            assert (table == 1).all()
    with pytest.raises(ValueError, match=r"=0\.01 .* a param group with weight_decay=0"):
        fastadam.AdamW(np.ones((5, 3))).step(grad)
    table = np.ones((5, 3))
    with pytest.raises(ValueError, match="would change them; pass weight_decay=0"):
        fastadam.adam_step(table, grad, table * 0, table * 0, step=1, weight_decay=0.1)
    with pytest.raises(ValueError, match="C order"):
        fastadam.Adam(np.ones((5, 3), order="F")).step(grad)
    with pytest.raises(ValueError, match="has no rows"):
        fastadam.Adam(np.ones(())).step(RowGrad([0], np.ones(1)))


def test_a_strided_parameter():
    base = np.ones((5, 6))
    table = base[:, ::2]
    fastadam.Adam(table, lr=0.5).step(RowGrad([1], np.ones((1, 3))))
    assert np.allclose(table[1], 0.5)
    assert (np.delete(table, 1, axis=0) == 1).all()
    assert (base[:, 1::2] == 1).all()


def test_what_is_no_row_gradient():
    for rows, values, error in (
        ([0.5], np.ones((1, 3)), TypeError),
        ([[0]], np.ones((1, 3)), TypeError),
        ([True], np.ones((1, 3)), TypeError),
        ([0], [[1.0]], TypeError),
        ([0], np.ma.ones((1, 3)), TypeError),
        ([0, 1], np.ones((1, 3)), ValueError),
        ([0], np.ones(()), ValueError),
    ):
        with pytest.raises(error, match=r"rows|values"):
            RowGrad(rows, values)
    with pytest.raises(ValueError, match=r"values: shape \(2,\), expected \(1, \.\.\.\)"):
        RowGrad([0], np.ones(2))
    assert repr(RowGrad([0, 1], np.ones((2, 3)))) == "RowGrad(2 rows, values of shape (2, 3))"


def test_adam_step_takes_rows():
    table, m, v = np.ones((4, 2)), np.zeros((4, 2)), np.zeros((4, 2))
    fastadam.adam_step(table, RowGrad([2], np.ones((1, 2))), m, v, step=1, lr=0.5)
    assert np.allclose(table, [[1, 1], [1, 1], [0.5, 0.5], [1, 1]])


class TestSparse:
    @pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "lil", "dok", "dia"])
    @pytest.mark.parametrize("cls", ["array", "matrix"])
    def test_only_stored_elements_change(self, kind, cls):
        sparse = pytest.importorskip("scipy.sparse")
        rng = np.random.default_rng(55)
        dense = draw(rng, (6, 5), np.float64) * (rng.random((6, 5)) < 0.3)
        grad = getattr(sparse, f"{kind}_{cls}")(dense)
        table = draw(rng, (6, 5), np.float64)
        want = table.copy()
        opt = fastadam.Adam(table, lr=0.1)
        opt.step(grad)
        fastadam.Adam(want, lr=0.1).step(dense)  # zero gradients do not move a new optimizer
        assert bits(table) == bits(want)
        before = table.copy()
        opt.step(sparse.coo_array(([2.0, 3.0], ([1, 1], [4, 4])), shape=(6, 5)))  # twice the same
        moved = np.argwhere(table != before)
        assert moved.tolist() == [[1, 4]]

    def test_what_does_not_fit(self):
        sparse = pytest.importorskip("scipy.sparse")
        for shape, dtype, error in (((6, 4), float, ValueError), ((6, 5), np.float32, TypeError)):
            with pytest.raises(error, match="grads: a sparse array"):
                fastadam.Adam(np.ones((6, 5))).step(sparse.csr_array(np.ones(shape, dtype)))
        with pytest.raises(ValueError, match=r"sparse array of shape \(1, 5\), expected \(5,\)"):
            fastadam.Adam(np.ones(5)).step(sparse.coo_array(np.ones((1, 5))))
        with pytest.raises(
            ValueError, match="is a sparse array, which leaves other elements alone"
        ):
            fastadam.AdamW(np.ones(5)).step(sparse.coo_array(np.ones(5)))
        wrong = sparse.coo_array(np.ones(5))
        for index, match in ((5, "5 is out of range for 5 elements"), (-1, "-1 is negative")):
            wrong.coords[0][2] = index
            with pytest.raises(
                ValueError, match=f"grads: a sparse array's index on axis 0: {match}"
            ):
                fastadam.Adam(np.ones(5)).step(wrong)

    @pytest.mark.parametrize("kind", ["coo", "csr", "dok"])
    def test_of_a_vector(self, kind):
        sparse = pytest.importorskip("scipy.sparse")
        try:
            grad = getattr(sparse, f"{kind}_array")(np.array([0.0, 2.0, 0.0, -1.0]))
        except ValueError:  # before SciPy 1.15
            pytest.skip("no one-dimensional array of that kind")
        w, rows = np.ones(4), np.ones(4)
        opt, other = fastadam.Adam(w), fastadam.Adam(rows)
        opt.step(grad)
        other.step(RowGrad([1, 3], np.array([2.0, -1.0])))
        assert bits(w) == bits(rows)
        assert (w != 1).tolist() == [False, True, False, True]
        before = w.copy()
        opt.step(sparse.coo_array(([1.0, 1.0], ([2, 2],)), shape=(4,)))  # twice the same element
        assert (w != before).tolist() == [False, False, True, False]
        assert opt.state_dict()["state"][0]["exp_avg"][2] == (1 - 0.9) * 2

    def test_of_three_axes(self):
        sparse = pytest.importorskip("scipy.sparse")
        dense = np.zeros((2, 3, 4))
        dense[1, 2, 0] = dense[0, 1, 3] = 1.0
        try:
            grad = sparse.coo_array(dense)
        except (ValueError, TypeError):  # before SciPy 1.15
            pytest.skip("no arrays of three axes")
        w = np.ones((2, 3, 4))
        fastadam.Adam(w).step(grad)
        assert ((w != 1) == (dense != 0)).all()


def test_rows_are_lazy():
    """The figures of RowGrad's docstring."""
    dense, lazy = np.zeros((2, 1)), np.zeros((2, 1))
    opt, other = fastadam.Adam(dense, lr=0.1), fastadam.Adam(lazy, lr=0.1)
    seen = []
    for g in (np.ones((2, 1)), np.array([[1.0], [0.0]])):
        opt.step(g)
        other.step(RowGrad(np.flatnonzero(g), g[g != 0][:, None]))
        seen.append([round(dense[1, 0], 3), round(lazy[1, 0], 3)])
    assert seen == [[-0.1, -0.1], [-0.167, -0.1]]
    assert dense[0] == lazy[0]


@pytest.mark.parametrize("member", [name for name in FIRST if not BY_NAME[name].takes_rows])
def test_members_that_need_all_rows_say_so(member):
    table = np.ones((4, 2))
    opt = getattr(fastadam, member)({"E": table}, **{**FIRST[member], "weight_decay": 0.0})
    grad = RowGrad([1], np.ones((1, 2)))
    for call in (opt.step, opt.accumulate):
        with pytest.raises(ValueError, match=r"grads\['E'\] is a RowGrad.*give a dense gradient"):
            call({"E": grad})
    assert (table == 1).all()
    assert opt.finished_steps == 0
