"""Finding a package's archive in the indexes that the user's own pip is set to, without running the package.

pip itself runs a source archive's ``setup.py`` to learn its metadata, even when only asked to download it. So the
archive is looked up through the simple repository API (PEP 503, PEP 691) instead, with pip's settings.
"""

import ast
import dataclasses
import html.parser
import os
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import pydantic
import requests
from packaging.tags import sys_tags
from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from ft_jax.assets.addresses import normalise
from ft_jax.assets.errors import NotReached

_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


@dataclasses.dataclass(frozen=True)
class Link:
    """Where one archive of a package is, and the sha256 and size that its index states (None where it states none)."""

    url: str
    filename: str
    sha256: str | None = None
    size: int | None = None


@dataclasses.dataclass(frozen=True)
class PipSettings:
    """The part of pip's settings that says where archives are and how to reach them.

    Attributes:
      indexes: simple index addresses, in the order in which they are asked.
      find_links: further pages, folders or archives.
      cert, client_cert, proxy, trusted_hosts, timeout, retries: as pip's options of those names.
    """

    indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    cert: str | None = None
    client_cert: str | None = None
    proxy: str | None = None
    trusted_hosts: tuple[str, ...] = ()
    timeout: float = 15.0
    retries: int = 5


def pip_settings() -> PipSettings:
    """The user's own pip settings: its configuration files and ``PIP_*`` variables, or else pip's own defaults."""
    options = dict(_configured(_pip("config", "list")))
    options |= {
        name[4:].lower().replace("_", "-"): value for name, value in os.environ.items() if name.startswith("PIP_")
    }
    indexes = ()
    if not _is_true(options.get("no-index", "")):
        index = options.get("index-url") or _default_index()
        indexes = (index, *options.get("extra-index-url", "").split())
    return PipSettings(
        indexes=tuple(address for address in indexes if address),
        find_links=tuple(options.get("find-links", "").split()),
        cert=options.get("cert") or None,
        client_cert=options.get("client-cert") or None,
        proxy=options.get("proxy") or None,
        trusted_hosts=tuple(options.get("trusted-host", "").split()),
        timeout=float(options.get("timeout") or options.get("default-timeout") or PipSettings.timeout),
        retries=int(options.get("retries") or PipSettings.retries),
    )


def _pip(*arguments: str) -> str:
    """What pip prints; nothing where this Python has no pip."""
    command = [sys.executable, "-m", "pip", *arguments, "--disable-pip-version-check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout if result.returncode == 0 else ""


def _configured(listing: str) -> Iterable[tuple[str, str]]:
    """Options of ``pip config list`` that hold for ``pip download``: the command's own come after the global ones."""
    rows = [line.partition("=") for line in listing.splitlines() if "=" in line]
    for section in ("global.", "download."):
        for key, _, value in rows:
            if key.startswith(section):
                yield key.removeprefix(section), ast.literal_eval(value)


def _default_index() -> str:
    """The index that pip uses when nothing is configured, as pip's own help states it."""
    text = re.sub(r"-\s*\n\s*", "-", _pip("download", "--help"))
    found = re.search(r"--index-url.*?\(default\s+(\S+?)\)", text, re.DOTALL)
    return found[1] if found else ""


def _is_true(value: str) -> bool:
    return value.lower() in ("1", "true", "yes", "on", "y", "t")


def session(settings: PipSettings) -> requests.Session:
    """A connection with pip's certificates, proxy and retries; netrc and proxy variables hold as always."""
    made = requests.Session()
    retry = requests.adapters.Retry(total=settings.retries, backoff_factor=0.25, status_forcelist=(500, 502, 503, 504))
    for scheme in ("https://", "http://"):
        made.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry))
    made.cert = settings.client_cert
    if settings.proxy:
        made.proxies = {"http": settings.proxy, "https": settings.proxy}
    return made


def verification(settings: PipSettings, url: str) -> bool | str:
    """How to check the server's certificate: pip's ``cert``, or not at all for its ``trusted-host``."""
    parts = urllib.parse.urlsplit(url)
    if {parts.hostname, f"{parts.hostname}:{parts.port}"} & set(settings.trusted_hosts):
        return False
    return settings.cert or True


def redacted(url: str) -> str:
    """An address without the user name and password in it, for messages.

    Example:
      >>> redacted("https://user:secret@host/simple")
      'https://host/simple'
    """
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def find_archive(name: str, version: str, settings: PipSettings, sha256: str | None = None) -> Link:
    """The archive of that package and version: with a known digest the one that has it, or else a wheel over a source.

    Raises:
      NotReached: no index could be reached, or none has that version.
    """
    links, problems = [], []
    with session(settings) as connection:
        for place in (*settings.find_links, *(_project(index, name) for index in settings.indexes)):
            try:
                links += _links(place, connection, settings)
            except (requests.RequestException, OSError, ValueError) as error:
                problems.append(f"{redacted(place)}: {_reason(error)}")
    fitting = matching(links, name, version)
    by_digest = [link for link in fitting if sha256 and link.sha256 == sha256]
    if by_digest or fitting:
        return (by_digest or fitting)[0]
    if problems:
        raise NotReached("could not be downloaded (" + "; ".join(problems) + ")")
    where = ", ".join(redacted(place) for place in (*settings.indexes, *settings.find_links)) or "no index"
    raise NotReached(f"was not found by pip's settings ({where})")


def matching(links: Iterable[Link], name: str, version: str) -> list[Link]:
    """The archives of that package and version, wheels that fit this computer first, then sources, then the rest."""
    tags = set(sys_tags())
    ranked = []
    for link in links:
        try:
            if link.filename.endswith(".whl"):
                project, release, _, wheel_tags = parse_wheel_filename(link.filename)
                rank = 0 if tags & wheel_tags else 2
            else:
                project, release = parse_sdist_filename(_as_sdist(link.filename))
                rank = 1
            if project == normalise(name) and release == Version(version):
                ranked.append((rank, link))
        except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
            continue
    return [link for _, link in sorted(ranked, key=lambda pair: pair[0])]


def _as_sdist(filename: str) -> str:
    return re.sub(r"\.(tgz|tar\.bz2|tar\.xz|tar)$", ".tar.gz", filename)


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"status {response.status_code}"
    return type(error).__name__ if isinstance(error, requests.RequestException) else str(error)


def _project(index: str, name: str) -> str:
    return f"{index.rstrip('/')}/{normalise(name)}/"


def _links(place: str, connection: requests.Session, settings: PipSettings) -> list[Link]:
    """The archives on a page of an index, on a page of links, or in a folder."""
    if place.startswith(("http://", "https://")):
        if not place.endswith("/") and place.endswith((".whl", ".zip", ".tar.gz")):
            return [Link(place, _filename(place))]
        response = connection.get(
            place, headers={"Accept": _ACCEPT}, timeout=settings.timeout, verify=verification(settings, place)
        )
        if response.status_code == 404:
            return []
        response.raise_for_status()
        if "json" in response.headers.get("Content-Type", ""):
            return [_json_link(response.url, file) for file in _Page.read(response.content).files]
        return _page_links(response.url, response.text)
    path = local_path(place)
    if path.is_dir() and not (path / "index.html").is_file():
        return folder_links(path)
    page = path / "index.html" if path.is_dir() else path
    if page.suffix in (".html", ".htm") and page.is_file():
        return _page_links(page.resolve().as_uri(), page.read_text(encoding="utf-8"))
    return [Link(page.resolve().as_uri(), page.name)] if page.is_file() else []


def local_path(place: str) -> Path:
    """The path of a ``file:`` address, or of a path."""
    if place.startswith("file:"):
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(place).path))
    return Path(place).expanduser()


def folder_links(folder: Path) -> list[Link]:
    """Every file of a folder, as an archive that may be asked for."""
    return [Link(path.resolve().as_uri(), path.name) for path in sorted(folder.iterdir()) if path.is_file()]


class _File(pydantic.BaseModel):
    url: str
    filename: str
    hashes: dict[str, str] = {}
    size: int | None = pydantic.Field(None, ge=0)


class _Page(pydantic.BaseModel):
    """What is used of a project's page (PEP 691, PEP 700)."""

    files: list[_File]

    @classmethod
    def read(cls, content: bytes) -> "_Page":
        """The page in JSON.

        Raises:
          ValueError: it is none.
        """
        try:
            return cls.model_validate_json(content)
        except pydantic.ValidationError:
            raise ValueError("its page is no list of files") from None


def _json_link(page: str, file: _File) -> Link:
    return Link(urllib.parse.urljoin(page, file.url), file.filename, file.hashes.get("sha256"), file.size)


def _filename(url: str) -> str:
    return urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])


class _Anchors(html.parser.HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.base, self.links = page, []

    def handle_starttag(self, tag, attrs):
        href = dict(attrs).get("href")
        if tag == "base" and href:
            self.base = urllib.parse.urljoin(self.base, href)
        if tag == "a" and href:
            url, _, fragment = urllib.parse.urljoin(self.base, href).partition("#")
            digest = re.fullmatch(r"sha256=([0-9a-f]{64})", fragment)
            self.links.append(Link(url, _filename(url), digest[1] if digest else None))


def _page_links(page: str, text: str) -> list[Link]:
    parser = _Anchors(page)
    parser.feed(text)
    return parser.links
