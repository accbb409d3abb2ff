"""A job's model files, used by somebody who has torch and safetensors and nothing of this project."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nvflare.apis.fl_constant import FLContextKey
from nvflare.app_common.abstract.model import make_model_learnable

from multisite.cifar10.facts import CLASS_NAMES, described
from multisite.cifar10.model import NETWORKS, build
from multisite.job.persistor import GLOBAL_MODEL, SafetensorsPersistor

README = Path(__file__).parents[3] / "README.md"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
CHECK = """
import sys, torch
assert "multisite" not in sys.modules
torch.manual_seed(0)
print(file.metadata()["job"], file.metadata()["classes"].split()[3], float(model(torch.randn(2, 3, 32, 32)).sum().detach()))
"""


@pytest.mark.parametrize("network", NETWORKS)
def test_the_readmes_lines_load_a_model_without_this_project(network: str, tmp_path: Path) -> None:
    model = build(network, seed=1)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    workspace = SimpleNamespace(get_run_dir=lambda job: str(tmp_path / job))
    context: Any = SimpleNamespace(
        get_engine=lambda: SimpleNamespace(get_workspace=lambda: workspace),
        get_job_id=lambda: "job-1",
        get_prop={FLContextKey.APP_ROOT: ""}.get,
    )
    SafetensorsPersistor(described(network)).save_model(make_model_learnable(weights, {}), context)
    (lines,) = BLOCK.findall(README.read_text(encoding="utf-8"))
    folder = tmp_path / "job-1" / "models"
    assert (folder / GLOBAL_MODEL).exists()
    done = subprocess.run(
        [sys.executable, "-c", lines + CHECK],
        cwd=folder,
        env={"PYTHONPATH": "", "HOME": "/tmp"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    job, name, total = done.stdout.split()
    assert (job, name) == ("job-1", CLASS_NAMES[3])
    assert float(total) == pytest.approx(float(model(torch.randn(2, 3, 32, 32)).sum().detach()), rel=1e-4)


@pytest.mark.parametrize("facts", [{"network": 5}, {"network": "x" * 2000}, {str(number): "" for number in range(30)}])
def test_facts_that_are_no_short_texts_are_refused(facts: Any) -> None:
    with pytest.raises(ValueError, match="facts must be"):
        SafetensorsPersistor(facts)
