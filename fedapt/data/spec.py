"""The options of a scenario's `data:` block."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from fedapt.data.partition import AnyPartition, Iid
from fedapt.data.tokens import AnyTokens
from fedapt.options import Options

BUILT_IN = ("strokes", "digits")

Size = Annotated[int, Field(ge=1)]
AnyClasses = Annotated[list[int | str], Field(min_length=1)]


class Columns(Options):
    """The columns of a table; null: found by their usual names."""

    input: str | None = Field(default=None, description="the column of images, feature vectors or texts")
    label: str | None = Field(default=None, description="the column of classes; characters of running text need none")
    client: str | Annotated[list[str], Field(min_length=1)] | None = Field(
        default=None, description="the column of client ids, or several that tell clients apart together; for natural_id"
    )


class DataSpec(Options):
    """Which samples there are, which of them are the global test set, and how the others are shared out among the clients."""

    source: str = Field(
        "strokes",
        description="strokes, digits, a .parquet file, a folder of them or of datasets.save_to_disk, a data set of the hub "
        "such as fashion_mnist, or hub:owner/name",
    )
    test: str | None = Field(
        None,
        description="file or folder of the test set; null: x_test.parquet beside x_train.parquet, or the source's own test "
        "split, or a test_share of the samples",
    )
    test_share: float = Field(0.2, gt=0, lt=1, description="share of the samples to test on where the source has no test split")
    classes: AnyClasses | None = Field(
        None,
        description="classes to use, by number or name; null: all; labels and the model's outputs stay those of the whole data",
    )
    samples: Size | None = Field(None, description="training samples to use, a random choice; null: all, 60,000 strokes")
    test_samples: Size | None = Field(None, description="test samples to use, a random choice; null: all, 10,000 strokes")
    columns: Columns = Field(default_factory=Columns, description="the columns of a table")
    shape: Annotated[list[Size], Field(min_length=1, max_length=3)] | None = Field(
        None,
        description="channels, height, width of one image stored as raw bytes or as a flat list; or channels, steps of one "
        "signal stored step by step",
    )
    tokens: AnyTokens | None = Field(
        None, description="how text becomes tokens; null: words where there are labels, else characters that follow one another"
    )
    held_out: float = Field(
        0.1, ge=0, lt=1, description="share of each client's own samples kept from training, to measure the spread over clients"
    )
    partition: AnyPartition = Field(default_factory=Iid, description="how the samples are shared out among the clients")

    @model_validator(mode="after")
    def _nothing_that_a_built_in_source_would_ignore(self) -> Self:
        given = [name for name in ("test", "columns", "shape", "tokens") if getattr(self, name) not in (None, Columns())]
        if self.source in BUILT_IN and given:
            raise ValueError(
                f"`{given[0]}` describes a file or a data set of the hub, but the source `{self.source}` is built in"
            )
        return self


def is_path(source: str, folder: Path = Path()) -> bool:
    """Return whether a source names a file or folder, seen from `folder`, not a built-in source or a data set of the hub."""
    if source in BUILT_IN or source.startswith("hub:"):
        return False
    return "/" in source or "\\" in source or source.endswith(".parquet") or (folder / source).exists()
