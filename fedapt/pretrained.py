"""Weights that a model begins with instead of its own: read by name from a file, and kept in the folder of a run.

A tensor that is not among them, or in another shape, such as the head for another number of classes, stays the model's own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from fedapt.errors import DamagedData, SetupError
from fedapt.record.files import write_whole

FILE = "pretrained.safetensors"
MOST_NAMED = 6

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Origin:
    """Where the weights come from.

    source: what they were trained on, or the file. classes, samples, epochs: of the training; 0 for a file.
    loss: mean cross-entropy of the last epoch; accuracy: on test samples of these classes; None for a file.
    own: the tensors that stayed the model's.
    """

    source: str
    classes: int = 0
    samples: int = 0
    epochs: int = 0
    loss: float | None = None
    accuracy: float | None = None
    own: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pretrained:
    """The weights of a model, by name, and where they come from."""

    arrays: Arrays
    origin: Origin

    def packed(self) -> bytes:
        """Return all of it as one safetensors file; equal weights give equal bytes."""
        from safetensors.numpy import save

        arrays = {name: np.asarray(values, order="C") for name, values in self.arrays.items()}
        # One metadata key: with several, their order, and so the file's bytes, differ between processes.
        about = json.dumps({"sha256": _digest(arrays), **asdict(self.origin)}, sort_keys=True)
        return save(arrays, {"fedapt": about})

    def write(self, folder: Path) -> None:
        """Keep it in the folder of a run; raises DamagedData if the disk refuses."""
        write_whole(folder / FILE, self.packed())

    def into(self, model: Mapping[str, np.ndarray]) -> Pretrained:
        """Return all tensors of a model, those from here where name and shape are the model's; raises SetupError if none is."""
        fits = {name for name, own in model.items() if name in self.arrays and self.arrays[name].shape == own.shape}
        # Biases of as many classes fit each other by chance.
        if not any(model[name].ndim > 1 for name in fits):
            raise SetupError(
                f"{self.origin.source}: no weight has the name and the shape of one of the model's: there are "
                f"{_shapes(self.arrays)}, the model has {_shapes(model)}. Give weights of this model."
            )
        arrays = {name: self.arrays[name] if name in fits else values for name, values in model.items()}
        return Pretrained(arrays, replace(self.origin, own=tuple(name for name in model if name not in fits)))


def unpack(data: bytes, where: str) -> Pretrained:
    """Read what `packed` has written; raises DamagedData if it is not whole."""
    from safetensors.numpy import load

    try:
        size = int.from_bytes(data[:8], "little")
        about = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["fedapt"])
        arrays = load(data)
        if about.pop("sha256") != _digest(arrays):
            raise ValueError("its SHA-256 differs")
        return Pretrained(arrays, Origin(**{**about, "own": tuple(about["own"])}))
    except Exception as error:  # safetensors' own errors have no common base with ours
        raise DamagedData(f"{where} cannot be read ({error}).") from None


def kept(folder: Path) -> Pretrained | None:
    """Return what a run has kept of its pretraining, None if there is nothing; raises DamagedData."""
    path = folder / FILE
    try:
        return unpack(path.read_bytes(), str(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedData(f"{path} cannot be read ({error.strerror}).") from None


def weights_of(path: Path) -> Pretrained:
    """Read the float tensors of any safetensors file, as float32; raises SetupError (missing) or DamagedData (unreadable)."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(path.read_bytes())
    except OSError as error:
        raise SetupError(f"pretrain.file: {path} cannot be read ({error.strerror}); give a safetensors file.") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise DamagedData(f"pretrain.file: {path} is no whole safetensors file ({error}); give another one.") from None
    arrays = {name: values.float().numpy() for name, values in tensors.items() if values.is_floating_point()}
    if wrong := [name for name, values in arrays.items() if not np.isfinite(values).all()]:
        raise DamagedData(f"pretrain.file: {path}: {wrong[0]} holds an infinity or a NaN; give another file.")
    return Pretrained(arrays, Origin(str(path)))


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        total.update(f"{name}:{values.dtype}:{values.shape}:".encode() + values.tobytes())
    return total.hexdigest()


def _shapes(arrays: Mapping[str, np.ndarray]) -> str:
    named = [f"{name} {list(values.shape)}" for name, values in list(arrays.items())[:MOST_NAMED]]
    return ", ".join([*named, *(["..."] if len(arrays) > MOST_NAMED else [])]) or "none"
