"""A job's process: the memory of a training step, and NVFlare's command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from multisite.federation import job_process

TRAIN = """
import sys
from pathlib import Path
from multisite.federation import job_process
if sys.argv[1] == "left out": job_process.leave_out_gpu_libraries()
import torch
from multisite.cifar10.model import build
from multisite.cifar10.training import Recipe, in_memory, train_round
images = torch.randint(0, 256, (256, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
model = build("compact", 0)
train_round(model, in_memory(images), torch.arange(256) % 10, Recipe(1, 1, 64, 0.1), 0, 0, torch.device("cpu"))
total = sum(parameter.double().sum().item() for parameter in model.parameters())
print(total, Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])
"""


@pytest.mark.skipif(
    torch.cuda.is_available() or not any(Path(job_process.NO_GPU).rglob("lib*.so*")), reason="for CUDA wheels without a GPU"
)
def test_a_host_without_a_gpu_trains_the_same_without_nvidias_libraries_and_in_200_mib_less() -> None:
    def trained(how: str) -> tuple[str, int]:
        done = subprocess.run([sys.executable, "-c", TRAIN, how], capture_output=True, text=True, timeout=120, check=True)
        total, resident = done.stdout.split()
        return total, int(resident) // 1024

    with_them, without = trained("loaded"), trained("left out")
    assert with_them[0] == without[0]
    assert with_them[1] - without[1] > 200


def test_nvflares_command_starts_this_packages_process_with_nvflares_arguments() -> None:
    command = "python -m nvflare.private.fed.app.client.worker_process -m /workspace -n job"
    assert job_process._ours(command, "site") == "python -m multisite.federation.job_process site -m /workspace -n job"
