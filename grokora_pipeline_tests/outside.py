"""Servers that stand for the world outside: started on free ports in fresh folders, stopped with the tests."""

import logging
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import httpx
import pytest

from grokora_pipeline_tests.processes import free_port

BUCKET = "s3://grokora"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of an empty bucket on a local S3 server, for this process and its children."""
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed").ThreadedMotoServer(
        "127.0.0.1", 0
    )
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # connected to an earlier server of this process
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # else a line a request
    host, port = server.get_host_and_port()
    httpx.post(f"http://{host}:{port}/moto-api/reset")  # what an earlier server of this process kept
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir(BUCKET.removeprefix("s3://"))
        yield BUCKET
    server.stop()


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of an empty database on a PostgreSQL server of Debian's packages."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    psycopg2 = pytest.importorskip("psycopg2", reason="grokora_pipeline[ray] is not installed")
    if not found:
        pytest.skip("PostgreSQL's server is not installed (apt-get install postgresql)")
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name  # it refuses to run as root
    folder, port = Path(tempfile.mkdtemp(prefix="grokora-postgres-")), free_port()
    shutil.chown(folder, user)
    database = str(folder / "data")
    subprocess.run(
        [found[-1].with_name("initdb"), "-D", database, "-U", "grokora", "-A", "trust", "--no-sync"],
        **_as(user),
        check=True,
        capture_output=True,
    )
    options = ["-D", database, "-p", str(port), "-h", "127.0.0.1", "-k", str(folder), "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([found[-1], *options], **_as(user), stdout=log, stderr=log)
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg2.connect(host="127.0.0.1", port=port, user="grokora", dbname="postgres").close()
            break
        except psycopg2.OperationalError:
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
    yield f"postgresql+psycopg2://grokora@127.0.0.1:{port}/postgres"
    server.terminate()
    server.wait(timeout=30)
    shutil.rmtree(folder)


def _as(user: str) -> dict[str, Any]:
    return {"user": user, "cwd": "/"} if os.getuid() == 0 else {"cwd": "/"}
