#!/bin/sh
# Installs one locked list into /opt/venv during the image build, with the user's CA bundle (secret `ca`) where there is one.
# TORCH_INDEX takes torch and torchvision, at the locked releases, from that index instead; other builds of a release have other
# hashes, so those two are then held by release alone.
# NVFLARE=next installs the list alone, whose NVFlare needs what is there already; NVFLARE=newest the newest one, pre-releases too.
set -eu
[ ! -s /run/secrets/ca ] || export SSL_CERT_FILE=/run/secrets/ca
[ -x /opt/venv/bin/python ] || /tools/bin/uv venv --quiet --python /usr/bin/python3 /opt/venv

install() { /tools/bin/uv pip install --quiet --no-cache --compile-bytecode --python /opt/venv/bin/python "$@"; }

if [ "${NVFLARE:-}" = newest ]; then
    install --no-deps --prerelease allow --upgrade nvflare
elif [ "${NVFLARE:-}" = next ]; then
    install --no-deps --require-hashes -r "$1"
elif [ -n "${TORCH_INDEX:-}" ]; then
    install --require-hashes -r /requirements/site-cpu.txt
    install --no-deps --default-index "$TORCH_INDEX" $(sed -nE 's/^(torch(vision)?==[^ ]+).*/\1/p' "$1")
else
    install --require-hashes -r "$1"
fi

# NumPy's own tests: 16 MB that nothing imports.
find /opt/venv/lib -type d -path '*/site-packages/numpy/*' -name tests -prune -exec rm -rf {} +
