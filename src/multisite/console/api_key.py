"""Which W&B API key the deployment gets: the file's, or, without that file, the one in WANDB_API_KEY. No message ever holds a key."""

from __future__ import annotations

from multisite.console.settings import ConsoleError, Settings
from multisite.tracking.key import KeyProblem, check_form

VARIABLE = "WANDB_API_KEY"


def choose(settings: Settings) -> tuple[str, str]:
    """The key to stage, empty if there is none; and what to say about WANDB_API_KEY, which every other user of W&B sets.

    The shell's WANDB_API_KEY goes before that in `.env`, as with every setting. The file goes before both.

    Raises:
        ConsoleError: the file can't be read, or the one that is named does not exist; or WANDB_API_KEY has to be used and is malformed.
    """
    source, variable = settings.key_file, settings.get(VARIABLE).strip()
    if source.exists():
        try:
            key = source.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConsoleError(
                "W&B key", f"{source} can't be read ({type(error).__name__})", "correct the file, or WANDB_KEY_FILE"
            ) from None
        if variable in ("", key):
            return key, ""
        return key, f"W&B key: {VARIABLE} is not used: {source} goes before it and holds {'another key' if key else 'none'}"
    if settings.get("WANDB_KEY_FILE"):
        raise ConsoleError("W&B key", f"WANDB_KEY_FILE={source} does not exist", "correct it, or leave it empty to go without")
    if not variable:
        return "", ""
    try:
        key = check_form(variable)
    except KeyProblem as problem:
        raise ConsoleError("W&B key", f"{VARIABLE}: {problem}", f"correct it or unset it; the key belongs in {source}") from None
    return key, f"W&B key: taken from {VARIABLE}, as there is no {source}, where it belongs"
