"""The input column of a table as one array: raw bytes, encoded images, or (nested) lists of numbers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedapt.data.extras import need
from fedapt.data.tables import Place
from fedapt.errors import DamagedData

if TYPE_CHECKING:
    import pyarrow as pa

ENCODED = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\x00", b"MM\x00*")

Array = npt.NDArray[Any]


def inputs(column: pa.ChunkedArray, shape: Sequence[int] | None, place: Place) -> Array:
    """Return (n, *shape): uint8 for images and raw bytes, float32 for other numbers.

    shape: what one sample is meant to be; None takes what the column says. Images are (channels, height, width).

    Raises SetupError for what this version cannot train on, DamagedData for an image that cannot be decoded.
    """
    if column.null_count:
        raise place.wrong(f"{column.null_count} of {len(column)} rows have no value; leave those rows out.")
    kind = str(column.type)
    if kind.startswith("struct<bytes: "):
        contents = [_content(value, row, place) for row, value in enumerate(column.to_pylist())]
        return _shaped(_images(contents, place), shape, place)
    if "binary" in kind:
        values = column.to_pylist()
        if values[0].startswith(ENCODED):
            return _shaped(_images(values, place), shape, place)
        return _raw(values, shape, place)
    return _shaped(_lists(column, place), shape, place)


def signals(column: pa.ChunkedArray, shape: Sequence[int], place: Place) -> Array:
    """Return (n, channels, steps) float32 of nested lists, or of flat ones that hold all channels of one step after the other.

    shape: channels and steps. Raises SetupError for anything else.
    """
    channels, steps = shape
    values = inputs(column, None, place)
    if values.shape[1:] == (1, channels, steps):
        return values[:, 0].astype(np.float32)
    if values.shape[1:] not in ((channels * steps,), (1, steps, channels)):
        raise place.wrong(f"{steps} steps of {channels} numbers are needed, but its samples are {list(values.shape[1:])}.")
    return np.ascontiguousarray(values.reshape(-1, steps, channels).transpose(0, 2, 1), np.float32)


def _content(value: dict[str, Any], row: int, place: Place) -> bytes:
    """Return the bytes of a Hugging Face image: a struct of its bytes, or of the path to them."""
    if value["bytes"] is not None:
        return bytes(value["bytes"])
    try:
        return Path(str(value["path"])).read_bytes()
    except OSError as error:
        raise place.wrong(f"row {row} only names the file {value['path']}, which cannot be read ({error.strerror}).") from error


def _images(values: list[bytes], place: Place) -> npt.NDArray[np.uint8]:
    """Decode images into (n, channels, height, width); the first one decides between grey and colour."""
    pillow = need("PIL.Image", "pillow", f"{place.where}: decoding images")
    mode, decoded = "", []
    for row, value in enumerate(values):
        try:
            with pillow.open(io.BytesIO(value)) as image:
                mode = mode or ("L" if image.mode in ("1", "L", "LA", "I", "I;16") else "RGB")
                decoded.append(np.asarray(image.convert(mode)))
        except (OSError, SyntaxError, ValueError) as error:
            raise DamagedData(
                f"{place.where}: column `{place.column}`: row {row} is no image that can be decoded: {error}"
            ) from error
        if decoded[row].shape != decoded[0].shape:
            sizes = " and ".join("x".join(map(str, decoded[i].shape[1::-1])) for i in (0, row))
            raise place.wrong(f"its images must all have one size, but rows 0 and {row} are {sizes}; resize them first.")
    stack = np.stack(decoded)
    return stack[:, None] if mode == "L" else np.ascontiguousarray(stack.transpose(0, 3, 1, 2))


def _raw(values: list[bytes], shape: Sequence[int] | None, place: Place) -> npt.NDArray[np.uint8]:
    """Return raw bytes as (n, *shape), by default as square grey images."""
    size = len(values[0])
    side = round(size**0.5)
    if any(len(value) != size for value in values):
        raise place.wrong("its values are neither images that can be decoded nor raw bytes of one length.")
    if shape is None and side * side != size:
        raise place.wrong(f"{size} raw bytes are no square grey image; give their shape as data.shape, for example [3, 32, 32].")
    return _shaped(np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1), shape or (1, side, side), place)


def _lists(column: pa.ChunkedArray, place: Place) -> Array:
    """Return (nested) lists of numbers as an array; two levels are a grey image, three one with its channels first or last."""
    array = column.combine_chunks()
    array = array.storage if hasattr(array, "storage") else array
    sizes = [len(array)]
    while "list" in str(array.type).partition("<")[0]:
        lengths = {array.type.list_size} if hasattr(array.type, "list_size") else set(array.value_lengths().to_pylist())
        if len(lengths) != 1 or array.null_count:
            raise place.wrong("its lists must all have one length, without gaps.")
        sizes.append(*lengths)
        array = array.flatten()
    numeric = str(array.type).startswith(("int", "uint", "float", "double", "halffloat", "bool"))
    if len(sizes) == 1 or not numeric or array.null_count:
        raise place.wrong(f"images, raw bytes or lists of numbers without gaps are needed, but its type is {column.type}.")
    values: Array = array.to_numpy(zero_copy_only=False)
    values = (values if values.dtype == np.uint8 else values.astype(np.float32)).reshape(sizes)
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(axis=1)))
        raise place.wrong(f"its numbers must be finite, but row {row} holds an infinity or a NaN; leave such rows out.")
    if values.ndim == 3:
        return values[:, None]
    if values.ndim == 4 and values.shape[3] in (1, 3) and values.shape[1] not in (1, 3):
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))
    return values


def _shaped(array: Array, shape: Sequence[int] | None, place: Place) -> Array:
    """Return the array with the wanted shape of one sample; a decoded image must have it, a flat list is cut into it."""
    if shape is None or array.shape[1:] == tuple(shape):
        return array
    if array.ndim > 2 or array.shape[1] != np.prod(shape):
        raise place.wrong(f"data.shape is {list(shape)}, but its samples are {list(array.shape[1:])}.")
    return array.reshape(len(array), *shape)
