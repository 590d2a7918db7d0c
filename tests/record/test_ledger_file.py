from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedapt.cost.ledger import LedgerRow
from fedapt.errors import DamagedData
from fedapt.record.ledger_file import compact, encode, read_batches, read_layers, read_rows
from tests.report.example import LAYERS, Example

ROWS = Example().rows(3)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "round-00003.parquet"
    path.write_bytes(encode(ROWS, LAYERS))
    return path


def test_rows_come_back_equal_with_none_and_empty_lists(ledger: Path) -> None:
    assert {row.status for row in ROWS} >= {"ok", "failed"}
    assert any(row.mean_bits is None for row in ROWS)
    assert read_rows(ledger) == ROWS


def test_the_file_names_the_layers_and_its_writer(ledger: Path) -> None:
    metadata = pq.read_schema(ledger).metadata
    assert metadata[b"layers"] == b'["conv1", "conv2", "dense1", "dense2"]'
    assert b"fedapt_version" in metadata
    assert read_layers(ledger) == LAYERS


def test_columns_are_typed_and_only_optional_ones_may_be_missing(ledger: Path) -> None:
    schema = pq.read_schema(ledger)
    assert schema.field("uplink_bytes").type == pa.int64()
    assert schema.field("gavg").type.value_type == pa.float64()
    nullable = {column.name for column in schema if column.nullable}
    assert nullable == {"train_loss", "mean_bits", "memory_budget_bytes", "energy_budget_j", "battery_j"}


def test_a_flipped_bit_in_any_column_is_damage_and_never_a_wrong_number(ledger: Path) -> None:
    data = ledger.read_bytes()
    group = pq.ParquetFile(ledger).metadata.row_group(0)
    for number in range(group.num_columns):
        column = group.column(number)
        start = column.dictionary_page_offset or column.data_page_offset
        last = start + column.total_compressed_size - 1
        ledger.write_bytes(data[:last] + bytes([data[last] ^ 1]) + data[last + 1 :])
        with pytest.raises(DamagedData, match=r"round-00003\.parquet is damaged"):
            read_rows(ledger)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all"])
def test_other_bytes_are_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.parquet"
    path.write_bytes(content)
    with pytest.raises(DamagedData, match=r"ledger\.parquet is damaged \(.*\)\. Restore it"):
        read_rows(path)


def test_every_truncation_is_noticed(ledger: Path) -> None:
    data = ledger.read_bytes()
    for length in range(0, len(data), 997):
        ledger.write_bytes(data[:length])
        with pytest.raises(DamagedData):
            read_rows(ledger)


def test_a_ledger_of_another_version_is_refused_with_that_version(tmp_path: Path) -> None:
    path = tmp_path / "ledger.parquet"
    pq.write_table(pa.table({"round": [1]}).replace_schema_metadata({"layers": "[]", "fedapt_version": "9.9"}), path)
    with pytest.raises(DamagedData, match=r"written by 9\.9 and differs in attempt, .*\. Read it with the version that wrote it"):
        read_rows(path)


def test_compaction_keeps_every_row_in_order(tmp_path: Path) -> None:
    parts = [tmp_path / f"{number}.parquet" for number in range(2)]
    for number, part in enumerate(parts):
        part.write_bytes(encode([replace(row, round=number) for row in ROWS], LAYERS))
    compact(tmp_path, parts, LAYERS)
    assert read_rows(tmp_path / "ledger.parquet") == [replace(row, round=number) for number in range(2) for row in ROWS]


def test_compaction_of_nothing_is_an_empty_ledger(tmp_path: Path) -> None:
    compact(tmp_path, [], LAYERS)
    assert read_rows(tmp_path / "ledger.parquet") == []
    assert read_layers(tmp_path / "ledger.parquet") == LAYERS


def test_compaction_refuses_a_damaged_round_and_leaves_nothing(ledger: Path, tmp_path: Path) -> None:
    ledger.write_bytes(ledger.read_bytes()[:-1])
    with pytest.raises(DamagedData, match="round-00003"):
        compact(tmp_path, [ledger], LAYERS)
    assert list(tmp_path.iterdir()) == [ledger]


def test_large_ledgers_are_read_in_pieces(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("fedapt.record.ledger_file.ROW_GROUP", len(ROWS))
    parts = []
    for number in range(4):
        parts.append(tmp_path / f"{number}.parquet")
        parts[-1].write_bytes(encode(ROWS, LAYERS))
    compact(tmp_path, parts, LAYERS)
    assert [table.num_rows for table in read_batches(tmp_path / "ledger.parquet", ["client"])] == [len(ROWS)] * 4


def test_a_row_needs_no_optional_field(tmp_path: Path) -> None:
    row = LedgerRow(0, 1, 1, "g", "p", "refused")
    path = tmp_path / "one.parquet"
    path.write_bytes(encode([row], []))
    assert read_rows(path) == [row]
