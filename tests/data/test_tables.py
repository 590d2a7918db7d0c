"""fedapt.data.tables: what lies on disk, by split."""

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedapt.data.tables import from_path
from fedapt.errors import DamagedData, SetupError


def write(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, write_page_checksum=True, compression="none")
    return str(path)


def test_a_file_is_the_training_split_and_is_read_column_by_column(tmp_path):
    frames = from_path(write(tmp_path / "a.parquet", x=[1, 2, 3], y=[4, 5, 6]), "data.source")
    assert list(frames) == ["train"] and frames["train"].count == 3
    assert frames["train"].schema.names == ["x", "y"] and frames["train"].read("y").to_pylist() == [4, 5, 6]


def test_a_folder_is_split_by_file_names_and_shards_are_joined_in_order(tmp_path):
    write(tmp_path / "data" / "train-00001-of-00002.parquet", x=[3])
    write(tmp_path / "data" / "train-00000-of-00002.parquet", x=[1, 2])
    write(tmp_path / "data" / "test.parquet", x=[9])
    write(tmp_path / "data" / "cats_validation.parquet", x=[8])
    frames = from_path(str(tmp_path), "data.source")
    assert {name: frame.read("x").to_pylist() for name, frame in frames.items()} == {
        "train": [1, 2, 3],
        "test": [9],
        "validation": [8],
    }
    assert frames["train"].count == 3


def test_files_without_a_split_in_their_names_are_for_training(tmp_path):
    write(tmp_path / "contest.parquet", x=[1])
    write(tmp_path / "trainer.parquet", x=[2])
    assert {name: frame.count for name, frame in from_path(str(tmp_path), "data.source").items()} == {"train": 2}


def test_a_saved_data_set_is_read_with_its_selection_and_its_splits(tmp_path):
    data = datasets.Dataset.from_dict({"x": [1, 2, 3, 4]})
    datasets.DatasetDict(train=data.select([3, 1]), test=data.select([0])).save_to_disk(tmp_path / "both")
    data.select([2, 0]).save_to_disk(tmp_path / "one")
    both, one = from_path(str(tmp_path / "both"), "data.source"), from_path(str(tmp_path / "one"), "data.source")
    assert {name: (frame.count, frame.read("x").to_pylist()) for name, frame in both.items()} == {
        "train": (2, [4, 2]),
        "test": (1, [1]),
    }
    assert one["train"].read("x").to_pylist() == [3, 1] and one["train"].schema.names == ["x"]


def test_a_home_directory_may_be_abbreviated(tmp_path, monkeypatch):
    write(tmp_path / "a.parquet", x=[1])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert from_path("~/a.parquet", "data.source")["train"].count == 1


def test_a_path_that_does_not_exist_is_told_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SetupError, match=rf"data.test: {tmp_path}/no/such.parquet does not exist. Give the path of a .parquet"):
        from_path("no/such.parquet", "data.test")


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(SetupError, match=f"the folder {tmp_path} holds no .parquet file"):
        from_path(str(tmp_path), "data.source")


def test_files_of_different_columns_are_not_mixed(tmp_path):
    write(tmp_path / "a.parquet", x=[1])
    write(tmp_path / "b.parquet", y=[1])
    with pytest.raises(SetupError, match=r"b.parquet and .*a.parquet have different columns; name one"):
        from_path(str(tmp_path), "data.source")


@pytest.mark.parametrize("content", [b"", b"PAR1 and nothing else", b"a,b\n1,2\n" * 50])
def test_a_file_that_is_no_parquet_is_damaged(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(
        DamagedData, match=r"data.source: .*a.parquet is damaged or not of the kind its name says \(.+\); fetch it again."
    ):
        from_path(str(tmp_path / "a.parquet"), "data.source")


def test_a_flipped_bit_is_found_by_the_checksum_of_its_page(tmp_path):
    path = tmp_path / "a.parquet"
    write(path, x=[bytes([7]) * 400] * 2)
    content = bytearray(path.read_bytes())
    content[content.index(bytes([7]) * 50) + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedData, match="is damaged"):
        from_path(str(path), "data.source")["train"].read("x")


def test_a_truncated_file_is_damaged(tmp_path):
    path = tmp_path / "a.parquet"
    write(path, x=list(range(1000)))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedData, match="is damaged"):
        from_path(str(path), "data.source")


def test_a_damaged_saved_data_set_is_told(tmp_path):
    datasets.Dataset.from_dict({"x": [1]}).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text("{")
    with pytest.raises(DamagedData, match="saved is damaged"):
        from_path(str(tmp_path / "saved"), "data.source")


def test_a_file_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path / "a.parquet", x=[1])
    monkeypatch.setattr(pq, "ParquetFile", refuse)
    with pytest.raises(SetupError, match=r"a.parquet may not be read \(Permission denied\); change its permissions"):
        from_path(path, "data.source")
