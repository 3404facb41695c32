"""moto's S3 server on this machine, spoken to through HTTP: no signatures are checked, and all is gone when it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import s3fs

BUCKET = "pictures"


class Server:
    """A server with an empty bucket; ``place`` is its URL."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.place, self.process = f"s3://{BUCKET}", None
        self.connections: dict[int, dict] = {}  # of the process with this number: what fsspec has opened
        self.environment = {
            "AWS_ACCESS_KEY_ID": "test-key",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
        }
        self.start()

    def start(self) -> None:
        """Start it, empty, on the same port."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, **quiet)
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < until and self.process.poll() is None, "no S3 server"
                time.sleep(0.05)
        self.client().create_bucket(Bucket=BUCKET)

    def kill(self) -> None:
        """As in a power cut: what it held is lost."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def client(self):
        """For what a test changes behind our back."""
        return boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id="test-key",
            aws_secret_access_key="test-secret",
        )

    def upload(self, folder: Path, prefix: str) -> str:
        """Put all files of a folder below a prefix; returns its URL."""
        client = self.client()
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            client.put_object(Bucket=BUCKET, Key=f"{prefix}/{file.relative_to(folder)}", Body=file.read_bytes())
        return f"{self.place}/{prefix}"

    def objects(self, prefix: str) -> list[str]:
        """Keys below a prefix, in order."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", ()))


@contextmanager
def s3_server() -> Iterator[Server]:
    """A server, whose environment this process has meanwhile."""
    server = Server()
    s3fs.S3FileSystem.clear_instance_cache()  # they know the environment of an earlier server
    before = {name: os.environ.get(name) for name in server.environment}
    os.environ.update(server.environment)
    try:
        yield server
    finally:
        server.kill()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
