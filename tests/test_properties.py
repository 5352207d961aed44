"""Properties that hold for any arrays and options."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import bits, rule

import fastadam

# Hypothesis resets nothing between examples; the backend fixture holds for all of them.
SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
OPTIONS = st.fixed_dictionaries(
    {
        "lr": st.floats(0, 10),
        "betas": st.tuples(st.floats(0, 0.9999), st.floats(0, 0.9999)),
        "eps": st.floats(0, 1),
        "weight_decay": st.sampled_from([0.0, 0.1, 3.0]),
        "maximize": st.booleans(),
        "decoupled_weight_decay": st.booleans(),
        "epsilon_hat": st.booleans(),
    }
)


@st.composite
def problems(draw):
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9))
    values = hnp.arrays(dtype, shape, elements=st.floats(width=32, allow_nan=True))
    return draw(values), draw(values), draw(values), np.array(np.abs(draw(values)))


@SETTINGS
@given(problems(), OPTIONS, st.integers(1, 2**40), st.booleans())
def test_a_step_is_the_rule(problem, options, step, amsgrad):
    p, g, m, v = problem
    vmax = v.copy() if amsgrad else None
    named = {k.replace("decoupled_weight_decay", "decoupled"): x for k, x in options.items()}
    expected = rule(p, g, m, v, vmax, step, **named)
    p, m, v = p.copy(), m.copy(), v.copy()
    fastadam.adam_step(p, g, m, v, step=step, max_exp_avg_sq=vmax, **options)
    for got, want in zip((p, m, v, vmax), expected, strict=True):
        assert want is None or bits(got) == bits(want)


@SETTINGS
@given(problems(), OPTIONS, st.randoms(use_true_random=False))
def test_elements_do_not_know_each_other(problem, options, random):
    """Shuffling the elements shuffles the result."""
    p, g, *_ = (x.reshape(-1) for x in problem)
    order = list(range(p.size))
    random.shuffle(order)
    straight, shuffled = p.copy(), p[order].copy()
    fastadam.Adam(straight, **options).step(g)
    fastadam.Adam(shuffled, **options).step(g[order].copy())
    assert bits(straight[order]) == bits(shuffled)


@SETTINGS
@given(problems(), OPTIONS)
def test_maximize_is_minimizing_the_negative(problem, options):
    p, g, *_ = problem
    down, up = p.copy(), p.copy()
    options["maximize"] = False
    fastadam.Adam(down, **options).step(-g)
    options["maximize"] = True
    fastadam.Adam(up, **options).step(g)
    assert bits(up) == bits(down)
