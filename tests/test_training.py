"""What a training loop asks for: averages, accumulation, copies, pickles."""

import copy
import itertools
import multiprocessing
import pickle

import numpy as np
import pytest
from children import step_a_pickle
from members import BY_NAME, NAMES, averaging
from reference import bits

import fastadam
from fastadam import RowGrad


def make(member="Adam", **options):
    rng = np.random.default_rng(60)
    params = {
        "W": rng.standard_normal((3, 4)).astype(np.float32),
        "F": np.asfortranarray(rng.standard_normal((3, 4))),
        "strided": rng.standard_normal((4, 6))[:, ::2],
        "z": np.array(1 + 2j),
    }
    return params, getattr(fastadam, member)(params, lr=0.1, **options)


def draw(rng, params):
    return {k: rng.standard_normal(x.shape).astype(x.dtype) for k, x in params.items()}


def mean(grads):
    total = grads[0]
    for g in grads[1:]:
        total = total + g
    return total / len(grads)


class TestAverages:
    @pytest.mark.parametrize("member", [n for n in NAMES if not BY_NAME[n].averages_itself])
    def test_are_those_of_the_formula(self, member):
        params, opt = make(member, ema_decay=0.9)
        want = {k: x.copy() for k, x in params.items()}
        rng = np.random.default_rng(61)
        for _ in range(5):
            opt.step(draw(rng, params))
            for k, x in params.items():
                d = x.real.dtype.type(0.9)
                want[k] = d * want[k] + (1 - d) * x
        got = opt.averaged_params()
        for k in params:
            assert bits(got[k]) == bits(want[k])

    def test_are_nested_as_the_parameters(self):
        opt = fastadam.SGD([np.ones(2), (np.ones(3), {"a": np.ones(())})], ema_decay=0.5)
        first, (second, third) = opt.averaged_params()
        assert (first.shape, second.shape, third["a"].shape) == ((2,), (3,), ())
        groups = fastadam.SGD([{"params": np.ones(2)}, {"params": [np.ones(3)]}], ema_decay=0.5)
        first, (second,) = groups.averaged_params()
        assert (first.shape, second.shape) == ((2,), (3,))
        single = fastadam.SGD(np.ones(2), ema_decay=0.5).averaged_params()
        assert (single == 1).all()
        single[...] = 7  # a copy
        assert (fastadam.SGD(np.ones(2), ema_decay=0.5).averaged_params() == 1).all()

    def test_arrays_that_were_skipped_keep_theirs(self):
        p, q = np.zeros(1), np.zeros(1)
        opt = fastadam.SGD([p, q], lr=1.0, ema_decay=0.5)
        opt.step([np.ones(1), np.ones(1)])
        opt.step([np.ones(1), None])
        assert [x.item() for x in opt.averaged_params()] == [-1.25, -0.5]

    def test_can_be_used_for_a_while(self):
        params, opt = make(ema_decay=0.5)
        opt.step(draw(np.random.default_rng(62), params))
        before = copy.deepcopy(params)
        averages = opt.averaged_params()
        grads = draw(np.random.default_rng(63), params)
        with opt.use_averaged_params():
            for k in params:
                assert bits(params[k]) == bits(averages[k])
                params[k][...] = 7
            for use in (
                lambda: opt.step(grads),
                opt.state_dict,
                opt.averaged_params,
                lambda: opt.accumulate(grads),
                lambda: opt.use_averaged_params().__enter__(),
                lambda: opt.add_param_group({"params": np.ones(1)}),
                lambda: pickle.dumps(opt),
            ):
                with pytest.raises(RuntimeError, match="within use_averaged_params"):
                    use()
        for k in params:
            assert bits(params[k]) == bits(before[k])
        with pytest.raises(ZeroDivisionError), opt.use_averaged_params():
            _ = 1 / 0
        for k in params:
            assert bits(params[k]) == bits(before[k])
        opt.step(grads)

    def test_without_them(self):
        opt = fastadam.Adam(np.ones(2))
        for use in (opt.averaged_params, lambda: opt.use_averaged_params().__enter__()):
            with pytest.raises(ValueError, match="set ema_decay"):
                use()
        opt.step(np.ones(2))

    @pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan"), "0.9"])
    def test_bad_decays(self, decay):
        with pytest.raises((ValueError, TypeError), match="ema_decay"):
            fastadam.Adam(np.ones(2), ema_decay=decay)

    def test_a_decay_that_is_1_in_float32(self):
        with pytest.raises(ValueError, match=r"ema_decay.*is 1 in float32"):
            fastadam.Adam(np.ones(2, np.float32), ema_decay=1 - 1e-12)
        fastadam.Adam(np.ones(2), ema_decay=1 - 1e-12)

    def test_added_groups_have_them(self):
        opt = fastadam.SGD([{"params": np.ones(2)}], lr=1.0, ema_decay=0.5)
        opt.add_param_group({"params": np.zeros(1)})
        opt.step([np.ones(2), np.ones(1)])
        assert opt.averaged_params()[1] == -0.5


class TestAccumulation:
    @pytest.mark.parametrize("n", [1, 2, 3, 7])
    def test_is_a_step_on_the_mean(self, n):
        params, opt = make()
        other, reference = make()
        rng = np.random.default_rng(64)
        for _ in range(2):
            grads = [draw(rng, params) for _ in range(n)]
            for g in grads:
                opt.accumulate(g)
            opt.step(loss_scale=4.0)
            means = {k: mean([g[k] for g in grads]) for k in params}
            reference.step(means, loss_scale=4.0)
        for k in params:
            assert bits(params[k]) == bits(other[k])

    def test_gradients_are_copied(self):
        p, g = np.zeros(3), np.ones(3)
        opt = fastadam.SGD(p, lr=1.0)
        opt.accumulate(g)
        g[...] = 5
        opt.accumulate(g)
        g[...] = np.nan
        opt.step()
        assert (p == -3).all()

    def test_none_counts_as_zero_unless_there_is_nothing_else(self):
        p, q = np.zeros(1), np.zeros(1)
        opt = fastadam.SGD([p, q], lr=1.0)
        opt.accumulate([np.ones(1), None])
        opt.accumulate([None, None])
        opt.step()
        assert (p.item(), q.item()) == (-0.5, 0.0)
        assert opt.state_dict()["state"][1]["step"] == 0

    def test_rows(self):
        rng = np.random.default_rng(65)
        one, other = np.ones((6, 2)), np.ones((6, 2))
        opt, reference = fastadam.Adam(one), fastadam.Adam(other)
        a, b = rng.standard_normal((2, 3, 2))
        opt.accumulate(RowGrad([1, 4, 1], a))
        opt.accumulate(RowGrad([5, 4, 0], b))
        opt.step()
        sums = {1: a[0] + a[2], 4: a[1] + b[1], 5: b[0], 0: b[2]}
        reference.step(RowGrad(list(sums), np.array(list(sums.values())) / 2))
        assert bits(one) == bits(other)
        dense = rng.standard_normal((6, 2))
        for first, second in ((dense, RowGrad([1], a[:1])), (RowGrad([1], a[:1]), dense)):
            opt.accumulate(first)
            opt.accumulate(second)
            opt.step()
            total = dense.copy()
            total[1] += a[0]
            reference.step(total / 2)
            assert bits(one) == bits(other)

    @pytest.mark.parametrize("shape", [(6, 2), (6,), (6, 0)])
    def test_rows_that_are_none_in_any_order(self, shape):
        """Gradients are whole numbers, so that their sums are exact in any order."""
        rng = np.random.default_rng(69)
        chosen = {"none": [], "some": [4, 1], "twice": [3, 1, 3], "all": None}
        for names in itertools.product(chosen, repeat=3):
            p, q = np.ones(shape), np.ones(shape)
            opt, reference = fastadam.Adam(p), fastadam.Adam(q)
            total, touched = np.zeros(shape), set()
            for name in names:
                rows = chosen[name]
                values = rng.integers(-9, 10, (6 if rows is None else len(rows), *shape[1:])) + 0.0
                opt.accumulate(values if rows is None else RowGrad(rows, values))
                np.add.at(total, range(6) if rows is None else np.array(rows, int), values)
                touched.update(range(6) if rows is None else rows)
            opt.step()
            mean, rows = total / 3, sorted(touched)
            reference.step(mean if "all" in names else RowGrad(rows, mean[rows]))
            one, other = opt.state_dict()["state"][0], reference.state_dict()["state"][0]
            assert one["step"] == other["step"] == 1
            for got, want in ((p, q), *((one[k], other[k]) for k in ("exp_avg", "exp_avg_sq"))):
                assert bits(got) == bits(want), names

    def test_errors_lose_nothing(self):
        p = np.zeros(2)
        opt = fastadam.SGD(p, lr=1.0)
        with pytest.raises(ValueError, match="accumulate was not called"):
            opt.step()
        opt.accumulate(np.ones(2))
        with pytest.raises(ValueError, match="grads: shape"):
            opt.accumulate(np.ones(3))
        opt.lr = lambda finished: -1.0
        with pytest.raises(ValueError, match="learning rate"):
            opt.step()
        opt.lr = 1.0
        opt.step()
        assert (p == -1).all()
        with pytest.raises(ValueError, match="accumulate was not called"):
            opt.step()

    def test_sparse_arrays(self):
        sparse = pytest.importorskip("scipy.sparse")
        opt = fastadam.SGD(np.zeros((2, 2)))
        with pytest.raises(TypeError, match="use RowGrad"):
            opt.accumulate(sparse.csr_array(np.eye(2)))


class TestCopies:
    @pytest.mark.parametrize("member", NAMES)
    @pytest.mark.parametrize("how", ["deepcopy", "pickle"])
    def test_go_on_alike_and_share_nothing(self, member, how):
        params, opt = make(member, max_grad_norm=1.0, **averaging(member))
        rng = np.random.default_rng(66)
        opt.step(draw(rng, params))
        opt.accumulate(draw(rng, params))
        both = {"params": params, "opt": opt}
        twin = copy.deepcopy(both) if how == "deepcopy" else pickle.loads(pickle.dumps(both))
        assert twin["opt"].grad_norm == opt.grad_norm
        assert repr(twin["opt"]) == repr(opt)
        for _ in range(2):
            g = draw(rng, params)
            for o in (opt, twin["opt"]):
                o.accumulate(g)
                o.step()
        for k in params:
            assert bits(params[k]) == bits(twin["params"][k])
            assert not np.shares_memory(params[k], twin["params"][k])
        ours, theirs = opt.state_dict(), twin["opt"].state_dict()
        assert ours["param_groups"] == theirs["param_groups"]
        before = copy.deepcopy(params)
        twin["opt"].step(draw(rng, params))
        for k in params:
            assert bits(params[k]) == bits(before[k])
            now = opt.state_dict()["state"][k]
            for name in ours["state"][k]:
                assert bits(ours["state"][k][name]) == bits(now[name])

    def test_a_pickle_on_another_backend(self, backend):
        from fastadam import _backend

        params, opt = make()
        rng = np.random.default_rng(67)
        g, h = draw(rng, params), draw(rng, params)
        opt.step(g)
        saved = pickle.dumps((params, opt))
        with _backend.using("numpy"):
            others, other = pickle.loads(saved)
            other.step(h)
        opt.step(h)
        for k in params:
            assert bits(params[k]) == bits(others[k])

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_processes(self, method, backend):
        if method not in multiprocessing.get_all_start_methods():
            pytest.skip(f"no {method} here")
        context = multiprocessing.get_context(method)
        p = np.ones(3)
        opt = fastadam.Adam(p, lr=0.5)
        opt.step(np.ones(3))
        queue = context.Queue()
        child = context.Process(target=step_a_pickle, args=(queue, opt))
        child.start()
        got = queue.get(timeout=60)
        child.join(60)
        opt.step(np.ones(3))
        assert got == p.tolist()


class TestFoundInReview:
    def test_rows_that_change_while_they_are_checked(self):
        """The copy that is stepped is the one that was checked."""
        rows = np.array([1, 2])

        class Changing(np.ndarray):
            def copy(self, *args):
                own = np.array(self)
                rows[:] = 10**12
                return own

        grad = RowGrad(rows, np.ones((2, 3)))
        grad._rows = rows.view(Changing)
        table = np.zeros((4, 3))
        fastadam.SGD(table, lr=1.0).step(grad)
        assert (table[1:3] == -1).all()

    def test_row_gradients_cannot_be_edited(self):
        grad = RowGrad([1], np.ones((1, 2)))
        for name in ("rows", "values"):
            with pytest.raises(AttributeError):
                setattr(grad, name, None)

    def test_subclasses_as_values(self):
        a, table = np.zeros(2), np.zeros((5, 2))
        opt = fastadam.SGD([a, table], lr=1.0)
        with pytest.warns(PendingDeprecationWarning):
            values = np.asmatrix(np.arange(6.0).reshape(3, 2))
        opt.step([np.ones(2), RowGrad([3, 1, 1], values)])
        assert table[1].tolist() == [-6, -8]
        assert (a == -1).all()

    @pytest.mark.parametrize("change", ["read-only", "reshaped"])
    def test_what_a_block_with_averages_does_to_parameters(self, change):
        a, b = np.zeros(6), np.zeros(2)
        opt = fastadam.SGD([a, b], lr=1.0, ema_decay=0.5)
        opt.step([np.ones(6), np.ones(2)])
        with opt.use_averaged_params():
            if change == "read-only":
                a.flags.writeable = False
            else:
                a.shape = (2, 3)
        assert (a == -1).all()
        assert (b == -1).all()
        a.shape = (6,)
        assert opt.averaged_params()[1].tolist() == [-0.5, -0.5]

    def test_rows_are_merged_as_they_are_accumulated(self):
        rng = np.random.default_rng(68)
        p, q = np.zeros((7, 3), np.float32), np.zeros((7, 3), np.float32)
        one, other = fastadam.SGD(p), fastadam.SGD(q)
        for _ in range(5):
            g = rng.standard_normal((7, 3)).astype(np.float32)
            order = rng.permutation(7)
            one.accumulate(g)
            other.accumulate(RowGrad(order, g[order]))
        assert len(other._batch.sums[0].rows) == 7
        one.step()
        other.step()
        assert bits(p) == bits(q)
        empty = fastadam.SGD(np.zeros((5, 0)))
        for _ in range(2):
            empty.accumulate(RowGrad([1], np.zeros((1, 0))))
        empty.step()

    def test_a_schedule_that_takes_the_weight_decay_away(self):
        """What counts is what the step will use."""

        def lr(finished):
            opt.param_groups[0]["weight_decay"] = 0.0
            return 1.0

        table = np.ones((3, 1))
        opt = fastadam.SGD(table, lr=lr, weight_decay=0.5)
        with pytest.raises(ValueError, match=r"weight_decay=0\.5"):
            opt.step(RowGrad([1], np.zeros((1, 1))))
        assert (table == 1).all()

    def test_unpickled_arrays_are_plain(self, backend):
        """Their dtype objects are others; steps of them must not take the way round."""
        from fastadam import _backend

        if backend == "numpy":
            return
        twin = pickle.loads(pickle.dumps(np.ones(3)))
        assert twin.dtype is not np.ones(3).dtype
        native, options = _backend.native(), (1e-3, (0.9, 0.999), 1e-8, 0.0, *[False] * 4)
        arrays = (np.ones(3), np.zeros(3), pickle.loads(pickle.dumps(np.zeros(3))))
        assert native.adam_step(arrays, twin, 1, options, 1.0)

    def test_shallow_copies(self):
        with pytest.raises(TypeError, match=r"use copy\.deepcopy"):
            copy.copy(fastadam.Adam(np.ones(2)))

    def test_an_average_is_not_dropped(self):
        saved = fastadam.Adam(np.ones(2), ema_decay=0.5).state_dict()
        with pytest.raises(ValueError, match="set ema_decay"):
            fastadam.Adam(np.ones(2)).load_state_dict(saved)

    def test_overflow_in_sums_of_rows_is_silent(self):
        table = np.zeros((1, 1), np.float32)
        with np.errstate(all="raise"):
            opt = fastadam.SGD(table)
            opt.step(RowGrad([0, 0], np.full((2, 1), 3e38, np.float32)))
            for _ in range(2):
                opt.accumulate(np.full((1, 1), 3e38, np.float32))
            opt.step()
        assert np.isneginf(table).all() or np.isnan(table).all()

    def test_indices_of_sparse_arrays_are_checked_by_axis(self):
        sparse = pytest.importorskip("scipy.sparse")
        grad = sparse.coo_array(([1.0], ([1], [1])), shape=(3, 4))
        grad.col[0] = -1
        with pytest.raises(
            ValueError, match="grads: a sparse array's index on axis 1: -1 is negative"
        ):
            fastadam.SGD(np.zeros((3, 4))).step(grad)
