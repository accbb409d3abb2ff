"""Certificates that tests make themselves."""

from __future__ import annotations

import contextlib
import datetime
import functools
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

ENDED = datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC)


def expired_certificate(name: str, until: datetime.datetime) -> bytes:
    """A self-signed certificate that ended at `until`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "org")])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 7, until - datetime.timedelta(days=9), until)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


@functools.cache
def authority(name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """A root that signs kits; the same one each time."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key, _signed(name, key, name, key, x509.BasicConstraints(ca=True, path_length=None))


def _signed(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
) -> x509.Certificate:
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "org")])
        for name in (subject, issuer)
    ]
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(names[1], names[0], key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    return builder.add_extension(extension, critical=True).sign(by, hashes.SHA256())


def write_certificates(startup: Path, role: str, name: str, root: str = "root") -> None:
    """What a kit's `startup` holds for TLS: the root, this participant's certificate, its key."""
    startup.mkdir(parents=True, exist_ok=True)
    signer, certificate = authority(root)
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = _signed(name, key, root, signer, x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]))
    stem = "server" if role == "server" else "client"
    (startup / "rootCA.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (startup / f"{stem}.crt").write_bytes(leaf.public_bytes(Encoding.PEM))
    (startup / f"{stem}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@contextlib.contextmanager
def tls_listener(folder: Path, port: int = 0, root: str = "root") -> Iterator[int]:
    """A server that wants certificates of `root`, says nothing, and ends a connection when its peer does; gives its port."""
    write_certificates(folder, "server", "server", root)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(folder / "rootCA.pem")
    context.load_cert_chain(folder / "server.crt", folder / "server.key")

    def serve(peer: socket.socket) -> None:
        peer.settimeout(10)
        with contextlib.suppress(OSError), context.wrap_socket(peer, server_side=True) as connection:
            while connection.recv(1024):
                pass
            connection.unwrap()

    def accept() -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    listening = socket.create_server(("127.0.0.1", port))
    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)  # a close alone leaves accept() waiting
        listening.close()
        accepting.join(10)


@contextlib.contextmanager
def gateway_without_server() -> Iterator[tuple[int, list[float]]]:
    """A gateway whose server is dead: it accepts and closes. Gives its port and the moments of what it accepted."""
    came: list[float] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                listening.accept()[0].close()
                came.append(time.monotonic())

    listening = socket.create_server(("127.0.0.1", 0))
    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield listening.getsockname()[1], came
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        accepting.join(10)
