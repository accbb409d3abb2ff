"""A finished job's folder in the admin's volume, `/results/<job id>`: built once, whole when it is there, then only read.

NVFlare publishes a job's end after its archive is written, and that archive changes no more: a folder made of it is good for ever. What
builds it anew: it is missing; or it came of an archive without a workspace (the server could not write that one, or had not yet) and
there is one now; or it was made by an earlier version of `arrange` (LAYOUT), or by a release that knew no notes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from nvflare.fuel.flare_api.flare_api import Session

from multisite.job import progress, report_page
from multisite.locks import LockTimeout, held, leave, note
from multisite.text import clean

LOCKS, PARTIAL = ".locks", ".partial"
LAYOUT = "whole, layout 2"  # the note in a job's lock; another number where `arrange` makes something else
BARE = LAYOUT + ", without a workspace"
WAIT_SECONDS = 600.0  # the console waits for 900 s
COPY_SECONDS = 86_400.0
SUMMARY = "metrics_summary.json"  # NVFlare's `MetricsArtifactWriter`


def folder_of(flare: Session, job_id: str, results: Path) -> Path:
    """The whole folder of a finished job: the one that is there, or a new one. Nobody replaces it under its readers.

    Raises:
        LockTimeout: another command builds it, and does not come to an end.
        ValueError: that is no job's id.
    """
    if job_id in ("", ".", "..") or "/" in job_id or job_id.startswith("."):
        raise ValueError(f"{job_id!r} is no job's id")
    target, partial, lock = results / job_id, results / PARTIAL / job_id, results / LOCKS / job_id
    _forget_others(results, job_id)
    with held(lock, WAIT_SECONDS):
        if target.is_dir() and note(lock) == LAYOUT:
            os.utime(target)  # it is read now: it stays for another day
            return target
        shutil.rmtree(partial, ignore_errors=True)  # of a command that was killed
        try:
            made = LAYOUT if _build(flare, job_id, partial) else BARE
            if not (made == BARE == note(lock) and target.is_dir()):
                shutil.rmtree(target, ignore_errors=True)
                os.rename(partial / "arranged", target)
                leave(lock, made)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def _forget_others(results: Path, job_id: str) -> None:
    """Deletes the folders that nobody has asked for in a day: they can be built again."""
    limit = time.time() - COPY_SECONDS
    for folder in results.iterdir() if results.is_dir() else ():
        if folder.name.startswith(".") or folder.name == job_id or not folder.is_dir() or folder.stat().st_mtime > limit:
            continue
        with contextlib.suppress(LockTimeout), held(results / LOCKS / folder.name, 0.0):
            shutil.rmtree(folder, ignore_errors=True)


def _build(flare: Session, job_id: str, partial: Path) -> bool:
    """Makes `arranged` in the folder `partial`; whether the server's archive had the job's workspace in it."""
    downloaded = Path(flare.download_job_result(job_id, str(partial / "downloaded")))
    arranged = partial / "arranged"
    arrange(downloaded, arranged)
    # NVFlare's summary has the accuracy of the model before the last round's training, if the job did not come to its end.
    if not read(arranged / progress.RESULTS).get("complete", True):
        (arranged / SUMMARY).unlink(missing_ok=True)
    try:
        report_page.write(arranged, job_id)
    except Exception as error:  # of what sites and jobs wrote, or of a drawing library that is missing
        print(
            f"{report_page.NAME} could not be drawn ({type(error).__name__}: {clean(error)}); the results are whole",
            file=sys.stderr,
        )
    return any(path.is_file() for path in downloaded.glob("workspace/**/*"))


def arrange(downloaded: Path, target: Path) -> None:
    """Makes the folder that a person gets from NVFlare's downloaded job: models, metrics, configuration, server log.

    Args:
        downloaded: NVFlare's folder, with `workspace` and `job` in it.
        target: is made.
    """
    target.mkdir(parents=True)
    for name, pattern in (
        ("models", "workspace/**/*.safetensors"),
        ("models", "workspace/**/models/network.py"),
        ("", "workspace/**/metrics/*.*"),
        ("logs", "workspace/**/*log*.txt"),
        ("job", "job/**/*.json"),
    ):
        for source in downloaded.glob(pattern):
            place = target / name / (source.relative_to(downloaded / "job") if name == "job" else source.name)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)


def read(path: Path) -> dict[str, Any]:
    """A JSON file; empty if it is missing."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
