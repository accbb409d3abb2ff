#!/usr/bin/env bash
# The tests:  docker/test.sh check|fast|console|next|newest|e2e|faults|bench|bench-metrics|all    (all sets up everything; CI calls it)
#   CIFAR10_DIR   a local copy of CIFAR-10; a `shared/data` folder beside the project is found by itself
set -euo pipefail
cd "$(dirname "$0")/.."

CONSOLE="python3 -m multisite.console"
export PYTHONPATH=src
export IMAGE_TAG=${IMAGE_TAG:-local}
[ -n "${CIFAR10_DIR:-}" ] || [ ! -d ../shared/data ] || export CIFAR10_DIR="$(cd ../shared/data && pwd)"

in_test_image() { # no network, no writes into the project
    docker run --rm --init --network none --read-only --tmpfs /tmp:exec,mode=1777 --memory 6g -v "$PWD:/project:ro" -w /project \
        -e PYTHONPATH=/project/src "multisite-test:$IMAGE_TAG" "$@"
}
images() { docker/engine.sh ensure && $CONSOLE build-test; }
check() {
    in_test_image ruff check --no-cache . && in_test_image ruff format --no-cache --check . && in_test_image mypy --cache-dir /tmp/mypy
}
fast() { in_test_image python -m pytest -p no:cacheprovider tests/unit tests/simulator; }
next_fast() { # with another NVFlare: `next` is locked, `newest` is not
    NVFLARE=$1 IMAGE_TAG=$1 $CONSOLE build-test && IMAGE_TAG=$1 fast
}
one_job() { # in containers: NVFLARE and PATCHES
    docker/venv.sh
    NVFLARE=$1 IMAGE_TAG=${1:-$IMAGE_TAG} PATCHES=$2 .venv/bin/python -m pytest -p no:cacheprovider --capture=no tests/e2e/one_job.py
}
console() { # what runs on the host, with the Pythons that hosts have: 3.9, 3.11.2 and 3.13
    local suite
    for suite in bullseye bookworm trixie; do
        docker buildx build --quiet --file docker/Dockerfile --target console-test --tag "multisite-console-test:$suite" \
            --build-arg "BASE=$(docker/base-image.sh debian:$suite-slim)" --secret "id=ca,src=${CA_BUNDLE:-${SSL_CERT_FILE:-/dev/null}}" . >/dev/null
        docker run --rm --init --network none --read-only --tmpfs /tmp:exec,mode=1777 -v "$PWD:/project:ro" -w /project \
            -e PYTHONPATH=/project/src "multisite-console-test:$suite" \
            sh -c 'python3 --version && exec python3 -m pytest -p no:cacheprovider --quiet tests/unit/console'
    done
}
e2e() {
    docker/venv.sh
    .venv/bin/python -m pytest -p no:cacheprovider --durations=15 "$@"
}
all() { # two at once, since e2e tests mostly wait: what needs no deployment and the attacks, beside the other e2e tests
    local log=tests/artifacts/beside.log beside=0
    mkdir -p tests/artifacts
    images
    check
    docker/venv.sh
    (fast; console; next_fast next; one_job next ""; e2e tests/e2e/test_1*.py) >"$log" 2>&1 & # no &&: it would hide a failure within a function
    trap 'wait' EXIT # no container of a test outlives this
    e2e tests/e2e/test_0*.py
    one_job "" none
    wait $! || beside=$?
    grep -E '^(FAILED|ERROR)|passed|failed' "$log" || true
    [ "$beside" = 0 ] || { echo "test: what ran beside the first e2e tests failed; next: read $log" >&2; return "$beside"; }
}

case "${1:-}" in
check) images; check ;;
fast) images; fast; console ;;
console) docker/engine.sh ensure; console ;;
bench)
    images
    docker/venv.sh
    .venv/bin/python -m tests.bench.federation ${QUICK:+--quick} ${PATCHES:+--patches "$PATCHES"}
    in_test_image python -m tests.bench.federation.plot results/bench/federation.json >results/bench/federation.svg
    in_test_image python -m tests.bench.training ${QUICK:+--quick}
    ;;
bench-metrics) images; in_test_image python -m tests.bench.metrics ${QUICK:+--quick} && in_test_image python -m tests.bench.idle ;;
e2e) images; e2e tests/e2e; one_job "" none ;;
faults) images; docker/venv.sh; FAULTS=all .venv/bin/python -m pytest -p no:cacheprovider tests/e2e/test_07_faults.py tests/e2e/test_08_eight_sites.py ;;
next | newest) images; next_fast "$1"; one_job "$1" "" ;;
all) all ;;
*) echo "test: unknown part '${1:-}'; next: docker/test.sh check|fast|console|next|newest|e2e|faults|bench|bench-metrics|all" >&2; exit 2 ;;
esac
