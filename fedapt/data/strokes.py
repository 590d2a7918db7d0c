"""The embedded data set: digits that look hand-drawn, 28 x 28, drawn by the program itself; every client is a writer.

A writer has a slant, a pen, a size, a form of each digit and a more or less steady hand; each sample adds its own jitter. So a
partition of the labels makes the features differ between clients too. Labels and images are pure functions of the seed and of who
owns which row. Drawing 70,000 images takes about half a second on one core: a cache would save little, and cost 55 MB each time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedapt.data import glyphs
from fedapt.data.source import Source, class_numbers
from fedapt.data.spec import DataSpec
from fedapt.seeding import numpy_stream

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Images = npt.NDArray[np.uint8]

SIDE = 28
CLASSES = 10
CLASS_NAMES = tuple(map(str, range(CLASSES)))
TRAIN_SAMPLES, TEST_SAMPLES = 60_000, 10_000

# Standard deviations of a sample's jitter, tuned together: a linear model reaches about 80 %, a small CNN above 95 %.
TURN, SLANT, SIZE, WAVE = 0.10, 0.12, 0.08, 0.08  # times the writer's unsteadiness
SHIFT = 0.105  # of half the image, for every writer
OTHER_FORM = 1.3  # in sigmas: one sample in ten is written in the digit's other form
NOISE = 40  # grey levels

CHUNK = 256  # images drawn at once, so that temporaries stay in the processor's cache


@dataclass(frozen=True)
class Hands:
    """How each of n writers writes; float32 (n,) each, `forms` int64 (n, 10). `pen` is half the stroke's width in pixels."""

    slant: Floats
    turn: Floats
    width: Floats
    height: Floats
    pen: Floats
    ink: Floats
    unsteadiness: Floats
    forms: Ints

    def of(self, writers: Ints) -> Hands:
        """Return the hands of these writers, one row each."""
        return Hands(*(getattr(self, name)[writers] for name in self.__dataclass_fields__))


def labels(count: int, seed: int, split: str, classes: Ints | None = None) -> Ints:
    """Return `count` labels, each of these classes, or of all, equally often (within one), in a seeded order."""
    classes = np.arange(CLASSES) if classes is None else classes
    return numpy_stream(seed, f"data.strokes.labels.{split}").permutation(classes[np.arange(count) % len(classes)])


def hands(count: int, seed: int, split: str) -> Hands:
    """Draw `count` writers; the first ones stay the same when more are drawn."""
    stream = numpy_stream(seed, f"data.strokes.hands.{split}")
    z = np.clip(stream.standard_normal((count, 7 + CLASSES), dtype=np.float32), -2.5, 2.5)
    return Hands(
        slant=0.22 * z[:, 0],
        turn=0.10 * z[:, 1],
        width=0.86 * np.exp(0.12 * z[:, 2]),
        height=0.92 * np.exp(0.08 * z[:, 3]),
        pen=1.25 * np.exp(0.28 * z[:, 4]),
        ink=1 - np.float32(0.12) * np.abs(z[:, 5]),
        unsteadiness=np.exp(0.35 * z[:, 6]),
        forms=(z[:, 7:] > 0).astype(np.int64),
    )


def source(spec: DataSpec, clients: int, seed: int) -> Source:
    """Return the labels now, and the images when the rows have owners.

    A row is drawn by its owner's hand; one without an owner, or of the test set, by a writer who writes nothing else.
    """
    classes = class_numbers(spec.classes, CLASS_NAMES)
    train_labels = labels(spec.samples or TRAIN_SAMPLES, seed, "train", classes)
    test_labels = labels(spec.test_samples or TEST_SAMPLES, seed, "test", classes)

    def images(owner: npt.NDArray[np.int32]) -> tuple[Images, Images]:
        nobody = owner < 0
        writers = clients + int(np.count_nonzero(nobody))
        writer = owner.astype(np.int64)
        writer[nobody] = np.arange(clients, writers)
        by, test_by = hands(writers, seed, "train").of(writer), hands(len(test_labels), seed, "test")
        return draw(train_labels, by, seed, "train"), draw(test_labels, test_by, seed, "test")

    return Source(train_labels, test_labels, CLASS_NAMES, images)


def draw(digits: Ints, by: Hands, seed: int, split: str) -> Images:
    """Draw one image for each digit by the hand of the same row; returns (n, 1, 28, 28), bright ink on a dark ground."""
    stream = numpy_stream(seed, f"data.strokes.jitter.{split}")
    jitter = np.clip(stream.standard_normal((len(digits), 14), dtype=np.float32), -2.5, 2.5)
    across, down = _glyph_places(by, jitter)
    usual = np.take_along_axis(by.forms, digits[:, None], axis=1)[:, 0]
    form = glyphs.FORMS * digits + np.where(jitter[:, 12] > OTHER_FORM, 1 - usual, usual)
    pen = by.pen * np.exp(0.15 * jitter[:, 13])
    pixels = np.sqrt(by.width * by.height) * (SIDE / 2)
    images = np.empty((len(digits), 1, SIDE, SIDE), dtype=np.uint8)
    for chunk, start in enumerate(range(0, len(digits), CHUNK)):
        rows = slice(start, start + CHUNK)
        distance = _distances(across[rows], down[rows], form[rows]) * pixels[rows, None, None]
        grey = np.clip(pen[rows, None, None] + 0.5 - distance, 0, 1) * (by.ink[rows, None, None] * (255 - NOISE))
        speckle = numpy_stream(seed, f"data.strokes.noise.{split}", chunk).bytes(grey.size)
        grey += np.frombuffer(speckle, np.uint8).reshape(grey.shape) * np.float32(NOISE / 255)
        images[rows, 0] = grey.astype(np.uint8)
    return images


def _glyph_places(by: Hands, jitter: Floats) -> tuple[Floats, Floats]:
    """Return what each column (n, 2, 28) and each row (n, 2, 28) of the image adds to the place (x, y) in the glyph's box.

    The place is affine in the pixel, plus a wave of x along the rows and of y along the columns: so the two parts simply add, and
    a pixel costs two additions.
    """
    unsteady = by.unsteadiness[:, None] * jitter
    turn = by.turn + TURN * unsteady[:, 0]
    slant = by.slant + SLANT * unsteady[:, 1]
    width = by.width * np.exp(SIZE * unsteady[:, 2])
    height = by.height * np.exp(SIZE * unsteady[:, 3])
    cosine, sine = np.cos(turn), np.sin(turn)
    by_column = np.stack([(cosine - slant * sine) / width, -sine / height], axis=1)
    by_row = np.stack([(sine + slant * cosine) / width, cosine / height], axis=1)
    pixel = (np.arange(SIDE, dtype=np.float32) + 0.5) * (2 / SIDE) - 1
    across = by_column[..., None] * (pixel - SHIFT * jitter[:, 4, None])[:, None]
    down = by_row[..., None] * (pixel - SHIFT * jitter[:, 5, None])[:, None]
    wave = np.sin((2.5 + 0.5 * jitter[:, 6:8, None]) * pixel + np.pi * jitter[:, 8:10, None])
    across[:, 1] += WAVE * unsteady[:, 10, None] * wave[:, 0]
    down[:, 0] += WAVE * unsteady[:, 11, None] * wave[:, 1]
    return across, down


def _distances(across: Floats, down: Floats, form: Ints) -> Floats:
    """Return (n, 28, 28): how far each pixel is from the pen's path, in units of the glyph's box."""
    per_unit = glyphs.CELLS / (2 * glyphs.REACH)
    column, row = across * per_unit, (down + glyphs.REACH) * per_unit
    x = np.clip(column[:, 0, None, :] + row[:, 0, :, None], 0, glyphs.CELLS - 1)
    y = np.clip(column[:, 1, None, :] + row[:, 1, :, None], 0, glyphs.CELLS - 1)
    cell = y.astype(np.int32) * glyphs.CELLS + x.astype(np.int32)
    cell += (form * glyphs.CELLS**2).astype(np.int32)[:, None, None]
    return glyphs.distance_tables().ravel().take(cell)
