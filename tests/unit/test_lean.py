"""What a participant leaves out while it imports NVFlare."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc, sys
from multisite.federation import lean
with lean.imports():
    from multisite.federation import node
    from nvflare.private.fed.app.client import client_train
    from nvflare.private.fed.app.deployer import base_client_deployer
names = [name for name in sys.modules if name.split('.')[0] == 'grpc']
assert not names, names
assert gc.isenabled()
compression = base_client_deployer.grpc.Compression
import grpc
for name in ('NoCompression', 'Deflate', 'Gzip'):
    assert compression[name] == grpc.Compression[name].value, name
from nvflare.fuel.f3.drivers import grpc_driver
assert grpc_driver.grpc is grpc
"""


def test_a_participant_starts_without_grpc_and_a_driver_that_needs_it_gets_the_real_one() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
