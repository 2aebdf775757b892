"""Certificates and accounts of a cluster that lives for minutes: made by openssl at each start."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kube.processes import run

VALID_DAYS = "30"
MASTERS = "system:masters"


@dataclass(frozen=True, slots=True)
class Account:
    """One line of the API server's token file."""

    user: str
    group: str
    token: str


def new_key(path: Path) -> None:
    """Write an EC P-256 private key, in the form that the API server also takes for accounts."""
    run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path])


def new_authority(folder: Path) -> None:
    """Write ``ca.key`` and ``ca.crt``."""
    new_key(folder / "ca.key")
    run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-new",
                "-key",
                folder / "ca.key",
                "-subj",
                "/CN=headrace-ca",
            ),
            *("-days", VALID_DAYS, "-out", folder / "ca.crt"),
        ]
    )


def new_certificate(folder: Path, name: str, subject: str, names: Sequence[str] = ()) -> None:
    """Write ``<name>.key`` and ``<name>.crt``, signed by the folder's authority.

    Args:
        folder: where the authority is and the files go.
        name: what the files are called.
        subject: as openssl writes it: ``/O=group/CN=user``.
        names: subject alternative names: ``IP:10.0.0.1``, ``DNS:localhost``.
    """
    new_key(folder / f"{name}.key")
    extensions = folder / f"{name}.ext"
    usage = "extendedKeyUsage=serverAuth,clientAuth\n"
    extensions.write_text(usage + (f"subjectAltName={','.join(names)}\n" if names else ""))
    request = folder / f"{name}.csr"
    run(
        [
            "openssl",
            "req",
            "-new",
            "-key",
            folder / f"{name}.key",
            "-subj",
            subject,
            "-out",
            request,
        ]
    )
    run(
        [
            *("openssl", "x509", "-req", "-in", request, "-CA", folder / "ca.crt"),
            *("-CAkey", folder / "ca.key", "-set_serial", f"0x{secrets.token_hex(8)}"),
            *("-days", VALID_DAYS, "-extfile", extensions, "-out", folder / f"{name}.crt"),
        ]
    )


def new_accounts(users: Sequence[tuple[str, str]], path: Path) -> dict[str, Account]:
    """Write the API server's token file; return the account of each (user, group)."""
    accounts = {user: Account(user, group, secrets.token_hex(16)) for user, group in users}
    rows = [
        ",".join([a.token, a.user, a.user, *([a.group] if a.group else [])]) + "\n"
        for a in accounts.values()
    ]
    path.touch(mode=0o600)
    path.write_text("".join(rows))
    return accounts


def write_kubeconfig(path: Path, server: str, authority: Path, token: str) -> None:
    """Write a kubeconfig (as JSON, which is YAML) with one context."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "headrace",
                "cluster": {"server": server, "certificate-authority": str(authority)},
            }
        ],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "headrace", "context": {"cluster": "headrace", "user": "user"}}],
        "current-context": "headrace",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=2))
