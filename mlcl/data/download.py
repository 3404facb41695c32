"""Downloading an archive, comparing its checksum, and unpacking it."""

import tarfile
import zipfile
from pathlib import Path

from torchvision.datasets.utils import check_integrity, download_url, extract_archive

from mlcl.errors import MlclError


def fetch(url: str, root: Path, md5: str, brings: Path) -> None:
    """Unpack an archive into a folder, unless that is done; a finished download is not fetched again.

    Args:
        url: of a zip or tar file; redirects are followed.
        root: folder.
        md5: of the file, hexadecimal.
        brings: a file or folder of the archive: if it is there, the archive has been unpacked.

    Raises:
        MlclError: if it cannot be downloaded, has another checksum, or cannot be unpacked.
    """
    file = root / url.rpartition("/")[2]
    unfinished = root / f".{file.name}.unfinished"  # is there while the archive is being unpacked
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
