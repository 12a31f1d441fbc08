"""State a fact about a picture in its file, as an XMP property (ISO 16684-1)."""

from __future__ import annotations

import dataclasses
import re
from xml.sax.saxutils import quoteattr

from denoise_ext.io.errors import ImageError
from denoise_ext.io.picture import Picture

NAMESPACE = "urn:denoise_ext:xmp:1.0/"
_RDF = b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">', b"</rdf:RDF>"
_EMPTY = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"></x:xmpmeta><?xpacket end="w"?>'
)
# What `with_fact` wrote: quoteattr leaves no "<" or ">" in a value. A search that passes over "<"
# would take quadratic time in a packet of many beginnings.
_OURS = re.compile(
    rb'<rdf:Description rdf:about="" xmlns:denoise_ext="%b"[^<>]*/>' % re.escape(NAMESPACE.encode())
)


def with_fact(picture: Picture, name: str, text: str) -> Picture:
    """The same picture, whose file states ``denoise_ext:name`` in its XMP packet.

    A fact that it stated before is replaced. Formats without XMP then refuse the picture.

    Raises:
        ImageError: the picture's own XMP packet has no end where a property could go.
    """
    packet = picture.metadata.xmp or _EMPTY
    fact = f'<rdf:Description rdf:about="" xmlns:denoise_ext="{NAMESPACE}"'
    fact += f" denoise_ext:{name}={quoteattr(text)}/>"
    added = fact.encode()
    place = packet.rfind(_RDF[1])
    if place < 0:  # no properties yet
        place, added = packet.rfind(b"</x:xmpmeta>"), _RDF[0] + added + _RDF[1]
    if place < 0:
        raise ImageError("the XMP packet has no </rdf:RDF>: nothing can be stated in it")
    packet = _OURS.sub(b"", packet[:place]) + added + packet[place:]
    metadata = dataclasses.replace(picture.metadata, xmp=packet, required=("xmp",))
    return dataclasses.replace(picture, metadata=metadata)
