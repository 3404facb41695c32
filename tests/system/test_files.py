"""A file is written whole or not at all, and a failure is one line that names it."""

import errno
import os

import pytest
import torch

from mlcl.errors import MlclError
from mlcl.system.files import write_whole


def full_disk(path):
    path.write_text("half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def torch_on_a_full_disk(path):
    try:
        full_disk(path)
    except OSError:
        raise RuntimeError("PytorchStreamWriter failed writing file") from None


@pytest.mark.parametrize("content", ["ä\r\n", "ä\r\n".encode(), lambda path: path.write_bytes("ä\r\n".encode())])
def test_it_writes_text_bytes_and_what_a_function_writes(tmp_path, content):
    write_whole(tmp_path / "new" / "a.txt", content)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]
    assert (tmp_path / "new" / "a.txt").read_bytes() == "ä\r\n".encode()


@pytest.mark.parametrize("content", [full_disk, torch_on_a_full_disk])
def test_where_it_fails_the_file_before_is_kept_and_nothing_else_is_left(tmp_path, content):
    write_whole(tmp_path / "a.ckpt", "before")
    with pytest.raises(MlclError, match=r"a\.ckpt cannot be written: No space left"):
        write_whole(tmp_path / "a.ckpt", content)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"] and (tmp_path / "a.ckpt").read_text() == "before"


def test_other_errors_pass_and_leave_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="shape"):
        write_whole(tmp_path / "a.ckpt", lambda path: torch.ones(2).reshape(3))
    (tmp_path / "file").write_text("")
    with pytest.raises(MlclError, match="cannot be written: "):
        write_whole(tmp_path / "file" / "a.txt", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
