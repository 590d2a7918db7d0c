"""Packing of codes into bytes, so that a message of 4-bit weights is half a byte a weight."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def packed_size(count: int, bits: int) -> int:
    """Return how many bytes `count` codes of `bits` take."""
    return -(-count * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack unsigned codes into bytes, little end first.

    codes:   (n,) of an integer type, each < 2**bits.
    returns: (ceil(n * bits / 8),) uint8; the unused high bits of the last byte are zero.

    Raises ValueError if a code does not fit or bits is not in 1..16.
    """
    if not 1 <= bits <= 16:
        raise ValueError(f"codes have 1 to 16 bits, got {bits}")
    values = codes.numpy()
    if values.size and (int(values.max()) >> bits or int(values.min()) < 0):
        raise ValueError(f"codes {int(values.min())}..{int(values.max())} do not fit into {bits} bits")
    if bits in (8, 16):
        return torch.from_numpy(np.ascontiguousarray(values.astype(f"<u{bits // 8}")).view(np.uint8).copy())
    as_bits = np.unpackbits(values.astype("<u2").view(np.uint8).reshape(-1, 2), axis=1, bitorder="little", count=bits)
    return torch.from_numpy(np.packbits(as_bits, bitorder="little"))


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Unpack `count` codes of `bits`; the inverse of `pack`.

    packed:  (ceil(count * bits / 8),) uint8.
    returns: (count,) uint8 for up to 8 bits, uint16 above.

    Raises ValueError if the length is wrong or the unused bits of the last byte are not zero (one value, one encoding).
    """
    if packed.numel() != packed_size(count, bits):
        raise ValueError(f"needs {packed_size(count, bits)} bytes for {count} codes at {bits} bits, got {packed.numel()}")
    if bits in (8, 16):
        return torch.from_numpy(packed.numpy().view(f"<u{bits // 8}").copy())
    as_bits = np.unpackbits(packed.numpy(), bitorder="little")
    if as_bits[count * bits :].any():
        raise ValueError(f"the unused bits after {count} codes of {bits} bits must be zero")
    rows = np.zeros((count, 8 if bits < 8 else 16), np.uint8)
    rows[:, :bits] = as_bits[: count * bits].reshape(count, bits)
    values = np.packbits(rows, axis=1, bitorder="little")
    return torch.from_numpy(values.reshape(-1) if bits < 8 else values.view("<u2").reshape(-1))
