"""An object or a prefix in S3: `S3Uri`. How keys are named is in `i2v.ledger.keys`."""

import re
from typing import Any, NamedTuple, Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

_URI = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9._-]{1,61}[a-z0-9])/(?P<key>.*)", re.DOTALL)


class S3Uri(NamedTuple):
    """An object, or a prefix if `key` is empty or ends in `/`. A string in pydantic models' JSON."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `s3://bucket/key`; raise ValueError if the text has another form."""
        match = _URI.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not an S3 URI; use s3://bucket/key")
        return cls(match["bucket"], match["key"])

    @property
    def is_prefix(self) -> bool:
        """Whether this is a prefix instead of one object."""
        return not self.key or self.key.endswith("/")

    def __truediv__(self, name: str) -> Self:
        return self._replace(key=self.key + name)

    def holds(self, other: Self) -> bool:
        """Return whether `other` is under this prefix."""
        return self.bucket == other.bucket and other.key.startswith(self.key)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, S3Uri) else cls.parse(str(value)),
            serialization=core_schema.to_string_ser_schema(),
            json_schema_input_schema=core_schema.str_schema(),
        )
