"""An archive from the network: downloaded, compared with its checksum, and only then unpacked."""

import tarfile
import zipfile
from pathlib import Path

from torchvision.datasets.utils import check_integrity, download_and_extract_archive

from mlcl.errors import MlclError


def fetch(url: str, root: Path, md5: str) -> None:
    """Unpack an archive into a folder; a finished download that lies there is not fetched again.

    Redirects are followed: whoever sends the file, it must be the one that the checksum tells.

    Args:
        url: of a zip or tar file.
        root: folder.
        md5: of the file, hexadecimal.

    Raises:
        MlclError: if it cannot be had, is another file, or cannot be unpacked.
    """
    file = root / url.rpartition("/")[2]
    try:
        download_and_extract_archive(url, str(root), filename=file.name, md5=md5)
    except (OSError, RuntimeError, tarfile.TarError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        if file.is_file() and not check_integrity(str(file), md5):
            file.unlink()
            reason = f"what came is not the file with the MD5 checksum {md5}, and was removed"
        raise MlclError(
            f"{url} could not be downloaded to {root} (data.download): {reason}; try again, or unpack it there by hand"
        ) from error
