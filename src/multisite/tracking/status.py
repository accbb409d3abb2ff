"""Where a job's metrics went, collected on the server from whoever wrote them."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.widgets.info_collector import InfoCollector
from nvflare.widgets.widget import Widget

STATUS_EVENT = "multisite_tracking_status"
STATS_GROUP = "tracking"
FILE = "tracking.json"


class TrackingStatusCollector(Widget):
    """Keeps the last status of each W&B writer (the server, or each site), live in NVFlare's job stats and in `metrics/tracking.json`."""

    def __init__(self) -> None:
        super().__init__()
        self._writers: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._folder: Path | None = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """NVFlare's event seam."""
        if event_type == EventType.START_RUN:
            self._folder = Path(fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_job_id())) / "metrics"
        elif event_type in (STATUS_EVENT, f"fed.{STATUS_EVENT}"):
            data = fl_ctx.get_prop(FLContextKey.EVENT_DATA)
            with self._lock:
                self._writers[data["writer"]] = data["status"]
                self._save()
        elif event_type == InfoCollector.EVENT_TYPE_GET_STATS:
            with self._lock:
                fl_ctx.get_prop(InfoCollector.CTX_KEY_STATS_COLLECTOR).set_info(STATS_GROUP, dict(self._writers))

    def _save(self) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f".{FILE}"
        temporary.write_text(json.dumps(self._writers, indent=1), encoding="utf-8")
        os.replace(temporary, self._folder / FILE)
