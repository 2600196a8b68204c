"""Presigned URLs: `LinkSigner` makes them for each bucket's own region, and for the host of that region.

boto3 follows a redirect to another region, but signs URLs for the region that is configured, and for the global host,
which redirects for regions that were enabled later.
"""

import re
import threading
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import boto3
from botocore.exceptions import ClientError

from i2v.s3.client import configured_style, is_amazon, s3_client
from i2v.s3.extra_args import add_extra_args

_SCOPE = re.compile(r"Credential=[^/]+/\d+/([^/]+)/s3/")


class LinkSigner:
    """Presigns GET requests. Blocking; safe to call from several threads.

    Without a session, the client itself signs them.
    """

    def __init__(self, client: Any, session: boto3.Session | None, extra: Mapping[str, Any]) -> None:
        self._client = client
        self._session = session
        self._extra = extra
        self._lock = threading.Lock()
        self._sent = threading.local()
        self._signers: dict[str, Any] = {}
        client.meta.events.register("before-send.s3.HeadBucket", self._note_region)

    def sign(self, params: Mapping[str, str], seconds: int) -> str:
        """Return a URL for GetObject with these parameters."""
        with self._lock:
            signer = self._signers.get(params["Bucket"]) or self._new_signer(params["Bucket"])
        url: str = signer.generate_presigned_url("get_object", Params=dict(params), ExpiresIn=seconds)
        return url

    def _new_signer(self, bucket: str) -> Any:
        if self._session is None:
            return self._client
        region, style = self._region_of(bucket), configured_style(self._client)
        if is_amazon(self._client) and style is None:
            style = "path" if re.search(r"[._]", bucket) else "virtual"  # a certificate covers no dots
        signer = s3_client(self._session, region, style)
        add_extra_args(signer, self._extra)
        return self._signers.setdefault(bucket, signer)

    def _region_of(self, bucket: str) -> str | None:
        """Return the bucket's region: the one for which S3 accepted a request, else the one that its refusal names."""
        try:
            self._client.head_bucket(Bucket=bucket)
        except ClientError as error:
            metadata = error.response["ResponseMetadata"]
            if metadata["HTTPStatusCode"] >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            if named := metadata["HTTPHeaders"].get("x-amz-bucket-region"):
                return str(named)
        region: str | None = getattr(self._sent, "region", None)
        return region

    def _note_region(self, request: Any, **_: object) -> None:
        header = request.headers.get("Authorization", "")
        text = header.decode() if isinstance(header, bytes) else header
        self._sent.region = match[1] if (match := _SCOPE.search(text)) else None
