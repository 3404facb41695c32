"""Folders and object stores: what is asked again, what is refused at once, and what is never written down."""

import os
import signal
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from mlcl.data.pack import Pack
from mlcl.data.store import Store, is_url
from mlcl.errors import MlclError


def test_a_folder_and_a_store_hold_files_alike(s3, tmp_path):
    for place in (str(tmp_path / "here"), f"{s3.place}/alike"):
        store = Store(f"{place}/")
        assert store.place == place and is_url(place) == place.startswith("s3")
        assert store.names() == {} and not store.exists("a/b") and not store.exists("a")
        with pytest.raises(FileNotFoundError):
            store.read("a/b")
        store.write("a/b", b"first")
        (tmp_path / "local").write_bytes(b"second")
        store.write("c", tmp_path / "local")
        assert store.read("a/b") == b"first" and store.names() == {"a/b": 5, "c": 6} and store.names("a") == {"a/b": 5}
        assert store.exists("a/b") and not store.exists("a") and store.size("c") == 6
        store.download("c", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == b"second"
        store.remove("c")
        store.remove("c")
        assert store.names() == {"a/b": 5}


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("s3://no-such-bucket/x", "s3://no-such-bucket/x holds no pack (no mlcl.json): mlcl pack makes one"),
        ("s3://pictures/no/prefix", "s3://pictures/no/prefix holds no pack (no mlcl.json): mlcl pack makes one"),
        ("s3://Not_A_Bucket!/x", "Invalid bucket name"),
        ("gs://bucket/x", "gs://bucket/x needs gcsfs: pip install gcsfs"),
        ("nosuch://bucket/x", "nosuch://bucket/x: Protocol not known: nosuch"),
        ("s3://me:secret-word@bucket/x", "the address holds a password, which would be stored with every run"),
        ("s3://", "s3:// names no bucket, such as s3://bucket/prefix"),
    ],
)
def test_what_asking_again_does_not_mend_is_said_at_once(s3, place, said, monkeypatch, capfd):
    monkeypatch.setattr("mlcl.data.store.time.sleep", lambda seconds: pytest.fail("asked again"))
    with pytest.raises(MlclError) as error:
        Pack(place)
    assert said in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 250
    assert "secret-word" not in str(error.value) and not capfd.readouterr().err


def test_a_bucket_that_is_not_there_cannot_be_written_to(s3):
    with pytest.raises(MlclError, match=r"s3://no-such-bucket/x/file: .*[Bb]ucket does not exist"):
        Store("s3://no-such-bucket/x").write("file", b"")


def test_nobody_at_the_address_and_no_keys(s3, monkeypatch):
    monkeypatch.setattr("mlcl.data.store.time.sleep", lambda seconds: pytest.fail("asked again"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    forget_servers()
    with pytest.raises(MlclError, match=r"s3://pictures/x/mlcl.json: .*http://127.0.0.1:9"):
        Pack("s3://pictures/x")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    forget_servers()
    with pytest.raises(MlclError, match=r"s3://pictures/x/mlcl.json: no keys for it in the environment"):
        Pack("s3://pictures/x")


def test_wrong_keys_are_refused_at_once_and_not_repeated(s3, monkeypatch):
    look_at_keys_after(s3, "0")
    try:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-word")
        monkeypatch.setattr("mlcl.data.store.time.sleep", lambda seconds: pytest.fail("asked again"))
        forget_servers()
        for question in (Pack, lambda place: Store(place).write("a", b"")):
            with pytest.raises(MlclError, match=r"s3://pictures/x/.*(Forbidden|Access Key)") as error:
                question("s3://pictures/x")
            assert "secret-word" not in str(error.value) and "\n" not in str(error.value)
    finally:
        look_at_keys_after(s3, "inf")


def look_at_keys_after(s3, requests: str) -> None:
    """Let moto check the keys of whoever asks, after so many requests."""
    address = f"{s3.environment['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
    headers = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(address, requests.encode(), headers)).close()


def test_a_server_that_stands_still_is_waited_for(s3, monkeypatch, capfd):
    store = Store(f"{s3.place}/still")
    store.write("a", b"content")
    s3.process.send_signal(signal.SIGSTOP)
    threading.Timer(1.5, s3.process.send_signal, (signal.SIGCONT,)).start()
    assert store.read("a") == b"content"
    assert capfd.readouterr().err == ""


def test_a_server_that_died_is_asked_again_and_given_up(s3, monkeypatch, capfd, tmp_path):
    store = Store(f"{s3.place}/died")
    store.write("a", b"content")
    monkeypatch.setenv("MLCL_STORE_PATIENCE", "1")
    s3.kill()
    with pytest.raises(MlclError, match="died/a: Could not connect"):
        store.read("a")
    capfd.readouterr()
    monkeypatch.setenv("MLCL_STORE_PATIENCE", "60")

    def again() -> None:
        time.sleep(1)
        s3.start()
        s3.client().put_object(Bucket="pictures", Key="died/a", Body=b"content")

    thread = threading.Thread(target=again)
    thread.start()
    with_retries = []
    while not with_retries:  # between its start and the upload the server has no such file
        try:
            with_retries.append(store.read("a"))
        except FileNotFoundError:
            time.sleep(0.1)
    thread.join()
    said = capfd.readouterr().err
    assert with_retries == [b"content"] and said.count("; asked again for 60 s\n") == said.count("\n") == 1

    monkeypatch.setenv("MLCL_STORE_PATIENCE", "1")
    s3.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(MlclError, match=r"died/a: .*(time|Time)"):
            store.download("a", tmp_path / "copy")
    finally:
        s3.process.send_signal(signal.SIGCONT)


def test_a_file_that_cannot_be_written_is_not_asked_for_again(s3, monkeypatch):
    monkeypatch.setattr("mlcl.data.store.time.sleep", lambda seconds: pytest.fail("asked again"))
    store = Store(f"{s3.place}/full")
    store.write("a", b"content")
    with pytest.raises(OSError, match="No space left"):
        store.download("a", Path("/dev/full"))


def forget_servers() -> None:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
