"""Large objects to local files: `download`."""

import shutil
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, IncompleteReadError
from urllib3.exceptions import HTTPError

from i2v.s3.objects import S3Object, object_from_response
from i2v.s3.storage import BODY_ATTEMPTS, Storage
from i2v.s3_uri import S3Uri


async def download(storage: Storage, uri: S3Uri, path: Path) -> S3Object:
    """Stream an object to a file and return it without its body. Raise NotFound if there is none."""
    return await storage.call(uri, _download, client=storage.client, uri=uri, path=path)


def _download(client: Any, uri: S3Uri, path: Path) -> S3Object:
    for attempt in range(BODY_ATTEMPTS):
        response = client.get_object(Bucket=uri.bucket, Key=uri.key)
        found = object_from_response(uri, response)
        try:
            with response["Body"] as stream, path.open("wb") as file:
                shutil.copyfileobj(stream, file, 1 << 20)
            if (written := path.stat().st_size) != response.get("ContentLength", written):
                raise IncompleteReadError(actual_bytes=written, expected_bytes=found.size)
        except (BotoCoreError, HTTPError):
            if attempt == BODY_ATTEMPTS - 1:
                raise
        else:
            return found
    raise AssertionError
