import base64
import io

import numpy as np
from PIL import Image

from pipeline.pages.images import data_uri, spectrogram_picture


def test_a_picture_comes_back_from_its_address() -> None:
    picture = np.random.RandomState(0).randint(0, 256, (5, 7, 3), np.uint8)
    kind, _, data = data_uri(picture).partition(",")
    assert kind == "data:image/png;base64"
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) == picture).all()


def test_a_loud_low_tone_is_bright_at_the_bottom() -> None:
    spectrogram = np.full((50, 40), -80.0)
    spectrogram[:, :4] = 0.0
    picture = spectrogram_picture(spectrogram, height=40, width=50).astype(int).sum(2)
    assert picture[38].mean() > 4 * picture[5].mean()
