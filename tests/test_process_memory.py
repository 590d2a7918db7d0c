"""bench.process_memory: the peak of real client processes."""

import sys

import pytest

from bench.process_memory import measured


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_one_8_bit_copy_of_20_million_weights_takes_less_than_half_of_what_qat_takes() -> None:
    above_idle = {line["method"]: line["above_idle_mib"] for line in measured(batch=8)}
    assert 0 < above_idle["one copy of 8 bits"] < 0.5 * above_idle["qat 8"]
