"""A quantised model as bytes: what really crosses the network, and what `uplink_bytes` and `downlink_bytes` count.

The container is safetensors with one metadata key that holds canonical JSON, which is byte-stable between processes. For each
quantised layer it has packed `codes`, `scale` and `zero` (or a float `weight`), and every float parameter under its own name;
on the way down it may have a correction of the gradients as well, shaped like the float model.
The JSON holds the SHA-256 of the whole message, in which 64 zeros stand for it: no flipped bit becomes a number.
"""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any, Literal

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError
from torch import Tensor

from fedapt.errors import DamagedData, SetupError
from fedapt.quant.grid import FLOAT_BITS, HIGHEST_BITS, LOWEST_BITS, Grid, GridOptions
from fedapt.quant.packing import pack, packed_size, unpack
from fedapt.quant.rounding import Rounding
from fedapt.quant.weight import CodedWeight, FloatWeight, Weight, quantise_tensor

PROTOCOL = 3
MOST_DIMENSIONS = 8
LONGEST_NAME = 200
DIGEST_DIGITS = 64
# As it stands in the message: JSON within JSON.
DIGEST_MARK = rb"\"digest\":\""
NORMAL = torch.finfo(torch.float32)
Side = Literal["client", "server"]
# No parameter can have this name: no part of theirs is empty but the first, of a layer that is the whole model.
CORRECTION = ".correction."


@dataclass(frozen=True)
class QuantisedModel:
    """weights: one for each quantised layer; floats: every other float parameter and buffer, by its name in the model.

    correction: what the client adds to its gradients, float32 by parameter name; empty if there is none.
    """

    weights: dict[str, Weight]
    floats: dict[str, Tensor]
    correction: dict[str, Tensor] = field(default_factory=dict)

    def dequantised(self) -> dict[str, np.ndarray]:
        """Return float32 arrays by parameter name; a float weight is the stored array itself."""
        arrays = {f"{layer}.weight": weight.dequantise().numpy() for layer, weight in self.weights.items()}
        return arrays | {name: values.numpy() for name, values in self.floats.items()}

    @property
    def coded(self) -> dict[str, CodedWeight]:
        """The layers that hold codes."""
        return {layer: weight for layer, weight in self.weights.items() if isinstance(weight, CodedWeight)}

    @property
    def bits(self) -> dict[str, int]:
        """Width of each layer's codes; 32 means float."""
        return {layer: weight.bits for layer, weight in self.weights.items()}


def quantise_arrays(
    arrays: Mapping[str, np.ndarray], bits: Mapping[str, int], grid: GridOptions, rounding: Rounding, generator: torch.Generator
) -> QuantisedModel:
    """Quantise a float model, given as arrays by parameter name, to `bits` for each layer; the arrays are not touched."""
    weights = {
        layer: quantise_tensor(torch.from_numpy(np.array(arrays[f"{layer}.weight"])), width, grid, rounding, generator)
        for layer, width in bits.items()
    }
    coded = {f"{layer}.weight" for layer in bits}
    return QuantisedModel(weights, {name: torch.from_numpy(np.array(a)) for name, a in arrays.items() if name not in coded})


def to_bytes(model: QuantisedModel, header: Mapping[str, Any], room: int = 0) -> bytes:
    """Encode a model and a header of JSON values.

    room: bytes of the message that the header takes whatever is in it, filled up with spaces; 0 for as many as it needs.

    Raises ValueError for a header that needs more than its room, or is no JSON.
    """
    tensors: dict[str, np.ndarray] = {}
    layers = {}
    for layer, weight in model.weights.items():
        stored = weight.tensors()
        layers[layer] = [weight.bits, *weight.shape]
        if isinstance(weight, CodedWeight):
            stored["codes"] = pack(weight.codes.flatten(), weight.bits)
        tensors |= {f"{layer}.{part}": values.numpy() for part, values in stored.items()}
    single = model.floats | {CORRECTION + name: values for name, values in model.correction.items()}
    tensors |= {name: np.asarray(values.numpy(), order="C") for name, values in single.items()}
    message = safetensors.numpy.save(tensors, metadata={"fedapt": _metadata(header, layers, room)})
    place = message.index(DIGEST_MARK) + len(DIGEST_MARK)
    return b"".join([message[:place], _digest(message, place).encode(), memoryview(message)[place + DIGEST_DIGITS :]])


def room_of(header: Mapping[str, Any]) -> int:
    """Return how many bytes of a message these header values take: the room that holds them and all that are no longer."""
    return _told_length(_text(header, {})) - _told_length(_text({}, {}))


def message_length(
    bits: Mapping[str, int],
    shapes: Mapping[str, Sequence[int]],
    floats: Mapping[str, Sequence[int]],
    grid: GridOptions,
    room: int = 0,
    corrected: bool = False,
) -> int:
    """Return `len(to_bytes(model, header, room))` of a model that does not exist: any with these widths and shapes.

    bits, shapes: of each layer's codes and weight; floats: shape of each other float; room: as in `to_bytes`, 0 for no header;
    corrected: whether it carries a correction.
    """
    layers = {layer: [width, *shapes[layer]] for layer, width in bits.items()}
    single: dict[str, list[int]] = {name: list(shape) for name, shape in floats.items()}
    if corrected:
        whole = single | {f"{layer}.weight": list(shapes[layer]) for layer in layers}
        single |= {CORRECTION + name: shape for name, shape in whole.items()}
    packed: dict[str, list[int]] = {}
    for layer, width in bits.items():
        if width == FLOAT_BITS:
            single[f"{layer}.weight"] = list(shapes[layer])
            continue
        channels = shapes[layer][0] if grid.granularity == "channel" else 1
        single[f"{layer}.scale"] = single[f"{layer}.zero"] = [channels]
        packed[f"{layer}.codes"] = [packed_size(math.prod(shapes[layer]), width)]
    told: dict[str, Any] = {"__metadata__": {"fedapt": _metadata({}, layers, room)}}
    end = 0
    # In safetensors' order, wide types first and then by name: the digits of where a tensor lies depend on it.
    for dtype, size, tensors in (("F32", 4, single), ("U8", 1, packed)):
        for name in sorted(tensors):
            begin, end = end, end + size * math.prod(tensors[name])
            told[name] = {"dtype": dtype, "shape": tensors[name], "data_offsets": [begin, end]}
    header = len(json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-header // 8) * 8 + end


def _text(header: Mapping[str, Any], layers: Mapping[str, list[int]]) -> str:
    whole = {**header, "digest": "0" * DIGEST_DIGITS, "protocol": PROTOCOL, "layers": layers}
    return json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _metadata(header: Mapping[str, Any], layers: Mapping[str, list[int]], room: int) -> str:
    """Return the JSON of header and layers, with the spaces that fill up the header's room."""
    text = _text(header, layers)
    if not room:
        return text
    free = room - room_of(header)
    if free < 0:
        raise ValueError(f"the message's header needs {room - free} bytes and has room for {room}")
    return text + " " * free


def _told_length(text: str) -> int:
    """Return how many bytes a text of ASCII takes within JSON: quotes and backslashes are written as two."""
    return len(text) + text.count('"') + text.count("\\")


def from_bytes(message: bytes, *, reader: Side = "server") -> tuple[QuantisedModel, dict[str, Any]]:
    """Decode a message into the model and its header, without copying it before its digest is verified.

    Raises DamagedData saying what is wrong with it; for another protocol it names the side to upgrade, and is a SetupError on a
    client, which cannot go on.
    """
    header = _header(message, reader)
    try:
        tensors = {name: torch.from_numpy(array.copy()) for name, array in safetensors.numpy.load(message).items()}
        layers = {layer: (index(bits), [index(side) for side in shape]) for layer, (bits, *shape) in header.pop("layers").items()}
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedData(f"the message is not a quantised model: {_told(error)}") from None
    names = (*layers, *(name.removeprefix(CORRECTION) for name in tensors))
    if wrong := next((name for name in names if not name.isprintable() or len(name) > LONGEST_NAME), None):
        raise DamagedData(f"{reprlib.repr(wrong)} cannot be a name: at most {LONGEST_NAME} characters, all of them printable")
    weights = {layer: _weight(layer, bits, shape, tensors) for layer, (bits, shape) in layers.items()}
    # safetensors gives them in another order each time, and sums over them would have other last bits.
    floats = {name: _float32(name, tensors[name]) for name in sorted(tensors)}
    correction = {name.removeprefix(CORRECTION): floats.pop(name) for name in sorted(tensors) if name.startswith(CORRECTION)}
    model = QuantisedModel(weights, floats, correction)
    if correction:
        _check_correction(model, reader)
    return model, header


def _check_correction(model: QuantisedModel, reader: Side) -> None:
    """Raise DamagedData unless a correction goes down and is shaped like the model."""
    if reader == "server":
        raise DamagedData("a correction of gradients came back with the reply; it goes from the server to the client only")
    shapes = {f"{layer}.weight": weight.shape for layer, weight in model.weights.items()}
    shapes |= {name: values.shape for name, values in model.floats.items()}
    found = {name: values.shape for name, values in model.correction.items()}
    if wrong := next((name for name in sorted({*shapes, *found}) if shapes.get(name) != found.get(name)), None):
        raise DamagedData(
            f"the correction of {reprlib.repr(wrong)} is missing, of another shape, or of what the model does not have"
        )


def digest_of(message: bytes) -> str:
    """Return the digest that a message carries, by which a reply says what it answers; the message was made or read here."""
    place = message.index(DIGEST_MARK) + len(DIGEST_MARK)
    return message[place : place + DIGEST_DIGITS].decode()


def _digest(message: bytes, place: int) -> str:
    """Return the SHA-256 of a message with zeros for the digest that begins at `place`."""
    digest = hashlib.sha256(message[:place] + b"0" * DIGEST_DIGITS)
    digest.update(memoryview(message)[place + DIGEST_DIGITS :])
    return digest.hexdigest()


def _header(message: bytes, reader: Side) -> dict[str, Any]:
    """Read the metadata without touching the tensors: safetensors begins with the length of a JSON header."""
    try:
        (length,) = struct.unpack_from("<Q", message)
        if length > len(message) - 8:
            raise ValueError(f"it declares a header of {length} bytes and has {len(message)}")
        outer = json.loads(message[8 : 8 + length], object_pairs_hook=_unique)
        header: dict[str, Any] = json.loads(outer["__metadata__"]["fedapt"], object_pairs_hook=_unique)
        protocol = header.pop("protocol")
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedData(f"the message is not one of fedapt's: {_told(error)}") from None
    if type(protocol) is not int or protocol != PROTOCOL:
        raise _other_protocol(protocol, reader)
    digest = header.pop("digest", None)
    place = message.find(DIGEST_MARK, 8, 8 + length) + len(DIGEST_MARK)
    if digest != _digest(message, place) or message[place : place + DIGEST_DIGITS] != digest.encode():
        raise DamagedData("the message was changed on its way: its digest is another; send it again")
    return header


def _told(error: Exception) -> str:
    """Return what a parser said, without the whole message, which some quote."""
    return f"{type(error).__name__}({str(error)[:200]!r})"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object whose names must differ: of two tensors with one name, which one counts?"""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise DamagedData(f"{reprlib.repr(twice)} occurs twice in the message")
    return found


def _other_protocol(protocol: object, reader: Side) -> DamagedData | SetupError:
    if type(protocol) is not int:
        return DamagedData(f"the message's protocol is {reprlib.repr(protocol)}, expected a number such as {PROTOCOL}")
    client, server = (PROTOCOL, protocol) if reader == "client" else (protocol, PROTOCOL)
    sentence = f"client speaks v{client}, server v{server}: upgrade the {'client' if client < server else 'server'}"
    return SetupError(sentence) if reader == "client" else DamagedData(sentence)


def _weight(layer: str, bits: int, shape: list[int], tensors: dict[str, Tensor]) -> Weight:
    """Take one layer's tensors out of `tensors` and build its weight."""

    def part(name: str) -> Tensor:
        if f"{layer}.{name}" not in tensors:
            raise DamagedData(f"layer {layer}: `{layer}.{name}` is missing from the message")
        return tensors.pop(f"{layer}.{name}")

    if bits == FLOAT_BITS:
        values = _float32(f"{layer}.weight", part("weight"))
        if list(values.shape) != shape:
            raise DamagedData(f"layer {layer}: expected shape {reprlib.repr(shape)} as the header says, got {list(values.shape)}")
        return FloatWeight(values)
    if not LOWEST_BITS <= bits <= HIGHEST_BITS or not 1 <= len(shape) <= MOST_DIMENSIONS or min(shape) < 1:
        raise DamagedData(f"layer {layer}: cannot have shape {reprlib.repr(shape)} at {bits} bits")
    packed, scale, zero = part("codes"), _float32(f"{layer}.scale", part("scale")), _float32(f"{layer}.zero", part("zero"))
    if scale.shape not in {(1,), (shape[0],)} or zero.shape != scale.shape or packed.dtype != torch.uint8:
        raise DamagedData(
            f"layer {layer}: needs uint8 codes and 1 or {shape[0]} scales with as many zeros, "
            f"got {packed.dtype} and {tuple(scale.shape)}"
        )
    steps = 2**bits - 1
    # A denormal scale loses its precision, and with too large a one the weights themselves are not finite.
    if not bool(((scale >= NORMAL.tiny) & (scale <= NORMAL.max / steps)).all()):
        raise DamagedData(f"layer {layer}: scales must be positive, normal and finite over {steps} steps, got {_extent(scale)}")
    if not bool(((zero >= 0) & (zero <= steps) & (zero == zero.round())).all()):
        raise DamagedData(f"layer {layer}: zeros must be whole numbers in 0..{steps}, got {_extent(zero)}")
    try:
        codes = unpack(packed.flatten(), bits, math.prod(shape)).view(shape)
    except ValueError as error:
        raise DamagedData(f"layer {layer}: {error}") from None
    return CodedWeight(codes, Grid(scale, zero, bits))


def _extent(values: Tensor) -> str:
    return f"{values.min().item():g} to {values.max().item():g}"


def _float32(name: str, values: Tensor) -> Tensor:
    if values.dtype != torch.float32:
        raise DamagedData(f"{name}: expected float32 numbers, got {values.dtype}")
    if wrong := int((~values.isfinite()).sum()):
        raise DamagedData(f"non-finite in {name} ({wrong} values)")
    return values
