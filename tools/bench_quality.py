"""Quality scores against the best OpenCV chain, on decoded photographs."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
from benchmark import Benchmark, photograph_folder
from numba import njit

from semaug.artifacts.sources import open_source
from semaug.quality_policy import batch_statistics, image_statistics

IMAGES = 60
REPETITIONS = 8
"""Passes over the set in the row on two threads: long enough that starting the threads does not count."""


def benchmarks() -> list[Benchmark]:
    """One row on one core, one on two (where there are two)."""
    images, what = decoded_images()
    for image in images[:4]:
        check_equal(image)
    room = [np.empty_like(image) for image in images]
    rows = [
        Benchmark(
            name="quality score, one core",
            target="3x the best OpenCV chain",
            ours=lambda: [image_statistics(image) for image in images],
            peers={
                "opencv, 16-bit Laplacian": lambda: [chain(image, cv2.CV_16S) for image in images],
                "opencv, 64-bit Laplacian": lambda: [chain(image, cv2.CV_64F) for image in images],
                "limit: copying the pixels": lambda: [
                    np.copyto(to, image) for to, image in zip(room, images, strict=True)
                ],
                "limit: counting the levels": lambda: [count_levels(image) for image in images],
            },
            target_ratio=3.0,
            processor=True,
            items=len(images),
            note=f"{len(images)} {what}; both give the Laplacian variance and the entropy",
        )
    ]
    if (os.cpu_count() or 1) >= 2:
        rows.append(two_threads(images * REPETITIONS))
    return rows


def two_threads(images: list[Any]) -> Benchmark:
    """Our batch on two threads against ours on one."""
    return Benchmark(
        name="quality score, two cores",
        target="near 2x one core (1.7)",
        ours=lambda: batch_statistics(images, threads=2),
        peers={"ours, one thread": lambda: batch_statistics(images, threads=1)},
        target_ratio=1.7,
        items=len(images),
    )


def decoded_images() -> tuple[list[Any], str]:
    """Up to ``IMAGES`` decoded photographs, or generated scenes where there are none."""
    folder = photograph_folder()
    source = open_source(folder if folder is not None else "scenes:train")
    images = [source.read(i) for i in range(min(IMAGES, len(source)))]
    return images, "decoded photographs" if folder is not None else "generated scenes (no photographs here)"


def chain(image: Any, depth: int) -> tuple[float, float]:
    """Laplacian variance and entropy by OpenCV: cvtColor, Laplacian, meanStdDev, calcHist."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    _, deviation = cv2.meanStdDev(cv2.Laplacian(gray, depth, ksize=1))
    histogram = cv2.calcHist([gray], [0], None, [256], [0, 256])
    share = histogram[histogram > 0] / gray.size
    return float(deviation[0, 0]) ** 2, float(-(share * np.log2(share)).sum())


@njit(cache=True)
def count_levels(image: Any) -> Any:
    """One increment a pixel, in eight tables, of the green values: what any exact histogram cannot do without."""
    values, counts = image.reshape(-1), np.zeros((8, 272), np.uint32)
    for i in range(values.size // 3 // 8):
        for lane in range(8):
            counts[lane, values[24 * i + 3 * lane + 1]] += np.uint32(1)
    return counts


def check_equal(image: Any) -> None:
    """Refuse to compare passes that do not compute the same (OpenCV's own grey may round a level apart)."""
    found, expected = image_statistics(image), chain(image, cv2.CV_64F)
    if not np.allclose((found.laplacian_variance, found.entropy), expected, rtol=2e-2):
        raise ValueError(f"ours gives {found}, OpenCV {expected}: not the same work")
