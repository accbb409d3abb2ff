"""The Compose files: what every container is denied, and who gets what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

HOME = Path(__file__).parents[2]
DOCKER = HOME / "docker"
SITES = ("site-1", "site-2")
INTERNAL = (*SITES, "admin", "gateway")
GATEWAY = (
    "GATEWAY_CONNECTIONS", "GATEWAY_SERVER_CONNECTIONS", "GATEWAY_PER_ADDRESS", "GATEWAY_RATE", "GATEWAY_HELLO_SECONDS",
)  # fmt: skip


class Tagged(str):
    """A value under one of Compose's merge tags; the text is the tag."""

    content: Any


class Loader(yaml.SafeLoader):
    """YAML with Compose's `!reset` and `!override`."""


def _tagged(loader: Loader, suffix: str, element: yaml.Node) -> Tagged:
    value = Tagged(suffix)
    if isinstance(element, yaml.SequenceNode):
        value.content = loader.construct_sequence(element, deep=True)
    elif isinstance(element, yaml.MappingNode):
        value.content = loader.construct_mapping(element, deep=True)
    else:
        value.content = None
    return value


Loader.add_multi_constructor("!", _tagged)


def load(path: Path) -> dict[str, Any]:
    return dict(yaml.load(path.read_text(encoding="utf-8"), Loader))  # a SafeLoader


def extended(path: Path, service: dict[str, Any]) -> dict[str, Any]:
    """A service with what it extends: Compose's rule for the keys that these files have."""
    wanted = service.get("extends")
    if wanted is None:
        return service
    place = path.parent / wanted["file"] if isinstance(wanted, dict) and "file" in wanted else path
    name = wanted["service"] if isinstance(wanted, dict) else wanted
    base = extended(place, load(place)["services"][name])
    environment = {**base.get("environment", {}), **service.get("environment", {})}
    return {**base, **service, **({"environment": environment} if environment else {})}


def services(path: Path) -> dict[str, dict[str, Any]]:
    return {name: extended(path, service) for name, service in load(path)["services"].items()}


COMPOSE = load(HOME / "compose.yaml")
SERVICES = services(HOME / "compose.yaml")
STREAM = load(DOCKER / "client-stream.yaml")
REMOTE = {"services": services(DOCKER / "compose.site.yaml")}
EVERY = {**SERVICES, "a site elsewhere": REMOTE["services"]["site"]}
FILES = [HOME / "compose.yaml", *sorted(DOCKER.glob("*.yaml"))]


def sources(service: str) -> set[str]:
    """The volumes and folders that a service mounts."""
    return {str(volume).rsplit(":/", 1)[0] for volume in SERVICES[service].get("volumes", [])}


def test_the_deployment_is_a_server_its_gateway_two_sites_an_admin_and_two_one_shots() -> None:
    assert set(SERVICES) == {"server", "gateway", *SITES, "admin", "provision", "data"}


@pytest.mark.parametrize("name", EVERY)
def test_every_container_is_hardened(name: str) -> None:
    service = EVERY[name]
    assert service["user"] == "1000:1000"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert 0 < service["pids_limit"] <= 1024
    assert service["mem_limit"]
    assert service["init"] is True
    assert {"max-size", "max-file"} <= set(service["logging"]["options"])


@pytest.mark.parametrize("name", EVERY)
def test_no_container_takes_a_privilege_back(name: str) -> None:
    taken = {"privileged", "cap_add", "devices", "pid", "ipc", "userns_mode", "group_add"}
    assert not taken & set(EVERY[name])
    assert EVERY[name].get("network_mode") in (None, "none")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_engines_socket_is_mounted_nowhere(path: Path) -> None:
    assert "docker.sock" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", EVERY)
def test_an_image_is_never_pulled(name: str) -> None:
    assert EVERY[name]["pull_policy"] == "never"


def test_every_network_is_internal_but_the_ones_for_egress_and_the_published_port() -> None:
    assert {name for name, network in COMPOSE["networks"].items() if (network or {}).get("internal") is True} == set(INTERNAL)
    assert set(COMPOSE["networks"]) - set(INTERNAL) == {"egress", "published"}


@pytest.mark.parametrize("name", [*SITES, "admin"])
def test_sites_and_admin_have_no_network_but_their_own(name: str) -> None:
    assert SERVICES[name]["networks"] == [name]


@pytest.mark.parametrize("name", INTERNAL)
def test_the_host_has_no_address_on_an_internal_network(name: str) -> None:
    """With one, whatever listens on 0.0.0.0 of the host is open to its containers."""
    assert COMPOSE["networks"][name]["driver_opts"] == {"com.docker.network.bridge.inhibit_ipv4": "true"}


def test_two_sites_share_no_network() -> None:
    assert not set(SERVICES["site-1"]["networks"]) & set(SERVICES["site-2"]["networks"])


def test_the_server_shares_a_network_with_each() -> None:
    assert {*SITES, "admin"} <= set(SERVICES["server"]["networks"])


def test_provisioning_has_no_network() -> None:
    assert SERVICES["provision"]["network_mode"] == "none"
    assert "networks" not in SERVICES["provision"]


def test_the_root_keys_volume_is_mounted_in_provisioning_alone() -> None:
    assert [name for name in SERVICES if "provision" in sources(name)] == ["provision"]


@pytest.mark.parametrize("name", ["server", *SITES, "admin"])
def test_a_participant_mounts_its_own_kit_alone_and_read_only(name: str) -> None:
    kits = [volume for volume in SERVICES[name]["volumes"] if volume.startswith("kit-")]
    assert kits == [f"kit-{name}:/kit:ro"]


@pytest.mark.parametrize("site", SITES)
def test_a_site_mounts_its_own_shard_alone_and_read_only(site: str) -> None:
    shards = [volume for volume in SERVICES[site]["volumes"] if "shard-" in volume]
    assert shards == [f"shard-{site}:/data:ro"]


def test_server_and_admin_see_no_shard() -> None:
    assert not [source for name in ("server", "admin", "provision") for source in sources(name) if "shard" in source]


def test_the_key_is_a_secret_of_the_server_alone() -> None:
    assert {name: service["secrets"] for name, service in SERVICES.items() if "secrets" in service} == {"server": ["wandb_api_key"]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_environment_holds_the_key(path: Path) -> None:
    for service in load(path)["services"].values():
        assert not [name for name in service.get("environment", {}) if "KEY" in name]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_container_gets_the_key_of_the_shell_or_of_env(path: Path) -> None:
    """Compose reads both for the names that a file mentions, and hands a whole file on where there is an `env_file`."""
    text = path.read_text(encoding="utf-8")
    assert "WANDB_API_KEY" not in text
    assert "env_file" not in text


def test_the_compose_file_is_short_enough_to_be_read() -> None:
    assert len((HOME / "compose.yaml").read_text(encoding="utf-8").splitlines()) <= 120


def test_without_make_the_servers_key_is_a_committed_empty_file() -> None:
    assert COMPOSE["secrets"]["wandb_api_key"]["file"] == "${WANDB_KEY_STAGED:-./docker/no-key}"
    assert (DOCKER / "no-key").read_bytes() == b""


def test_every_image_is_the_deployments_own_and_is_built_here() -> None:
    built = {service["image"] for service in SERVICES.values() if "build" in service}
    assert {service["image"] for service in SERVICES.values()} == built
    assert all(image.startswith("${COMPOSE_PROJECT_NAME}-") for image in built)
    assert "name" not in COMPOSE, "two checkouts are two deployments"


def test_proxies_reach_build_data_and_whoever_streams_and_never_the_federations_own_names() -> None:
    for name in ("data", "server", *SITES):
        assert {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} <= set(SERVICES[name]["environment"])
    for name in ("server", *SITES):
        assert SERVICES[name]["environment"]["NO_PROXY"].startswith("server,")
    for build in (service["build"] for service in SERVICES.values() if "build" in service):
        assert {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} <= set(build["args"])


def test_neither_env_nor_the_secrets_reach_an_image_or_git() -> None:
    first, *others = [
        line for line in (HOME / ".dockerignore").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    ]
    assert first == "*"
    assert set(others) == {
        "!docker/haproxy.cfg",
        "!docker/install.sh",
        "!docker/requirements/*.txt",
        "!jobs",
        "!src",
        "**/__pycache__",
    }
    assert {".env", "/secrets/"} <= set((HOME / ".gitignore").read_text(encoding="utf-8").splitlines())


def test_one_port_is_published_on_the_hosts_own_address_by_default_and_it_is_the_gateways() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["gateway"]
    (port,) = SERVICES["gateway"]["ports"]
    assert port.startswith("${BIND_ADDRESS:-127.0.0.1}:")


def test_the_gateway_holds_no_kit_no_key_and_no_file_of_the_deployment() -> None:
    assert not {"volumes", "secrets", "configs", "env_file"} & set(SERVICES["gateway"])
    assert set(SERVICES["gateway"]["environment"]) == {"SERVER_PORT", *GATEWAY}


def test_the_gateway_meets_the_server_alone_on_an_internal_network_and_others_on_the_published_one() -> None:
    members = {
        network: {name for name in SERVICES if network in SERVICES[name].get("networks", [])} for network in COMPOSE["networks"]
    }
    assert SERVICES["gateway"]["networks"] == ["gateway", "published"]
    assert members["gateway"] == {"gateway", "server"}
    assert members["published"] == {"gateway"}
    assert COMPOSE["networks"]["gateway"]["internal"] is True
    assert COMPOSE["networks"]["published"]["driver_opts"] == {"com.docker.network.bridge.enable_ip_masquerade": "false"}


def test_every_limit_of_the_gateway_is_a_setting_with_its_default_in_the_example() -> None:
    config = (DOCKER / "haproxy.cfg").read_text(encoding="utf-8")
    example = (HOME / ".env.example").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{(\w+)\}", config)) == {"SERVER_PORT", *GATEWAY}
    for name, value in SERVICES["gateway"]["environment"].items():
        default = value.removeprefix(f"${{{name}:-").removesuffix("}")
        assert re.search(rf"^{name}={default}$", example, re.MULTILINE), name


def test_the_gateway_cuts_no_quiet_connection_and_finds_out_whose_peer_is_gone() -> None:
    """NVFlare sends something on every connection once a minute (`nvflare/fuel/f3/sfm/heartbeat_monitor.py:27`)."""
    config = (DOCKER / "haproxy.cfg").read_text(encoding="utf-8")
    for side in ("client", "server"):
        assert re.search(rf"^ +timeout {side} [1-9]\d*h$", config, re.MULTILINE)
    assert "option clitcpka" in config
    assert "option srvtcpka" in config
    assert "timeout tunnel" not in config, "it would stand in for both"


def test_the_server_starts_after_kits_and_data_and_whoever_connects_to_it_after_the_server() -> None:
    for name, conditions in {
        "server": {"provision": "service_completed_successfully", "data": "service_completed_successfully"},
        **{key: ["server"] for key in (*SITES, "admin", "gateway")},
    }.items():
        held = SERVICES[name]["depends_on"]
        assert (held if isinstance(held, list) else {other: wanted["condition"] for other, wanted in held.items()}) == conditions


def test_every_volume_that_is_used_is_declared() -> None:
    used = {source for name in SERVICES for source in sources(name) if not source.startswith((".", "/", "$"))}
    used |= {default for name in SERVICES for default in re.findall(r"\$\{CIFAR10_DIR:-([a-z0-9-]+)\}", " ".join(sources(name)))}
    assert used == set(COMPOSE["volumes"])


def test_streaming_from_clients_takes_the_key_from_the_server_and_gives_it_to_each_site() -> None:
    server = STREAM["services"]["server"]
    assert (server["secrets"], server["secrets"].content) == ("reset", [])
    for site in SITES:
        assert STREAM["services"][site]["secrets"] == ["wandb_api_key"]


def test_streaming_from_clients_moves_the_egress_network_from_the_server_to_each_site() -> None:
    networks = {name: service["networks"] for name, service in STREAM["services"].items()}
    assert {str(value) for value in networks.values()} == {"override"}
    assert networks["server"].content == [name for name in SERVICES["server"]["networks"] if name != "egress"]
    assert all(site in networks[site].content for site in SITES)
    first, second = (set(networks[site].content) - {site} for site in SITES)
    assert (len(first), len(second)) == (1, 1)
    assert first != second
    assert first | second == set(STREAM["networks"])
