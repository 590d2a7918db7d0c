import sys

import torch

from fedapt.environment import differences, environment


def test_the_environment_says_what_bits_depend_on(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/bin/fedapt", "run", "my scenario.yaml"])
    found = environment()
    assert found["command"] == "fedapt run 'my scenario.yaml'"
    assert found["threads"] == torch.get_num_threads()
    assert {"fedapt", "torch", "flwr", "ray", "numpy", "python", "cpu", "cpu_capability", "platform"} <= found.keys()


def test_what_may_change_bits_is_named_and_nothing_else() -> None:
    before = environment("rounds: 1\n")
    assert differences(before, before | {"cpus": 99, "command": "x", "platform": "y"}) == []
    assert differences(before, before | {"torch": "9", "threads": 7}) == [
        f"torch was {before['torch']}, is 9",
        f"threads was {before['threads']}, is 7",
    ]
    assert differences(before, environment("rounds: 2\n")) == ["scenario.yaml was edited"]


def test_an_environment_without_versions_differs_in_all_of_them() -> None:
    assert len(differences({}, environment())) == 7


def test_the_gpu_is_named_where_one_is_used_and_another_one_may_change_bits(monkeypatch) -> None:
    assert "gpu" not in environment()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    found = environment(gpu=True)
    assert found["gpu"] == "NVIDIA H200"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert differences(found, environment(gpu=True)) == ["gpu was NVIDIA H200, is None"]


def test_what_multiplies_bf16_is_named_where_it_is_used_and_another_processor_may_change_bits(monkeypatch) -> None:
    assert "bf16" not in environment()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": True, "amx_bf16": False})
    found = environment(half=True)
    assert found["bf16"] == "avx512_bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    assert differences(found, environment(half=True)) == ["bf16 was avx512_bf16, is None"]
