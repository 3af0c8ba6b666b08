"""nlsr upscale: enlarge pictures. One file each for the options, what they stand for, places, running, and words."""

from nlsr.cli.upscale.command import Command, upscale

__all__ = ["Command", "upscale"]
