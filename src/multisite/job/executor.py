"""The shipped job's executor on a site: NVFlare's Client API with everything fixed by the image but the training's numbers.

NVFlare's `ClientAPIExecutor` runs the command or the script that a job's configuration names, so it is on no allow-list: whoever holds a
submitter's certificate could run anything on every site. Here a job chooses numbers and names from fixed sets, and nothing else.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsDataType
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.apis.utils.analytix_utils import create_analytic_dxo, send_analytic_dxo
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor, ExecutionMode
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.client.config import ExchangeFormat

from multisite.cifar10.manifest import SHAPES
from multisite.job.limits import most_result_bytes
from multisite.job.progress import SITE_ERROR

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
            rounds, local_epochs, batch_size, lr, seed: see `job.options.JobOptions`.

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

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """NVFlare's executor seam. A result that the server would not accept is said here: NVFlare would try to send it for ever."""
        result = super().execute(task_name, shareable, fl_ctx, abort_signal)
        if result.get_return_code() == ReturnCode.OK:
            params = FLModelUtils.from_shareable(result).params or {}
            size, most = sum(getattr(value, "nbytes", 0) for value in params.values()), most_result_bytes()
            if size > most:
                problem = f"its result has {size >> 20} MiB, and {most >> 20} may be sent; next: MAX_RESULT_MB in .env, here and on the server"
                dxo = create_analytic_dxo(tag=SITE_ERROR, value=problem, data_type=AnalyticsDataType.TEXT)
                send_analytic_dxo(self, dxo, fl_ctx, event_type=ANALYTIC_EVENT_TYPE, fire_fed_event=False)
                return make_reply(ReturnCode.EXECUTION_EXCEPTION)
        return result
