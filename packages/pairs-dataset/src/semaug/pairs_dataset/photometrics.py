# mypy: allow-untyped-defs, allow-untyped-calls
# Compiled functions carry no annotations: numba infers their types; docstrings say what they take.
"""One compiled pass from a decoded image to a normalised view: crop, resize, flip, colours, blur, normalise.

The operations are torchvision's (``RandomResizedCrop`` with antialiasing, ``ColorJitter`` in random order,
``RandomGrayscale``, ``GaussianBlur``, ``RandomSolarize``), on values in [0, 1]. What differs: nothing is rounded to
uint8 between operations, and the Gaussian is cut at four standard deviations (mass beyond it: 6e-5).

The work is ordered for the cache. Rows are resampled first (contiguous uint8, only the crop is read), then the columns
of each finished row while it is in L1, where the colour operations before the contrast follow at once; contrast needs
the mean of the whole image, so the rest is a second sweep, and the blur a third and fourth. A flip is a reversal of
the column weights. All kernels of the path are in this file because numba's cache looks at one file only.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from semaug.pairs_dataset import random_numbers as slots
from semaug.pairs_dataset.pixel_sums import BLOCK, mirror_block, tap_block, weighted_pixel
from semaug.pairs_dataset.random_numbers import uniform

# Fields of a recipe vector (float64): probabilities and strengths, in the order Recipe.vector() writes them.
R_FLIP, R_JITTER, R_BRIGHTNESS, R_CONTRAST, R_SATURATION, R_HUE, R_GRAY = range(7)
R_BLUR, R_SIGMA_LOW, R_SIGMA_HIGH, R_BLUR_RADIUS, R_SOLARISE, R_THRESHOLD, R_ROTATION, R_DEGREES = range(7, 15)
RECIPE_FIELDS = 15

# Fields of a parameter vector (float64): what was drawn for one view. P_ORDER has four entries.
P_FLIP, P_JITTER, P_ORDER = 0, 1, 2
P_BRIGHTNESS, P_CONTRAST, P_SATURATION, P_HUE, P_GRAY, P_SIGMA, P_RADIUS, P_THRESHOLD, P_ANGLE = range(6, 15)
PARAMETER_FIELDS = 15
NEVER = 2.0
"""A solarise threshold that no value in [0, 1] reaches."""

_OPTIONS: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},
}
_F = np.float32
_RED, _GREEN, _BLUE = _F(0.2989), _F(0.587), _F(0.114)
_ZERO, _ONE = _F(0.0), _F(1.0)


@njit(**_OPTIONS)
def _between(key, slot, strength, centre):
    low, high = max(centre - strength, 0.0), centre + strength
    return low + (high - low) * uniform(key, slot)


@njit(**_OPTIONS)
def draw_parameters(key, recipe, parameters):
    """Fill ``parameters`` (PARAMETER_FIELDS,) float64 with what ``recipe`` draws for the photometric ``key``."""
    parameters[P_FLIP] = uniform(key, slots.FLIP) < recipe[R_FLIP]
    parameters[P_JITTER] = uniform(key, slots.JITTER) < recipe[R_JITTER]
    _draw_order(uniform(key, slots.JITTER_ORDER), parameters)
    parameters[P_BRIGHTNESS] = _between(key, slots.BRIGHTNESS, recipe[R_BRIGHTNESS], 1.0)
    parameters[P_CONTRAST] = _between(key, slots.CONTRAST, recipe[R_CONTRAST], 1.0)
    parameters[P_SATURATION] = _between(key, slots.SATURATION, recipe[R_SATURATION], 1.0)
    parameters[P_HUE] = (2.0 * uniform(key, slots.HUE) - 1.0) * recipe[R_HUE]
    parameters[P_GRAY] = uniform(key, slots.GRAY) < recipe[R_GRAY]
    low, high = recipe[R_SIGMA_LOW], recipe[R_SIGMA_HIGH]
    blurred = uniform(key, slots.BLUR) < recipe[R_BLUR]
    parameters[P_SIGMA] = low + (high - low) * uniform(key, slots.BLUR_SIGMA) if blurred else 0.0
    parameters[P_RADIUS] = recipe[R_BLUR_RADIUS]
    parameters[P_THRESHOLD] = recipe[R_THRESHOLD] if uniform(key, slots.SOLARISE) < recipe[R_SOLARISE] else NEVER
    turned = uniform(key, slots.ROTATION) < recipe[R_ROTATION]
    most = math.radians(recipe[R_DEGREES])
    parameters[P_ANGLE] = (2.0 * uniform(key, slots.ROTATION_ANGLE) - 1.0) * most if turned else 0.0


@njit(**_OPTIONS)
def _draw_order(number, parameters):
    """One of the 24 orders of brightness (0), contrast (1), saturation (2) and hue (3), by its factorial code."""
    code = int(number * 24.0)
    for i in range(4):
        parameters[P_ORDER + i] = i
    for i in range(3):
        choices = 4 - i
        j = i + code % choices
        code //= choices
        parameters[P_ORDER + i], parameters[P_ORDER + j] = parameters[P_ORDER + j], parameters[P_ORDER + i]


@njit(**_OPTIONS)
def _triangle_weights(size_in, size_out, flip, unit):
    """First tap, number of taps, and weights (summing to ``unit``) of each output position.

    The filter is a triangle, widened by the scale when shrinking, cut at the borders: Pillow's antialiased bilinear.
    """
    scale = size_in / size_out
    support = max(scale, 1.0)
    first, taps = np.empty(size_out, np.int64), np.empty(size_out, np.int64)
    weights = np.zeros((size_out, 2 * math.ceil(support) + 2), np.float32)
    for i in range(size_out):
        centre = (i + 0.5) * scale
        low = max(int(centre - support + 0.5), 0)
        high = min(int(centre + support + 0.5), size_in)
        at = size_out - 1 - i if flip else i
        first[at], taps[at] = low, high - low
        total = 0.0
        for k in range(high - low):
            weight = max(1.0 - abs((low + k - centre + 0.5) / support), 0.0)
            weights[at, k] = weight
            total += weight
        for k in range(high - low):
            weights[at, k] *= _F(unit / total)
    return first, taps, weights


@njit(**_OPTIONS)
def _resample_row(image, at, stride, weights, weights_at, taps, into, length):
    """Weighted sum of ``taps`` lines of ``length`` uint8 values, the first at ``image[at]``, ``stride`` apart."""
    whole = length - length % BLOCK
    for j in range(0, whole, BLOCK):
        tap_block(into, j, image, at + j, stride, weights, weights_at, taps)
    if length >= BLOCK:  # the last block overlaps the one before it, so that nothing past the line is read
        tap_block(into, length - BLOCK, image, at + length - BLOCK, stride, weights, weights_at, taps)
        return
    if length >= 4:  # a narrow crop: the same, four values at a time
        for j in range(0, length - 3, 4):
            weighted_pixel(into, j, image, at + j, stride, weights, weights_at, taps)
        weighted_pixel(into, length - 4, image, at + length - 4, stride, weights, weights_at, taps)
        return
    for j in range(length):
        total = _ZERO
        for k in range(taps):
            total += weights[weights_at + k] * _F(image[at + k * stride + j])
        into[j] = total


@njit(**_OPTIONS)
def _resample_columns(line, first, taps, weights, weights_stride, into):
    """Weighted sums of ``taps`` packed pixels of ``line``: the same number everywhere, so that no branch is missed."""
    if taps <= 2:
        for x in range(first.size):
            weighted_pixel(into, 3 * x, line, 3 * first[x], 3, weights, x * weights_stride, 2)
    elif taps <= 4:
        for x in range(first.size):
            weighted_pixel(into, 3 * x, line, 3 * first[x], 3, weights, x * weights_stride, 4)
    else:
        for x in range(first.size):
            weighted_pixel(into, 3 * x, line, 3 * first[x], 3, weights, x * weights_stride, taps)


@njit(**_OPTIONS)
def _split_channels(mixed, r, g, b):
    for x in range(r.size):
        r[x] = mixed[3 * x]
        g[x] = mixed[3 * x + 1]
        b[x] = mixed[3 * x + 2]


@njit(**_OPTIONS)
def _clamp(value):
    return min(max(value, _ZERO), _ONE)


@njit(**_OPTIONS)
def _gray(r, g, b):
    return _RED * r + _GREEN * g + _BLUE * b


@njit(**_OPTIONS)
def _brighten(r, g, b, factor):
    for x in range(r.size):
        r[x] = _clamp(r[x] * factor)
        g[x] = _clamp(g[x] * factor)
        b[x] = _clamp(b[x] * factor)


@njit(**_OPTIONS)
def _change_contrast(r, g, b, factor, mean):
    shift = (_ONE - factor) * mean
    for x in range(r.size):
        r[x] = _clamp(r[x] * factor + shift)
        g[x] = _clamp(g[x] * factor + shift)
        b[x] = _clamp(b[x] * factor + shift)


@njit(**_OPTIONS)
def _saturate(r, g, b, factor):
    rest = _ONE - factor
    for x in range(r.size):
        gray = rest * _gray(r[x], g[x], b[x])
        r[x] = _clamp(r[x] * factor + gray)
        g[x] = _clamp(g[x] * factor + gray)
        b[x] = _clamp(b[x] * factor + gray)


@njit(**_OPTIONS)
def _hue_wave(position, value, chroma):
    k = position - _F(6.0) if position >= _F(6.0) else position
    return value - chroma * _clamp(min(k, _F(4.0) - k))


@njit(**_OPTIONS)
def _shift_hue(r, g, b, shift):
    """Turn the hue by ``shift`` turns in [0, 1): HSV there and back, without branches."""
    turn = _F(6.0) * shift
    for x in range(r.size):
        red, green, blue = r[x], g[x], b[x]
        value = max(red, max(green, blue))
        chroma = value - min(red, min(green, blue))
        inverse = _ONE / (chroma if chroma > _ZERO else _ONE)
        from_green = _F(2.0) + (blue - red) * inverse
        from_blue = _F(4.0) + (red - green) * inverse
        hue = from_green if value == green else from_blue
        hue = (green - blue) * inverse if value == red else hue
        hue = hue + turn + (_F(6.0) if hue < _ZERO else _ZERO)
        hue = hue - _F(6.0) if hue >= _F(6.0) else hue
        r[x] = _hue_wave(hue + _F(5.0), value, chroma)
        g[x] = _hue_wave(hue + _F(3.0), value, chroma)
        b[x] = _hue_wave(hue + _ONE, value, chroma)


@njit(**_OPTIONS)
def _jitter_row(r, g, b, p, start, stop):
    for i in range(start, stop):
        operation = int(p[P_ORDER + i])
        if operation == 0 and p[P_BRIGHTNESS] != 1.0:
            _brighten(r, g, b, _F(p[P_BRIGHTNESS]))
        elif operation == 2 and p[P_SATURATION] != 1.0:
            _saturate(r, g, b, _F(p[P_SATURATION]))
        elif operation == 3 and p[P_HUE] != 0.0:
            _shift_hue(r, g, b, _F(p[P_HUE] - math.floor(p[P_HUE])))


@njit(**_OPTIONS)
def _gray_sum(r, g, b):
    total = _ZERO
    for x in range(r.size):
        total += _gray(r[x], g[x], b[x])
    return total


@njit(**_OPTIONS)
def _make_gray(r, g, b):
    for x in range(r.size):
        r[x] = _gray(r[x], g[x], b[x])


@njit(**_OPTIONS)
def _finish_row(row, into, threshold, mean, inverse_std):
    if threshold > _ONE:
        for x in range(into.size):
            into[x] = (row[x] - mean) * inverse_std
    else:
        for x in range(into.size):
            value = _ONE - row[x] if row[x] >= threshold else row[x]
            into[x] = (value - mean) * inverse_std


@njit(**_OPTIONS)
def _gaussian(sigma, radius):
    """Weights 0 to radius of the symmetric kernel (their mirrored sum is one), cut at four standard deviations."""
    reach = max(1, min(math.ceil(4.0 * sigma), radius))
    weights = np.empty(reach + 1, np.float32)
    total = 0.0
    for k in range(reach + 1):
        total += (1.0 if k == 0 else 2.0) * math.exp(-0.5 * (k / sigma) ** 2)
    for k in range(reach + 1):
        weights[k] = math.exp(-0.5 * (k / sigma) ** 2) / total
    return weights


@njit(**_OPTIONS)
def padded_width(size):
    """The length of a scratch row: ``size`` rounded up to whole blocks."""
    return (size + BLOCK - 1) // BLOCK * BLOCK


@njit(**_OPTIONS)
def _blur_columns(row, weights, padded, scratch, at):
    """Convolve one row along x, with reflected borders, into ``scratch`` from ``at`` on."""
    size, reach = row.size, weights.size - 1
    for x in range(size):
        padded[reach + x] = row[x]
    for k in range(1, reach + 1):
        padded[reach - k] = row[k]
        padded[reach + size - 1 + k] = row[size - 1 - k]
    for x in range(0, size, BLOCK):
        mirror_block(scratch, at + x, padded, reach + x, 1, weights, reach)


@njit(**_OPTIONS)
def _reflect_rows(scratch, stride, size, reach):
    """Mirror ``reach`` rows above and below the ``size`` rows that start at row ``reach``."""
    for k in range(1, reach + 1):
        for x in range(stride):
            scratch[(reach - k) * stride + x] = scratch[(reach + k) * stride + x]
            scratch[(reach + size - 1 + k) * stride + x] = scratch[(reach + size - 1 - k) * stride + x]


@njit(**_OPTIONS)
def _blur_and_finish(out, scratch, p, norm, channels):
    size = out.shape[1]
    weights = _gaussian(p[P_SIGMA], min(int(p[P_RADIUS]), size - 1))
    reach, stride = weights.size - 1, padded_width(size)
    padded = np.zeros(stride + 2 * reach, np.float32)
    row = np.empty(stride, np.float32)
    threshold = _F(p[P_THRESHOLD])
    for c in range(channels):
        for y in range(size):
            _blur_columns(out[c, y], weights, padded, scratch, (reach + y) * stride)
        _reflect_rows(scratch, stride, size, reach)
        for y in range(size):
            for x in range(0, size, BLOCK):
                mirror_block(row, x, scratch, (reach + y) * stride + x, stride, weights, reach)
            for d in range(c, 3 if channels == 1 else c + 1):
                _finish_row(row, out[d, y], threshold, norm[0, d], norm[1, d])


@njit(**_OPTIONS)
def _resize_and_start(image, top, left, height, width, p, stop, out):
    """Resample the crop into ``out`` and apply the first ``stop`` colour operations; returns the sum of the gray."""
    size, stride = out.shape[1], 3 * image.shape[1]
    flat = image.reshape(image.size)
    first_y, taps_y, weights_y = _triangle_weights(height, size, False, 1.0)
    first_x, taps_x, weights_x = _triangle_weights(width, size, p[P_FLIP] != 0.0, 1.0 / 255.0)
    flat_y, flat_x = weights_y.reshape(weights_y.size), weights_x.reshape(weights_x.size)
    most_x = taps_x.max()
    # Padded taps read zeros past the line, and weighted_pixel one value more than its pixel.
    line = np.zeros(max(3 * (width + max(most_x, 4)), BLOCK) + 1, np.float32)
    mixed = np.empty(3 * size + 1, np.float32)
    total = 0.0
    for y in range(size):
        at = (top + first_y[y]) * stride + 3 * left
        _resample_row(flat, at, stride, flat_y, y * weights_y.shape[1], taps_y[y], line, 3 * width)
        _resample_columns(line, first_x, most_x, flat_x, weights_x.shape[1], mixed)
        r, g, b = out[0, y], out[1, y], out[2, y]
        _split_channels(mixed, r, g, b)
        _jitter_row(r, g, b, p, 0, stop)
        if stop < 4:
            total += _gray_sum(r, g, b)
    return total


@njit(**_OPTIONS)
def _rotate(out, scratch, angle):
    """Turn the view about its centre by ``angle`` (radians, anticlockwise), bilinear; zero where nothing was."""
    size = out.shape[1]
    plane = size * size
    for c in range(3):
        for y in range(size):
            for x in range(size):
                scratch[c * plane + y * size + x] = out[c, y, x]
    cosine, sine, half = _F(math.cos(angle)), _F(math.sin(angle)), _F(size) / _F(2.0) - _F(0.5)
    for y in range(size):
        dy = _F(y) - half
        for x in range(size):
            dx = _F(x) - half
            from_x, from_y = cosine * dx - sine * dy + half, sine * dx + cosine * dy + half
            left, top = math.floor(from_x), math.floor(from_y)
            right_share, low_share = from_x - _F(left), from_y - _F(top)
            for c in range(3):
                total = _ZERO
                for j in range(2):
                    for i in range(2):
                        if 0 <= top + j < size and 0 <= left + i < size:
                            weight = (right_share if i else _ONE - right_share) * (low_share if j else _ONE - low_share)
                            total += weight * scratch[c * plane + (top + j) * size + left + i]
                out[c, y, x] = total


@njit(**_OPTIONS)
def _start(out, p, stop):
    """The first ``stop`` colour operations of a view that is resized; returns the sum of the gray."""
    total = 0.0
    for y in range(out.shape[1]):
        r, g, b = out[0, y], out[1, y], out[2, y]
        _jitter_row(r, g, b, p, 0, stop)
        if stop < 4:
            total += _gray_sum(r, g, b)
    return total


@njit(**_OPTIONS)
def _contrast_at(p):
    """Where in the order the contrast stands; 4 when it is not applied, -1 when no colours are."""
    if p[P_JITTER] == 0.0:
        return -1
    if p[P_CONTRAST] != 1.0:
        for i in range(4):
            if p[P_ORDER + i] == 1.0:
                return i
    return 4


@njit(**_OPTIONS)
def render(image, top, left, height, width, p, norm, scratch, out):
    """Write one view.

    ``image`` uint8 (H, W, 3) contiguous; the crop in pixels; ``p`` from ``draw_parameters``; ``norm`` float32 (2, 3),
    means and inverse deviations; ``scratch`` float32 (scratch_length(S),); ``out`` float32 (3, S, S).
    """
    size = out.shape[1]
    contrast_at = _contrast_at(p)
    turned = p[P_ANGLE] != 0.0
    total = _resize_and_start(image, top, left, height, width, p, 0 if turned else max(contrast_at, 0), out)
    if turned:
        _rotate(out, scratch, p[P_ANGLE])
        total = _start(out, p, max(contrast_at, 0))
    mean, gray, blurred = _F(total / (size * size)), p[P_GRAY] != 0.0, p[P_SIGMA] > 0.0
    threshold = _F(p[P_THRESHOLD])
    for y in range(size):
        r, g, b = out[0, y], out[1, y], out[2, y]
        if 0 <= contrast_at < 4:
            _change_contrast(r, g, b, _F(p[P_CONTRAST]), mean)
            _jitter_row(r, g, b, p, contrast_at + 1, 4)
        if gray:
            _make_gray(r, g, b)
        if not blurred:
            _finish_row(r if gray else g, g, threshold, norm[0, 1], norm[1, 1])
            _finish_row(r if gray else b, b, threshold, norm[0, 2], norm[1, 2])
            _finish_row(r, r, threshold, norm[0, 0], norm[1, 0])
    if blurred:
        _blur_and_finish(out, scratch, p, norm, 1 if gray else 3)


@njit(**_OPTIONS)
def render_views(image, crops, keys, recipes, norm, scratch, out):
    """Write the views of one image: ``crops`` int64 (V, 4) top, left, height, width; ``keys`` uint64 (V,) photometric
    draw keys; ``recipes`` float64 (V, RECIPE_FIELDS); ``out`` float32 (V, 3, S, S); the rest as for ``render``."""
    p = np.empty(PARAMETER_FIELDS, np.float64)
    for v in range(crops.shape[0]):
        draw_parameters(keys[v], recipes[v], p)
        render(image, crops[v, 0], crops[v, 1], crops[v, 2], crops[v, 3], p, norm, scratch, out[v])


def scratch_length(size: int) -> int:
    """Values of scratch space that ``render`` needs for views of ``size`` pixels."""
    return padded_width(size) * (3 * size)


def normalisation(mean: tuple[float, float, float], std: tuple[float, float, float]) -> NDArray[np.float32]:
    """``norm`` of ``render``: float32 (2, 3), means and inverse standard deviations of values in [0, 1]."""
    return np.array([mean, [1.0 / s for s in std]], np.float32)
