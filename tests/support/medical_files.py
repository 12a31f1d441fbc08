"""Small DICOM and NIfTI files, made by pydicom and nibabel."""

from __future__ import annotations

import io as bytes_io

import numpy as np
import pytest


def dicom(pixels: np.ndarray, frames: int = 1, **tags) -> bytes:
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = pydicom.uid.CTImageStorage
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID = "1.2.3.4", "1.2.3"
    dataset.PatientName, dataset.RescaleSlope, dataset.RescaleIntercept = "Doe^Jo", 2, -1024
    dataset.WindowCenter, dataset.WindowWidth = [40, 400], [350, 1500]
    dataset.add_new(0x00091001, "LO", "private")
    colour = pixels.shape[-1] == 3
    dataset.Rows, dataset.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(dataset, name, value)
    data = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset.add_new(0x7FE00010, "OW" if pixels.itemsize > 1 else "OB", data)
    out = bytes_io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def nifti(array: np.ndarray, version: int = 1, **header) -> bytes:
    nibabel = pytest.importorskip("nibabel")
    kind = {1: nibabel.Nifti1Image, 2: nibabel.Nifti2Image}[version]
    image = kind(array, np.diag([2.0, 3, 4, 1]))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"a comment"))
    for name, value in header.items():
        image.header[name] = value
    return image.to_bytes()
