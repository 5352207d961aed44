"""Sharpen a blurred, noisy photograph of 12 million unknowns by gradient descent.

    pip install '.[examples]' && python examples/inverse_problem.py

A photograph that scikit-learn ships, mirrored side by side to three colours of 1600 x 2560
pixels (12,288,000 numbers), is put out of focus and gets noise. fastadam.Adam finds the image x
that minimizes

    |blur(x) - data|^2 / 2  +  weight * (the total variation of x, a little smoothed),

with gradients written out, everything in float32. Prints how near the data and the
reconstruction are to the original and where the time goes; draws the same small part of the
three to inverse_problem.png.
"""

import argparse
import time

import matplotlib
import numpy as np
from scipy import fft
from sklearn.datasets import load_sample_image

import fastadam

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TILES = 4
RADIUS = 3  # of the disk that a point out of focus becomes, in pixels
NOISE = 0.005
WEIGHT, ROUNDING = 6e-4, 0.01  # of the total variation
STEPS = 60


def load():
    """The photograph as (colour, row, column) in [0, 1]; mirrored, it fits its opposite edges."""
    photograph = load_sample_image("china.jpg")[:400].transpose(2, 0, 1)
    _, height, width = photograph.shape
    added = ((0, 0), (0, (TILES - 1) * height), (0, (TILES - 1) * width))
    return np.pad(photograph, added, mode="symmetric").astype(np.float32) / 255


def disk(shape):
    """The Fourier transform of a disk around the origin; it is real by symmetry."""
    row, column = (fft.fftfreq(n, 1 / n).astype(np.float32) for n in shape)
    kernel = np.clip(RADIUS + 0.5 - np.hypot(row[:, None], column), 0, 1)
    return fft.rfft2(kernel / kernel.sum()).real


def convolve(image, transform):
    """Convolution around the edges; a real transform makes it its own transpose."""
    spectrum = fft.rfft2(image, workers=-1)
    spectrum *= transform
    return fft.irfft2(spectrum, s=image.shape[-2:], workers=-1, overwrite_x=True)


def variation_gradient(image):
    """Of the sum over pixels of sqrt(|differences to the next right and below|^2 + ROUNDING^2)."""
    right = np.roll(image, -1, axis=-1) - image
    down = np.roll(image, -1, axis=-2) - image
    length = np.sqrt((right**2 + down**2).sum(axis=0) + ROUNDING**2)
    right /= length
    down /= length
    return np.roll(right, 1, axis=-1) - right + np.roll(down, 1, axis=-2) - down


def reconstruct(data, blur):
    """Descend from the data; returns the image, all seconds and the optimizer's."""
    image = data.copy()
    optimizer = fastadam.Adam(image, lr=fastadam.schedules.cosine_decay(0.05, STEPS))
    blur_twice, data_blurred = blur * blur, convolve(data, blur)
    in_optimizer = 0.0
    start = time.perf_counter()
    for done in range(1, STEPS + 1):
        gradient = WEIGHT * variation_gradient(image)
        gradient += convolve(image, blur_twice)
        gradient -= data_blurred
        before = time.perf_counter()
        optimizer.step(gradient)
        in_optimizer += time.perf_counter() - before
        if done % 10 == 0:
            print(f"{done} of {STEPS} steps", flush=True)
    return image, time.perf_counter() - start, in_optimizer


def psnr(image, original):
    """Peak signal-to-noise ratio in decibels."""
    return -10 * np.log10(np.mean((image - original) ** 2))


def draw(images, path):
    figure, axes = plt.subplots(1, 3, figsize=(15, 5.8), layout="constrained")
    for panel, (title, image) in zip(axes, images.items(), strict=True):
        part = image[:, 120:370, 270:520]
        panel.imshow(part.clip(0, 1).transpose(1, 2, 0))
        panel.set_title(title)
        panel.axis("off")
    figure.suptitle(
        f"{part.shape[1]} x {part.shape[2]} of {image.shape[1]:,} x {image.shape[2]:,} pixels; "
        "decibels are of the whole image"
    )
    figure.savefig(path, dpi=120)


def compare(original, data, image, path):
    """Print how near the data and the reconstruction are to the original, and draw all three."""
    before, after = psnr(data, original), psnr(image, original)
    print(f"PSNR: {before:.2f} dB blurred and noisy, {after:.2f} dB reconstructed")
    draw(
        {
            "original": original,
            f"blurred and noisy: {before:.1f} dB": data,
            f"reconstruction: {after:.1f} dB": image,
        },
        path,
    )
    print(f"images: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", default="inverse_problem.png", help="where to draw the images")
    path = parser.parse_args().plot

    original = load()
    rng = np.random.default_rng(0)
    blur = disk(original.shape[-2:])
    data = convolve(original, blur)
    data += NOISE * rng.standard_normal(data.shape, np.float32)
    image, seconds, in_optimizer = reconstruct(data, blur)

    print(f"{image.size:,} unknowns, {image.dtype}")
    print(
        f"{STEPS} steps in {seconds:.1f} s: {in_optimizer:.2f} s in fastadam, "
        f"{seconds - in_optimizer:.1f} s for gradients"
    )
    compare(original, data, image, path)


if __name__ == "__main__":
    main()
