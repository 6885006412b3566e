"""Which version of a distribution is installed."""

from __future__ import annotations

from importlib import metadata

DISTRIBUTION = "galago-worker"


def version_of(package: str = DISTRIBUTION, otherwise: str = "0+source") -> str:
    """As it is installed; `otherwise` where it isn't: ours runs from a source tree, too."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return otherwise
