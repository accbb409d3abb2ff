#!/usr/bin/env bash
# Builds the images:  docker/build.sh TAG TARGET...     (multisite-TARGET:TAG)
#   BASE_IMAGE   debian slim image to start from
#   CA_BUNDLE    file of CA certificates to trust while building (proxies that re-sign TLS); the usual variables are read too
#   TORCH_INDEX  package index for torch and torchvision, for example one of CPU wheels
#   NVFLARE      next or newest: control, site and test with that NVFlare, see the Dockerfile
set -euo pipefail
cd "$(dirname "$0")/.."
tag=$1
shift

die() { printf 'build: %s\n  next: %s\n' "$1" "$2" >&2; exit 1; }

# Engines without buildx build with BuildKit all the same, through a client of their own release.
client=
for candidate in docker /usr/bin/docker; do
    if "$candidate" buildx version >/dev/null 2>&1 || [[ "$("$candidate" version --format '{{.Client.Version}}' 2>/dev/null)" =~ ^(19|20)\. ]]; then
        client=$candidate
        break
    fi
done
[ -n "$client" ] || die "the docker client can't build with BuildKit" "install the package docker-buildx (or docker-buildx-plugin)"

ca=${CA_BUNDLE:-${SSL_CERT_FILE:-${REQUESTS_CA_BUNDLE:-${CURL_CA_BUNDLE:-}}}}
[ -z "${CA_BUNDLE:-}" ] || [ -r "$CA_BUNDLE" ] || die "CA_BUNDLE=$CA_BUNDLE can't be read" "name a PEM file of CA certificates"
[ -r "$ca" ] || ca=/dev/null

base=$(docker/base-image.sh "${BASE_IMAGE:-debian:bookworm-slim}")
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for target in "$@"; do
    started=$SECONDS
    stage=$target
    case "${NVFLARE:-} $target" in
    " "* | *gateway | *console-test) ;;
    *) stage=other-nvflare ;;
    esac
    DOCKER_BUILDKIT=1 "$client" build --progress=plain --file docker/Dockerfile --target "$stage" --tag "multisite-$target:$tag" \
        --build-arg "BASE=$base" --build-arg "OVER=$target" --build-arg "NVFLARE=${NVFLARE:-}" --build-arg "TORCH_INDEX=${TORCH_INDEX:-}" --secret "id=ca,src=$ca" --label "multisite.inputs=${INPUTS:-unknown}" . >"$log" 2>&1 ||
        { tail -n 40 "$log" >&2; die "image multisite-$target failed to build" "read the lines above; a proxy that re-signs TLS needs CA_BUNDLE=FILE"; }
    printf 'image multisite-%s:%s built in %d s\n' "$target" "$tag" $((SECONDS - started)) >&2
done
