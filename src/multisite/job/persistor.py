"""The server's model store: safetensors files, read and written with NumPy, so that the server needs no torch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable
from nvflare.app_common.abstract.model_persistor import ModelPersistor
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from safetensors.numpy import save_file

from multisite import cifar10

GLOBAL_MODEL = "global_model.safetensors"
BEST_MODEL = "best_model.safetensors"


NETWORK = "network.py"  # beside the models: PyTorch's side of them
MOST_FACTS, LONGEST_FACT = 20, 1000


class SafetensorsPersistor(ModelPersistor):
    """Keeps the global model of the last round and the best one, in the job's folder on the server.

    The initial model is empty: each site starts from the same seeded weights, and the first aggregation makes the first
    global model.
    """

    def __init__(self, facts: dict[str, str] | None = None) -> None:
        """
        Args:
            facts: what the files' metadata say beside the job's id: `cifar10.facts.described`. With them the networks' source, which
                needs nothing but torch, is kept beside the files.

        Raises:
            ValueError: they are no short texts.
        """
        super().__init__()
        self.facts = facts or {}
        if len(self.facts) > MOST_FACTS or not all(
            isinstance(fact, str) and len(fact) <= LONGEST_FACT for fact in self.facts.values()
        ):
            raise ValueError(f"facts must be at most {MOST_FACTS} texts of {LONGEST_FACT} characters")

    def load_model(self, fl_ctx: FLContext) -> ModelLearnable:
        """An empty model, see the class."""
        return make_model_learnable(weights={}, meta_props={})

    def save_model(self, model: ModelLearnable, fl_ctx: FLContext) -> None:
        """Writes the global model's weights (name -> array) over the previous round's."""
        self._write(GLOBAL_MODEL, model, fl_ctx)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Keeps the global model aside when the model selector calls it the best so far."""
        super().handle_event(event_type, fl_ctx)
        if event_type == AppEventType.GLOBAL_BEST_MODEL_AVAILABLE:
            self._write(BEST_MODEL, fl_ctx.get_prop(AppConstants.GLOBAL_MODEL), fl_ctx)

    def _write(self, name: str, model: ModelLearnable, fl_ctx: FLContext) -> None:
        weights = model[ModelLearnableKey.WEIGHTS]
        if not weights:
            return
        folder = Path(fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_job_id())) / "models"
        folder.mkdir(parents=True, exist_ok=True)
        if self.facts:
            shutil.copyfile(Path(cifar10.__file__).with_name("model.py"), folder / NETWORK)
        temporary = folder / f".{name}"
        about = {**self.facts, "job": fl_ctx.get_job_id(), "format": "pt"}
        save_file({key: np.ascontiguousarray(value) for key, value in weights.items()}, temporary, about)
        os.replace(temporary, folder / name)
