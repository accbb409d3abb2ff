"""The names that people give to make and write into `.env`: settings, and the options of each verb. An unknown one is refused."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from multisite.job.options import OptionError

GIVEN = "MAKE_VARIABLES"  # how the Makefile hands over the names that stood on its command line
SETTINGS = (  # as .env.example has them
    "CIFAR10_DIR", "DATASET",
    "WANDB_KEY_FILE", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_TAGS", "WANDB_MODE", "WANDB_DISABLED",
    "WANDB_TRANSMIT_SECONDS", "METRICS_KEEP_DAYS", "METRICS_SITE_MB", "METRICS_SITE_JOBS",
    "SERVER_PORT", "BIND_ADDRESS", "SERVER_NAMES",
    "GATEWAY_CONNECTIONS", "GATEWAY_SERVER_CONNECTIONS", "GATEWAY_PER_ADDRESS", "GATEWAY_RATE", "GATEWAY_HELLO_SECONDS",
    "GATEWAY_MEMORY",
    "GPUS", "SITE_THREADS", "INSTALL_ENGINE", "CA_BUNDLE", "BASE_IMAGE", "TORCH_INDEX", "NVFLARE", "SITE_MEMORY", "CONTROL_MEMORY",
    "MAX_RESULT_MB", "JOBS_KEEP_DAYS", "ALLOW_CUSTOM_CODE", "LOG", "PATCHES", "RESULTS_DIR", "COMPOSE_EXTRA",
)  # fmt: skip
# Beside them in `.env`: what make writes, a key that W&B's own users have there, and what the tests set.
OTHERS = (
    "SITE_THREADS_DEFAULT",
    "WANDB_KEY_STAGED",
    "BASE_IMAGE_HERE",
    "WANDB_API_KEY",
    "IMAGE_TAG",
    "DATA_LIMIT",
    "SSL_CERT_FILE",
)
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
PREFIXES = ("COMPOSE_", "DOCKER_", "BUILDKIT_", "BUILDX_")  # Compose's and Docker's own
# Short words that other programs have in a shell's environment too: there they are not meant for this deployment.
COMMON = ("LOG", "DATASET", "GPUS", "PATCHES", "NVFLARE")
JOB = (
    "PRESET", "ROUNDS", "LOCAL_EPOCHS", "BATCH_SIZE", "LR", "ALPHA", "NETWORK", "SITES", "SEED", "LOG_MODEL", "WAIT_SECONDS",
    "MAX_EXAMPLES", "RECEIVER", "FORCE",
)  # fmt: skip
OPTIONS = {
    "up": ("PRESET", "ALPHA", "SEED", "FORCE"),
    "submit": JOB,
    "submit-client-stream": JOB,
    "follow": ("JOB",),
    "results": ("JOB",),
    "abort": ("JOB",),
    "kit": ("SITE",),
    "clean": ("WHAT",),
}
VARIABLE = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)")


def check_given(verb: str, environment: Mapping[str, str]) -> None:
    """Refuses names on make's command line that mean nothing, and options that only the shell's environment has.

    Without make (a test, a script that calls the console itself) the environment is what was given.

    Raises:
        OptionError: one was given. The message names it, and what was meant or has to be done.
    """
    if GIVEN not in environment:
        return
    given, options = environment[GIVEN].split(), OPTIONS.get(verb, ())
    known = (*options, *SETTINGS, *OTHERS)
    for name in given:
        if name not in known and not is_foreign(name):
            raise OptionError("\n  next: ".join(_unknown_option(name, verb, known)))
    for name in (*options, *COMMON):
        if environment.get(name, "").strip() and name not in given:
            said = f"{name}={environment[name]}"
            problem = f"{said} comes from the shell, where other programs use that name too"
            raise OptionError(f"{problem}\n  next: make {verb} {said}, or: unset {name}")


def _unknown_option(name: str, verb: str, known: Iterable[str]) -> tuple[str, str]:
    if verbs := [other for other, options in OPTIONS.items() if name in options]:
        return f"{name} is no option of make {verb}", f"make {verb} without it; it is one of make {verbs[0]}"
    return f"{name} is no option of make {verb}, and no setting", nearest(name, known)


def nearest(name: str, known: Iterable[str]) -> str:
    """The next step after an unknown name."""
    found = difflib.get_close_matches(name.upper(), list(known), 1)
    return f"is {found[0]} meant?" if found else "`make` lists the options, .env.example the settings"


def is_foreign(name: str) -> bool:
    """Whether a name is Compose's, Docker's, or that of a proxy."""
    return name.startswith(PREFIXES) or name.upper() in PROXIES


def unknown_setting(names: Iterable[str], extra_files: Iterable[Path]) -> tuple[str, str, str] | None:
    """The first name that means nothing in `.env`: the name, the problem, and the next step.

    Args:
        names: those in `.env`.
        extra_files: compose files of the user's own, which may have variables of their own.
    """
    own: set[str] = set()
    for path in extra_files:
        if path.is_file():
            own.update(VARIABLE.findall(path.read_text(encoding="utf-8", errors="replace")))
    for name in names:
        if name in SETTINGS or name in OTHERS or is_foreign(name) or name in own:
            continue
        if verbs := [verb for verb, options in OPTIONS.items() if name in options]:
            return name, f"is an option of make {verbs[0]}, and no setting", f"take it out; make {verbs[0]} {name}=..."
        return name, "is no setting", nearest(name, SETTINGS)
    return None


def given_options(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that job options may come from."""
    if GIVEN not in environment:
        return dict(environment)
    return {name: environment[name] for name in environment[GIVEN].split() if name in environment}


def home_files(home: Path, text: str) -> list[Path]:
    """Colon-separated paths, relative to the project's folder."""
    return [home / os.path.expanduser(name) for name in text.split(":") if name]
