"""A bucket that speaks S3, on this machine."""

from collections.abc import Generator
from contextlib import contextmanager
from urllib.request import Request, urlopen

import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

BUCKET = "pictures"
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "name", "AWS_SECRET_ACCESS_KEY": "word", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def serving_bucket() -> Generator[str]:
    """The URL of a prefix in an empty bucket; in the block, credentials and endpoint are in the environment."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        # moto keeps the objects of earlier servers of this process
        urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST"), timeout=30).close()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in ({"AWS_ENDPOINT_URL": f"http://{host}:{port}"} | _CREDENTIALS).items():
                patch.setenv(name, value)
            S3FileSystem.clear_instance_cache()
            S3FileSystem().call_s3("create_bucket", Bucket=BUCKET)
            yield f"s3://{BUCKET}/naruto"
            S3FileSystem.clear_instance_cache()
    finally:
        server.stop()


def objects(address: str) -> list[str]:
    """The names of all objects below `address`."""
    return sorted(map(str, S3FileSystem(use_listings_cache=False).find(address)))
