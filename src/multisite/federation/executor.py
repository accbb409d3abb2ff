"""The shipped job's executor on a site: NVFlare's Client API with everything fixed by the image but the training's numbers.

NVFlare's `ClientAPIExecutor` runs the command or the script that a job's configuration names, so it is on no allow-list: whoever holds a
submitter's certificate could run anything on every site. Here a job chooses numbers and names from fixed sets, and nothing else.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor, ExecutionMode
from nvflare.client.config import ExchangeFormat

from multisite.cifar10.manifest import SHAPES

CLIENT_SCRIPT = Path(__file__).with_name("client.py")
PARTITION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")  # a folder's name under the site's data, never a path
MOST = {"rounds": 10_000, "local_epochs": 1_000, "batch_size": 10_000, "seed": 2**31 - 1}


class TrainingExecutor(ClientAPIExecutor):
    """Runs `client.py` of the image in the site's job process."""

    def __init__(self, partition: str, network: str, rounds: int, local_epochs: int, batch_size: int, lr: float, seed: int) -> None:
        """
        Args:
            partition: name of the site's shard, see `cifar10/partition.py`.
            network: one of `cifar10/manifest.py`.
            rounds, local_epochs, batch_size, lr, seed: see `federation.options.JobOptions`.

        Raises:
            ValueError: an argument is none of these.
        """
        self.partition, self.network, self.lr = partition, network, lr
        self.rounds, self.local_epochs, self.batch_size, self.seed = rounds, local_epochs, batch_size, seed
        super().__init__(
            execution_mode=ExecutionMode.IN_PROCESS,
            task_script_path=str(CLIENT_SCRIPT),
            task_script_args=" ".join(f"--{name} {value}" for name, value in self._checked().items()),
            params_exchange_format=ExchangeFormat.NUMPY,
            server_expected_format=ExchangeFormat.NUMPY,
        )

    def _checked(self) -> dict[str, Any]:
        if not isinstance(self.partition, str) or not PARTITION.fullmatch(self.partition):
            raise ValueError(f"partition must be the name of a shard, not {self.partition!r}")
        if not isinstance(self.network, str) or self.network not in SHAPES:
            raise ValueError(f"network must be one of {', '.join(SHAPES)}, not {self.network!r}")
        for name, most in MOST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not int(name != "seed") <= value <= most:
                raise ValueError(f"{name} must be a whole number of at most {most}, not {value!r}")
        if isinstance(self.lr, bool) or not isinstance(self.lr, (int, float)) or not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr must be a number above 0, not {self.lr!r}")
        return {
            name: getattr(self, name) for name in ("partition", "network", "rounds", "local_epochs", "batch_size", "lr", "seed")
        }
