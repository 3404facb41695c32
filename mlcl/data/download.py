"""Downloading and unpacking archives."""

import tarfile
import zipfile
from pathlib import Path

from torchvision.datasets.utils import check_integrity, download_url, extract_archive

from mlcl.errors import MlclError


def fetch(url: str, root: Path, md5: str, brings: Path) -> None:
    """Download a zip or tar file of this MD5 checksum to ``root`` and unpack it there, unless ``brings`` exists.

    Raises:
        MlclError: if it cannot be downloaded, has another checksum, or cannot be unpacked.
    """
    file = root / url.rpartition("/")[2]
    unfinished = root / f".{file.name}.unfinished"  # exists while the archive is being unpacked
    if brings.exists() and not unfinished.exists():
        return
    try:
        download_url(url, str(root), filename=file.name, md5=md5)
        unfinished.touch()
        extract_archive(str(file), str(root))
        unfinished.unlink()
    except (OSError, RuntimeError, tarfile.TarError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        if file.is_file() and not check_integrity(str(file), md5):
            file.unlink()
            reason = f"this is not the file with the MD5 checksum {md5}, so it was removed ({reason})"
        raise MlclError(
            f"{url} could not be downloaded to {root} (data.download): {reason}; try again, or unpack it there by hand"
        ) from error
