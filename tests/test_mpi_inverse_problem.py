"""examples/mpi_inverse_problem.py: its operators, and the same image on any number of ranks.

``python tests/test_mpi_inverse_problem.py FILE`` is what each rank runs.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from mpiexec import on_ranks

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def backend():
    """What the ranks send to each other does not depend on it: once is enough."""


def test_operators_and_the_same_image_on_any_number_of_ranks(tmp_path):
    if not EXAMPLES.is_dir():
        pytest.skip("examples/ is not beside the tests")
    for name in ("sklearn", "matplotlib"):
        pytest.importorskip(name)
    files = [tmp_path / str(ranks) for ranks in (1, 2, 3)]
    for ranks, file in enumerate(files, start=1):
        on_ranks(ranks, __file__, str(file))
    assert files[0].read_bytes() == files[1].read_bytes() == files[2].read_bytes()


def main(file):
    sys.path.insert(0, str(EXAMPLES))
    import mpi_inverse_problem as example
    from scipy import ndimage

    ring = example.ring
    rng = np.random.default_rng(0)
    whole = rng.standard_normal((3, 26, 3, 11))
    rows = example.own_rows(26)
    x, y, data = whole[:, rows.start : rows.stop].copy()

    def dot(a, b):
        return ring.allreduce(np.vdot(a, b))

    blurred = ndimage.convolve(whole[0], example.disk(), mode="wrap")
    assert example.blur(x).tobytes() == blurred[rows.start : rows.stop].tobytes()
    np.testing.assert_allclose(dot(example.blur(x), y), dot(x, example.blur(y)), rtol=1e-13)

    def loss(x):
        return ring.allreduce(example.loss_and_gradient(x, data)[0])

    slope = dot(example.loss_and_gradient(x, data)[1], y)
    np.testing.assert_allclose((loss(x + 1e-5 * y) - loss(x - 1e-5 * y)) / 2e-5, slope, rtol=1e-7)
    # Of the total variation alone, for it is a small part of the loss.
    slope = dot(example.variation(x)[1], y)
    plus, minus = (ring.allreduce(example.variation(x + t * y)[0]) for t in (1e-6, -1e-6))
    np.testing.assert_allclose((plus - minus) / 2e-6, slope, rtol=1e-6)

    image = example.reconstruct(data.astype(np.float32))
    parts = [image, example.noise(rows, (3, 11)), example.load(example.own_rows(example.HEIGHT))]
    found = [example.gather(part) for part in parts]
    if ring.rank == 0:
        Path(file).write_bytes(b"".join(whole.tobytes() for whole in found))


if __name__ == "__main__":
    main(*sys.argv[1:])
