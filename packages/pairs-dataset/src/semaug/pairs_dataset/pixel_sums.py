# mypy: allow-untyped-defs, allow-untyped-calls
# Compiled functions carry no annotations: numba infers their types; docstrings say what they take.
"""Weighted sums as explicit vector code: the three inner loops of a view that numba's own vectoriser leaves slow.

Each keeps its sums in registers over all taps, which loops over arrays cannot. LLVM lowers the vectors to whatever the
processor has. Arrays are contiguous; index arithmetic is the caller's.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

BLOCK = 32
"""Values that ``tap_block`` and ``mirror_block`` compute at once."""

_FAST = ("contract", "reassoc", "nsz")
_INDEX = ir.IntType(32)


def _vector(element, lanes):
    return ir.VectorType(element, lanes)


def _address(context, builder, array_type, array, index):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _splat(builder, value, lanes):
    undefined = ir.Constant(_vector(value.type, lanes), ir.Undefined)
    lane = builder.insert_element(undefined, value, ir.Constant(_INDEX, 0))
    return builder.shuffle_vector(lane, undefined, ir.Constant(_vector(_INDEX, lanes), [0] * lanes))


def _load(builder, pointer, lanes):
    return builder.load(builder.bitcast(pointer, _vector(pointer.type.pointee, lanes).as_pointer()), align=1)


def _load_float(builder, pointer, lanes):
    values = _load(builder, pointer, lanes)
    if isinstance(pointer.type.pointee, ir.IntType):
        return builder.uitofp(values, _vector(ir.FloatType(), lanes))
    return values


def _store(builder, vector, pointer):
    builder.store(vector, builder.bitcast(pointer, vector.type.as_pointer()), align=1)


def _add_scaled(builder, total, weight_pointer, values, lanes):
    scaled = builder.fmul(values, _splat(builder, builder.load(weight_pointer), lanes), flags=_FAST)
    builder.store(builder.fadd(builder.load(total), scaled, flags=_FAST), total)


def _zero(builder, lanes):
    return cgutils.alloca_once_value(builder, ir.Constant(_vector(ir.FloatType(), lanes), [0.0] * lanes))


def _sum_of_taps(lanes):
    """Code of ``out[out_at + i] = sum over k < taps of weights[weights_at + k] * values[at + k * stride + i]``."""

    def generate(context, builder, sig, arguments):
        out, out_at, values, at, stride, weights, weights_at, taps = arguments
        source = _address(context, builder, sig.args[2], values, at)
        weight = _address(context, builder, sig.args[5], weights, weights_at)
        total = _zero(builder, lanes)
        builder.store(ir.Constant(total.type.pointee, [0.0] * lanes), total)
        with cgutils.for_range(builder, taps) as loop:
            tap = _load_float(builder, builder.gep(source, [builder.mul(loop.index, stride)]), lanes)
            _add_scaled(builder, total, builder.gep(weight, [loop.index]), tap, lanes)
        _store(builder, builder.load(total), _address(context, builder, sig.args[0], out, out_at))
        return context.get_dummy_value()

    return generate


@intrinsic
def weighted_pixel(typing_context, out, out_at, values, at, stride, weights, weights_at, taps):
    """Four lanes of ``sum over k of weights[k] * values[at + k * stride + lane]``: a packed RGB pixel and one more.

    The fourth lane overwrites ``out[out_at + 3]`` with a value of no meaning: write pixels from left to right, and
    let both buffers have one value more than their pixels.
    """
    index = types.intp
    return types.void(out, index, values, index, index, weights, index, index), _sum_of_taps(4)


@intrinsic
def tap_block(typing_context, out, out_at, values, at, stride, weights, weights_at, taps):
    """``BLOCK`` lanes of ``sum over k of weights[k] * values[at + k * stride + lane]``; values uint8 or float32."""
    index = types.intp
    return types.void(out, index, values, index, index, weights, index, index), _sum_of_taps(BLOCK)


@intrinsic
def mirror_block(typing_context, out, out_at, values, at, stride, weights, reach):
    """``BLOCK`` lanes of a symmetric kernel: ``w[0] v[at] + sum over 1 <= k <= reach of w[k] (v[at - k stride] +
    v[at + k stride])``, float32."""
    index = types.intp
    signature = types.void(out, index, values, index, index, weights, index)

    def generate(context, builder, sig, arguments):
        out, out_at, values, at, stride, weights, reach = arguments
        source = _address(context, builder, sig.args[2], values, at)
        weight = _address(context, builder, sig.args[5], weights, ir.Constant(at.type, 0))
        total = _zero(builder, BLOCK)
        middle = builder.fmul(_load(builder, source, BLOCK), _splat(builder, builder.load(weight), BLOCK), flags=_FAST)
        builder.store(middle, total)
        one = ir.Constant(reach.type, 1)
        with cgutils.for_range(builder, reach) as loop:
            step = builder.add(loop.index, one)
            offset = builder.mul(step, stride)
            before = _load(builder, builder.gep(source, [builder.neg(offset)]), BLOCK)
            after = _load(builder, builder.gep(source, [offset]), BLOCK)
            both = builder.fadd(before, after, flags=_FAST)
            _add_scaled(builder, total, builder.gep(weight, [step]), both, BLOCK)
        _store(builder, builder.load(total), _address(context, builder, sig.args[0], out, out_at))
        return context.get_dummy_value()

    return signature, generate
