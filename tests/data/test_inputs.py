"""fedapt.data.inputs: images and features from all the ways in which tables hold them."""

import io

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from fedapt.data.inputs import inputs, signals
from fedapt.data.tables import Place
from fedapt.errors import DamagedData, SetupError

HERE = Place("a.parquet", "image")
GREY = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
COLOUR = np.arange(48, dtype=np.uint8).reshape(2, 2, 4, 3)  # height 2, width 4, channels last


def chunked(values, kind=None):
    """Return a column of two chunks, the second one a slice that does not start at its buffer's start."""
    return pa.chunked_array([pa.array(values[:1], kind), pa.array(values, kind)[1:]])


def encoded(image, form="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, form, **options)
    return stream.getvalue()


def read(column, shape=None):
    return inputs(column, shape, HERE)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(9)])
def test_raw_bytes_are_square_grey_images(kind):
    images = read(chunked([bytes(range(9)), bytes(range(9, 18))], kind))
    assert images.dtype == np.uint8 and images.tolist() == np.arange(18).reshape(2, 1, 3, 3).tolist()


def test_raw_bytes_take_the_shape_that_is_given():
    images = read(chunked([bytes(range(6)), bytes(6)]), shape=[3, 1, 2])
    assert images.shape == (2, 3, 1, 2) and images[0, 1].tolist() == [[2, 3]]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_encoded_images_are_decoded_without_loss(form):
    grey, colour = [encoded(image, form, **({"lossless": True} if form == "WEBP" else {})) for image in (GREY[0], COLOUR[0])]
    assert read(chunked([colour, colour])).tolist() == [COLOUR[0].transpose(2, 0, 1).tolist()] * 2
    if form != "WEBP":  # which has no grey images
        assert read(chunked([grey, grey])).tolist() == [[GREY[0].tolist()]] * 2


def test_jpeg_is_decoded_nearly_without_loss():
    flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    image = read(chunked([encoded(flat, "JPEG", quality=95)] * 2))
    assert image.shape == (2, 3, 8, 8) and np.abs(image[0, :, 3, 3].astype(int) - [200, 100, 50]).max() <= 3


def test_images_of_hugging_face_are_decoded(tmp_path):
    (tmp_path / "1.png").write_bytes(encoded(GREY[1]))
    rows = [{"bytes": encoded(GREY[0]), "path": None}, {"bytes": None, "path": str(tmp_path / "1.png")}]
    images = read(chunked(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()})))
    assert images.tolist() == GREY[:, None].tolist()


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 2), pa.large_list(pa.float64()), pa.list_(pa.int16())]
)
def test_lists_are_feature_vectors_of_float32(kind):
    features = read(chunked([[1, 2], [3, 4]], kind))
    assert features.dtype == np.float32 and features.tolist() == [[1, 2], [3, 4]]


def test_nested_lists_are_images_with_the_channels_first_or_last():
    assert read(chunked(GREY.tolist(), pa.list_(pa.list_(pa.uint8())))).tolist() == GREY[:, None].tolist()
    nested = pa.list_(pa.list_(pa.list_(pa.uint8())))
    first = COLOUR.transpose(0, 3, 1, 2)
    assert read(chunked(COLOUR.tolist(), nested)).tolist() == read(chunked(first.tolist(), nested)).tolist() == first.tolist()


def test_arrays_of_hugging_face_are_images():
    features = datasets.Features(image=datasets.Array2D((2, 3), "uint8"))
    column = datasets.Dataset.from_dict({"image": list(GREY)}, features).with_format("arrow")[:]["image"]
    assert read(column).tolist() == GREY[:, None].tolist()


def test_a_flat_list_is_cut_into_the_shape_that_is_given():
    assert read(chunked([[1, 2, 3, 4], [5, 6, 7, 8]]), shape=[2, 2]).tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]


@pytest.mark.parametrize(
    ("column", "shape", "says"),
    [
        (chunked(["to be", "or not"]), None, "lists of numbers without gaps are needed, but its type is string"),
        (chunked([b"abcd", None]), None, "1 of 2 rows have no value; leave those rows out."),
        (chunked([b"abcde", b"fghij"]), None, r"5 raw bytes are no square grey image; give their shape as data.shape"),
        (chunked([b"abcd", b"fghi"]), [3, 1, 1], r"data.shape is \[3, 1, 1\], but its samples are \[4\]"),
        (chunked([b"abcd", b"abc"]), None, "neither images that can be decoded nor raw bytes of one length"),
        (chunked([encoded(GREY[0]), encoded(GREY[0].T.copy())]), None, "all have one size, but rows 0 and 1 are 3x2 and 2x3"),
        (chunked([encoded(GREY[0])] * 2), [1, 3, 2], r"data.shape is \[1, 3, 2\], but its samples are \[1, 2, 3\]"),
        (chunked([[1], [1, 2]]), None, "its lists must all have one length, without gaps"),
        (chunked([[1, 2], [1, None]]), None, "lists of numbers without gaps are needed"),
        (chunked([["a"], ["b"]]), None, r"lists of numbers without gaps are needed, but its type is list<.*string>"),
        (chunked([1.0, 2.0]), None, "lists of numbers without gaps are needed, but its type is double"),
        (chunked([[1.0], [float("inf")]]), None, "its numbers must be finite, but row 1 holds an infinity or a NaN"),
        (chunked([{"bytes": None, "path": "no.png"}] * 2), None, "row 0 only names the file no.png, which cannot be read"),
    ],
)
def test_what_cannot_be_trained_on_is_told(column, shape, says):
    with pytest.raises(SetupError, match=rf"^a.parquet: column `image`: .*{says}"):
        read(column, shape)


def test_an_image_that_cannot_be_decoded_is_told_with_its_row():
    with pytest.raises(DamagedData, match=r"a\.parquet: column `image`: row 1 is no image that can be decoded"):
        read(chunked([encoded(GREY[0]), encoded(GREY[0])[:40]]))


SIGNAL = np.arange(6, dtype=np.float32).reshape(2, 3)  # two channels, three steps


@pytest.mark.parametrize("stored", [SIGNAL.T.reshape(-1), SIGNAL.T, SIGNAL])
@pytest.mark.parametrize("kind", [pa.float32(), pa.uint8()])
def test_signals_are_stored_step_by_step_or_nested_either_way(stored, kind):
    nested = pa.list_(kind) if stored.ndim == 1 else pa.list_(pa.list_(kind))
    found = signals(chunked([stored.tolist(), (stored * 2).tolist()], nested), (2, 3), HERE)
    assert found.dtype == np.float32 and found.tolist() == [SIGNAL.tolist(), (SIGNAL * 2).tolist()]


def test_signals_of_another_size_are_told():
    with pytest.raises(SetupError, match=r"3 steps of 2 numbers are needed, but its samples are \[5\]"):
        signals(chunked([[1.0] * 5] * 2), (2, 3), HERE)
