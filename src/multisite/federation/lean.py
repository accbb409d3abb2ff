"""What a participant leaves out while it imports NVFlare: entered before the first of these imports, so this module has none itself."""

from __future__ import annotations

import contextlib
import enum
import gc
import sys
from collections.abc import Iterator
from types import ModuleType

GRPC = "grpc"


class Compression(enum.IntEnum):
    """gRPC's, by its numbers."""

    NoCompression = 0
    Deflate = 1
    Gzip = 2


@contextlib.contextmanager
def imports() -> Iterator[None]:
    """NVFlare is imported without gRPC and without the garbage collector: a tenth of the time, and 9 MiB.

    `nvflare/private/fed/app/deployer/base_client_deployer.py:15` imports gRPC for the names of its compressions. What imports it
    afterwards gets the real one: a kit's own driver, if that is gRPC's (transport.py).
    """
    loaded = sys.modules.get(GRPC)
    stand_in = ModuleType(GRPC)
    stand_in.Compression = Compression  # type: ignore[attr-defined]
    sys.modules[GRPC] = loaded or stand_in
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        if loaded is None:
            del sys.modules[GRPC]
