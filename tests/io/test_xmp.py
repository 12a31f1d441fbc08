"""A fact that a file states: written by every format with XMP, refused by the others."""

from __future__ import annotations

import dataclasses
import time
from xml.etree import ElementTree

import numpy as np
import pytest
from picture_files import pixels, written

from denoise_ext import io
from denoise_ext.io.xmp import NAMESPACE, with_fact

KEEPING = [codec.name for codec in io.CODECS if codec.write is not None and "xmp" in codec.keeps]
PACKET = (
    b'<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="a"/>'
    b'</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
TEXT = '0.5 of 1; "made up" & <more>'


def facts(picture: io.Picture) -> list[str]:
    """The values of our property, read by an XML parser."""
    packet = picture.metadata.xmp.decode()
    start, end = packet.index("<x:xmpmeta"), packet.index("</x:xmpmeta>") + len("</x:xmpmeta>")
    found = ElementTree.fromstring(packet[start:end])
    return [
        node.attrib[f"{{{NAMESPACE}}}texture"]
        for node in found.iter()
        if f"{{{NAMESPACE}}}texture" in node.attrib
    ]


def test_there_are_formats_that_keep_it():
    assert {"PNG", "JPEG", "TIFF", "WEBP"} <= set(KEEPING)


@pytest.mark.parametrize("name", KEEPING)
def test_a_new_file_and_a_read_one_state_it(name):
    new = io.picture_of(pixels("rgb", "uint8"))
    again = io.read_picture(written(with_fact(new, "texture", TEXT), format=name))
    assert facts(again) == [TEXT]
    # read from its own format, with data that only this format holds, and stated anew
    changed = with_fact(again, "texture", "1 of 1")
    last = io.read_picture(written(changed, format=name))
    assert facts(last) == ["1 of 1"]


@pytest.mark.parametrize("name", KEEPING)
def test_what_a_packet_held_is_kept(name):
    metadata = io.Metadata(xmp=PACKET)
    first = io.read_picture(
        written(io.picture_of(pixels("rgb", "uint8"), metadata=metadata), format=name)
    )
    assert first.metadata.xmp == PACKET
    last = io.read_picture(written(with_fact(first, "texture", TEXT), format=name))
    place = PACKET.rindex(b"</rdf:RDF>")
    assert last.metadata.xmp.startswith(PACKET[:place])
    assert last.metadata.xmp.endswith(PACKET[place:])
    assert facts(last) == [TEXT]


def test_other_pages_and_metadata_stay():
    pages = io.Picture((np.zeros((4, 4), np.uint8),) * 2, (0, 255), "gray", "TIFF")
    first = io.read_picture(written(pages, format="TIFF"))
    last = io.read_picture(written(with_fact(first, "texture", TEXT)))
    assert facts(last) == [TEXT]
    assert len(last.frames) == 2


@pytest.mark.parametrize("name", ["BMP", "PNM", "NPY"])
def test_formats_without_a_place_refuse(name, tmp_path):
    picture = with_fact(io.picture_of(pixels("rgb", "uint8")), "texture", TEXT)
    with pytest.raises(io.ImageError, match=rf"{name} .*XMP.*PNG.* can$"):
        io.write_picture(tmp_path / "a.png", picture, format=name)
    assert list(tmp_path.iterdir()) == []


def test_a_packet_that_is_too_large_for_jpeg_is_an_error(tmp_path):
    large = io.Metadata(xmp=b"<rdf:RDF>" + b" " * 65000 + b"</rdf:RDF>")
    picture = io.picture_of(pixels("rgb", "uint8"), metadata=large)
    stated = with_fact(picture, "texture", "1" * 600)
    for given in (stated, dataclasses.replace(io.read_picture(written(picture, format="JPEG")),
                                              metadata=stated.metadata)):  # fmt: skip
        with pytest.raises(io.ImageError, match=r"XMP .*\d{5} bytes.*JPEG"):
            io.write_picture(tmp_path / "a.jpg", given)


def test_a_packet_without_an_end_is_an_error():
    picture = io.picture_of(pixels("rgb", "uint8"), metadata=io.Metadata(xmp=b"<rdf:RDF/>"))
    with pytest.raises(io.ImageError, match="</rdf:RDF>"):
        with_fact(picture, "texture", "1")


def test_a_packet_of_many_beginnings_takes_no_longer():
    beginning = f'<rdf:Description rdf:about="" xmlns:denoise_ext="{NAMESPACE}"'.encode()
    hostile = io.Metadata(xmp=b"<rdf:RDF>" + 10_000 * beginning + b"</rdf:RDF>")
    began = time.process_time()
    stated = with_fact(io.picture_of(pixels("rgb", "uint8"), metadata=hostile), "texture", "1")
    assert time.process_time() - began < 1  # seconds; a search over all of the rest takes many
    assert stated.metadata.xmp.startswith(b"<rdf:RDF>" + 10_000 * beginning)
