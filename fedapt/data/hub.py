"""Data sets of the Hugging Face hub, through `datasets`; a machine without internet is told so within seconds."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fedapt.data.extras import need
from fedapt.data.spec import BUILT_IN
from fedapt.data.tables import Frame, from_datasets
from fedapt.errors import SetupError

NAMES = {
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "femnist": "flwrlabs/femnist",
}
PROBE_S = 5.0


def from_hub(source: str, key: str) -> dict[str, Frame]:
    """Return the splits of a data set of the hub, or of its copy in the cache of `datasets` where the hub does not answer.

    Raises SetupError with what was tried and how to do without the hub; `key` is the option that named the source.
    """
    hub_id = NAMES.get(source, source.removeprefix("hub:"))
    datasets = need("datasets", "flwr-datasets", key)
    silence = _why_unreachable(hub_id)
    try:
        with _offline(datasets, silence is not None):
            data = datasets.load_dataset(hub_id)
    except Exception as error:  # datasets raises whatever its network, file system and format libraries raise
        reason = silence or f"{type(error).__name__}: {str(error).splitlines()[0]}"
        guess = difflib.get_close_matches(source, [*BUILT_IN, *NAMES], n=1)
        meant = f" Did you mean `{guess[0]}`?" if guess and guess[0] != source else ""
        raise SetupError(
            f"{key}: no file or folder is called `{source}`, and neither the Hugging Face hub ({reason}) "
            f"nor the local cache of `datasets` could give the data set `{hub_id}`.{meant}\n"
            "  Where there is internet, fetch it with\n"
            f"    python -c \"import datasets; datasets.load_dataset('{hub_id}').save_to_disk('{hub_id.split('/')[-1]}')\"\n"
            "  and give the folder, or any .parquet file, as data.source; or use `source: strokes`, which needs no download."
        ) from error
    return from_datasets(data, hub_id)


def _why_unreachable(hub_id: str) -> str | None:
    """Ask the hub once for the data set, with a short timeout: `datasets` itself would retry for half a minute and more."""
    hub = need("huggingface_hub", "huggingface-hub", "a data set of the hub")
    try:
        hub.HfApi().dataset_info(hub_id, timeout=PROBE_S)
    except Exception as error:  # any library below may raise its own
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return None


@contextmanager
def _offline(datasets: Any, wanted: bool) -> Iterator[None]:
    """Let `datasets` look only into its cache; its own switch is read from the environment at import, too early for us."""
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = wanted or before
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
