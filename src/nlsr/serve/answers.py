"""What the server answers with, each with an example: what the OpenAPI document shows. Imports nothing heavy."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

State = Literal["waiting", "running", "done", "failed", "cancelled", "deleted"]

PROBLEM = {
    "type": "about:blank",
    "title": "Unprocessable Content",
    "status": 422,
    "detail": "photo.jpg: expected a whole JPEG image, got damaged or truncated data",
}
_ID = "m5Zt0Y8kYw2Yw6J1cB3x"
_PNG = "iVBORw0KGgo="
_ESTIMATE = {
    "width": 512,
    "height": 384,
    "new_width": 2048,
    "new_height": 1536,
    "tiles": 1,
    "memory": 493621248,
    "seconds": 2.4,
    "plan": "whole, fp32",
}
_RESULT = {
    "name": "photo_2048x1536.png",
    "bytes": 4718592,
    "width": 2048,
    "height": 1536,
    "seconds": 2.513,
    "plan": "whole, fp32",
    "notes": [],
}
_JOB = {
    "id": _ID,
    "name": "photo.jpg",
    "state": "done",
    "progress": 1.0,
    "seconds_left": None,
    "created": 1767225600.0,
    "finished": 1767225603.1,
    "options": {"scale": 4.0},
    "estimate": _ESTIMATE,
    "result": _RESULT,
    "problem": None,
}


def _shown_as(example: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [example]})


class Health(BaseModel):
    """Whether the server is there, and how much it has to do."""

    model_config = _shown_as(
        {
            "status": "ok",
            "version": "0.1.0",
            "jobs": {"waiting": 2, "running": 1, "done": 5, "failed": 0},
            "token": False,
        }
    )
    status: Literal["ok"]
    version: str
    jobs: dict[str, int] = Field(description="How many jobs are in each state.")
    token: bool = Field(description="Whether requests have to show a token.")


_ATTENTION = Field(
    description="What matches in the network, in order; empty if it has no attention, None where that is not known "
    "before it is loaded."
)


class Family(BaseModel):
    """Weights of one kind for several scales: the nearest is taken, and several passes above the largest."""

    name: str
    scales: list[int]
    attention: list[str] | None = _ATTENTION


class Model(BaseModel):
    """Weights."""

    name: str
    scale: int | None = Field(description="None for a file of whoever started the server.")
    network: str | None
    licence: str
    attention: list[str] | None = _ATTENTION


class Models(BaseModel):
    """What can be asked for."""

    model_config = _shown_as(
        {
            "default": "lcoan-light",
            "explained": "lcoan-light",
            "families": [{"name": "lcoan-light", "scales": [2, 3, 4], "attention": ["kmeans"]}],
            "models": [
                {
                    "name": "lcoan-light-x4",
                    "scale": 4,
                    "network": "lcoan",
                    "licence": "Apache-2.0",
                    "attention": ["kmeans"],
                }
            ],
            "formats": ["png", "jpg", "webp", "tif", "avif", "bmp", "jxl"],
        }
    )
    default: str = Field(description="What upscales where no model is named.")
    explained: str = Field(description="What is explained where no model is named: one that has attention.")
    families: list[Family]
    models: list[Model]
    formats: list[str] = Field(description="Of results.")


class Estimated(BaseModel):
    """What an upscaling will take."""

    model_config = _shown_as(_ESTIMATE)
    width: int
    height: int
    new_width: int
    new_height: int
    tiles: int
    memory: int = Field(description="Bytes.")
    seconds: float | None = Field(description="None while the speed of the model is not known.")
    plan: str


class Enlarged(BaseModel):
    """What a job gave."""

    model_config = _shown_as(_RESULT)
    name: str
    bytes: int
    width: int
    height: int
    seconds: float
    plan: str
    notes: list[str] = Field(description="What went otherwise than planned.")


class ProblemDetails(BaseModel):
    """Why something was refused or failed, as RFC 9457 has it."""

    model_config = _shown_as(PROBLEM)
    type: str
    title: str
    status: int
    detail: str = Field(description="In the words of the command: what was expected, what came, what to do.")


class JobShown(BaseModel):
    """A picture on its way."""

    model_config = _shown_as(_JOB)
    id: str
    name: str
    state: State
    progress: float = Field(description="From 0 to 1.")
    seconds_left: float | None = Field(description="None while that is not known, and when it is finished.")
    created: float = Field(description="Seconds since 1970.")
    finished: float | None
    options: dict[str, Any] = Field(description="Those that were asked for and are not the default.")
    estimate: Estimated
    result: Enlarged | None
    problem: ProblemDetails | None


class Part(BaseModel):
    """A rectangle of the picture, in its pixels."""

    left: int
    top: int
    width: int
    height: int


class Source(BaseModel):
    """A pixel that is drawn on."""

    x: int
    y: int
    weight: float


class Drawn(BaseModel):
    """What the pixel draws on by one affinity. Maps cover `region`, as grey PNG in base64."""

    operator: str
    index: int
    count: int = Field(description="How many affinities the network has.")
    sum: float = Field(description="Of all weights.")
    largest: float
    heat: str = Field(description="The square root of the weights, the largest being white.")
    strongest: list[Source] = Field(description="The strongest first.")
    reach: str | None = Field(description="The pixels that could be drawn on; None if all can.")
    reach_is: str
    groups_are: str
    group: list[int] | None = Field(description="The group of the pixel in each round.")
    same_group: str | None = Field(description="The pixels of its group in the first round.")


class Attributed(BaseModel):
    """The local attribution map: which pixels the result around the pixel is made from."""

    region: Part
    map: str = Field(description="The square root of the map, the largest being white, as grey PNG in base64.")
    diffusion_index: float | None = Field(description="None in a flat picture.")
    steps: int


class Explained(BaseModel):
    """What a pixel draws on."""

    model_config = _shown_as(
        {
            "picture": "q3vV5m1w0ZKx9c2A",
            "width": 451,
            "height": 300,
            "at": [189, 128],
            "model": "lcoan-light",
            "scale": 4,
            "region": {"left": 0, "top": 0, "width": 451, "height": 300},
            "affinity": {
                "operator": "kmeans",
                "index": 0,
                "count": 1,
                "sum": 1.0,
                "largest": 0.022,
                "heat": _PNG,
                "strongest": [{"x": 189, "y": 128, "weight": 0.022}, {"x": 191, "y": 128, "weight": 0.018}],
                "reach": _PNG,
                "reach_is": "chunks of its cluster",
                "groups_are": "k-means clusters",
                "group": [12],
                "same_group": _PNG,
            },
            "attribution": {
                "region": {"left": 157, "top": 96, "width": 64, "height": 64},
                "map": _PNG,
                "diffusion_index": 7.31,
                "steps": 20,
            },
            "milliseconds": 34,
        }
    )
    picture: str = Field(description="By this id further pixels of the picture are asked about.")
    width: int
    height: int
    at: tuple[int, int]
    model: str
    scale: int
    region: Part = Field(description="The part of the picture that was matched.")
    affinity: Drawn | None = Field(description="None for a network without attention.")
    attribution: Attributed | None = Field(description="None unless it was asked for.")
    milliseconds: int
