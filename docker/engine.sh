#!/usr/bin/env bash
# Makes sure that a Docker engine answers and that `docker compose` exists.
#   docker/engine.sh ensure   install (Debian, Ubuntu) and start what is missing: engine, Compose, buildx
#                             INSTALL_ENGINE=ask asks first on a terminal, =yes does not, =no refuses
#   docker/engine.sh stop     end the engine, if it is one that `ensure` started without systemd
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # dockerd and its iptables are there, and not every PATH leads there

PID_FILE=/run/multisite-dockerd.pid
LOG_FILE=/var/log/multisite-dockerd.log
START_SECONDS=60

say() { printf 'engine: %s\n' "$*" >&2; }
die() { say "$1"; printf '  next: %s\n' "$2" >&2; exit 1; }
answers() { timeout 20 docker info >/dev/null 2>&1; }
is_root() { [ "$(id -u)" = 0 ]; }
refused() { [ "${INSTALL_ENGINE:-ask}" = no ]; }

apt_install() {
    say "apt-get install $*"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >>"$APT_LOG" 2>&1 ||
        die "apt-get could not install $* (log: $APT_LOG)" "check the network and apt's sources, then run the same command again"
}

may_install() { # what, how to do it by hand
    refused && die "$1 is missing, and INSTALL_ENGINE=no forbids installing it" "$2"
    . /etc/os-release
    case " $ID ${ID_LIKE:-} " in
    *" debian "* | *" ubuntu "*) ;;
    *) die "$1 is missing, and only Debian and Ubuntu are set up by this script (this is $ID)" "$2" ;;
    esac
    is_root || die "$1 is missing, and installing it needs root" "run the same command once with sudo, or: $2"
    if [ "${INSTALL_ENGINE:-ask}" = ask ] && [ -t 0 ] && [ -z "${ASKED:-}" ]; then
        read -r -p "$1 is missing: install it with apt-get? [y/N] " ASKED
        case "$ASKED" in [yY]*) ;; *) die "$1 is missing, and nothing was installed" "$2" ;; esac
    fi
    APT_LOG=${APT_LOG:-$(mktemp)}
    [ -n "${APT_UPDATED:-}" ] || apt-get update -qq >>"$APT_LOG" 2>&1 || say "warning: apt-get update failed (log: $APT_LOG)"
    APT_UPDATED=yes
}

install_engine() {
    say "no Docker engine on this machine: installing the distribution's (docker.io)"
    may_install "a Docker engine" "install Docker (https://docs.docker.com/engine/install/)"
    local packages=(docker.io iptables)
    for name in docker-cli docker-buildx; do # parts of docker.io on older releases
        apt-cache show "$name" >/dev/null 2>&1 && packages+=("$name")
    done
    apt_install "${packages[@]}"
}

start_engine() {
    is_root || die "the Docker engine is installed but does not answer" \
        "start it (sudo systemctl start docker), or, if it runs, add yourself to its group: sudo usermod -aG docker $(id -un)"
    if [ -d /run/systemd/system ]; then
        say "starting the Docker engine with systemd"
        systemctl start docker
    else
        say "starting dockerd (no systemd here; log: $LOG_FILE)"
        setsid dockerd >"$LOG_FILE" 2>&1 </dev/null &
        echo $! >"$PID_FILE"
    fi
    local deadline=$((SECONDS + START_SECONDS))
    until answers; do
        [ $SECONDS -lt $deadline ] || die "the Docker engine did not answer within $START_SECONDS s" \
            "read $LOG_FILE, or: journalctl -u docker"
        sleep 0.5
    done
    say "the Docker engine answers"
}

ensure_compose() {
    docker compose version >/dev/null 2>&1 && return
    say "no Compose plugin: installing it into this project's .venv"
    docker/venv.sh
    local plugin="${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins/docker-compose"
    mkdir -p "$(dirname "$plugin")"
    install -m 755 .venv/bin/docker-compose "$plugin" # a copy: this folder may be deleted
    docker compose version >/dev/null 2>&1 || die "Compose does not run" "install Docker's Compose plugin"
    say "Compose $(docker compose version --short) is now $plugin"
}

# Compose builds with it. Debian's releases before 13 have no such package: there it comes from sid, one static program.
ensure_buildx() {
    docker buildx version >/dev/null 2>&1 && return
    refused && die "docker buildx is missing, and INSTALL_ENGINE=no forbids installing it" "install the package docker-buildx"
    local name work mirror plugin="${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins/docker-buildx"
    for name in docker-buildx docker-buildx-plugin; do
        if is_root && apt-cache show "$name" >/dev/null 2>&1; then
            may_install "docker buildx" "install the package $name"
            apt_install "$name"
            docker buildx version >/dev/null 2>&1 && return
        fi
    done
    say "no buildx plugin: taking Debian's, from sid"
    work=$(mktemp -d)
    mirror=$(apt-get indextargets --format '$(SITE)' 'Origin: Debian' 2>/dev/null | head -n 1)
    [ -n "$mirror" ] || die "docker buildx is missing, and apt knows no mirror of Debian's" "install the package docker-buildx (or docker-buildx-plugin)"
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$(dirname "$plugin")"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$work/sources.list"
    (
        cd "$work"
        apt=(apt-get -qq -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$work/lists"
            -o "Dir::Cache=$work/cache" -o "APT::Sandbox::User=$(id -un)")
        "${apt[@]}" update && "${apt[@]}" download docker-buildx && dpkg-deb -x docker-buildx_*.deb .
    ) >"$work/log" 2>&1 || die "docker buildx could not be brought (log: $work/log)" "install the package docker-buildx (or docker-buildx-plugin)"
    install -m 755 "$work/usr/libexec/docker/cli-plugins/docker-buildx" "$plugin"
    rm -rf "$work"
    docker buildx version >/dev/null 2>&1 || die "buildx does not run" "install Docker's buildx plugin"
    say "$(docker buildx version | cut -d' ' -f1,2) is now $plugin"
}

ensure() {
    if [ -n "${DOCKER_HOST:-}" ] && ! answers; then
        die "no Docker engine answers at DOCKER_HOST=$DOCKER_HOST" "start that engine, or unset DOCKER_HOST"
    fi
    if ! answers; then
        case "$(timeout 20 docker info 2>&1 || true)" in
        *"permission denied"*) die "the Docker engine refuses this user" "sudo usermod -aG docker $(id -un), and log in again" ;;
        esac
        { command -v docker && command -v dockerd; } >/dev/null || install_engine
        start_engine
    fi
    ensure_compose
    ensure_buildx
}

stop() {
    [ -f "$PID_FILE" ] || return 0
    local pid
    pid=$(cat "$PID_FILE")
    rm -f "$PID_FILE"
    [ "$(ps -o comm= -p "$pid" 2>/dev/null)" = dockerd ] || return 0
    kill "$pid"
    timeout 60 tail --pid="$pid" -f /dev/null || die "dockerd ($pid) did not end within 60 s" "read $LOG_FILE"
    say "stopped the engine that this project started"
}

case "${1:-}" in
ensure | stop) "$1" ;;
*) die "unknown verb '${1:-}'" "docker/engine.sh ensure|stop" ;;
esac
