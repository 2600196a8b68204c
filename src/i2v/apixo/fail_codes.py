"""The provider's fail codes, by what can be done about them. Add a fail code to `_CODES`.

A new class also needs its error in `i2v.apixo.errors` and its outcome in `i2v.pipeline.poll`.
"""

import re
from enum import StrEnum


class FailClass(StrEnum):
    """What can be done about a fail code."""

    CONTENT = "content"
    """Rejected by moderation: change the prompt or image."""
    INPUT = "input"
    """The prompt or image breaks a rule: change it."""
    TRANSIENT = "transient"
    """The same request may work later."""
    ACCOUNT = "account"
    """No request of this account works now."""
    FETCH = "fetch"
    """The provider could not download the image; the image itself may be fine."""
    UNKNOWN = "unknown"
    """Not listed, or without a clear meaning: never retried automatically."""


_CODES = {
    FailClass.CONTENT: """SensitiveContent NSFW ProhibitedContentDetected CONTENT_VIOLATION NSFW_DETECTED
        SensitiveContentDetected InputImageSensitiveContentDetected InputOutputSensitiveContentDetected""",
    FailClass.INPUT: """PromptInvalid ImageFormatIncorrect InvalidImageSize PROMPT_TOO_LONG INVALID_PROMPT
        IMAGE_TOO_LARGE UNSUPPORTED_FORMAT PromptLengthExceeded""",
    # "Unknown error" is one of the provider's codes; docs/provider.md advises a retry
    FailClass.TRANSIENT: "RateLimited Timeout UnknownError PROCESSING_TIMEOUT MODEL_UNAVAILABLE",
    FailClass.ACCOUNT: "InsufficientBalance INSUFFICIENT_CREDITS",
    FailClass.FETCH: "INVALID_IMAGE_URL IMAGE_DOWNLOAD_FAILED",
    FailClass.UNKNOWN: "GENERATION_FAILED",
}


def _normalize(code: str) -> str:
    return re.sub(r"[\s_-]+", "", code).casefold()


_CLASS_OF = {_normalize(code): kind for kind, codes in _CODES.items() for code in codes.split()}


def classify_fail_code(code: str) -> FailClass:
    """Return the class of a fail code of either vocabulary; case, spaces, underscores and hyphens do not matter."""
    return _CLASS_OF.get(_normalize(code), FailClass.UNKNOWN)
