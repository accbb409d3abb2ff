"""The final global model, as an artifact of the server's W&B run, where the job wants it kept."""

from __future__ import annotations

from multisite.tracking.backend import Backend, Run
from multisite.tracking.spool import Job


def add_model(job: Job, run: Run) -> None:
    """Hands the job's model over to the server's run, which uploads it when it finishes. Rows are worth more: no error ends them."""
    if not job.has_model():
        return
    try:
        run.add_model(job.model_file, job.id)
    except Exception as error:  # the SDK raises a dozen kinds
        print(f"W&B, job {job.id}: the model was not uploaded ({type(error).__name__}: {error})", flush=True)


def check_model(job: Job, backend: Backend) -> None:
    """Deletes the file when the backend has it; else it stays in the job's folder.

    Raises:
        Refusal: the backend does not answer.
    """
    if not job.has_model():
        return
    if backend.has_model():
        job.model_file.unlink()
    else:
        print(f"W&B, job {job.id}: the model has not arrived; it stays in {job.model_file}", flush=True)
