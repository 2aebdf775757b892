"""Container images without a registry: the pause image, a Debian with Python, and the product's own.

All are archives in the tools' cache, named by the hash of what they are made of: made once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.kube.node import PAUSE_IMAGE
from tests.kube.processes import run
from tests.kube.programs import ROOT, cache_dir, tools_dir

BASE_IMAGE = "localhost/headrace-base:python3.11"
BASE_SUITE = "bookworm"
BASE_PACKAGES = "python3,python3-venv,ca-certificates"
DEBOOTSTRAP_LIMIT_S = 600.0
BUILD_LIMIT_S = 600.0
KEPT_ARCHIVES = 3
CERTIFICATES = Path("/etc/ssl/certs")
IGNORED = (".git", ".venv", ".cache", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache")


def pause_image() -> Path:
    """Return the archive of the image that holds a pod's namespaces."""
    program = tools_dir() / "pause"
    archive = _archive("pause", [program.read_bytes()])
    if not archive.exists():
        with tempfile.TemporaryDirectory(dir=_scratch()) as folder:
            context = Path(folder)
            shutil.copy2(program, context / "pause")
            (context / "Dockerfile").write_text(
                'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n'
            )
            _build(context, context / "Dockerfile", PAUSE_IMAGE, archive, {})
    return archive


def base_image() -> str:
    """Return the name, in buildah's storage, of Debian 12 with its Python 3.11; made if need be (1 minute)."""
    if BASE_IMAGE in _stored():
        return BASE_IMAGE
    with tempfile.TemporaryDirectory(dir=_scratch()) as made:
        root = Path(made, "root")
        run(
            [
                *("debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}"),
                *(BASE_SUITE, root, _mirror()),
            ],
            limit_s=DEBOOTSTRAP_LIMIT_S,
        )
        shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
        shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
        working = _buildah("from", "scratch").strip()
        _buildah("add", "-q", working, str(root), "/")
        _buildah("config", "--cmd", "/usr/bin/python3", working)
        _buildah("commit", "-q", "--rm", working, BASE_IMAGE)
    return BASE_IMAGE


def build_image(
    dockerfile: Path,
    name: str,
    context: Path = ROOT,
    arguments: Mapping[str, str] | None = None,
    inputs: Iterable[Path] | None = None,
) -> Path:
    """Build a Dockerfile on our base image; return the archive, the one of before if nothing has changed.

    Args:
        dockerfile: it starts with ``ARG BASE`` and ``FROM ${BASE}``.
        name: the image's, such as ``localhost/headrace:test``.
        context: the folder that it copies from.
        arguments: more build arguments.
        inputs: what the image depends on in ``context``; all of it when None.
    """
    arguments = {**(arguments or {}), "BASE": BASE_IMAGE}
    parts = [dockerfile.read_bytes(), name.encode(), repr(sorted(arguments.items())).encode()]
    parts += [_digest(path) for path in (inputs if inputs is not None else [context])]
    archive = _archive(name.rpartition("/")[2].replace(":", "-"), parts)
    if not archive.exists():
        base_image()
        _build(context, dockerfile, name, archive, arguments)
        _keep_newest(archive)
    return archive


def _keep_newest(archive: Path) -> None:
    """Drop all but the last few archives of an image."""
    stem = archive.stem.rpartition("-")[0]
    alike = [
        path for path in archive.parent.glob(f"{stem}-*.tar") if len(path.stem) == len(archive.stem)
    ]
    for path in sorted(alike, key=lambda path: path.stat().st_mtime)[:-KEPT_ARCHIVES]:
        path.unlink(missing_ok=True)


def _build(
    context: Path, dockerfile: Path, name: str, archive: Path, arguments: Mapping[str, str]
) -> None:
    words = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
    if CERTIFICATES.is_dir():
        words += ["-v", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
    _buildah(
        *("bud", "-q", "--network", "host", "--layers", *words),
        *("-t", name, "-f", str(dockerfile), str(context)),
    )
    with tempfile.TemporaryDirectory(dir=_scratch()) as folder:
        new = Path(folder, "image.tar")
        _buildah("push", "-q", name, f"docker-archive:{new}:{name}")
        new.rename(archive)


def _buildah(*argv: str) -> str:
    storage = cache_dir() / "images/storage"
    where = ("--root", str(storage), "--runroot", str(storage.with_name("run")))
    env = {"STORAGE_DRIVER": "overlay", "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(_scratch())}
    return run(["buildah", *where, *argv], limit_s=BUILD_LIMIT_S, env=env)


def _stored() -> str:
    return _buildah("images", "--format", "{{.Name}}:{{.Tag}}")


def _scratch() -> Path:
    folder = cache_dir() / "images/scratch"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _archive(stem: str, parts: Iterable[bytes]) -> Path:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    folder = cache_dir() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{stem}-{digest.hexdigest()[:16]}.tar"


def _digest(path: Path) -> bytes:
    """Return a hash over a file, or over names and contents of a folder."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else _files(path):
        content = hashlib.sha256(file.read_bytes()).digest()
        digest.update(os.fsencode(file.relative_to(path.parent)) + b"\0" + content)
    return digest.digest()


def _files(folder: Path) -> Iterable[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in IGNORED)
        yield from (Path(here, name) for name in sorted(names) if Path(here, name).is_file())


def _mirror() -> str:
    """Return the Debian mirror that this machine's own apt uses for the suite."""
    for source in [
        *Path("/etc/apt").glob("sources.list"),
        *Path("/etc/apt").glob("sources.list.d/*"),
    ]:
        for line in source.read_text().splitlines():
            words = line.split()
            if words[:1] == ["URIs:"] and "security" not in line and "debian" in line:
                return words[1]
            if words[:1] == ["deb"] and BASE_SUITE in words:
                return next(word for word in words if "://" in word)
    return "http://deb.debian.org/debian"
