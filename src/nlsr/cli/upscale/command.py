"""nlsr upscale: the options, and what they ask for in turn."""

import re
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from nlsr.cli.settings import (
    Device,
    Engine,
    Imports,
    Memory,
    Model,
    ModelSettings,
    Overwrite,
    Threads,
    device_named,
    model_settings,
)
from nlsr.default import DEFAULT_MODEL

_ADDRESS = re.compile(r"local|auto|ray://.+|[\w.-]+:\d+")


class Command(TyperCommand):
    """Takes --ray with an address and without one, which stands for `auto`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = []
        for word, following in zip_longest(args, args[1:]):
            given.append(word)
            if word == "--ray" and not (following and _ADDRESS.fullmatch(following)):
                given.append("auto")
        return super().parse_args(ctx, given)


def upscale(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Picture files, folders (searched with all below them), quoted globs, or - for standard input.",
            metavar="IN...",
            show_default=False,
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="File, folder in which the tree of a folder is mirrored, or - for standard output.",
            show_default="IN_x4.png beside IN",
        ),
    ] = None,
    model: Model = DEFAULT_MODEL,
    settings: ModelSettings = None,
    imports: Imports = None,
    scale: Annotated[
        float | None,
        typer.Option("-s", "--scale", help="Any number above 0, like 2 or 1.33.", show_default="the model's"),
    ] = None,
    width: Annotated[int | None, typer.Option(help="Width of the result in pixels; the height follows.")] = None,
    height: Annotated[int | None, typer.Option(help="Height of the result in pixels; the width follows.")] = None,
    fit: Annotated[str | None, typer.Option(metavar="WxH", help="The largest size inside a box: 3840x2160.")] = None,
    tile: Annotated[
        str, typer.Option(help="Side of a tile in pixels of the input, 'none' for whole, 'auto' by memory.")
    ] = "auto",
    memory: Memory = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16, or 'auto' by picture and processor.")] = "auto",
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Average over eight flips and turns: better, eight times the time.")
    ] = False,
    device: Device = "cpu",
    engine: Engine = "torch",
    threads: Threads = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="png, jpg, jxl, webp, tif, avif or bmp, or 'same' as each picture.",
            show_default="the ending of OUT, or png",
        ),
    ] = None,
    quality: Annotated[
        int | None, typer.Option(min=1, max=100, help="Quality of JPEG, WebP and AVIF.", show_default="95, AVIF 90")
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            metavar="COLOUR",
            help="Colour behind transparent pictures, like white or #ff8000, for formats without transparency.",
        ),
    ] = None,
    strip: Annotated[
        bool, typer.Option("--strip", help="Leave EXIF, XMP, IPTC, resolution and text out; the colours stay.")
    ] = False,
    tone_map: Annotated[
        bool, typer.Option("--tone-map", help="Bring high dynamic range (PQ, HLG) to standard range.")
    ] = False,
    overwrite: Overwrite = False,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Names of results, made of {stem}, {size}, {scale}, {model}, {ext}, {input_ext}.",
            show_default="{stem}_{size} beside IN, {stem} in a folder",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a batch that was stopped: finished results stay.")
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="On the workers of a Ray cluster: the one of this machine, one at an address, or 'local'.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="With --ray: at most so many workers.", show_default="as there is room for"),
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Larger pictures are refused.", show_default="200 million")
    ] = None,
    compare_whole: Annotated[
        Path | None,
        typer.Option(metavar="DIFF.png", help="Also upscale whole; say and draw what the tiles changed, 16 times."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line per picture instead of words.")] = False,
) -> None:
    """Enlarge pictures with a network: by default four times, on the CPU, in a file beside the picture.

    In a batch a bad picture is named and skipped, and the exit code is 1; ctrl-C leaves nothing half written.
    """
    from nlsr.cli.upscale import running, values
    from nlsr.cli.upscale.places import find_places
    from nlsr.cli.upscale.standard import standard_streams, with_addresses
    from nlsr.cli.upscale.words import Words
    from nlsr.images import MAX_PIXELS
    from nlsr.upscale import Upscaler
    from nlsr.upscale.batch import Saving, colour

    with standard_streams(inputs, output, as_json=as_json) as files, with_addresses(files) as standard:
        places = find_places(standard, name=name, format=format, resume=resume)
        values.check_ray(ray, workers, places.folder, compared=compare_whole is not None)
        running.look_elsewhere(standard.staging, places, resume=resume, compared=compare_whole is not None)
        upscaler = Upscaler(
            values.network(model, model_settings(settings)),
            scale=scale,
            width=width,
            height=height,
            fit=fit,
            tile=values.tile(tile),
            memory=values.budget(memory, earlier=places.folder if resume else None, device=device_named(device)),
            precision=precision,  # type: ignore[arg-type]  # it is checked there
            ensemble=ensemble,
            device=device_named(device),
            engine=engine,
            pictures=len(places.sources),
        )
        saving = Saving(
            format=places.format,
            quality=quality,
            strip=strip,
            tone_map=tone_map,
            overwrite=overwrite,
            make_folders=places.folder is not None,
            max_pixels=max_pixels or MAX_PIXELS,
            background=colour(background),
        )
        todo = places.tasks(size=values.size_in_names(upscaler), model=values.short_name(model))
        if compare_whole is not None:
            running.check_comparison(compare_whole, todo, overwrite=overwrite)
        words = Words(model, len(todo), standard, as_json=as_json, here=ray is None)
        if places.record or ray is not None:
            options = dict(resume=resume, compare_whole=compare_whole, ray=ray, workers=workers)
            running.with_record(places, upscaler, todo, saving, words, **options)  # type: ignore[arg-type]
        else:
            running.without_record(upscaler, todo, saving, words, compare_whole=compare_whole)
        standard.send()
