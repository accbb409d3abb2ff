#!/usr/bin/env bash
# Prints the tag of a Debian slim base image for the build: pulled where a registry answers, else built from the
# distribution's mirror with mmdebstrap.
#   docker/base-image.sh debian:bookworm-slim
set -euo pipefail

IMAGE=$1
LOCAL="multisite-base:${IMAGE##*:}"
PULL_SECONDS=120

say() { printf 'base image: %s\n' "$*" >&2; }
die() { say "$1"; printf '  next: %s\n' "$2" >&2; exit 1; }

for tag in "$IMAGE" "$LOCAL"; do
    if docker image inspect "$tag" >/dev/null 2>&1; then
        echo "$tag"
        exit 0
    fi
done

say "pulling $IMAGE"
if timeout "$PULL_SECONDS" docker pull --quiet "$IMAGE" >/dev/null 2>&1; then
    echo "$IMAGE"
    exit 0
fi

suite=${IMAGE#debian:}
suite=${suite%-slim}
hint="connect this machine to a registry, or load the image once: docker load < $suite.tar"
case "$IMAGE" in debian:*-slim) ;; *) die "no registry answers, and only debian:*-slim can be built here, not $IMAGE" "$hint" ;; esac
say "no registry answers: building it from the distribution's mirror"
if ! command -v mmdebstrap >/dev/null; then
    { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; } || die "building it needs the package mmdebstrap" "sudo apt-get install mmdebstrap, or: $hint"
    say "apt-get install mmdebstrap"
    log=$(mktemp)
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap debian-archive-keyring; } >"$log" 2>&1 ||
        die "no registry and no package mirror answers (log: $log)" "$hint"
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The same trimming as the published slim images: no documentation, manual pages, locales or recommended packages; a merged /usr from
# the start, for the package that merges it later brings Perl (47 MB). Before Debian 12 there is no such package.
merged=(--include=usr-is-merged --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr)
[ "$suite" != bullseye ] || merged=()
mmdebstrap --quiet --variant=minbase --include=ca-certificates "${merged[@]}" --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$suite" "$work/root.tar" >"$work/log" 2>&1 || { cat "$work/log" >&2; die "mmdebstrap failed" "$hint"; }
docker import --change 'CMD ["bash"]' "$work/root.tar" "$LOCAL" >/dev/null
say "built $LOCAL"
echo "$LOCAL"
