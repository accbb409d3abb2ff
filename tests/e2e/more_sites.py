"""More sites on one host than compose.yaml has."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from tests.e2e.stack import Stack, switch


def overlay(sites: int, clients: bool) -> str:
    """The sites from the third on, made as the two that compose.yaml and docker/client-stream.yaml have; their data is site-1's."""
    more = range(3, sites + 1)
    services: dict[str, Any] = {
        "provision": {"volumes": [f"kit-site-{n}:/kits/site-{n}" for n in more]},
        "server": {"networks": [f"site-{n}" for n in more]},
        "wandb-backend": {"networks": [f"egress-site-{n}" for n in more] if clients else ["egress"]},
    }
    lines = [f"  {name}: {json.dumps(value)}" for name, value in services.items()]
    for n in more:
        volumes = json.dumps([f"kit-site-{n}:/kit:ro", f"site-{n}:/workspace", "shard-site-1:/data:ro"])
        networks, secrets = (f"site-{n}, egress-site-{n}", ", secrets: [wandb_api_key]") if clients else (f"site-{n}", "")
        lines.append(
            f"  site-{n}: {{extends: {{file: compose.yaml, service: site-1}}, volumes: {volumes}, networks: !override [{networks}]{secrets}}}"
        )
    text = "services:\n" + "\n".join(lines)
    networks_made: dict[str, Any] = {f"site-{n}": {"internal": True} for n in more}
    if clients:
        networks_made |= {f"egress-site-{n}": {} for n in more}
    text += f"\nnetworks: {json.dumps(networks_made)}"
    return text + f"\nvolumes: {json.dumps({f'{kind}site-{n}': {} for n in more for kind in ('kit-', '')})}\n"


@contextlib.contextmanager
def more_sites(stack: Stack, sites: int, clients: bool = False) -> Iterator[None]:
    """Brings a deployment that is up to so many sites, whose jobs may carry code of their own; and back."""
    more = range(3, sites + 1)
    file = stack.home / "more-sites.yaml"
    file.write_text(overlay(sites, clients), encoding="utf-8")
    env, project = stack.home / ".env", stack.home / "project.yml"
    before = env.read_text(encoding="utf-8"), project.read_text(encoding="utf-8")
    extra = f"COMPOSE_EXTRA={stack.settings['COMPOSE_EXTRA']}:{file}"
    text = before[0].replace(f"COMPOSE_EXTRA={stack.settings['COMPOSE_EXTRA']}", extra)
    env.write_text("ALLOW_CUSTOM_CODE=yes\n" + text, encoding="utf-8")
    added = "".join(f"  - name: site-{n}\n    type: client\n    org: multisite\n" for n in more)
    project.write_text(before[1].replace("  - name: admin@", added + "  - name: admin@"), encoding="utf-8")
    switch(stack, clients)
    yield
    env.write_text(before[0], encoding="utf-8")
    project.write_text(before[1], encoding="utf-8")
    switch(stack, False)
    for n in more:  # Compose forgets the networks of an overlay that is gone
        for name in (f"site-{n}", f"egress-site-{n}"):
            stack.run("docker", "network", "rm", f"{stack.name}_{name}")
