"""Find a model bundle by its path, or by its name under `artifacts/bundles/`."""

from pathlib import Path

from cache.layout import Layout

CONFIG = "config.json"


class NoBundle(ValueError):
    """There is no model bundle of this path or name."""


def find_bundle(bundle: Path, artifacts: Path) -> Path:
    """The folder of a bundle: `bundle` itself, or the bundle of this name. Raises NoBundle, naming those that exist."""
    folders = (bundle, Layout(artifacts).bundle(str(bundle)))
    for folder in folders:
        if _is_bundle(folder):
            return folder
    names = sorted(path.parent.name for path in Layout(artifacts).bundles.glob(f"*/{CONFIG}"))
    existing = f"existing bundles: {', '.join(names)}" if names else "`make tune` writes a model bundle"
    raise NoBundle(f"{bundle / CONFIG}: no such file; {existing}")


def _is_bundle(folder: Path) -> bool:
    try:
        return (folder / CONFIG).is_file()
    except PermissionError:
        return True  # whoever reads it says so
