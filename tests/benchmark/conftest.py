"""A bench of four small cells on the digits, as a file."""

from pathlib import Path

import pytest

TINY = """\
version: 1
name: tiny
base:
  version: 1
  name: base
  rounds: 2
  data: {source: digits, samples: 300, partition: {kind: dirichlet, alpha: 0.5}}
  model: {kind: mlp, hidden: [8]}
  clients: {count: 6, per_round: 3, method: {precision: fp32}}
  engine: {kind: inline}
axes:
  strategy: [fedavg, {kind: fedadam, eta: 0.01}]
  seed: [0, 1]
baseline: {strategy: fedavg}
at_once: 1
"""


@pytest.fixture
def write(tmp_path: Path):
    """Write the bench with some of its text replaced."""

    def write(*changes: tuple[str, str], name: str = "tiny.yaml") -> Path:
        text = TINY
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text)
        return path

    return write
