"""What an operator's certificate and key say of themselves, before anything listens."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

SOON = datetime.timedelta(days=14)
"""A certificate that ends within this time should have been renewed by now."""


def certificate_problem(certificate: Path, key: Path) -> tuple[str, str, str] | None:
    """Return the configuration key that is wrong, the problem and the remedy; None where the two files fit."""
    try:
        ours = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError):
        return "certificate", f"{certificate} holds no certificate", "name the PEM file with the chain, your own first"
    try:
        private = load_pem_private_key(key.read_bytes(), None)
    except TypeError:
        return "private_key", f"{key} is encrypted", "take the password away: openssl pkey -in FILE -out FILE"
    except (OSError, ValueError):
        return "private_key", f"{key} holds no private key", "name the PEM file with the key"
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != ours.public_key().public_bytes(*form):
        remedy = "name the key it was made with; a chain begins with your own certificate"
        return "private_key", f"{key} does not fit the certificate in {certificate}", remedy
    return None


def certificate_warning(certificate: Path, now: datetime.datetime | None = None) -> tuple[str, str] | None:
    """Return what is wrong with the certificate's time and the remedy; None where nothing is."""
    now = now or datetime.datetime.now(datetime.UTC)
    ours = x509.load_pem_x509_certificate(certificate.read_bytes())
    if now > ours.not_valid_after_utc:
        return f"expired on {ours.not_valid_after_utc:%Y-%m-%d}: peers will refuse it", "renew it"
    if now < ours.not_valid_before_utc:
        return f"is not valid before {ours.not_valid_before_utc:%Y-%m-%d}", "look at this machine's clock"
    if now + SOON > ours.not_valid_after_utc:
        return f"expires on {ours.not_valid_after_utc:%Y-%m-%d}", "renew it; SIGHUP takes the new one"
    return None
