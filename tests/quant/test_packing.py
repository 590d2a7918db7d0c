"""fedapt.quant.packing: codes to bytes and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedapt.quant.packing import pack, packed_size, unpack

BITS = st.integers(1, 16)


@st.composite
def codes_of_some_bits(draw):
    bits = draw(BITS)
    return bits, draw(st.lists(st.integers(0, 2**bits - 1), max_size=70))


def packed_bytes(codes, bits):
    return bytes(pack(torch.tensor(codes, dtype=torch.int64), bits).tolist())


@pytest.mark.parametrize(
    ("bits", "codes", "expected"),
    [
        (1, [1, 0, 1], "05"),
        (2, [1, 2, 3, 0, 1], "39 01"),  # 1 + 2*4 + 3*16 + 0*64 = 57
        (3, [1, 2, 3, 4, 5, 6, 7, 0, 5], "d1 58 1f 05"),  # 1 + 2*8 + 3*64 + ... + 7*8**6 = 0x1f58d1
        (4, [1, 15, 7], "f1 07"),
        (8, [1, 255], "01 ff"),
        (12, [0xABC, 0x123], "bc 3a 12"),
        (16, [0x1234, 0xFFFF], "34 12 ff ff"),
    ],
)
def test_bytes_are_those_packed_by_hand(bits, codes, expected):
    assert packed_bytes(codes, bits) == bytes.fromhex(expected)
    assert unpack(torch.tensor(list(bytes.fromhex(expected)), dtype=torch.uint8), bits, len(codes)).tolist() == codes


@given(codes_of_some_bits())
def test_packing_writes_one_little_endian_number(case):
    bits, codes = case
    number = sum(code << bits * place for place, code in enumerate(codes))
    assert packed_bytes(codes, bits) == number.to_bytes(packed_size(len(codes), bits), "little")


@given(codes_of_some_bits())
def test_every_code_survives_the_round_trip(case):
    bits, codes = case
    packed = pack(torch.tensor(codes, dtype=torch.uint8 if bits <= 8 else torch.uint16), bits)
    unpacked = unpack(packed, bits, len(codes))
    assert packed.dtype == torch.uint8 and unpacked.dtype == (torch.uint8 if bits <= 8 else torch.uint16)
    assert unpacked.tolist() == codes


@pytest.mark.parametrize(("count", "bits", "size"), [(0, 5, 0), (1, 1, 1), (8, 1, 1), (9, 1, 2), (3, 3, 2), (10_000, 4, 5000)])
def test_a_packed_buffer_has_as_many_bytes_as_its_bits_need(count, bits, size):
    assert packed_size(count, bits) == size == pack(torch.zeros(count, dtype=torch.uint8), bits).numel()


@given(codes_of_some_bits(), st.integers(-3, 3).filter(bool))
def test_a_buffer_of_the_wrong_length_is_refused(case, change):
    bits, codes = case
    needed = packed_size(len(codes), bits)
    wrong = torch.zeros(max(needed + change, 0), dtype=torch.uint8)
    if wrong.numel() != needed:
        with pytest.raises(ValueError, match=f"needs {needed} bytes for {len(codes)} codes at {bits} bits, got {wrong.numel()}"):
            unpack(wrong, bits, len(codes))


def test_the_sentence_for_a_wrong_length_has_the_numbers():
    with pytest.raises(ValueError, match="needs 5000 bytes for 10000 codes at 4 bits, got 4999"):
        unpack(torch.zeros(4999, dtype=torch.uint8), 4, 10_000)


@given(codes_of_some_bits())
def test_every_unused_bit_must_be_zero(case):
    bits, codes = case
    for bit in range(len(codes) * bits, packed_size(len(codes), bits) * 8):
        packed = pack(torch.tensor(codes, dtype=torch.int64), bits)
        packed[-1] |= 1 << bit % 8
        with pytest.raises(ValueError, match=f"the unused bits after {len(codes)} codes of {bits} bits must be zero"):
            unpack(packed, bits, len(codes))


@given(BITS, st.sampled_from([-1, 0, 1]))
def test_a_code_that_does_not_fit_is_refused(bits, beyond):
    code = -1 if beyond < 0 else 2**bits + beyond
    with pytest.raises(ValueError, match=f"do not fit into {bits} bits"):
        pack(torch.tensor([0, code], dtype=torch.int64), bits)


@pytest.mark.parametrize("bits", [0, 17, -1, 32])
def test_codes_of_no_width_and_of_too_many_bits_are_refused(bits):
    with pytest.raises(ValueError, match=f"codes have 1 to 16 bits, got {bits}"):
        pack(torch.zeros(3, dtype=torch.uint8), bits)


@pytest.mark.parametrize("bits", [3, 8, 12, 16])
def test_packed_and_unpacked_share_no_memory_with_what_they_came_from(bits):
    codes = torch.arange(8).to(torch.uint8 if bits <= 8 else torch.uint16)
    packed = pack(codes, bits)
    unpacked = unpack(packed, bits, 8)
    codes.zero_()
    packed.zero_()
    assert unpacked.tolist() == list(range(8))


@pytest.mark.parametrize("bits", [4, 8, 12, 16])
def test_codes_that_do_not_lie_side_by_side_are_packed_in_order(bits):
    codes = torch.arange(10, dtype=torch.int32)[::2]
    assert unpack(pack(codes, bits), bits, 5).tolist() == [0, 2, 4, 6, 8]
