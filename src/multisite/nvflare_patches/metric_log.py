"""What a training script logs reaches the site's recorder as it was logged, text and arrays included.

Upstream: `InProcessClientAPI.log` (`nvflare/client/in_process/api.py:264`) makes an `AnalyticsData` of every call, which refuses the whole
call for one value that is no number (`nvflare/apis/analytix.py:167`): all its metrics are lost, with a traceback in the site's log. It
also starts and ends a thread for each.

So the recorder is asked first. It is found on NVFlare's `DataBus`, under `RECORDER` and the site's name; what it does not take goes on.
"""

from __future__ import annotations

from typing import Any

from nvflare.apis.analytix import AnalyticsDataType
from nvflare.client.in_process.api import InProcessClientAPI
from nvflare.fuel.data_event.data_bus import DataBus

RECORDER = "multisite.recorder."  # a function of key, value, type and the other arguments: whether it took the metric
UPSTREAM = {
    "nvflare.client.in_process.api:InProcessClientAPI.log": "f8215fbef8932bc3",
    "nvflare.apis.analytix:AnalyticsData._validate_data_types": "37f2fcdc3095dbb0",
}

_log = InProcessClientAPI.log


def log(self: Any, key: str, value: Any, data_type: AnalyticsDataType, **rest: Any) -> None:
    """NVFlare's, for what no recorder takes."""
    record = DataBus().get_data(RECORDER + self.get_site_name())
    if record is None or not record(key, value, data_type, rest):
        _log(self, key, value, data_type, **rest)


def apply() -> None:
    """In a site's job process."""
    InProcessClientAPI.log = log
