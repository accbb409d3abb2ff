"""Where NVFlare 2.9.0 has no seam: the one override, and the upstream line that it stands in for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nvflare.apis.analytix import AnalyticsDataType
from nvflare.client.in_process.api import InProcessClientAPI

Record = Callable[[str, Any, AnalyticsDataType, dict[str, Any]], bool]  # key, value, type, the rest -> whether it was taken

_recorders: dict[str, Record] = {}
_stock_log = InProcessClientAPI.log


def _log(self: InProcessClientAPI, key: str, value: Any, data_type: AnalyticsDataType, **rest: Any) -> None:
    record = _recorders.get(self.get_site_name())
    if record is None or not record(key, value, data_type, rest):
        _stock_log(self, key, value, data_type, **rest)


def record_in_process(site: str, record: Record) -> None:
    """Gives every metric that the training script of `site` logs to `record`, before `log` returns.

    Stands in for `InProcessClientAPI.log` (nvflare/client/in_process/api.py:264), which hands the metric to
    `DataBus.publish` (nvflare/fuel/data_event/data_bus.py:138): a new thread pool for each call, whose work runs later, in any
    order, and whose failures nobody sees.
    """
    _recorders[site] = record
    InProcessClientAPI.log = _log


def stop_recording(site: str) -> None:
    """Undoes `record_in_process`."""
    _recorders.pop(site, None)
    if not _recorders:
        InProcessClientAPI.log = _stock_log
