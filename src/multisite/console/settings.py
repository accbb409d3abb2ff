"""The deployment's settings: `.env`, then the command line's make variables, which come as environment variables."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from multisite.console.env_file import BadLine, read_assignments
from multisite.console.names import home_files, unknown_setting
from multisite.text import clean
from multisite.tracking.arguments import ArgumentRefused, checked_wandb_args
from multisite.tracking.key import MODES

MANAGED = "# --- written by make, for `docker compose` typed by hand; change the settings above instead ---"
NOT_IN_A_NAME = re.compile(r"[^a-z0-9_-]")
GPUS = ("auto", "none", "all")
GATEWAY_LIMITS = ("CONNECTIONS", "SERVER_CONNECTIONS", "PER_ADDRESS", "RATE", "HELLO_SECONDS")
WHOLE_NUMBERS = (
    "SITE_THREADS",
    "WANDB_TRANSMIT_SECONDS",
    "MAX_RESULT_MB",
    "JOBS_KEEP_DAYS",
    "METRICS_SITE_MB",
    "METRICS_SITE_JOBS",
    *(f"GATEWAY_{limit}" for limit in GATEWAY_LIMITS),
)


class ConsoleError(Exception):
    """A step of the console failed. `step` names it, `problem` says why, `next` what to do."""

    def __init__(self, step: str, problem: str, next_step: str) -> None:
        super().__init__(f"{step}: {problem}\n  next: {next_step}")


def read_env(path: Path) -> dict[str, str]:
    """The settings in `.env`.

    Raises:
        ConsoleError: a line can't be read, or a name means nothing; it gives the line's number.
    """
    try:
        found = read_assignments(path)
    except BadLine as bad:
        raise ConsoleError("settings", f"{path.name}, line {bad.number} {bad.problem}", f"correct {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConsoleError("settings", f"{path} can't be read ({clean(error)})", f"look at who owns it: ls -l {path}") from None
    extra = home_files(path.parent, found.get("COMPOSE_EXTRA", ("", 0))[0])
    if unknown := unknown_setting(found, extra):
        name, problem, next_step = unknown
        raise ConsoleError("settings", f"{path.name}, line {found[name][1]}: {name} {problem}", next_step)
    return {name: value for name, (value, _) in found.items()}


@dataclass(frozen=True)
class Settings:
    """Where the deployment lives and what it is set to.

    Attributes:
        home: the project's folder, with compose.yaml.
        values: every setting, the command line's first.
    """

    home: Path
    values: dict[str, str]

    @classmethod
    def load(cls, home: Path) -> Settings:
        """Settings of the deployment in `home`, checked.

        Raises:
            ConsoleError: a setting is malformed.
        """
        if not (home / ".env").exists() and (home / ".env.example").exists():
            shutil.copyfile(home / ".env.example", home / ".env")
        settings = cls(home, read_env(home / ".env") | {name: value for name, value in os.environ.items() if value})
        settings.check()
        return settings

    def get(self, name: str, default: str = "") -> str:
        """One setting; empty counts as not given."""
        return self.values.get(name) or default

    def path(self, name: str) -> Path | None:
        """A setting that is a path, relative to the project's folder."""
        text = self.get(name)
        return (self.home / Path(text).expanduser()).resolve() if text else None

    @property
    def project(self) -> str:
        """Compose's name of the deployment: COMPOSE_PROJECT_NAME, or what Compose makes of the folder's name."""
        return self.get("COMPOSE_PROJECT_NAME") or NOT_IN_A_NAME.sub("", self.home.name.lower()).lstrip("_-")

    @property
    def port(self) -> int:
        """The server's port."""
        return int(self.get("SERVER_PORT", "8002"))

    @property
    def address(self) -> str:
        """The host's address on which the port is published."""
        return self.get("BIND_ADDRESS", "127.0.0.1")

    @property
    def key_file(self) -> Path:
        """The user's file with the W&B API key."""
        return self.path("WANDB_KEY_FILE") or self.home / "secrets" / "wandb_api_key"

    def check(self) -> None:
        """
        Raises:
            ConsoleError: a setting is malformed.
        """
        if not (self.get("SERVER_PORT", "8002").isdecimal() and 0 < self.port < 65536):
            raise ConsoleError("settings", f"SERVER_PORT={self.get('SERVER_PORT')} is no port", "give one from 1 to 65535")
        if self.get("GPUS", "auto") not in GPUS:
            raise ConsoleError("settings", f"GPUS={self.get('GPUS')} is not one of {', '.join(GPUS)}", "correct it in .env")
        if self.get("INSTALL_ENGINE", "ask") not in ("ask", "yes", "no"):
            problem = f"INSTALL_ENGINE={self.get('INSTALL_ENGINE')} is not ask, yes or no"
            raise ConsoleError("settings", problem, "correct it in .env")
        if self.get("NVFLARE") not in ("", "next", "newest"):
            raise ConsoleError(
                "settings", f"NVFLARE={self.get('NVFLARE')} is not next or newest", "correct it in .env; empty: the pinned one"
            )
        if self.get("LOG", "plain") not in ("plain", "detail", "json"):
            raise ConsoleError("settings", f"LOG={self.get('LOG')} is not plain, detail or json", "correct it in .env")
        if self.get("ALLOW_CUSTOM_CODE", "no") not in ("yes", "no"):
            problem = f"ALLOW_CUSTOM_CODE={self.get('ALLOW_CUSTOM_CODE')} is not yes or no"
            raise ConsoleError("settings", problem, "correct it in .env")
        self._check_wandb()
        for name in WHOLE_NUMBERS:
            value = self.get(name, "1")
            if not (value.isdecimal() and int(value)):
                raise ConsoleError("settings", f"{name}={value} is no whole number above 0", "correct it in .env")
        for name in ("CIFAR10_DIR", "CA_BUNDLE"):
            path = self.path(name)
            if path is not None and not path.exists():
                raise ConsoleError("settings", f"{name}={path} does not exist", f"correct it, or leave {name} empty")

    def _check_wandb(self) -> None:
        """What W&B would refuse, after a round was trained."""
        if self.get("WANDB_MODE") not in MODES:
            problem = f"WANDB_MODE={self.get('WANDB_MODE')} is not {', '.join(MODES[1:])}, or empty"
            raise ConsoleError("settings", problem, "correct it in .env")
        if url := self.get("WANDB_BASE_URL"):
            self._check_base_url(url)
        tags = [tag.strip() for tag in self.get("WANDB_TAGS").split(",") if tag.strip()]
        for name, value in {"project": self.get("WANDB_PROJECT"), "entity": self.get("WANDB_ENTITY"), "tags": tags}.items():
            try:
                checked_wandb_args({name: value})
            except ArgumentRefused as refused:
                setting = f"WANDB_{name.upper()}"
                problem = str(refused).replace(f"wandb_args: {name}", f"{setting}={self.get(setting)}", 1)
                raise ConsoleError("settings", problem, "correct it in .env") from None

    @staticmethod
    def _check_base_url(url: str) -> None:
        """As W&B's client will (`wandb/sdk/wandb_settings.py`, `validate_base_url`), before anything starts."""
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment
            good = good and (parts.port is None or parts.port > 0)
        except ValueError:
            good = False
        if not good:
            problem = f"WANDB_BASE_URL={clean(url, 200)} is no address of a server"
            raise ConsoleError("settings", problem, "give one such as https://wandb.example.org in .env, or leave it empty")
        if (parts.hostname or "").endswith("wandb.ai") and (parts.scheme, parts.hostname) != ("https", "api.wandb.ai"):
            raise ConsoleError("settings", f"WANDB_BASE_URL={url} is not W&B's API", "https://api.wandb.ai, or leave it empty")

    def remember(self, managed: dict[str, str]) -> None:
        """Writes values that plain `docker compose` needs under a marker in `.env`; the user's own lines stay as they are."""
        path = self.home / ".env"
        if not path.exists():
            path.touch()
        own, _, block = path.read_text(encoding="utf-8").partition(MANAGED)
        added = [line for line in block.splitlines() if line.strip() and line.split("=")[0].strip() not in managed]
        own = "\n".join([own.rstrip("\n"), *added])
        lines = "".join(f"{name}={value}\n" for name, value in sorted(managed.items()))
        text = f"{own}\n\n{MANAGED}\n{lines}"
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
