"""What a client may ask for: the options of `nlsr upscale` that make sense over HTTP. Imports nothing heavy."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nlsr.default import DEFAULT_MODEL

FORMATS = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "webp": "image/webp",
    "tif": "image/tiff",
    "avif": "image/avif",
    "bmp": "image/bmp",
    "jxl": "image/jxl",
}
"""The endings of results and their media types."""


class Asked(BaseModel):
    """Options of an upscaling, as those of `nlsr upscale`; docs/upscale.md explains them."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str = Field(DEFAULT_MODEL, max_length=200, description="A name of `GET /api/models`.")
    scale: float | None = Field(None, description="Any number above 0; by default the model's.", examples=[2])
    width: int | None = Field(None, description="Width of the result in pixels; the height follows.")
    height: int | None = Field(None, description="Height of the result in pixels; the width follows.")
    fit: str | None = Field(None, max_length=40, description="The largest size inside a box, like 3840x2160.")
    format: Literal["png", "jpg", "webp", "tif", "avif", "bmp", "jxl"] = Field("png", description="Of the result.")
    quality: Annotated[int, Field(ge=1, le=100)] | None = Field(None, description="Of JPEG, WebP, AVIF and JPEG XL.")
    tile: str = Field("auto", max_length=10, description="Side of a tile in pixels, 'none' for whole, 'auto'.")
    precision: str = Field("auto", max_length=10, description="fp32, bf16, fp16 or 'auto'.")
    ensemble: bool = Field(False, description="Average over eight flips and turns: better, eight times the time.")
    background: str | None = Field(None, max_length=60, description="Colour behind transparent pictures, like white.")
    strip: bool = Field(False, description="Leave EXIF, XMP, IPTC, resolution and text out.")
    tone_map: bool = Field(False, description="Bring high dynamic range (PQ, HLG) to standard range.")

    def of_upscaler(self) -> dict[str, Any]:
        """The arguments of an `Upscaler`, but for the model."""
        tile: Any = int(self.tile) if self.tile.isascii() and self.tile.isdigit() else self.tile
        names = ("scale", "width", "height", "fit", "precision", "ensemble")
        return {name: getattr(self, name) for name in names} | {"tile": tile}
