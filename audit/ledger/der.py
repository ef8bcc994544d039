"""As much of DER (X.690) as it takes to put the certificates of a time stamp in order.

DER sorts a set, and rfc3161-client insists on it. Authorities run by OpenSSL do not sort, nor do some of the largest:
they send certificates from the signer's up to the root's. No signature covers their order.
"""

from typing import NamedTuple

CERTIFICATES = 0xA0  # in SignedData: [0] IMPLICIT CertificateSet (RFC 5652, 5.1)


class Part(NamedTuple):
    """An element, and where what it contains begins."""

    begin: int
    content: int
    end: int


def with_certificates_in_order(response: bytes) -> bytes:
    """A TimeStampResp (RFC 3161, 2.4.2) as DER would have it; what is none comes back as it was."""
    try:
        (whole,) = parts(response, Part(0, 0, len(response)))
        _, token = parts(response, whole)
        _, explicit = parts(response, token)
        (signed,) = parts(response, explicit)
        (there,) = (part for part in parts(response, signed) if response[part.begin] == CERTIFICATES)
        certificates = sorted(response[part.begin : part.end] for part in parts(response, there))
    except (ValueError, IndexError):
        return response
    return response[: there.content] + b"".join(certificates) + response[there.end :]


def parts(encoded: bytes, of: Part) -> list[Part]:
    """The elements of one, all with tags of one byte. Raises ValueError or IndexError if they do not fill it."""
    found = []
    at = of.content
    while at < of.end:
        length, content = encoded[at + 1], at + 2
        if length > 127:
            content += length - 128
            length = int.from_bytes(encoded[at + 2 : content])
        found.append(Part(at, content, content + length))
        at = content + length
    if at != of.end:
        raise ValueError(f"elements end at {at}, not at {of.end}")
    return found
