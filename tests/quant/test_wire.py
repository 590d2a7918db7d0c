"""fedapt.quant.wire: a model as bytes, and every way in which the bytes may be wrong."""

import hashlib
import io
import json
import math
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedapt.errors import DamagedData, SetupError
from fedapt.quant import CodedWeight, FloatWeight, Grid, GridOptions, quantise_tensor
from fedapt.quant.wire import QuantisedModel, digest_of, from_bytes, message_length, quantise_arrays, room_of, to_bytes
from tests.quant.forge import allocating_less_than, framed, saved

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)
BITS = st.integers(2, 16) | st.just(32)


def model_of(layers, seed=0):
    """Return a model with random codes for (bits, shape) by layer, one scale a channel for every other layer."""
    rng = np.random.default_rng(seed)
    weights = {}
    for number, (layer, (bits, shape)) in enumerate(layers.items()):
        if bits == 32:
            weights[layer] = FloatWeight(torch.from_numpy(rng.normal(size=shape).astype(np.float32)))
            continue
        codes = torch.from_numpy(rng.integers(0, 2**bits, shape)).to(torch.uint8 if bits <= 8 else torch.uint16)
        channels = shape[0] if number % 2 else 1
        scale = torch.from_numpy(rng.uniform(1e-3, 1, channels).astype(np.float32))
        zero = torch.from_numpy(rng.integers(0, 2**bits, channels).astype(np.float32))
        weights[layer] = CodedWeight(codes, Grid(scale, zero, bits))
    floats = {"norm.bias": torch.from_numpy(rng.normal(size=3).astype(np.float32)), "gain": torch.tensor(1.5)}
    return QuantisedModel(weights, floats)


# Two coded layers and a float one: a message of a few hundred bytes.
SMALL = {"a": (4, (2, 3)), "b": (11, (3, 1, 2)), "c": (32, (2, 2))}
MESSAGE = to_bytes(model_of(SMALL), {"note": 1})


def forged(tensors=None, layers=None, **header):
    """Return MESSAGE with some tensors, layers or header fields replaced, or left out where they are None."""
    stored = safetensors.numpy.load(MESSAGE) | (tensors or {})
    shapes = {layer: [bits, *shape] for layer, (bits, shape) in SMALL.items()} | (layers or {})
    inner = {"digest": "0" * 64, "protocol": 3, "layers": {k: v for k, v in shapes.items() if v is not None}} | header
    return saved({k: v for k, v in stored.items() if v is not None}, json.dumps(inner, separators=(",", ":")))


def declaring(tensor, body=b""):
    """Return a message that declares one tensor, with this body."""
    inner = json.dumps({"digest": "0" * 64, "protocol": 3, "layers": {}}, separators=(",", ":"))
    return framed(json.dumps({"__metadata__": {"fedapt": inner}, "w": tensor}).encode(), body)


def assert_same(one, other):
    assert one.bits == other.bits and one.floats.keys() == other.floats.keys()
    pairs = [(one.floats[name], other.floats[name]) for name in one.floats]
    for layer, weight in one.weights.items():
        stored = other.weights[layer].tensors()
        pairs += [(values, stored[part]) for part, values in weight.tensors().items()]
    for mine, theirs in pairs:
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape and torch.equal(mine, theirs)


@given(st.dictionaries(st.sampled_from("abcd"), st.tuples(BITS, SHAPES)), st.integers(0, 99))
def test_a_model_and_its_header_survive_the_round_trip(layers, seed):
    model = model_of(layers, seed)
    header = {"instructions": {"lr": 0.05, "seed": 2**60, "text": "ü"}, "report": None}
    decoded, read = from_bytes(to_bytes(model, header))
    assert_same(model, decoded)
    assert read == header


def test_floats_come_in_the_order_of_their_names_each_time():
    model = QuantisedModel({}, {f"layer{number:02}.bias": torch.zeros(1) for number in range(30)})
    assert all(list(from_bytes(to_bytes(model, {}))[0].floats) == sorted(model.floats) for _ in range(5))


def correction_of(model, value=0.5):
    return {name: torch.full(array.shape, value) for name, array in model.dequantised().items()}


def test_a_correction_goes_down_beside_the_model_and_changes_nothing_of_it():
    model = model_of(SMALL)
    decoded, header = from_bytes(to_bytes(replace(model, correction=correction_of(model)), {"note": 1}), reader="client")
    assert_same(model, decoded)
    assert header == {"note": 1} and decoded.correction.keys() == model.dequantised().keys()
    for name, values in decoded.correction.items():
        assert values.shape == model.dequantised()[name].shape and bool((values == 0.5).all())


def test_a_correction_never_comes_up():
    model = model_of(SMALL)
    with pytest.raises(DamagedData, match=r"^a correction of gradients came back with the reply"):
        from_bytes(to_bytes(replace(model, correction=correction_of(model)), {}))


@pytest.mark.parametrize(
    ("name", "shape"), [("a.weight", (3, 2)), ("gain", (1,)), ("norm.bias", None), ("x.weight", (2,)), ("b.scale", (3,))]
)
def test_a_correction_of_another_shape_or_of_something_else_is_refused(name, shape):
    model = model_of(SMALL)
    changed = {k: v for k, v in correction_of(model).items() if k != name} | ({name: torch.zeros(shape)} if shape else {})
    with pytest.raises(DamagedData, match=f"^the correction of '{name}' is missing, of another shape, or of what"):
        from_bytes(to_bytes(replace(model, correction=changed), {}), reader="client")


def test_a_parameter_that_is_called_like_a_correction_is_none():
    """No name of a module is empty, so none of a parameter begins with a dot, unless the whole model is one layer."""
    model = model_of({"": (4, (2, 3)), "correction.a": (32, (2,))})
    decoded, _ = from_bytes(to_bytes(replace(model, correction=correction_of(model)), {}), reader="client")
    assert_same(model, decoded)
    assert set(decoded.correction) == {".weight", "correction.a.weight", "norm.bias", "gain"}


def test_a_message_is_as_long_as_its_packed_codes_its_grids_and_its_floats():
    # 6 codes of 4 bits, 6 of 11; one scale and zero for `a`, three for `b`; four floats in `c`; a bias of three and a gain.
    payload = 3 + 9 + 4 * (2 + 6 + 4 + 3 + 1)
    (header,) = struct.unpack_from("<Q", MESSAGE)
    assert len(MESSAGE) == 8 + header + payload


def test_a_layer_of_four_bits_is_half_a_byte_a_weight():
    def size(bits):
        return len(to_bytes(model_of({"a": (bits, (64, 128))}), {}))

    assert size(8) - size(4) == 64 * 128 // 2


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=6)
GRIDS = st.builds(GridOptions, granularity=st.sampled_from(["channel", "tensor"]))


@given(
    st.dictionaries(NAMES, st.tuples(BITS, st.lists(st.integers(1, 12), min_size=1, max_size=4))),
    st.dictionaries(NAMES, st.lists(st.integers(0, 12), max_size=3)),
    GRIDS,
    st.integers(0, 50),
)
def test_the_length_of_a_message_is_known_before_there_is_one(layers, floats, grid, extra):
    parts = {f"{layer}.{part}" for layer in layers for part in ("codes", "scale", "zero", "weight")}
    floats = {name: shape for name, shape in floats.items() if name not in parts}
    weights = {
        layer: quantise_tensor(torch.ones(shape), bits, grid, "nearest", torch.Generator())
        for layer, (bits, shape) in layers.items()
    }
    model = QuantisedModel(weights, {name: torch.zeros(shape) for name, shape in floats.items()})
    shapes = {layer: shape for layer, (_, shape) in layers.items()}
    header = {"note": [1.5, '"\\ü']}
    room = room_of(header) + extra
    assert message_length(model.bits, shapes, floats, grid, room) == len(to_bytes(model, header, room))
    assert message_length(model.bits, shapes, floats, grid) == len(to_bytes(model, {}))
    model = replace(model, correction=correction_of(model))
    assert message_length(model.bits, shapes, floats, grid, room, corrected=True) == len(to_bytes(model, header, room))


def test_the_length_of_a_real_models_message_does_not_depend_on_the_digits_in_its_header():
    shapes = {"conv": (16, 3, 5, 5), "dense": (1000, 400)}
    model = model_of({"conv": (4, shapes["conv"]), "dense": (32, shapes["dense"])})
    headers = [{"lr": 0.1}, {"lr": 1.2345678901234567e-100, "frozen": ["conv"]}, {}]
    assert len({len(to_bytes(model, header, 100)) for header in headers}) == 1
    for header in headers:
        assert from_bytes(to_bytes(model, header, 100))[1] == header
    assert to_bytes(model, headers[0], room_of(headers[0])) == to_bytes(model, headers[0])


def test_a_header_that_needs_more_than_its_room_is_refused_with_both():
    header = {"note": "x" * 30}
    assert room_of(header) == len(',\\"note\\":\\"' + "x" * 30 + '\\"')
    with pytest.raises(ValueError, match="the message's header needs 44 bytes and has room for 43"):
        to_bytes(model_of(SMALL), header, 43)


def test_every_flipped_bit_of_the_spaces_that_fill_a_header_up_is_detected():
    message = to_bytes(model_of(SMALL), {"note": 1}, 40)
    first = message.index(b"} ") + 1
    for place in range(first, first + 10):
        with pytest.raises(DamagedData):
            from_bytes(flipped(message, place, 0x29))


def test_the_same_model_is_the_same_bytes_in_every_process():
    script = "import sys; from tests.quant.test_wire import *; sys.stdout.buffer.write(to_bytes(model_of(SMALL), {'note': 1}))"
    root = Path(__file__).parents[2]
    environment = {"PYTHONPATH": str(root), "PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, check=True)
    assert done.stdout == MESSAGE


def test_the_order_of_the_header_does_not_change_the_bytes():
    model = model_of(SMALL)
    assert to_bytes(model, {"x": 1, "y": [2]}) == to_bytes(model, {"y": [2], "x": 1})


def test_a_message_can_be_read_by_anyone_who_has_safetensors():
    stored = safetensors.numpy.load(MESSAGE)
    first, second = stored["a.codes"][0], model_of(SMALL).weights["a"].codes.flatten().tolist()
    assert [first & 15, first >> 4] == second[:2] and stored["a.scale"].shape == (1,)


def test_a_decoded_model_shares_no_memory_with_the_message_and_can_be_trained():
    message = bytes(MESSAGE)
    model, _ = from_bytes(message)
    model.weights["a"].codes.zero_()
    model.weights["c"].values.zero_()
    assert message == MESSAGE


def test_a_header_that_json_cannot_hold_is_refused_by_the_sender():
    with pytest.raises(ValueError, match="Out of range float"):
        to_bytes(model_of(SMALL), {"loss": math.nan})


def test_dequantised_arrays_are_named_like_the_parameters():
    model = model_of(SMALL)
    arrays = model.dequantised()
    assert list(arrays) == ["a.weight", "b.weight", "c.weight", "norm.bias", "gain"]
    a = model.weights["a"]
    expected = (a.codes.numpy().astype(np.float64) - a.grid.zero.numpy()) * a.grid.scale.numpy()
    assert arrays["a.weight"] == pytest.approx(expected, rel=1e-6) and arrays["a.weight"].dtype == np.float32


def test_quantising_arrays_leaves_them_alone_and_keeps_the_other_floats():
    arrays = {"fc.weight": np.ones((2, 3), np.float32), "fc.bias": np.zeros(2, np.float32)}
    for array in arrays.values():
        array.setflags(write=False)
    for bits in (4, 32):
        model = quantise_arrays(arrays, {"fc": bits}, GridOptions(), "nearest", torch.Generator())
        assert model.bits == {"fc": bits} and list(model.floats) == ["fc.bias"]
        model.floats["fc.bias"].add_(1.0)
        assert model.weights["fc"].shape == (2, 3) and arrays["fc.bias"].sum() == 0


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_damaged_data(data):
    with pytest.raises(DamagedData):
        from_bytes(data)


@given(st.binary(max_size=60), st.integers(0, 2**64 - 1))
def test_arbitrary_bytes_after_any_declared_length_are_damaged_data(data, length):
    with pytest.raises(DamagedData):
        from_bytes(struct.pack("<Q", length) + data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "layers", "protocol"]), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_a_header_of_any_json_is_read_or_damaged_data(layers, header):
    whole = {"digest": "0" * 64, "protocol": 3, "layers": layers, "header": header}
    with suppress(DamagedData):
        model, read = from_bytes(saved(safetensors.numpy.load(MESSAGE), json.dumps(whole, separators=(",", ":"))))
        assert read == {"header": header} and model.weights.keys() == layers.keys()
    with pytest.raises(DamagedData):
        from_bytes(saved({}, json.dumps(header)))


SIDES = st.sampled_from([0, 1, 2, 3, -1, 4, 11, 32, 2**31, 2**63, 2**70, 4.0, 1e400, math.nan, "4", None, True])


@given(st.lists(SIDES, max_size=5))
def test_a_layer_of_any_bits_and_shape_is_what_was_sent_or_damaged_data(shape):
    for layer, (bits, sent) in SMALL.items():
        if shape != [bits, *sent] and not (bits == 32 and shape == [32, 2, 2]):
            with pytest.raises(DamagedData):
                from_bytes(forged(layers={layer: shape}))


def test_a_message_cut_at_any_length_or_with_bytes_appended_is_damaged_data():
    for wrong in [MESSAGE[:length] for length in range(len(MESSAGE))] + [MESSAGE + b"\0", MESSAGE + MESSAGE]:
        with pytest.raises(DamagedData):
            from_bytes(wrong)


def flipped(message, place, flip):
    return message[:place] + bytes([message[place] ^ flip]) + message[place + 1 :]


def test_every_flipped_bit_of_a_small_message_is_detected():
    for place in range(len(MESSAGE)):
        for flip in (0xFF, *(1 << bit for bit in range(8))):
            with pytest.raises(DamagedData):
                from_bytes(flipped(MESSAGE, place, flip))


def test_flipped_bytes_anywhere_in_a_large_message_are_detected():
    message, rng = to_bytes(model_of({"a": (8, (400, 500)), "b": (32, (300, 100))}), {}), random.Random(0)
    for place in [rng.randrange(len(message)) for _ in range(300)]:
        with pytest.raises(DamagedData):
            from_bytes(flipped(message, place, rng.randrange(1, 256)))


def test_a_message_that_was_changed_with_care_is_told_by_its_digest():
    stored = safetensors.numpy.load(MESSAGE)
    text = json.loads(MESSAGE[8 : 8 + struct.unpack_from("<Q", MESSAGE)[0]])["__metadata__"]["fedapt"]
    changed = stored | {"norm.bias": stored["norm.bias"] + 1}
    for wrong in (saved(changed, text), saved(stored, text.replace('"note":1', '"note":2'))):
        with pytest.raises(DamagedData, match="the message was changed on its way: its digest is another; send it again"):
            from_bytes(wrong)
    assert saved(stored, text) == MESSAGE


@pytest.mark.parametrize("digest", [None, 0, "", "0" * 63, "f" * 64, [], {}, "\ud800" * 64])
def test_a_message_without_its_digest_is_refused(digest):
    with pytest.raises(DamagedData, match="its digest is another"):
        from_bytes(forged(digest=digest))


def test_the_digest_is_the_sha256_of_the_message_with_zeros_in_its_place():
    digest = digest_of(MESSAGE)
    assert hashlib.sha256(MESSAGE.replace(digest.encode(), b"0" * 64)).hexdigest() == digest


@pytest.mark.parametrize("layer", ["a", "b"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, 1e-40, 1e38, 3e38])
def test_a_scale_that_cannot_be_one_is_refused(layer, value):
    count = 1 if layer == "a" else 3
    scale = np.ones(count, np.float32)
    scale[-1] = value
    with pytest.raises(
        DamagedData, match=f"non-finite in {layer}.scale|layer {layer}: scales must be positive, normal and finite"
    ):
        from_bytes(forged({f"{layer}.scale": scale}))


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.5, 16.0, 1e30])
def test_a_zero_that_is_not_a_code_is_refused(value):
    with pytest.raises(DamagedData, match=r"non-finite in a\.zero|layer a: zeros must be whole numbers in 0\.\.15"):
        from_bytes(forged({"a.zero": np.array([value], np.float32)}))


@pytest.mark.parametrize("name", ["c.weight", "norm.bias", "gain"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_float_that_is_not_finite_is_refused_by_name_with_the_count(name, value):
    values = safetensors.numpy.load(MESSAGE)[name].copy()
    values.flat[-1] = value
    with pytest.raises(DamagedData, match=rf"^non-finite in {name} \(1 values\)$"):
        from_bytes(forged({name: values}))


@pytest.mark.parametrize("name", ["a.codes", "a.scale", "b.zero", "c.weight", "norm.bias"])
def test_another_dtype_is_refused(name):
    values = safetensors.numpy.load(MESSAGE)[name]
    for dtype in (np.float16, np.float64, np.int8, np.uint16, np.uint32, np.uint64, np.int64, np.bool_, np.complex64):
        with pytest.raises(DamagedData, match=rf"^{name}: expected float32 numbers, got|^layer {name[0]}: needs uint8 codes"):
            from_bytes(forged({name: values.astype(dtype)}))


@pytest.mark.parametrize(
    ("dtype", "size"), [("BF16", 16), ("F8_E4M3", 8), ("F8_E5M2", 8), ("F4", 4), ("F6_E2M3", 6), ("C64", 64), ("X", 8)]
)
def test_dtypes_that_numpy_may_not_know_are_refused(dtype, size):
    with pytest.raises(DamagedData):
        from_bytes(declaring({"dtype": dtype, "shape": [8], "data_offsets": [0, size]}, bytes(size)))


@pytest.mark.parametrize("name", ["a.codes", "a.scale", "b.zero", "c.weight"])
def test_a_missing_tensor_is_refused_by_name(name):
    with pytest.raises(DamagedData, match=f"layer {name[0]}: `{name}` is missing from the message"):
        from_bytes(forged({name: None}))


def test_an_extra_tensor_comes_out_by_name_for_the_model_to_refuse():
    model, _ = from_bytes(forged({"extra": np.ones(2, np.float32)}))
    assert set(model.floats) == {"norm.bias", "gain", "extra"}


@pytest.mark.parametrize("shape", [(2, 1), (3,), (2,), (0,), ()])
def test_scales_and_zeros_of_another_count_are_refused(shape):
    for name in ("b.scale", "b.zero"):
        with pytest.raises(DamagedData, match="layer b: needs uint8 codes and 1 or 3 scales with as many zeros"):
            from_bytes(forged({name: np.ones(shape if shape != (3,) else (3, 1), np.float32)}))


@pytest.mark.parametrize(
    ("layer", "shape", "sentence"),
    [
        ("a", [1, 2, 3], r"layer a: cannot have shape \[2, 3\] at 1 bits"),
        ("a", [17, 2, 3], r"layer a: cannot have shape \[2, 3\] at 17 bits"),
        ("a", [4, 2, 4], "layer a: needs 4 bytes for 8 codes at 4 bits, got 3"),
        ("a", [4, 3, 3], "layer a: needs 5 bytes for 9 codes at 4 bits, got 3"),
        ("a", [4, -2, -3], r"layer a: cannot have shape \[-2, -3\] at 4 bits"),
        ("a", [4, 2, 3] + [1] * 70, "layer a: cannot have shape"),
        ("c", [32, 4], r"layer c: expected shape \[4\] as the header says, got \[2, 2\]"),
        ("c", [32, -1], r"layer c: expected shape \[-1\] as the header says, got \[2, 2\]"),
    ],
)
def test_another_width_or_shape_than_the_tensors_have_is_refused(layer, shape, sentence):
    with pytest.raises(DamagedData, match=sentence):
        from_bytes(forged(layers={layer: shape}))


def test_dirty_bits_after_the_last_code_are_refused():
    # Six codes of 11 bits leave six bits of the ninth byte.
    codes = safetensors.numpy.load(MESSAGE)["b.codes"].copy()
    codes[-1] |= 0x80
    with pytest.raises(DamagedData, match="layer b: the unused bits after 6 codes of 11 bits must be zero"):
        from_bytes(forged({"b.codes": codes}))


@pytest.mark.parametrize(("theirs", "server_says", "client_says"), [
    (4, "client speaks v4, server v3: upgrade the server", "client speaks v3, server v4: upgrade the client"),
    (2, "client speaks v2, server v3: upgrade the client", "client speaks v3, server v2: upgrade the server"),
])  # fmt: skip
def test_another_protocol_is_refused_naming_the_side_to_upgrade(theirs, server_says, client_says):
    for wrong in (forged(protocol=theirs), forged(protocol=theirs, digest=None)):
        with pytest.raises(DamagedData, match=f"^{server_says}$"):
            from_bytes(wrong)
        with pytest.raises(SetupError, match=f"^{client_says}$") as error:
            from_bytes(wrong, reader="client")
        assert error.value.exit_code == 4


@pytest.mark.parametrize("protocol", [None, "2", [2], 2.0, True])
def test_a_protocol_that_is_no_number_is_refused(protocol):
    with pytest.raises(DamagedData, match=r"the message's protocol is .*, expected a number such as 3"):
        from_bytes(forged(protocol=protocol))


def test_a_name_that_occurs_twice_is_refused_by_name():
    inner = '{"digest":"' + "0" * 64 + '","layers":{},"protocol":3}'
    tensor = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = f'{{"__metadata__":{{"fedapt":{json.dumps(inner)}}},"w":{tensor},"w":{tensor}}}'
    with pytest.raises(DamagedData, match=r"^'w' occurs twice in the message$"):
        from_bytes(framed(header.encode(), bytes(4)))
    with pytest.raises(DamagedData, match=r"^'protocol' occurs twice in the message$"):
        from_bytes(saved({}, inner.replace("{}", '{},"protocol":3')))
    from_bytes(framed(header.replace(f',"w":{tensor}', "", 1).encode(), bytes(4)))


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**40, 10**6])
def test_a_declared_length_beyond_the_message_is_refused_before_anything_is_allocated(length):
    refused = pytest.raises(DamagedData, match=f"declares a header of {length} bytes and has 8")
    with allocating_less_than(1_000_000), refused:
        from_bytes(struct.pack("<Q", length) + bytes(80))


@pytest.mark.parametrize("layer", [[4, 2**33, 2], [16, 2**31, 2**31], [32, 2**33, 1], [2, 10**18]])
def test_a_few_bytes_that_declare_gigabytes_are_refused_before_anything_is_allocated(layer):
    message = forged(layers={"a": layer})
    for wrong in (message, declaring({"dtype": "F32", "shape": [2**33], "data_offsets": [0, 2**35]})):
        with allocating_less_than(1_000_000), pytest.raises(DamagedData):
            from_bytes(wrong)


class Canary:
    """Unpickling one creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_is_never_executed(tmp_path):
    payload = pickle.dumps(Canary(tmp_path / "canary"))
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([Canary(tmp_path / "canary")]), allow_pickle=True)
    for wrong in (payload, struct.pack("<Q", len(payload)) + payload, objects.read_bytes(), b"PK\3\4" + payload):
        with pytest.raises(DamagedData, match="the message is not one of fedapt's"):
            from_bytes(wrong)
    assert not (tmp_path / "canary").exists()


def test_a_zip_bomb_and_a_yaml_tag_are_an_unknown_format(tmp_path):
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model", bytes(200_000_000))
    tag = f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{tmp_path}/canary']]".encode()
    for wrong in (bomb.getvalue(), tag, framed(tag), framed(bomb.getvalue()[:1000])):
        with allocating_less_than(5_000_000), pytest.raises(DamagedData, match="the message is not one of fedapt's"):
            from_bytes(wrong)
    assert not (tmp_path / "canary").exists()


def test_json_nested_without_end_is_refused():
    text = json.dumps({"__metadata__": {"fedapt": "[" * 200_000}}).encode()
    for wrong in (text, b"[" * 200_000, b'{"a":' * 200_000):
        with pytest.raises(DamagedData, match="the message is not one of fedapt's"):
            from_bytes(struct.pack("<Q", len(wrong)) + wrong)
