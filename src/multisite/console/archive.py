"""Unpacks what a container sends as a tar stream: files and folders below one folder, and nothing else.

The names in it are partly a site's. `tarfile`'s own filter came with Python 3.11.4 and late releases of the older ones: this does not
need it, and is stricter (no links at all).
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
from pathlib import Path, PurePosixPath

from multisite.console.settings import ConsoleError
from multisite.text import clean


def unpack(content: bytes, folder: Path, step: str) -> None:
    """Writes the archive's files and folders into `folder`; a file that is there is replaced.

    Owners are whoever runs this. Files keep their owner's rights, and for others no right to write.

    Raises:
        ConsoleError: something in it is no file and no folder, or would lie elsewhere; nothing was written then.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            members = [(member, place_of(member, folder, step)) for member in archive]
            for member, place in members:
                write(archive, member, place)
    except tarfile.TarError as error:
        raise ConsoleError(step, f"what the container sent is no whole archive ({clean(error)})", "run it again") from None
    except OSError as error:
        raise ConsoleError(step, f"{folder} can't be written ({clean(error)})", "free disk space, or check who owns it") from None


def write(archive: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
    """Writes one file or folder of an archive to the place that `place_of` allowed.

    Raises:
        OSError: it can't be written.
        tarfile.TarError: its content is cut off.
    """
    if member.isdir():
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    source = archive.extractfile(member)
    assert source is not None  # a file has content
    place.unlink(missing_ok=True)
    with open(place, "xb") as target:
        place.chmod(stat.S_IRUSR | stat.S_IWUSR | (member.mode & 0o755))
        shutil.copyfileobj(source, target)


def place_of(member: tarfile.TarInfo, folder: Path, step: str) -> Path:
    """Where in `folder` a file or folder of an archive belongs.

    Raises:
        ConsoleError: it is something else, or would lie elsewhere.
    """
    name = PurePosixPath(member.name)
    outside = name.is_absolute() or ".." in name.parts or clean(member.name, 10_000) != member.name
    place = folder.joinpath(*name.parts)
    root = os.path.realpath(folder)
    # A link that is in the folder already must not lead out of it either.
    outside = outside or os.path.commonpath([root, os.path.realpath(place)]) != root or place.is_symlink()
    if outside or not (member.isfile() or member.isdir()):
        raise ConsoleError(
            step,
            f"the container sent {clean(member.name)!r}, which is no file or folder of the {step}; nothing was written",
            "look into that container: docker compose logs",
        )
    return place
