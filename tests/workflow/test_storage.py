"""The grid with its files in object storage: a server on loopback that speaks S3."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

pytestmark = pytest.mark.slow

TABLE = "results/table1.csv"
KEYS = {"aws_access_key_id": "nobody", "aws_secret_access_key": "nothing"}
ENVIRONMENT = {
    "SNAKEMAKE_STORAGE_S3_ACCESS_KEY": KEYS["aws_access_key_id"],
    "SNAKEMAKE_STORAGE_S3_SECRET_KEY": KEYS["aws_secret_access_key"],
}


@pytest.fixture
def server():
    """The endpoint of the server."""
    if find_spec("snakemake_storage_plugin_s3") is None:
        pytest.skip("no snakemake-storage-plugin-s3 is installed")
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    yield "http://{}:{}".format(*moto.get_host_and_port())
    moto.stop()


def download(endpoint, bucket, folder):
    """Copy the bucket to a folder."""
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **KEYS)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for each in page["Contents"]:
            path = Path(folder, each["Key"])
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, each["Key"], str(path))


def test_jobs_have_all_that_they_read_from_the_storage(clone, server, tmp_path):
    clone.edit(lambda params: params["table1"].update(couplings=["vae"]))
    provider = ("--default-storage-provider", "s3", "--default-storage-prefix", "s3://bucket/grid")
    storage = (*provider, "--storage-s3-endpoint-url", server, "--workflow-profile", "profiles/default")
    for last in (["features"], ["reference", "train"], ["select"], ["sample"], []):
        until = ["--until", *last] if last else []
        clone.run("snakemake", "--cores", "2", TABLE, *storage, *until, **ENVIRONMENT)
        # As on another machine: nothing is left of what the jobs before have written.
        shutil.rmtree(clone.root / ".snakemake/storage")
    assert "Nothing to be done" in clone.run("snakemake", "--dry-run", TABLE, *storage, **ENVIRONMENT).stdout
    assert not [*clone.root.glob("results/*/*/*")]

    download(server, "bucket", tmp_path)
    results = tmp_path / "grid/results"
    assert len((results / "table1.csv").read_text().splitlines()) == 3
    said = clone.run("couplet", "verify", str(results)).stdout
    assert "as recorded" in said or "intact" in said, said
