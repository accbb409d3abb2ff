"""The final global model, as an artifact of the server's W&B run, where the job wants it kept."""

from __future__ import annotations

from multisite.text import clean
from multisite.tracking.backend import FINISH_SECONDS, Backend
from multisite.tracking.run import Run
from multisite.tracking.spool import Job
from multisite.tracking.troubles import Refusal

BYTES_PER_SECOND = 1e6  # of a link that a model's upload has time for
LONGEST_SECONDS = 500.0


def finish_seconds(job: Job) -> float:
    """How long a run's finish may take that has the model to upload."""
    size = job.model_file.stat().st_size if job.has_model() else 0
    return min(FINISH_SECONDS + size / BYTES_PER_SECOND, LONGEST_SECONDS)


def add_model(job: Job, run: Run) -> None:
    """Hands the job's model over to the server's run, which uploads it when it finishes. Rows are worth more: no error ends them."""
    if not job.has_model():
        return
    try:
        run.add_model(job.model_file, job.id)
    except Exception as error:  # the SDK raises a dozen kinds
        print(f"W&B, job {job.id}: the model was not uploaded ({type(error).__name__}: {error})", flush=True)


def missing_model(job: Job, backend: Backend) -> str:
    """Deletes the file when the backend has it; else it stays in the job's folder, for the next try.

    Returns:
        What is said where it has not arrived; empty otherwise.
    """
    if not job.has_model():
        return ""
    try:
        if backend.has_model():
            job.model_file.unlink()
            return ""
        why = f"{backend.host} does not have it"
    except Refusal as refusal:
        why = str(refusal)
    return clean(f"the model is not uploaded ({why}); it is tried again for ten minutes, then at make sync")
