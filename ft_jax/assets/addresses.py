"""Addresses of assets, as text and as values."""

import dataclasses
import re

from ft_jax.outside import printable

_PART = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9._!+-]*)(?:/(?P<member>.*))?", re.DOTALL
)
# A "+" joins two members only where a new NAME==VERSION/ follows, so that local versions and names may hold one.
_JOIN = re.compile(r"\+(?=[A-Za-z0-9][A-Za-z0-9._-]*==[^/]+/)")
_HUB = re.compile(
    r"(?P<kind>datasets/)?(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<file>.+))?", re.DOTALL
)


@dataclasses.dataclass(frozen=True)
class Member:
    """One file or folder inside a published package.

    Attributes:
      name: the package's name, as its index writes it.
      version: its exact version.
      path: the file or folder in the package's archive; ``archive.tar.gz!/inside`` goes into a nested archive, and
        the empty path is everything.
    """

    name: str
    version: str
    path: str

    @property
    def package(self) -> str:
        """``NAME==VERSION``."""
        return f"{self.name}=={self.version}"

    @property
    def key(self) -> str:
        """The package with its name normalised (PEP 503), which is how tables name it."""
        return f"{normalise(self.name)}=={self.version}"


@dataclasses.dataclass(frozen=True)
class HubFile:
    """A repository of a model hub, or one file of it.

    Attributes:
      repository: ``organisation/name``.
      kind: ``"model"`` or ``"dataset"``.
      revision: branch, tag or commit; None for the default branch.
      file: path in the repository; None for the whole repository.
    """

    repository: str
    kind: str
    revision: str | None
    file: str | None


def normalise(name: str) -> str:
    """A package's name as indexes compare it (PEP 503).

    Example:
      >>> normalise("Vader_Sentiment")
      'vader-sentiment'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_package(address: str) -> tuple[Member, ...]:
    """The members that a ``pkg://`` address names, in the order in which they are joined.

    Example:
      >>> parse_package("pkg://shards-a==1.0/w.part0+shards-b==1.0/w.part1")[1]
      Member(name='shards-b', version='1.0', path='w.part1')

    Raises:
      ValueError: the address is not ``pkg://NAME==VERSION/member``.
    """
    members = []
    for text in _JOIN.split(address.removeprefix("pkg://")):
        found = _PART.fullmatch(text)
        if not found:
            raise ValueError(
                f"{printable(text)} in address {printable(address, 300)} is not NAME==VERSION/member; "
                "write pkg://NAME==VERSION/path/in/the/package"
            )
        path = (found["member"] or "").strip("/")
        path = f"{path}/" if path.endswith("!") else path
        members.append(Member(found["name"], found["version"], path))
    return tuple(members)


def parse_hub(address: str) -> HubFile:
    """What an ``hf://`` address names.

    Example:
      >>> parse_hub("hf://org/model@v2/config.json")
      HubFile(repository='org/model', kind='model', revision='v2', file='config.json')

    Raises:
      ValueError: the address is not ``hf://organisation/model[@revision][/file]``.
    """
    found = _HUB.fullmatch(address.removeprefix("hf://").rstrip("/"))
    if not found:
        raise ValueError(
            f"{printable(address, 300)} is not hf://organisation/model[@revision][/file]; name organisation and model"
        )
    kind = "dataset" if found["kind"] else "model"
    return HubFile(found["repository"], kind, found["revision"], found["file"])
