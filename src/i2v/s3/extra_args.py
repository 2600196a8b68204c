"""The arguments of I2V_S3_EXTRA_ARGS: checked against boto3's own description of S3, and added to requests."""

from collections.abc import Mapping
from typing import Any

from botocore.validate import ParamValidator

from i2v.errors import UsageError

_WRITES = ("PutObject", "CopyObject")
_EVERYWHERE = frozenset({"ExpectedBucketOwner", "RequestPayer"})
"""Also added to other requests that know them."""
_OWN = frozenset({"Bucket", "Key", "Body", "CopySource", "Metadata", "MetadataDirective", "TaggingDirective"})
_OWN_STARTS = ("If", "Content", "Checksum", "CopySource", "SSECustomer", "WriteOffset")
"""Arguments that i2v sets itself. With SSECustomer… no presigned URL would work."""


def add_extra_args(client: Any, extra: Mapping[str, Any]) -> None:
    """Add the arguments to each request of a client that takes them. Raise `UsageError` if one is not valid."""
    if not extra:
        return
    _check(client, extra)

    def add(params: dict[str, Any], model: Any, context: Mapping[str, Any], **_: object) -> None:
        names = extra.keys() if model.name in _WRITES else extra.keys() & _EVERYWHERE
        if context.get("is_presign_request"):
            names &= {"RequestPayer"}  # a header that the provider would have to send too
        for name in names & model.input_shape.members.keys():
            params.setdefault(name, extra[name])
        if model.name == "CopyObject" and "Tagging" in extra:
            params.setdefault("TaggingDirective", "REPLACE")

    client.meta.events.register("provide-client-params.s3", add)
    client.meta.events.register("before-sign.s3.GetObject", _sign_payer_in_query)


def _sign_payer_in_query(request: Any, **_: object) -> None:
    """Move x-amz-request-payer of a presigned URL from a header, which the provider does not send, to the query."""
    if request.context.get("is_presign_request") and "x-amz-request-payer" in request.headers:
        request.params["x-amz-request-payer"] = request.headers["x-amz-request-payer"]
        del request.headers["x-amz-request-payer"]


def _check(client: Any, extra: Mapping[str, Any]) -> None:
    known: dict[str, Any] = {}
    for operation in _WRITES:
        known |= client.meta.service_model.operation_model(operation).input_shape.members
    allowed = sorted(name for name in known.keys() - _OWN if not name.startswith(_OWN_STARTS))
    for name, value in extra.items():
        if name not in allowed:
            raise UsageError(f"I2V_S3_EXTRA_ARGS: {name!r} cannot be set", f"boto3 and i2v allow: {', '.join(allowed)}")
        shape = known[name]
        if ParamValidator().validate(value, shape).has_errors() or isinstance(value, bool) != (
            shape.type_name == "boolean"
        ):
            raise UsageError(f"I2V_S3_EXTRA_ARGS: {name} must be a {shape.type_name}, not {value!r}", "See docs/s3.md")
        choices = getattr(shape, "enum", [])
        if choices and value not in choices:
            raise UsageError(f"I2V_S3_EXTRA_ARGS: {name} must be one of {', '.join(choices)}", "See docs/s3.md")
