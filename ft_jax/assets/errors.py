"""What can go wrong on the way from an address to a file."""

from ft_jax.outside import Refused


class AssetUnavailable(FileNotFoundError):
    """The asset is not on this computer and could not be fetched."""


class AssetRefused(Refused):
    """The asset was found but must not be used: its digest is wrong, or its archive is unsafe."""


class NotReached(Exception):
    """No place that was asked gave the archive; the message is what stands after "which"."""
