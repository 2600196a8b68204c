"""TLS of provider and results: the trusted certificates (`tls_context`), and the words for an error (`tls_problem`)."""

import os
import ssl

import httpx

from i2v.errors import UsageError

_TRUST_HINT = "If you trust it, set SSL_CERT_FILE to a file with its CA certificate and all others that you need"
_CERTIFICATE_PROBLEMS = {
    9: ("its certificate is not valid yet", "Check the clock of this machine and of the server"),
    10: ("its certificate has expired", "Ask the server's operator to renew it, or check the clock of this machine"),
    18: ("its certificate is self-signed", _TRUST_HINT),
    19: ("its certificate is from an unknown CA", _TRUST_HINT),
    20: ("its certificate is from an unknown CA", _TRUST_HINT),
    21: ("its certificate is from an unknown CA", _TRUST_HINT),
    62: ("its certificate is for another host name", "Check the host name in the URL"),
    64: ("its certificate is for another IP address", "Use the server's host name in the URL"),
}
"""By OpenSSL's verify codes."""


def tls_context() -> ssl.SSLContext:
    """Return a context that trusts SSL_CERT_FILE, or SSL_CERT_DIR, or else certifi's CAs.

    Raise `UsageError` if the file cannot be used.
    """
    try:
        context = httpx.create_ssl_context(trust_env=True)
    except OSError as error:  # also ssl.SSLError
        name = "SSL_CERT_FILE" if os.environ.get("SSL_CERT_FILE") else "SSL_CERT_DIR"
        reason = error.strerror or type(error).__name__
        hint = "Set it to a PEM file with the certificates of all CAs that i2v should trust"
        raise UsageError(f"{name}={os.environ.get(name)} cannot be used: {reason}", hint) from None
    context.set_alpn_protocols(["http/1.1"])
    return context


def tls_problem(error: BaseException | None) -> tuple[str, str] | None:
    """Return what is wrong with the server's TLS and what to do, if that is what the error comes from."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    if isinstance(error, ssl.SSLCertVerificationError):
        other = (f"its certificate is not valid: {error.verify_message}", _TRUST_HINT)
        problem, hint = _CERTIFICATE_PROBLEMS.get(error.verify_code, other)
        return f"TLS: {problem}", hint
    if isinstance(error, ssl.SSLError):
        if error.reason == "WRONG_VERSION_NUMBER":
            return "TLS: the server does not use TLS on this port", "Check scheme and port of the URL, and the proxy"
        reason = error.reason or type(error).__name__
        return f"TLS: the handshake failed ({reason})", "Check the URL, and whether a proxy or firewall interferes"
    return None
