"""A finished job's results, from the admin's container to `results/<job id>` on this host: whole folders only.

The admin's tar is unpacked as it comes, in `results/.partial/<job id>/new`, and renamed in when it is whole. What stood there before
waits in `results/.partial/<job id>/old` meanwhile: it comes back if something fails, and files in it that are not the job's are moved
over to the new folder. Whoever holds the job's lock (`results/.locks/<job id>`) first settles what one before it left when it was killed.

A site chooses part of the content. It is bounded by MOST_MEMBERS, by DEEPEST, and by the disk, of which FREE_BYTES are left free; it may
take as long as it likes while bytes come (SILENT_SECONDS).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from typing import IO, Any, cast

from multisite.console.archive import place_of, write
from multisite.console.deployment import Deployment
from multisite.console.settings import ConsoleError
from multisite.console.stream import CHUNK_BYTES, Stream, megabytes
from multisite.console.text import say
from multisite.locks import LockTimeout, held, leave, note
from multisite.text import clean

STEP = "results"
LOCKS, PARTIAL = ".locks", ".partial"
NEW, OLD = "new", "old"
WAIT_SECONDS = 600.0  # for another console that brings the same job's
SILENT_SECONDS = 60.0
END_SECONDS = 20.0  # from the stream's end to the command's
MOST_MEMBERS = 100_000
DEEPEST = 32  # folders in folders
FREE_BYTES = 256 * 1024**2
END_BYTES = 1024  # of zeros, at least, end an archive
MOST_END_BYTES = 1024**2


def bring(deployment: Deployment, job_id: str) -> Path:
    """Brings `results/<job id>`, owned by whoever runs this, or waits for another console that does, and takes what that one brought.

    Raises:
        ConsoleError: it did not come whole, does not fit, or can't be written; what stood there before stands there still.
    """
    if not job_id or job_id.startswith((".", "-")) or "/" in job_id or clean(job_id) != job_id:
        raise ConsoleError(STEP, f"{clean(job_id)!r} is no job's id", "make status")
    results = deployment.settings.path("RESULTS_DIR") or deployment.settings.home / "results"
    place, lock = results / job_id, results / LOCKS / job_id
    waited: list[str] = []

    def wait() -> None:
        waited.append(before)
        say(f"results: another console brings them; waiting for it, {WAIT_SECONDS:.0f} s at most")

    try:
        before = note(lock)
        with held(lock, WAIT_SECONDS, wait):
            work = results / PARTIAL / job_id
            _settle(work, place)
            if not (waited and note(lock) != before and place.is_dir()):
                _bring(deployment, job_id, work, place)
                leave(lock, str(time.time_ns()))
    except LockTimeout:
        problem = f"another console brings those of {job_id}, for more than {WAIT_SECONDS:.0f} s now"
        raise ConsoleError(STEP, problem, f"wait for it, or end it; then make results JOB={job_id}") from None
    except BrokenPipeError:  # nobody reads what is printed any more
        raise
    except OSError as error:
        next_step = f"free disk space, or check who owns it; then make results JOB={job_id}"
        raise ConsoleError(STEP, f"{place} can't be written ({clean(error)})", next_step) from None
    return place


def _bring(deployment: Deployment, job_id: str, work: Path, place: Path) -> None:
    """Receives a new folder and puts it in its place, whose lock is held."""
    again = f"make results JOB={job_id}"
    if os.path.lexists(place) and (place.is_symlink() or not place.is_dir()):
        raise ConsoleError(STEP, f"{place} is no folder", f"move it away; then {again}")
    new, old = work / NEW, work / OLD
    try:
        new.mkdir(parents=True)
        _receive(deployment, job_id, new)
        if place.is_dir():
            if clash := _clash(place, new / job_id):
                problem = f"{clash} stands where the job has something else; nothing was changed"
                raise ConsoleError(STEP, problem, f"move it away; then {again}")
            os.rename(place, old)
        os.rename(new / job_id, place)
    finally:
        _settle(work, place)


def _settle(work: Path, place: Path) -> None:
    """Ends what was begun in `work`: a folder that was moved away comes back, or gives what is not the job's to the new one."""
    old = work / OLD
    if old.is_dir():
        if not os.path.lexists(place):
            os.rename(old, place)
        else:
            _move_others(old, place)
            shutil.rmtree(old)
    shutil.rmtree(work / NEW, ignore_errors=True)
    with contextlib.suppress(OSError):
        work.rmdir()


def _clash(there: Path, new: Path) -> Path | None:
    """What in the folder `there` is of another kind than what has its name in `new`: a link, or a folder where a file belongs."""
    for entry in list(os.scandir(there)):
        other = new / entry.name
        if not os.path.lexists(other):
            continue
        if entry.is_dir(follow_symlinks=False) and other.is_dir():
            if clash := _clash(Path(entry.path), other):
                return clash
        elif not entry.is_file(follow_symlinks=False) or not other.is_file():
            return Path(entry.path)
    return None


def _move_others(old: Path, new: Path) -> None:
    """Moves whatever `new` does not have to it."""
    for entry in list(os.scandir(old)):
        other = new / entry.name
        if not os.path.lexists(other):
            os.rename(entry.path, other)
        elif entry.is_dir(follow_symlinks=False) and other.is_dir() and not other.is_symlink():
            _move_others(Path(entry.path), other)


def _receive(deployment: Deployment, job_id: str, folder: Path) -> None:
    """Unpacks the admin's tar of `/results/<job id>` into `folder`.

    Raises:
        ConsoleError: it fell silent, broke off, failed, does not fit, or has something in it that is not allowed.
    """
    command = ["docker", *deployment.docker.exec_arguments("admin", "tar", "-C", "/results", "-cf", "-", "--", job_id)]
    # A session of its own: Ctrl-C reaches this console, which ends the command. No buffers: what comes is written at once.
    process = subprocess.Popen(
        command, cwd=deployment.settings.home, env=deployment.docker.env(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True, bufsize=0,
    )  # fmt: skip
    again = f"make results JOB={job_id}"
    try:
        stream = Stream(process, STEP, SILENT_SECONDS, f"make status; docker compose logs admin; then {again}")
        reason = "it has no end"
        try:
            whole = _unpack(stream, folder, job_id)
        except (tarfile.TarError, ValueError) as error:
            whole, reason = False, clean(error)
        if stream.ended and (failure := _failure(process, stream)):
            raise ConsoleError(STEP, failure, again)
        if not whole:
            raise ConsoleError(STEP, f"what the container sent is no whole archive ({reason})", again)
    finally:
        process.kill()  # does nothing to one that has ended
        process.wait()
        cast("IO[bytes]", process.stdout).close()


def _failure(process: subprocess.Popen[bytes], stream: Stream) -> str:
    """Why the command failed, which has ended its stream; empty if it did not."""
    try:
        code = process.wait(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        return f"the admin's tar did not end within {END_SECONDS:.0f} s after its last byte"
    return f"the admin's tar failed (exit status {code}): {stream.errors() or 'it said nothing'}" if code else ""


def _unpack(stream: Stream, folder: Path, job_id: str) -> bool:
    """Writes the archive's members below `folder`; whether it has any, and its end."""
    count = 0
    with tarfile.open(mode="r|", fileobj=cast("IO[bytes]", stream), bufsize=CHUNK_BYTES) as archive:
        while (member := archive.next()) is not None:
            cast("Any", archive).members.clear()  # or it remembers every one
            count += 1
            _check(member, count, folder, job_id)
            write(archive, member, place_of(member, folder, STEP))
        end = archive.offset  # of the last member's last block
    while not stream.ended and stream.received - end <= MOST_END_BYTES:
        stream.read(CHUNK_BYTES)
    return bool(count) and stream.ended and stream.received - end >= END_BYTES and stream.zeros >= stream.received - end


def _check(member: tarfile.TarInfo, count: int, folder: Path, job_id: str) -> None:
    """
    Raises:
        ConsoleError: it is one too many, too deep, not of this job, or larger than the disk's free space.
    """
    look = "look at the job's results in the admin's container: docker compose exec admin ls -R /results/" + job_id
    if count > MOST_MEMBERS:
        raise ConsoleError(STEP, f"the job's results are more than {MOST_MEMBERS:,} files and folders; nothing was written", look)
    parts = Path(member.name).parts
    if len(parts) > DEEPEST:
        raise ConsoleError(STEP, f"the job's results have more than {DEEPEST} folders in each other; nothing was written", look)
    if parts[:1] != (job_id,) or (len(parts) == 1 and not member.isdir()):
        raise ConsoleError(
            STEP,
            f"the container sent {clean(member.name)!r}, which is no file or folder of job {job_id}; nothing was written",
            look,
        )
    room = shutil.disk_usage(folder).free - FREE_BYTES
    if member.size > room:
        problem = f"{clean(member.name)} has {megabytes(member.size)}, and the disk of {folder.parents[2]} has room for"
        next_step = "free disk space, or set RESULTS_DIR in .env to a folder on another disk"
        raise ConsoleError(STEP, f"{problem} {megabytes(max(0, room))} ({megabytes(FREE_BYTES)} are left free)", next_step)
