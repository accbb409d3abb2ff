"""The classes of this package that a job may name: what every site's policy adds to NVFlare's own list (`provisioning/policy.py`)."""

from __future__ import annotations

OUR_COMPONENTS = (
    "multisite.job.aggregator.ExactMean",
    "multisite.job.controller.EvaluatedFedAvg",
    "multisite.job.executor.TrainingExecutor",
    "multisite.job.job_state.JobState",
    "multisite.job.persistor.SafetensorsPersistor",
    "multisite.job.progress.RoundReporter",
    "multisite.job.task_notice.TaskNotice",
    "multisite.tracking.receiver.WandbReceiver",
    "multisite.tracking.recorder.MetricsRecorder",
)
