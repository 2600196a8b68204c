"""Large objects to local files: `get_to_file`, for `i2v.s3.storage`."""

import shutil
from pathlib import Path
from typing import Any

from botocore.exceptions import IncompleteReadError

from i2v.s3.objects import S3Object, object_from_response
from i2v.s3_uri import S3Uri


def get_to_file(client: Any, uri: S3Uri, path: Path) -> S3Object:
    """Stream an object to a file and return it without its body. Raise if the body breaks off."""
    response = client.get_object(Bucket=uri.bucket, Key=uri.key)
    found = object_from_response(uri, response)
    with response["Body"] as stream, path.open("wb") as file:
        shutil.copyfileobj(stream, file, 1 << 20)
        written = file.tell()
    if written != response.get("ContentLength", written):
        raise IncompleteReadError(actual_bytes=written, expected_bytes=found.size)
    return found
