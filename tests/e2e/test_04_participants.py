"""Who may take part, and from where."""

from __future__ import annotations

import os
import re
import shutil
import socket
import textwrap

from tests.e2e.stack import PROJECT, Stack
from tests.e2e.test_03_jobs_end import OUTPUT_SECONDS, jobs, start_long_job

TAG = os.environ.get("IMAGE_TAG") or "local"
REMOTE_SITES = PROJECT / "docs" / "remote-sites.md"
FENCE = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def registered(stack: Stack) -> str:
    """The registered sites, as the admin reports them."""
    return stack.execute("admin", "python", "-m", "multisite.admin.command_line", "wait", "--timeout", "10").text


def add_site(stack: Stack, lines: str) -> None:
    """Adds a participant to project.yml, next to the others."""
    path = stack.home / "project.yml"
    path.write_text(path.read_text(encoding="utf-8").replace("  - name: admin@", lines + "  - name: admin@"), encoding="utf-8")


def documented() -> dict[str, list[str]]:
    """The fenced blocks of docs/remote-sites.md, by language."""
    blocks: dict[str, list[str]] = {}
    for language, text in FENCE.findall(REMOTE_SITES.read_text(encoding="utf-8")):
        blocks.setdefault(language, []).append(textwrap.dedent(text))
    return blocks


def host_address() -> str:
    """This machine's own address, as another host would use it; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


def test_a_site_whose_certificate_another_ca_signed_must_not_register(stack: Stack) -> None:
    volumes = {"foreign": "/provision", "foreign-kit": "/kits/site-3"}
    project = (stack.home / "project.yml").read_text(encoding="utf-8").replace("name: site-1", "name: site-3")
    (stack.home / "foreign.yml").write_text(project, encoding="utf-8")
    names = {name: f"{stack.name}-{name}" for name in volumes}
    container = f"{stack.name}-foreign-site"
    try:
        provision = [
            "docker",
            "run",
            "--rm",
            "--read-only",
            "--tmpfs",
            "/tmp",
            "--network",
            "none",
            "-e",
            f"SERVER_PORT={stack.port}",
            "-v",
            f"{stack.home}/foreign.yml:/project.yml:ro",
        ]
        for name, path in volumes.items():
            provision += ["-v", f"{names[name]}:{path}"]
        done = stack.run(*provision, f"{stack.name}-control:{TAG}", "python", "-m", "multisite.provisioning.provision")
        assert "new kits: site-3" in done.text, done.text
        run = ["docker", "run", "--detach", "--init", "--name", container, "--network", f"{stack.name}_site-1", "-e", "LOG=detail"]
        run += ["-v", f"{names['foreign-kit']}:/kit:ro", f"{stack.name}-control:{TAG}", "python", "-m", "multisite.node"]
        assert stack.run(*run).code == 0

        def refused() -> bool:
            log = stack.run("docker", "logs", container).text
            return "CERTIFICATE_VERIFY_FAILED" in log or "certificate verify failed" in log.lower()

        stack.wait_for(refused, "the foreign site's connection refused for its certificate")
        assert "site-3" not in registered(stack)
        assert '"site-1", "site-2"' in registered(stack)
    finally:
        stack.run("docker", "rm", "--force", container)
        stack.run("docker", "volume", "rm", *names.values())


def test_clients_that_connect_and_say_nothing_must_not_keep_a_site_out(stack: Stack) -> None:
    silent = [socket.create_connection(("127.0.0.1", stack.port), timeout=10) for _ in range(20)]
    try:
        assert stack.compose("restart", "site-1").code == 0
        stack.wait_for(lambda: '"site-1", "site-2"' in registered(stack), "site-1 registered beside silent clients", seconds=30)
    finally:
        for connection in silent:
            connection.close()


def test_a_site_on_another_host_takes_part_as_the_docs_say(stack: Stack) -> None:
    """Every block of docs/remote-sites.md, executed; the site is a compose project that shares nothing with the server's but the port."""
    blocks = documented()
    (participant,), (settings,), (on_the_server, on_the_site) = blocks["yaml"], blocks["ini"], blocks["sh"]
    env, project = stack.home / ".env", stack.home / "project.yml"
    before = env.read_text(encoding="utf-8"), project.read_text(encoding="utf-8")
    remote = stack.home.parent / "remote"
    remote.mkdir()
    for name in ("compose.site.yaml", "base.yaml"):
        shutil.copyfile(stack.home / "docker" / name, remote / name)
    gateway = stack.containers()["gateway"]
    script = f"cd {remote}\n" + on_the_site.replace("203.0.113.7", host_address())
    script = script.replace("multisite-site:local", f"{stack.name}-site:{TAG}")
    compose = f"cd {remote} && SERVER_ADDRESS=x SITE_IMAGE=x KIT=./site-3 DATA=./data docker compose -f compose.site.yaml down --volumes --timeout 15"
    try:
        add_site(stack, textwrap.indent(participant, "  "))
        env.write_text(settings + before[0], encoding="utf-8")
        up = stack.run("bash", "-ec", on_the_server)
        assert up.code == 0, up.text
        assert stack.containers()["gateway"] != gateway, "published on another address"
        names = "import ssl, sys; from multisite.provisioning.kit import *; print(server_names(KIT))"
        assert "fl.example.org" in stack.execute("server", "python", "-c", names).text
        shutil.move(stack.home / "kits" / "site-3", remote / "site-3")
        shard = stack.run("docker", "cp", f"{stack.containers()['site-1']}:/data", str(remote / "data"))
        assert shard.code == 0, shard.text
        started = stack.run("bash", "-ec", script, SITE_PROJECT=f"{stack.name}-remote")
        assert started.code == 0, started.text
        stack.wait_for(lambda: '"site-3"' in registered(stack), "site-3 registered from the other project")
        assert "another host" in stack.make("status").text
        done = stack.execute("admin", "python", "-m", "multisite.admin.command_line", "submit", "--rounds", "1", "--sites", "3")
        assert '"site": "site-3"' in done.text, done.text
    finally:
        stack.run("bash", "-ec", compose, SITE_PROJECT=f"{stack.name}-remote")
        env.write_text(before[0], encoding="utf-8")
        project.write_text(before[1], encoding="utf-8")
        stack.make("up")


def test_a_running_job_is_ended_by_no_make_up_unasked_and_a_new_site_ends_none(stack: Stack) -> None:
    project = stack.home / "project.yml"
    before = project.read_text(encoding="utf-8")
    process, job_id = start_long_job(stack)
    containers = stack.containers()
    try:
        for setting, cause in {
            "SITE_MEMORY": "new code or settings of site-1, site-2",
            "SERVER_NAMES": "a new kit for server",
        }.items():
            refused = stack.make("up", **{setting: "3g" if setting == "SITE_MEMORY" else "other.example.org"})
            assert refused.code != 0
            assert f"job {job_id} is running, and {cause} would kill it" in refused.text
            assert "FORCE=yes" in refused.text
        add_site(stack, "  - name: site-3\n    type: client\n    org: hospital_c\n")
        added = stack.make("up")
        assert added.code == 0, added.text
        assert stack.containers() == containers
        assert jobs(stack)[job_id] == "RUNNING"
    finally:
        project.write_text(before, encoding="utf-8")
        assert stack.make("abort").code == 0
        process.communicate(timeout=OUTPUT_SECONDS)
        stack.make("up")


def test_a_server_whose_certificate_is_renewed_while_it_runs_serves_with_it_when_make_up_returns(stack: Stack) -> None:
    env = stack.home / ".env"
    original = env.read_text(encoding="utf-8")

    def moment(service: str, what: str) -> str:
        container = stack.compose("ps", "--all", "--quiet", service).text.strip()
        return str(stack.inspect(container)["State"][what])

    try:
        env.write_text("SERVER_NAMES=renewed.example.org\n" + original, encoding="utf-8")
        up = stack.make("up")
        assert up.code == 0, up.text
        assert moment("server", "StartedAt") > moment("provision", "FinishedAt")
        assert '"site-1", "site-2"' in registered(stack)
    finally:
        env.write_text(original, encoding="utf-8")
        stack.make("up")
