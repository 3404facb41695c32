"""An archive from the network: downloaded, compared with its checksum, and only then unpacked."""

import tarfile
import zipfile
from pathlib import Path

from torchvision.datasets.utils import check_integrity, download_url, extract_archive

from mlcl.errors import MlclError


def fetch(url: str, root: Path, md5: str, brings: Path) -> None:
    """Unpack an archive into a folder, unless that is done; a finished download that lies there is not fetched again.

    Redirects are followed: whoever sends the file, it must be the one that the checksum tells.

    Args:
        url: of a zip or tar file.
        root: folder.
        md5: of the file, hexadecimal.
        brings: a file or folder of the archive: where it is there, so are the others, or an attempt was broken off.

    Raises:
        MlclError: if it cannot be had, is another file, or cannot be unpacked.
    """
    file = root / url.rpartition("/")[2]
    unfinished = root / f".{file.name}.unfinished"
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
            if isinstance(error, RuntimeError):  # torchvision's word for it
                reason = f"what came is not the file with the MD5 checksum {md5}, and was removed"
        raise MlclError(
            f"{url} could not be downloaded to {root} (data.download): {reason}; try again, or unpack it there by hand"
        ) from error
