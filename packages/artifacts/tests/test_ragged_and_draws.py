import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from semaug.artifacts.draws import draw_key, generator, uniform, uniforms
from semaug.artifacts.guidance_table import GuidanceTable, guidance_columns, guidance_rows
from semaug.artifacts.ragged import pack_arrays, pack_bytes, pack_strings, slice_of, unpack_bytes, unpack_strings
from semaug.artifacts.testing import guidance

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(TEXT))
@settings(deadline=None)
def test_strings_round_trip(values):
    assert unpack_strings(pack_strings("s", values), "s") == values


@given(st.lists(st.binary()))
@settings(deadline=None)
def test_bytes_round_trip(values):
    columns = pack_bytes("b", values)
    assert unpack_bytes(columns, "b") == values
    assert [slice_of(columns, "b", i).tobytes() for i in range(len(values))] == values


@given(
    st.lists(st.integers(0, 5).flatmap(lambda n: hnp.arrays(np.float32, (n, 4), elements=st.floats(0, 1, width=32))))
)
@settings(deadline=None)
def test_arrays_round_trip(arrays):
    columns = pack_arrays("a", arrays, np.zeros((0, 4), np.float32))
    assert columns["a"].dtype == np.float32
    assert columns["a_offsets"].dtype == np.int64
    assert all(np.array_equal(slice_of(columns, "a", i), array) for i, array in enumerate(arrays))


@given(st.lists(guidance(), max_size=6))
@settings(max_examples=50, deadline=None)
def test_guidance_round_trip(rows):
    for before, after in zip(rows, guidance_rows(guidance_columns(rows)), strict=True):
        assert np.array_equal(before.boxes, after.boxes)
        assert (before.key, before.height, before.width, before.scale, before.fallback, before.masks) == (
            after.key, after.height, after.width, after.scale, after.fallback, after.masks,
        )  # fmt: skip
    table = GuidanceTable.of(rows)
    assert all(table.get(row.key) is not None for row in rows)
    assert table.get("\0absent") is None


@given(st.integers(0, 2**64 - 1), st.integers(0, 40), st.integers(0, 2**20))
@settings(deadline=None)
def test_bulk_draws_equal_single_draws(key, count, start):
    assert uniforms(key, count, start).tolist() == [uniform(key, start + i) for i in range(count)]


def test_splitmix64_reference_values():
    """The published sequence of SplitMix64 from seed 1234567, by its top 53 bits."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [uniform(1234567, i) for i in range(5)] == [(v >> 11) / 2**53 for v in published]


@pytest.mark.parametrize("by", ["slot", "epoch", "key", "view", "seed"])
def test_draws_are_uniform(by):
    """Chi-square over 64 bins, along the slots of one draw and over the addresses of many; 99.99% bound."""
    count = 20_000
    if by == "slot":
        values = uniforms(draw_key(0, "test", 0, "a"), count)
    else:
        given = {"seed": 0, "epoch": 0, "key": "a", "view": 0}
        addresses = ({**given, by: str(i) if by == "key" else i} for i in range(count))
        values = np.array([uniform(draw_key(purpose="test", **a), 0) for a in addresses])
    found = np.bincount((values * 64).astype(int), minlength=64)
    chi_square = ((found - count / 64) ** 2 / (count / 64)).sum()
    assert chi_square < 63 + 3.72 * np.sqrt(2 * 63) + 10


def test_addresses_do_not_collide():
    keys = {
        draw_key(seed, purpose, epoch, name, copy, view)
        for seed in range(3)
        for purpose in ("crop", "colour")
        for epoch in range(5)
        for name in ("a", "b", "1", "11", "a\x1fb")
        for copy in range(12)
        for view in range(12)
    }
    assert len(keys) == 3 * 2 * 5 * 5 * 12 * 12


def test_neighbouring_draws_are_uncorrelated():
    first = np.array([uniforms(draw_key(0, "crop", 0, str(i), view=0), 2) for i in range(5000)])
    second = np.array([uniforms(draw_key(0, "crop", 0, str(i), view=1), 2) for i in range(5000)])
    correlation = np.corrcoef(np.hstack([first, second]).T)
    assert np.abs(correlation - np.eye(4)).max() < 0.06


def test_generators_are_addressed():
    assert generator(0, "p", 1, "k").random() == generator(0, "p", 1, "k").random()
    different = {generator(*a).random() for a in [(0, "p"), (1, "p"), (0, "q"), (0, "p", 1), (0, "p", 0, "k")]}
    assert len(different) == 5
