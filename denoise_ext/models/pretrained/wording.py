"""What several entries say of their data and noise."""

DATA = (
    "BSDS500 without the 68 images of BSD68/CBSD68 (432 images, list train/CBSD432.txt), "
    "8 of them held out for validation"
)
PHOTOGRAPHS = "photographs of train/photos_half without the 40 of recipes/photos_half_held_out.txt"
NOISE_PHOTO = (
    "synthetic noise of cameras (sensor, mosaic, noise reduction, JPEG), some white noise and some "
    "clean images"
)
