"""Certificates that tests make themselves."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

ENDED = datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC)


def expired_certificate(name: str, until: datetime.datetime) -> bytes:
    """A self-signed certificate that ended at `until`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "org")])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 7, until - datetime.timedelta(days=9), until)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
