"""fastadam.scipy.adam within scipy.optimize.minimize."""

import re
import subprocess
import sys
import warnings
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("scipy")

from scipy.optimize import (
    Bounds,
    LinearConstraint,
    OptimizeResult,
    OptimizeWarning,
    basinhopping,
    minimize,
    rosen,
    rosen_der,
)

from fastadam import schedules
from fastadam.scipy import adam

OPTIONS = {"lr": 0.05, "maxiter": 5000}
START = [-1.0, 2.0]


def both(x):
    return rosen(x), rosen_der(x)


@pytest.mark.parametrize(("fun", "jac"), [(both, True), (rosen, rosen_der)])
def test_rosenbrock(fun, jac):
    result = minimize(fun, START, jac=jac, method=adam, options=OPTIONS)
    assert isinstance(result, OptimizeResult)
    assert result.success
    assert result.status == 0
    assert np.allclose(result.x, 1, atol=1e-3)
    assert result.fun == rosen(result.x)
    assert (result.jac == rosen_der(result.x)).all()
    assert np.abs(result.jac).max() <= 1e-5
    assert result.nfev == result.njev == result.nit + 1


def test_the_start_is_the_callers():
    x0 = np.array(START, np.float32)
    result = minimize(both, x0, jac=True, method=adam, options={"maxiter": 5})
    assert x0.tolist() == START
    assert result.x.dtype == np.float32
    others = [1, 2], np.array(START, np.float16), np.array(START, np.longdouble)
    for start in others:
        assert minimize(both, start, jac=True, method=adam).x.dtype == np.float64
    swapped = x0.astype(x0.dtype.newbyteorder())
    again = minimize(both, swapped, jac=True, method=adam, options={"maxiter": 5})
    assert again.x.dtype == np.float32
    assert (again.x == result.x).all()


def test_arguments_tolerance_and_limits():
    def scaled(x, a, b):
        return a * (x @ x) + b, 2 * a * x

    result = minimize(scaled, [1.0, 2.0], args=(3.0, 1.0), jac=True, method=adam, tol=1e-2)
    assert result.success
    assert np.abs(result.jac).max() <= 1e-2
    args = {"args": (3.0, 1.0), "jac": True, "method": adam}
    assert result.nit < minimize(scaled, [1.0, 2.0], **args).nit
    result = minimize(scaled, [1.0, 2.0], args=(3.0, 1.0), jac=True, method=adam,
                      options={"maxiter": 3})  # fmt: skip
    assert (result.nit, result.status, result.success) == (3, 1, False)
    assert "Maximum" in result.message
    nothing = minimize(
        scaled, [1.0], args=(1.0, 0.0), jac=True, method=adam, options={"maxiter": 0}
    )
    assert (nothing.nit, nothing.nfev, nothing.x.tolist()) == (0, 1, [1.0])
    half = minimize(both, START, jac=True, method=adam, options={"maxiter": 2.5})
    assert half.nit == 3
    for bad in (-1, np.nan):
        with pytest.raises(ValueError, match="maxiter must be at least 0"):
            minimize(both, START, jac=True, method=adam, options={"maxiter": bad})


@pytest.mark.parametrize(
    "bounds", [[(None, 0.5), (None, None)], Bounds([-np.inf, -np.inf], [0.5, np.inf])]
)
def test_bounds(bounds):
    seen = []

    def recorded(x):
        seen.append(x.copy())
        return both(x)

    result = minimize(recorded, [3.0, 2.0], jac=True, method=adam, bounds=bounds, options=OPTIONS)
    assert result.success
    assert np.allclose(result.x, [0.5, 0.25], atol=1e-4)
    assert max(x[0] for x in seen) <= 0.5
    for bad, match in (
        ([(0, 1)], "bounds: expected Bounds or 2 pairs"),
        ((0, 1), "bounds: expected Bounds or 2 pairs"),
        (3.0, "bounds: expected Bounds or 2 pairs"),
        (Bounds([0, 0, 0], [1, 1, 1]), "bounds: expected Bounds or 2 pairs"),
        ([(1, 0), (0, 1)], "bounds: a lower bound is greater"),
        ([(0, np.nan), (0, 1)], "bounds: a bound is NaN"),
    ):
        with pytest.raises(ValueError, match=match):
            minimize(both, START, jac=True, method=adam, bounds=bad)


def test_callbacks():
    points, results = [], []

    def by_x(x):
        points.append(x)
        if len(points) == 7:
            raise StopIteration

    result = minimize(both, START, jac=True, method=adam, callback=by_x)
    assert (result.nit, result.status, result.success) == (7, 99, False)
    assert len({x.tobytes() for x in points}) == 7  # copies

    def by_result(intermediate_result):
        results.append(intermediate_result)

    minimize(both, START, jac=True, method=adam, callback=by_result, options={"maxiter": 4})
    assert [r.fun for r in results] == [rosen(r.x) for r in results]
    assert len(results) == 4

    def by_both(intermediate_result, more=None):
        assert isinstance(intermediate_result, np.ndarray)

    for callback in (by_both, max):  # `max` has no signature
        minimize(both, START, jac=True, method=adam, callback=callback, options={"maxiter": 2})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_small_gradients_of_large_parameters_are_no_convergence(dtype):
    start = np.full(2, 1e7, dtype)
    result = minimize(
        lambda x: (0.01 * x.sum(), np.full(2, 0.01)), start, jac=True, method=adam,
        bounds=[(None, 1e7), (None, None)], options={"maxiter": 5},
    )  # fmt: skip
    assert (result.nit, result.status) == (5, 1)


def test_the_best_point_is_returned():
    values = []

    def fun(x):
        values.append(abs(x[0]))
        return values[-1], np.sign(x)

    result = minimize(fun, [0.3], jac=True, method=adam,
                      options={"lr": 0.2, "maxiter": 50, "gtol": 0.0})  # fmt: skip
    assert result.fun == abs(result.x[0]) == min(values) < values[-1]


def test_functions_that_write_and_reuse():
    buffer = np.empty(2)

    def fun(x):
        value = rosen(x)
        buffer[:] = rosen_der(x)
        x[:] = np.nan
        return value, buffer

    clean = minimize(both, START, jac=True, method=adam, options={"maxiter": 20})
    result = minimize(fun, START, jac=True, method=adam, options={"maxiter": 20})
    assert (result.x == clean.x).all()
    assert (result.jac == clean.jac).all()


def test_what_functions_may_return():
    result = minimize(
        lambda x: (np.array([rosen(x)]), list(rosen_der(x))), START, jac=True, method=adam,
        options={"maxiter": 3},
    )  # fmt: skip
    assert result.fun == rosen(result.x)
    with pytest.raises(ValueError, match="fun returned an array of shape"):
        minimize(lambda x: (x, x), START, jac=True, method=adam)
    with pytest.raises(ValueError, match="jac returned an array of shape"):
        minimize(lambda x: (1.0, x[:1]), START, jac=True, method=adam)


NO_NUMBERS = {
    "None": (None, "None; is a `return` missing?"),
    "None in a list": ([None], "a value of type list, dtype object, expected real numbers"),
    "text": ("1.5", "a value of type str, dtype <U3, expected real numbers"),
    "bytes": (np.array([b"1.5"]), "a value of type ndarray, dtype |S3, expected real numbers"),
    "texts": (
        np.array(["1.5"], object),
        "a value of type ndarray, dtype object, expected real numbers",
    ),
    "complex": (1.5 + 0j, "a value of type complex, dtype complex128, expected real numbers"),
    "time": (np.timedelta64(1, "s"), "a value of type timedelta64, dtype timedelta64[s], expected"),
    "fields": (
        np.array([(1.5,)], [("a", float)]),
        "a value of type ndarray, dtype [('a', '<f8')], expected",
    ),
    "dict": ({}, "a value of type dict, dtype object, expected real numbers"),
    "object": (object(), "a value of type object, dtype object, expected real numbers"),
    "ragged": ([[1.0], [1.0, 2.0]], "a value of type list that is no array of real numbers: "),
    "huge": (10**400, "a value of type int that is no array of real numbers: "),
}


@pytest.mark.parametrize("name", ["fun", "jac"])
@pytest.mark.parametrize("case", NO_NUMBERS)
def test_what_functions_may_not_return(case, name):
    value, message = NO_NUMBERS[case]
    returned = {"fun": 1.0, "jac": [1.0], name: value}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=re.escape(f"{name} returned {message}")):
            minimize(lambda x: tuple(returned.values()), [1.0], jac=True, method=adam)


@pytest.mark.parametrize(
    "number", [3, True, 10**30, Fraction(9, 4), np.float16(2), np.longdouble(2), np.array(2)]
)
def test_kinds_of_numbers(number):
    results = [
        minimize(lambda x, n=n: (n, [n]), [1.0], jac=True, method=adam, options={"maxiter": 3})
        for n in (number, float(number))
    ]
    assert results[0].fun == results[1].fun == float(number)
    assert type(results[0].fun) is float
    assert results[0].x.tobytes() == results[1].x.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite(bad):
    def breaks(x):
        return (bad, x) if x[0] < 0.8 else (x @ x, 2 * x)

    result = minimize(breaks, [1.0], jac=True, method=adam)
    assert (result.status, result.success) == (2, False)
    assert 0.8 <= result.x[0] < 1
    assert np.isfinite(result.fun)


@pytest.mark.parametrize(("value", "slope"), [(np.nan, 1.0), (-np.inf, 1.0), (1.0, np.nan)])
def test_a_start_that_is_not_finite(value, slope):
    result = minimize(lambda x: (value, np.full(2, slope)), START, jac=True, method=adam)
    assert (result.status, result.nit) == (2, 0)
    assert np.array_equal(result.fun, value, equal_nan=True)
    assert np.array_equal(result.jac, np.full(2, slope), equal_nan=True)


def test_a_gradient_that_is_not_finite():
    def breaks(x):
        return x @ x, 2 * x if x[0] > 0.8 else x * np.nan

    result = minimize(breaks, [1.0], jac=True, method=adam)
    assert (result.status, result.success) == (2, False)
    assert np.isfinite(result.jac).all()


def test_unknown_options():
    with pytest.warns(OptimizeWarning, match="Unknown solver options: learning_rate, maximize"):
        minimize(both, START, jac=True, method=adam,
                 options={"learning_rate": 0.1, "maximize": True, "maxiter": 2})  # fmt: skip
    minimize(both, START, jac=True, hess=both, hessp=both, method=adam, options={"maxiter": 2})


def test_what_it_does_not_take():
    for more, match in (
        ({"jac": None}, "needs a gradient"),
        ({"jac": "2-point"}, "needs a gradient.*approx_fprime"),
        ({"jac": rosen_der, "constraints": {"type": "eq", "fun": sum}}, "no constraints"),
        ({"jac": rosen_der, "constraints": LinearConstraint([[1, 1]])}, "no constraints"),
        ({"jac": rosen_der, "options": {"lr": -1.0}}, "Invalid learning rate"),
    ):
        with pytest.raises(ValueError, match=match):
            minimize(rosen, START, method=adam, **more)


def test_options_reach_the_optimizer():
    def path(**options):
        points = []
        minimize(both, START, jac=True, method=adam, callback=points.append,
                 options={"maxiter": 20, **options})  # fmt: skip
        return np.array(points)

    plain = path(betas=(0.9, 0.5))
    assert not np.array_equal(path(betas=(0.9, 0.5), amsgrad=True), plain)
    plain = path(weight_decay=0.1)
    assert not np.array_equal(path(weight_decay=0.1, decoupled_weight_decay=True), plain)
    plain = path(eps=10.0)
    assert not np.array_equal(path(eps=10.0, epsilon_hat=True), plain)
    plain = path()
    for options in (
        {"betas": (0.5, 0.9)}, {"weight_decay": 0.1}, {"max_grad_norm": 1.0},
        {"eps": 1.0}, {"lr": schedules.linear(0.1, 0.0, 20)},
    ):  # fmt: skip
        assert not np.array_equal(path(**options), plain), options


def test_basin_hopping():
    result = basinhopping(
        both, START, niter=2,
        minimizer_kwargs={"method": adam, "jac": True, "options": OPTIONS},
    )  # fmt: skip
    assert result.fun < 1e-8


def test_no_limit_given():
    def path(**options):
        return minimize(both, START, jac=True, method=adam, options={"lr": 1e-6, **options})

    assert path().nit == path(maxiter=None).nit == 1000
    assert "a larger maxiter or lr" in path().message


def test_options_and_starts_of_a_wrong_kind():
    for options in ({"maxiter": "100"}, {"gtol": None}):
        with pytest.raises(TypeError, match=f"{next(iter(options))} must be a real number, found"):
            minimize(both, START, jac=True, method=adam, options=options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="x0 has the dtype complex128, expected real numbers"):
            minimize(both, [1 + 1j, 2.0], jac=True, method=adam)


def test_messages(capsys):
    minimize(both, START, jac=True, method=adam, options={"maxiter": 1, "disp": True})
    assert "Maximum number" in capsys.readouterr().out


def test_without_scipy():
    code = "import sys; sys.modules['scipy'] = None; import fastadam.scipy"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert "fastadam.scipy needs SciPy: pip install scipy" in result.stderr
