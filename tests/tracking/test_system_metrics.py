"""The samples of a machine have the names that MLflow's UI groups, and come as often as they
should.
"""

import subprocess
import sys
from time import time
from types import SimpleNamespace

from nanolab.tracking import system_metrics


def test_a_sample_counts_the_launched_processes(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", "held = bytearray(60_000_000); print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        process.stdout.readline()
        values = system_metrics.measure(tmp_path)
    finally:
        process.communicate(b"\n")
    assert (
        values["system/processes_memory_megabytes"] > 60
        and 0 < values["system/system_memory_usage_percentage"] <= 100
    )
    assert (
        all(key.startswith("system/") for key in values)
        and values["system/disk_available_megabytes"] > 0
    )


def test_samples_of_a_long_step_lie_further_apart(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0, time=time, monotonic=lambda: clock.now)
    monkeypatch.setattr(system_metrics, "time", clock)
    samples = system_metrics.samples(tmp_path)
    for clock.now, number in ((0, 0), (1, 0), (3, 1), (4, 0), (3600, 2), (3660, 0), (3680, 3)):
        assert {point[3] for point in next(samples)} == ({number} if number else set())


def test_a_gpu_that_does_not_measure_something_leaves_it_out():
    values = system_metrics.gpu_values("97, 1000, 4000, 350.5\n0, 0, [N/A], [N/A]\n")
    assert (
        values["gpu_0_utilization_percentage"] == 97
        and values["gpu_0_memory_usage_percentage"] == 25
    )
    assert values["gpu_0_power_usage_watts"] == 350.5 and "gpu_1_power_usage_watts" not in values
