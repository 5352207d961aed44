"""Sharpen the photograph of inverse_problem.py on several processes, each with some rows of it.

    pip install '.[examples,mpi]' mpich && mpiexec -n 2 python examples/mpi_inverse_problem.py

The photograph is mirrored side by side to 800 x 1280 pixels of three colours, 3,072,000 numbers,
and each process has its rows alone. To blur them, it gets three rows from each of its neighbours,
and for the total variation one; the first rows follow the last. DistributedOptimizer steps the
rows of each process. Rank 0 prints the loss of all rows. At the end it gathers the whole image,
prints how near the data and the reconstruction are to the original, and draws a small part of the
three to mpi_inverse_problem.png.

Each number of the image is computed by the same operations however many processes there are, so
the image is the same to the last bit. Only the loss may differ in its last digits: it is the sum
of what each process added up.
"""

import argparse
import time

import numpy as np
from inverse_problem import NOISE, RADIUS, ROUNDING, STEPS, WEIGHT, compare
from mpi4py import MPI
from scipy import ndimage
from sklearn.datasets import load_sample_image

import fastadam
from fastadam.mpi import DistributedOptimizer

HEIGHT = 800

ring = MPI.COMM_WORLD.Create_cart([MPI.COMM_WORLD.size], periods=[True])
above, below = ring.Shift(0, 1)


def say(text):
    if ring.rank == 0:
        print(text, flush=True)


def own_rows(height):
    """Which rows of a whole image are this process's."""
    return range(height * ring.rank // ring.size, height * (ring.rank + 1) // ring.size)


def load(rows):
    """These rows of the photograph as (row, colour, column) in [0, 1]."""
    photograph = load_sample_image("china.jpg")[:400]
    part = np.concatenate([photograph, photograph[::-1]])[rows.start : rows.stop]
    part = np.concatenate([part, part[:, ::-1]], axis=1)
    return part.transpose(0, 2, 1).astype(np.float32, order="C") / 255


def noise(rows, shape):
    """The same for a row, whichever process has it."""
    return np.stack([np.random.default_rng(row).standard_normal(shape, np.float32) for row in rows])


def disk():
    """What a point becomes, as (row, colour, column)."""
    offset = np.arange(-RADIUS, RADIUS + 1)
    kernel = np.clip(RADIUS + 0.5 - np.hypot(offset[:, None], offset), 0, 1)
    return kernel[:, None, :] / kernel.sum()


def with_neighbours(image, n):
    """These rows, the last n of the process above them and the first n of the one below."""
    taller = np.empty((n + len(image) + n, *image.shape[1:]), image.dtype)
    taller[n:-n] = image
    ring.Sendrecv(image[-n:], below, recvbuf=taller[:n], source=above)
    ring.Sendrecv(image[:n], above, recvbuf=taller[-n:], source=below)
    return taller


def blur(image):
    """Convolution with the disk, around the edges; the disk's symmetry makes it its own adjoint."""
    return ndimage.convolve(with_neighbours(image, RADIUS), disk(), mode="wrap")[RADIUS:-RADIUS]


def variation(image):
    """The total variation of these rows, as in inverse_problem.py, and that of all's gradient."""
    taller = with_neighbours(image, 1)
    upper = taller[:-1]
    right = np.roll(upper, -1, axis=-1) - upper
    down = taller[1:] - upper
    length = np.sqrt((right**2 + down**2).sum(axis=1, keepdims=True) + ROUNDING**2)
    right /= length
    down /= length
    right = right[1:]
    return length[1:].sum(dtype=float), np.roll(right, 1, axis=-1) - right + down[:-1] - down[1:]


def loss_and_gradient(image, data):
    """The part of the loss that comes from these rows, and the whole loss's gradient in them."""
    misfit = blur(image) - data
    length, gradient = variation(image)
    gradient *= WEIGHT
    gradient += blur(misfit)
    return (misfit**2).sum(dtype=float) / 2 + WEIGHT * length, gradient


def reconstruct(data):
    """Descend from the data; returns this process's rows of the image."""
    image = data.copy()
    lr = fastadam.schedules.cosine_decay(0.05, STEPS)
    optimizer = DistributedOptimizer(image, fastadam.Adam, lr=lr)
    for done in range(STEPS):
        loss, gradient = loss_and_gradient(image, data)
        if done % 10 == 0:
            say(f"after {done} of {STEPS} steps: loss {ring.allreduce(loss):.2f}")
        optimizer.step(gradient)
    return image


def gather(image):
    """The whole image on rank 0 as (colour, row, column), and None elsewhere."""
    parts = ring.gather(image)
    return None if parts is None else np.concatenate(parts).transpose(1, 0, 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", default="mpi_inverse_problem.png", help="where to draw")
    path = parser.parse_args().plot
    fastadam.set_num_threads(1)  # or the processes take each other's cores

    rows = own_rows(HEIGHT)
    original = load(rows)
    say(f"{ring.size} processes; {original.size:,} of {original[0].size * HEIGHT:,} unknowns here")
    data = blur(original) + NOISE * noise(rows, original.shape[1:])
    start = time.perf_counter()
    image = reconstruct(data)
    say(f"{STEPS} steps in {time.perf_counter() - start:.1f} s")

    original, data, image = gather(original), gather(data), gather(image)
    if ring.rank == 0:
        compare(original, data, image, path)


if __name__ == "__main__":
    main()
