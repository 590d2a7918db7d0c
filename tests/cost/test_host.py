import pytest

from fedapt.cost.host import EnergyCounter, available_bytes, last_level_cache_bytes, processor

GIB = 2**30


def write(root, **files):
    """Write files under a root; `__` stands for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC 7B13\n", "AMD EPYC 7B13"),
        ("processor\t: 0\nCPU part\t: 0xd08\n\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n", "Raspberry Pi 4 Model B Rev 1.4"),
    ],
)
def test_a_processor_or_board_has_the_name_that_the_kernel_gives_it(cpuinfo, name, tmp_path):
    assert processor(write(tmp_path, proc__cpuinfo=cpuinfo)) == name


def test_a_machine_that_says_nothing_of_itself_is_no_error(tmp_path):
    assert available_bytes(tmp_path) is None
    assert last_level_cache_bytes(tmp_path) is None
    assert EnergyCounter.find(tmp_path) is None
    assert processor(tmp_path)


def test_memory_is_what_the_system_could_still_give(tmp_path):
    root = write(tmp_path, proc__meminfo="MemTotal:  8000000 kB\nMemFree:  100 kB\nMemAvailable:    4194304 kB\n")
    assert available_bytes(root) == (4 * GIB, "MemAvailable of /proc/meminfo")


def test_a_container_has_what_its_group_leaves_it(tmp_path):
    """2 GiB allowed, 1 GiB used, of which a quarter are files that can be dropped; the group above allows more."""
    root = write(
        tmp_path,
        proc__meminfo="MemAvailable:    4194304 kB\n",
        proc__self__cgroup="0::/jobs/mine\n",
        sys__fs__cgroup__jobs__mine__x="",
    )
    write(root / "sys/fs/cgroup/jobs", **{"memory.max": f"{3 * GIB}\n", "memory.current": f"{GIB}\n"})
    write(root / "sys/fs/cgroup/jobs/mine", **{"memory.max": f"{2 * GIB}\n", "memory.current": f"{GIB}\n"})
    write(root / "sys/fs/cgroup/jobs/mine", **{"memory.stat": f"anon 5\ninactive_file {GIB // 4}\n"})
    assert available_bytes(root) == (GIB + GIB // 4, "the room left in this process's control group")
    write(root / "sys/fs/cgroup/jobs/mine", **{"memory.max": "max\n"})
    assert available_bytes(root) == (2 * GIB, "the room left in this process's control group")


def test_control_groups_of_the_first_version_count_too(tmp_path):
    root = write(tmp_path, proc__self__cgroup="4:cpu,memory:/mine\n1:name=systemd:/\n0::/\n")
    group = root / "sys/fs/cgroup/memory"
    write(group / "mine", **{"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": "5"})
    assert available_bytes(root) is None
    write(group, **{"memory.limit_in_bytes": "1000", "memory.usage_in_bytes": "400", "memory.stat": "total_inactive_file 50"})
    assert available_bytes(root) == (650, "the room left in this process's control group")


def test_the_last_cache_is_the_one_of_the_highest_level(tmp_path):
    for index, (level, size) in enumerate([(1, "48K"), (2, "1024K"), (3, "32M"), (1, "32K")]):
        write(tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}", level=f"{level}\n", size=f"{size}\n")
    assert last_level_cache_bytes(tmp_path) == (32 * 2**20, 3)


def test_joules_are_summed_over_packages_and_survive_a_counter_that_wraps(tmp_path):
    folder = tmp_path / "sys/class/powercap"
    for number, start in (0, 100), (1, 900_000):
        write(folder / f"intel-rapl:{number}", energy_uj=f"{start}\n", max_energy_range_uj="1000000\n")
    write(folder / "intel-rapl:0:0", energy_uj="5\n")
    counter = EnergyCounter.find(tmp_path)
    assert counter is not None
    write(folder / "intel-rapl:0", energy_uj="600100\n")
    write(folder / "intel-rapl:1", energy_uj="300000\n")
    assert counter.joules() == pytest.approx(0.6 + 0.4)
    assert counter.joules() == pytest.approx(1.0)
