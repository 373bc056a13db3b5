"""Files of a model hub, through huggingface_hub and its own cache and settings."""

from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from ft_jax.assets.addresses import parse_hub
from ft_jax.assets.errors import AssetUnavailable

FOREIGN_WEIGHTS = (
    *("*.bin", "*.h5", "*.msgpack", "*.ot", "*.pt", "*.pth", "*.onnx", "*.tflite", "*.mlmodel"),
    *("onnx/*", "openvino/*", "coreml/*"),
)
"""Weights in formats that aren't read here, left out when a whole repository is fetched; name one file to get it."""


def resolve_hub(address: str) -> Path:
    """The file or folder that an ``hf://`` address names, from the hub's cache or else from the hub.

    Raises:
      ValueError: the address is malformed.
      AssetUnavailable: it isn't in the cache and the hub can't be reached, or has no such repository or file.
    """
    wanted = parse_hub(address)
    arguments = {"repo_id": wanted.repository, "repo_type": wanted.kind, "revision": wanted.revision}
    try:
        if wanted.file:
            return Path(hf_hub_download(filename=wanted.file, **arguments))
        return Path(snapshot_download(ignore_patterns=list(FOREIGN_WEIGHTS), **arguments))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = f"status {status}" if status else type(error).__name__
        raise AssetUnavailable(
            f"needs {wanted.repository}, which could not be fetched ({reason}); "
            f"run `ft-jax fetch {address}` with network, or set HF_HOME to a folder that has it"
        ) from error
