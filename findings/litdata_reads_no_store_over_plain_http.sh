#!/usr/bin/env bash
# Finding: litdata finds a dataset in an S3-compatible store behind a plain http:// endpoint (MinIO, Ceph or Garage within a
# cluster), reads its index, and then fetches no chunk from it.
#
# Guess before: AWS_ENDPOINT_URL is all it takes, as for boto3, s3fs and the AWS command line, and as litdata's own upload and
# index download show; or AWS_ALLOW_HTTP=true, which obstore documents, mends the rest.
# Seen (litdata 0.2.76 with obstore 0.12.1): the index comes through boto3, the chunks through obstore, which litdata gives the
# endpoint but not allow_http, and which then leaves the environment alone: "builder error", BadScheme, with or without
# AWS_ALLOW_HTTP, and with LITDATA_ASYNC_CHUNK_PREFETCH=0, too.
# Way out: TLS in front of the store; or fetch the chunks with s3fs or boto3, and read them from a folder.
set -euo pipefail
folder=$(mktemp -d)
server=
trap 'kill $server 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 'litdata==0.2.76' 'obstore==0.12.1' \
  'moto[server,s3]==5.2.5'
cd "$folder"
export AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret AWS_DEFAULT_REGION=us-east-1 AWS_ALLOW_HTTP=true
port=$(venv/bin/python -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])")
export AWS_ENDPOINT_URL=http://127.0.0.1:$port
venv/bin/python -m moto.server -H 127.0.0.1 -p "$port" > server.log 2>&1 &
server=$!
cat > stream.py <<'PYTHON'
import contextlib
import io
import os
import pathlib
import socket
import time

import boto3
import litdata
from litdata.streaming import Cache

for _ in range(300):
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", int(os.environ["AWS_ENDPOINT_URL"].rsplit(":", 1)[1]))).close()
        break
    time.sleep(0.1)
cache = Cache("chunks", chunk_size=4)
for i in range(12):
    cache[i] = {"number": i}
cache.done()
cache.merge()
client = boto3.client("s3")
client.create_bucket(Bucket="pictures")
for file in pathlib.Path("chunks").iterdir():
    client.upload_file(str(file), "pictures", f"set/{file.name}")
sizes = {o["Key"]: o["Size"] for o in client.list_objects_v2(Bucket="pictures")["Contents"]}
whole = all(len(client.get_object(Bucket="pictures", Key=k)["Body"].read()) == size for k, size in sizes.items())
data = litdata.StreamingDataset("s3://pictures/set", cache_dir="cache")
count = len(data)
log = io.StringIO()
try:
    with contextlib.redirect_stderr(log):
        outcome = f"{sum(1 for _ in data)} samples"
except Exception as error:
    outcome = " ".join(str(error).split())
print(f"boto3 reads all objects: {whole}; litdata knows {count} samples; reading them: ...{outcome[-60:]}")
assert whole and count == 12, "the store itself is not readable"
assert "builder error" in outcome, "litdata reads chunks over http now"
assert "BadScheme" in log.getvalue() + outcome, "another reason"
PYTHON
venv/bin/python stream.py
