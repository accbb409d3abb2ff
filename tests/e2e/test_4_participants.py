"""Who may take part, and from where."""

from __future__ import annotations

import shutil
import socket

from tests.e2e.stack import Stack


def registered(stack: Stack) -> str:
    """The registered sites, as the admin reports them."""
    return stack.execute("admin", "python", "-m", "multisite.console.admin", "wait", "--timeout", "10").text


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
        done = stack.run(*provision, "multisite-control:local", "python", "-m", "multisite.federation.provision")
        assert "new kits: site-3" in done.text, done.text
        run = ["docker", "run", "--detach", "--init", "--name", container, "--network", f"{stack.name}_site-1", "-e", "LOG=detail"]
        run += ["-v", f"{names['foreign-kit']}:/kit:ro", "multisite-control:local", "python", "-m", "multisite", "node"]
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


def test_a_site_on_another_host_takes_part_from_its_kit(stack: Stack) -> None:
    """A compose project of its own that shares nothing with the server's but the published port."""
    address = host_address()
    env = stack.home / ".env"
    original = env.read_text(encoding="utf-8")
    remote = stack.home.parent / "remote"
    remote.mkdir()
    shutil.copyfile(stack.home / "docker" / "compose.site.yaml", remote / "compose.site.yaml")
    project = (stack.home / "project.yml").read_text(encoding="utf-8")
    remote_settings = {
        "SERVER_ADDRESS": address, "KIT": str(remote / "kit"), "DATA": str(remote / "data"), "SITE_PROJECT": f"{stack.name}-remote",
    }  # fmt: skip
    compose = ["docker", "compose", "--project-directory", str(remote), "-f", str(remote / "compose.site.yaml")]
    try:
        addition = "  - name: site-3\n    type: client\n    org: multisite\n  - name: admin@"
        (stack.home / "project.yml").write_text(project.replace("  - name: admin@", addition), encoding="utf-8")
        env.write_text(f"BIND_ADDRESS={address}\nSERVER_NAMES=fl.example.org\n" + original, encoding="utf-8")
        up = stack.make("up")
        assert up.code == 0, up.text
        names = "import ssl, sys; from multisite.federation.kit import *; print(server_names(KIT))"
        assert "fl.example.org" in stack.execute("server", "python", "-c", names).text
        assert stack.make("kit", SITE="site-3").code == 0
        shutil.move(stack.home / "kits" / "site-3", remote / "kit")
        shard = stack.run("docker", "cp", f"{stack.containers()['site-1']}:/data", str(remote / "data"))
        assert shard.code == 0, shard.text
        assert stack.run(*compose, "up", "--detach", **remote_settings).code == 0
        stack.wait_for(lambda: '"site-3"' in registered(stack), "site-3 registered from the other project")
        assert "another host" in stack.make("status").text
        done = stack.execute("admin", "python", "-m", "multisite.console.admin", "submit", "--rounds", "1", "--sites", "3")
        assert '"site": "site-3"' in done.text, done.text
    finally:
        stack.run(*compose, "down", "--volumes", "--timeout", "15", **remote_settings)
        env.write_text(original, encoding="utf-8")
        (stack.home / "project.yml").write_text(project, encoding="utf-8")
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
