"""Trained weights of networks that denoise pictures."""

from denoise_ext.models.pretrained.wording import DATA, NOISE_PHOTO, PHOTOGRAPHS
from denoise_ext.models.registry import Calibration, Factors, Pretrained, register_pretrained

_NOISE = "white Gaussian noise, sigma 0-55 (0-255 scale), not clipped"
_NOISE_75 = "white Gaussian noise, sigma 0-75 (0-255 scale), not clipped"
_DATA_PHOTO = (
    f"BSDS500 without BSD68 and CBSD68, and {PHOTOGRAPHS}; all denoised first and"
    " reduced at random; no real pair; start: weights of recipes/dxnet_s_color.toml"
)
_PROTOCOL_PHOTO = (
    "mean over images; blind; output clipped and rounded to 8 bits; RGB together; "
    "`benchmarks/photos.py`"
)
_HELD_OUT = (
    "middle 256 x 256 pixels of the 8 held-out images of BSDS500 and of the 40 of"
    " recipes/photos_half_held_out.txt, white noise; `benchmarks/uncertainty.py --fit`"
)
_DATA_GUIDED = (
    "every fourth test pair of RGB-D-D (100 depth maps with photographs); scenes made from "
    f"{PHOTOGRAPHS}; 100 pairs of RoadScene, without the 29 of recipes/roadscene_held_out.txt"
)
_DATA_PHOTOS_TOO = f"half of the crops: BSDS500 without BSD68 and CBSD68; half: {PHOTOGRAPHS}"
_PROTOCOL_GUIDED = (
    "mean over images: 30 depth maps of Middlebury, the 29 held-out infrared images of RoadScene;"
    " white Gaussian noise, not clipped, generator seeded with 0 anew for every image; output"
    " clipped; `benchmarks/guided.py`"
)
_PROTOCOL = (
    "mean over images; white Gaussian noise, not clipped, generator seeded with 0 anew for every "
    "image; output clipped and rounded to 8 bits; RGB together; `denoise-ext evaluate`"
)

register_pretrained(
    "ffdnet_gray_small",
    Pretrained(
        file="ffdnet_gray_small.safetensors",
        sha256="7f9647dda38acbcbd897feddb635a4cc21b2dfb863e8981f122c11a053a6b83d",
        config={"channels": 1, "depth": 12, "family": "ffdnet", "predicts": "noise", "width": 64},
        recipe="recipes/ffdnet_gray_small.toml",
        training_data=DATA,
        noise=_NOISE,
        steps=9500,
        licence="Apache-2.0",
        psnr={
            "BSD68 sigma 15": 31.33,
            "BSD68 sigma 25": 28.87,
            "BSD68 sigma 50": 25.89,
            "Set12 sigma 15": 32.28,
            "Set12 sigma 25": 29.89,
            "Set12 sigma 50": 26.60,
        },
        protocol=_PROTOCOL,
    ),
)

register_pretrained(
    "ffdnet_color_small",
    Pretrained(
        file="ffdnet_color_small.safetensors",
        sha256="8679f98c932d96981b31a4bf5ad2795db851dc021db1cb0cf15f34e28395966f",
        config={"channels": 3, "depth": 12, "family": "ffdnet", "predicts": "noise", "width": 80},
        recipe="recipes/ffdnet_color_small.toml",
        training_data=DATA,
        noise=_NOISE,
        steps=17000,
        licence="Apache-2.0",
        psnr={
            "CBSD68 sigma 15": 33.65,
            "CBSD68 sigma 25": 30.97,
            "CBSD68 sigma 50": 27.64,
        },
        protocol=_PROTOCOL,
    ),
)

register_pretrained(
    "dxnet_s_gray",
    Pretrained(
        file="dxnet_s_gray.safetensors",
        sha256="418687a5172c1ca30fd27a7c1ca3f1ff0776120c0f0f8eb954fa8f875d7d3da8",
        config={"blocks": [2, 3], "channels": 1, "family": "dxnet", "widths": [64, 80]},
        recipe="recipes/dxnet_s_gray_taught.toml",
        training_data=_DATA_PHOTOS_TOO,
        noise=_NOISE_75,
        steps=16200,
        licence="Apache-2.0",
        psnr={
            "BSD68 sigma 15": 31.55,
            "BSD68 sigma 25": 29.11,
            "BSD68 sigma 50": 26.22,
            "Set12 sigma 15": 32.64,
            "Set12 sigma 25": 30.28,
            "Set12 sigma 50": 27.14,
        },
        protocol=_PROTOCOL,
        calibration=Calibration(
            {
                15.0: Factors((0.8401, 1.0739), (0.5741, 0.0856), 0.3026, 1.6057, 0.00148),
                25.0: Factors((0.9212, 1.1064), (0.5253, 0.1307), 0.5711, 1.6022, 0.00038),
                50.0: Factors((1.1767, 1.1195), (0.4686, 0.1422), 0.3435, 1.5731),
            },
            images=_HELD_OUT,
        ),
    ),
)  # fmt: skip

register_pretrained(
    "dxnet_s_color",
    Pretrained(
        file="dxnet_s_color.safetensors",
        sha256="4a04ab2f1705a175357f26c163ba1e4a2ea3fdc2d98d074813a72484fb8cda67",
        config={"blocks": [2, 5], "channels": 3, "family": "dxnet", "widths": [64, 80]},
        recipe="recipes/dxnet_s_color_taught.toml",
        training_data=_DATA_PHOTOS_TOO,
        noise=_NOISE_75,
        steps=48000,
        licence="Apache-2.0",
        psnr={"CBSD68 sigma 15": 33.84, "CBSD68 sigma 25": 31.17, "CBSD68 sigma 50": 27.93},
        protocol=_PROTOCOL,
        calibration=Calibration(
            {
                15.0: Factors((1.1418, 1.1399), (0.3791, 0.1081), 0.3031, 1.6168, 0.00139),
                25.0: Factors((1.147, 1.1292), (0.2758, 0.1043), 0.446, 1.6094, 0.00071),
                50.0: Factors((1.1063, 1.1459), (0.2446, 0.1864), 0.3421, 1.5999, 0.00005),
            },
            images=_HELD_OUT,
        ),
        textured="dxnet_s_texture",
    ),
)  # fmt: skip

register_pretrained(
    "dxnet_m_gray",
    Pretrained(
        file="dxnet_m_gray.safetensors",
        sha256="efee4aa0346f7f0edec00d20a3cdc9a1e170db109ea1199d93161c57fb0e3ff0",
        config={"blocks": [5, 12], "channels": 1, "family": "dxnet", "widths": [64, 80]},
        recipe="recipes/dxnet_m_gray_taught.toml",
        training_data=_DATA_PHOTOS_TOO,
        noise=_NOISE_75,
        steps=19000,
        licence="Apache-2.0",
        psnr={
            "BSD68 sigma 15": 31.61,
            "BSD68 sigma 25": 29.17,
            "BSD68 sigma 50": 26.28,
            "Set12 sigma 15": 32.72,
            "Set12 sigma 25": 30.37,
            "Set12 sigma 50": 27.24,
        },
        protocol=_PROTOCOL,
    ),
)

register_pretrained(
    "dxnet_m_color",
    Pretrained(
        file="dxnet_m_color.safetensors",
        sha256="b77455143983cae2dadbaf22a2d6689dd6ee42a19f64083a8dd64f9bd02b9f93",
        config={"blocks": [5, 12], "channels": 3, "family": "dxnet", "widths": [64, 80]},
        recipe="recipes/dxnet_m_color_taught.toml",
        training_data=_DATA_PHOTOS_TOO,
        noise=_NOISE_75,
        steps=18000,
        licence="Apache-2.0",
        psnr={"CBSD68 sigma 15": 33.91, "CBSD68 sigma 25": 31.26, "CBSD68 sigma 50": 28.04},
        protocol=_PROTOCOL,
    ),
)

register_pretrained(
    "dxnet_s_texture",
    Pretrained(
        file="dxnet_s_texture.safetensors",
        sha256="a8037d40e66a8b883968dd26343a0a1f004f9bd1009565e40a5acf37d4b6cc0d",
        config={"blocks": [2, 5], "channels": 3, "family": "dxnet", "widths": [64, 80]},
        recipe="recipes/dxnet_s_texture.toml",
        training_data=f"{DATA}; start: the weights of dxnet_s_color",
        noise="white Gaussian noise, sigma 5-60 (0-255 scale), not clipped",
        steps=2050,
        licence="Apache-2.0",
        psnr={"CBSD68 sigma 15": 33.45, "CBSD68 sigma 25": 30.63, "CBSD68 sigma 50": 27.18},
        protocol=_PROTOCOL,
    ),
)  # fmt: skip

register_pretrained(
    "dxnet_s_photo",
    Pretrained(
        file="dxnet_s_photo.safetensors",
        sha256="ad7f169770c445a6297a4d9137e825730510b147b9abd1fab722c1326dfb8621",
        config={
            "blocks": [2, 5], "channels": 3, "estimator_depth": 6, "estimator_width": 48,
            "family": "dxnet_blind", "widths": [64, 80],
        },
        recipe="recipes/dxnet_s_photo_developed.toml",
        training_data=_DATA_PHOTO,
        noise=NOISE_PHOTO,
        steps=2400,
        licence="Apache-2.0",
        psnr={"SIDD12, upper left 240 pixels": 34.57, "PolyU100, second half": 37.81},
        protocol=_PROTOCOL_PHOTO,
    ),
)  # fmt: skip

register_pretrained(
    "dxnet_s_guided",
    Pretrained(
        file="dxnet_s_guided.safetensors",
        sha256="bb172b4bb6dac5e45248701f6121b416f833e0c07c72a1ec40211ae530e2081a",
        config={
            "blocks": [2, 3], "channels": 1, "family": "dxnet_guided", "guide_channels": 3,
            "guide_width": 32, "widths": [64, 80],
        },
        recipe="recipes/dxnet_s_guided.toml",
        training_data=_DATA_GUIDED,
        noise=(
            "white Gaussian noise, sigma 0-50 (0-255 scale), not clipped; images enlarged by 4"
            " and 8"
        ),
        steps=9000,
        licence="Apache-2.0",
        psnr={
            "Middlebury depth sigma 10": 45.49,
            "Middlebury depth sigma 25": 41.82,
            "RoadScene infrared sigma 25": 31.54,
        },
        protocol=_PROTOCOL_GUIDED,
    ),
)  # fmt: skip

register_pretrained(
    "dxnet_xs_gray",
    Pretrained(
        file="dxnet_xs_gray.safetensors",
        sha256="675b1faf178e736817b467c24dfb6a5d63d65c331916b998c65221e7e24f7ffe",
        config={"blocks": [1, 1, 2], "channels": 1, "family": "dxnet", "widths": [16, 32, 64]},
        recipe="recipes/dxnet_xs_gray_taught.toml",
        training_data=_DATA_PHOTOS_TOO,
        noise=_NOISE_75,
        steps=36000,
        licence="Apache-2.0",
        psnr={"BSD68 sigma 15": 31.25, "BSD68 sigma 25": 28.83, "BSD68 sigma 50": 26.00},
        protocol=_PROTOCOL,
    ),
)  # fmt: skip

register_pretrained(
    "dxnet_xs_color",
    Pretrained(
        file="dxnet_xs_color.safetensors",
        sha256="86013f7d594a6f95381689c0812bc48e4d835e5b556c8ed60078254a40de7b62",
        config={"blocks": [1, 1, 2], "channels": 3, "family": "dxnet", "widths": [16, 32, 64]},
        recipe="recipes/dxnet_xs_color.toml",
        training_data=_DATA_PHOTOS_TOO,
        noise=_NOISE_75,
        steps=30000,
        licence="Apache-2.0",
        psnr={"CBSD68 sigma 15": 33.40, "CBSD68 sigma 25": 30.75, "CBSD68 sigma 50": 27.54},
        protocol=_PROTOCOL,
    ),
)  # fmt: skip

register_pretrained(
    "sepdncnn_s_gray",
    Pretrained(
        file="sepdncnn_s_gray.safetensors",
        sha256="7f61e4949ac2b1c35c9cef69572f4aefbe54cf34b020e0a90df63e3a02a3667a",
        config={
            "channels": 1, "depth": 16, "family": "sepdncnn", "noise_map": True,
            "predicts": "noise", "skips": True, "unshuffle": 2, "width": 64,
        },
        recipe="recipes/sepdncnn_s_gray.toml",
        training_data=_DATA_PHOTOS_TOO,
        noise=_NOISE_75,
        steps=10500,
        licence="Apache-2.0",
        psnr={
            "BSD68 sigma 15": 31.39, "BSD68 sigma 25": 28.94, "BSD68 sigma 50": 26.05,
            "Set12 sigma 15": 32.44, "Set12 sigma 25": 30.06, "Set12 sigma 50": 26.87,
        },
        protocol=_PROTOCOL,
    ),
)  # fmt: skip

register_pretrained(
    "deconvnet_s_gray",
    Pretrained(
        file="deconvnet_s_gray.safetensors",
        sha256="5ee680af6e1acbe54cc216ea1bdf406e86462df26df8142b7a03d44a2963d6bb",
        config={
            "channels": 1, "depth": 2, "family": "deconvnet", "levels": 1, "noise_map": True,
            "pooling": "average", "predicts": "noise", "skips": True, "unshuffle": 2, "width": 64,
        },
        recipe="recipes/deconvnet_s_gray_longer.toml",
        training_data=_DATA_PHOTOS_TOO,
        noise=_NOISE_75,
        steps=6600,
        licence="Apache-2.0",
        psnr={"BSD68 sigma 15": 31.24, "BSD68 sigma 25": 28.80, "BSD68 sigma 50": 25.91},
        protocol=_PROTOCOL,
    ),
)  # fmt: skip
