"""Bringing it up, its table, its networks, its hardening."""

from __future__ import annotations

from tests.e2e.stack import LIMIT, Stack


def test_up_shows_every_participant_with_its_device_and_examples(stack: Stack) -> None:
    text = stack.make("up").text
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith(("server", "site-", "admin"))}
    assert set(rows) == {"server", "site-1", "site-2", "admin"}
    assert f"127.0.0.1:{stack.port}" in rows["server"]
    for site in ("site-1", "site-2"):
        assert "registered" in rows[site]
        assert "cpu" in rows[site] or "cuda" in rows[site]
        assert str(int(LIMIT) // 2) in rows[site]


def test_a_second_up_changes_nothing_and_takes_seconds(stack: Stack) -> None:
    before = stack.containers()
    done = stack.make("up")
    assert done.code == 0, done.text
    assert stack.containers() == before
    assert done.seconds < 30


# At the same time, for each try lasts until its time is over.
REACH = """
import concurrent.futures, socket, sys
def reached(place):
    host, _, port = place.partition(":")
    try: socket.create_connection((host, int(port)), 5).close()
    except ConnectionRefusedError: return place + " (refused)"
    except OSError: return ""
    return place
with concurrent.futures.ThreadPoolExecutor(max_workers=len(sys.argv)) as pool:
    print(*filter(None, pool.map(reached, sys.argv[1:])))
"""


def test_site_1_can_reach_the_server_and_nothing_else(stack: Stack) -> None:
    server = f"server:{stack.port}"
    others = [f"{address}:{stack.port}" for address in [*stack.addresses("site-2"), "192.0.2.1", "site-2", "admin"]]
    others += [f"{address}:8970" for address in [*stack.addresses("wandb-backend"), "wandb-backend"]]
    assert len(others) >= 6, others
    assert stack.execute("site-1", "python", "-c", REACH, server, *others).text.split() == [server]


def test_no_container_runs_as_root_or_can_write_its_image(stack: Stack) -> None:
    for name in ("server", "site-1", "site-2", "admin"):
        assert stack.execute(name, "id", "-u").text.strip() == "1000"
        assert stack.execute(name, "sh", "-c", "touch /opt/multisite/x").code != 0
        host = stack.inspect(stack.containers()[name])["HostConfig"]
        assert host["CapDrop"] == ["ALL"]
        assert host["ReadonlyRootfs"] is True
        assert any("no-new-privileges" in option for option in host["SecurityOpt"])


def test_the_root_key_is_mounted_in_no_running_container(stack: Stack) -> None:
    for name in ("server", "site-1", "site-2", "admin"):
        mounts = stack.inspect(stack.containers()[name])["Mounts"]
        assert not [mount for mount in mounts if mount.get("Name", "").endswith("_provision")]
        assert stack.execute(name, "sh", "-c", "find / -name cert.json -not -path '/proc/*' 2>/dev/null").text.strip() == ""


def test_a_site_sees_its_own_shard_read_only(stack: Stack) -> None:
    mounts = stack.inspect(stack.containers()["site-1"])["Mounts"]
    shards = [mount for mount in mounts if "shard" in mount.get("Name", "")]
    assert [mount["Name"] for mount in shards] == [f"{stack.name}_shard-site-1"]
    assert shards[0]["RW"] is False
