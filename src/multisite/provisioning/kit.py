"""A participant's startup kit: who it is, and until when its certificate is valid."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

KIT = Path("/kit")
SERVER_SECONDS = 15.0
SERVER_PERIOD = 0.05
GATEWAY_PERIOD = 1.0
CONNECT_SECONDS = 2.0


class KitError(Exception):
    """A startup kit is missing or no longer valid. The message ends with the next step."""


@dataclass(frozen=True)
class Kit:
    """One participant's kit.

    Attributes:
        folder: holds `startup` and `local`.
        role: `server`, `client` or `admin`.
        name: the participant's.
        org: its organization.
        expires: end of the certificate's validity (UTC).
    """

    folder: Path
    role: str
    name: str
    org: str
    expires: datetime.datetime

    def check_valid(self, now: datetime.datetime | None = None) -> None:
        """
        Raises:
            KitError: the certificate has expired.
        """
        if self.expires <= (now or datetime.datetime.now(datetime.UTC)):
            raise KitError(
                f"the startup kit of {self.name} expired on {self.expires:%Y-%m-%d}\n"
                "  next: `make clean WHAT=keys`, then `make up`: new keys for every participant (remote sites need their new kit)"
            )

    @property
    def scheme(self) -> str:
        """How NVFlare's frames travel: `http` or `grpc`; of a server's and a site's kit."""
        return str(self._service()["scheme"])

    def _service(self) -> dict[str, Any]:
        config = "fed_server.json" if self.role == "server" else "fed_client.json"
        content = json.loads((self.folder / "startup" / config).read_text(encoding="utf-8"))
        return dict(content["servers"][0]["service"])

    @property
    def server_address(self) -> tuple[str, int]:
        """Where this participant reaches the server; the server itself, on loopback."""
        if self.role == "admin":
            admin = json.loads((self.folder / "startup" / "fed_admin.json").read_text(encoding="utf-8"))["admin"]
            return str(admin["host"]), int(admin["port"])
        host, port = self._service()["target"].rsplit(":", 1)
        return ("127.0.0.1" if self.role == "server" else host), int(port)

    def tls(self) -> ssl.SSLContext:
        """For a connection to the server, with this participant's certificate.

        Raises:
            OSError: the kit's files can't be read.
        """
        startup, name = self.folder / "startup", "server" if self.role == "server" else "client"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # as NVFlare does: the root signs nobody else
        context.load_verify_locations(startup / "rootCA.pem")
        context.load_cert_chain(startup / f"{name}.crt", startup / f"{name}.key")
        return context

    def connect(self) -> ssl.SSLSocket:
        """A TLS connection to the server, with this participant's certificate.

        Every step, and what is read and written later, is bounded by CONNECT_SECONDS.

        Raises:
            OSError: no connection, or no TLS that the kit's root has signed.
        """
        raw = socket.create_connection(self.server_address, CONNECT_SECONDS)
        try:
            return self.tls().wrap_socket(raw)
        except OSError:
            raw.close()
            raise

    def server_answers(self) -> bool:
        """Whether the server itself answers: a gateway before it accepts connections without it."""
        return bool(self.server_key())

    def server_key(self) -> bytes:
        """The public key of the server that answers (DER, SubjectPublicKeyInfo); empty if none does."""
        try:
            return self._come_and_go()
        except OSError:
            return b""

    def _come_and_go(self) -> bytes:
        with self.connect() as connection:
            certificate = x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")
            connection.unwrap()  # the server has ended it too, then: a reset is an error in its log
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def wait_for_server(self, seconds: float = SERVER_SECONDS) -> bytes:
        """Waits until the server answers: it starts at the same time, and NVFlare tries again seconds after a refusal.

        After `seconds` the participant goes on all the same, and NVFlare tries for as long as it takes.

        Returns:
            The server's public key; empty if it has not answered.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                return self._come_and_go()
            except (ConnectionRefusedError, socket.gaierror):
                time.sleep(SERVER_PERIOD)
            except OSError:
                time.sleep(GATEWAY_PERIOD)  # each try counts there: one address may make so many
        return b""


def read_kit(folder: Path = KIT) -> Kit:
    """Reads the kit in `folder`.

    Raises:
        KitError: there is none.
    """
    startup = folder / "startup"
    for role, config in (("server", "fed_server.json"), ("client", "fed_client.json"), ("admin", "fed_admin.json")):
        if not (startup / config).exists():
            continue
        certificate_file = startup / ("server.crt" if role == "server" else "client.crt")
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        return Kit(
            folder,
            role,
            _subject(certificate, NameOID.COMMON_NAME),
            _subject(certificate, NameOID.ORGANIZATION_NAME),
            certificate.not_valid_after_utc,
        )
    raise KitError(
        f"no startup kit in {folder}\n  next: `make up` provisions one; a remote site mounts the folder that `make kit` wrote"
    )


def server_names(folder: Path) -> list[str]:
    """The names that a server kit's certificate carries."""
    certificate = x509.load_pem_x509_certificate((folder / "startup" / "server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def _subject(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    return str(certificate.subject.get_attributes_for_oid(oid)[0].value)
