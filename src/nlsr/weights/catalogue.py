"""Weight files that are known: ours inside the package, and those that authors published, with source and licence.

Nothing is fetched: what is said here helps to find a file and to recognise it.
"""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from nlsr.weights.checkpoint import read_metadata

UNKNOWN = "unknown"
NONE_STATED = "unknown (none stated)"


@dataclass(frozen=True)
class KnownFile:
    """A weight file that can be had somewhere."""

    name: str
    """As the authors call it."""
    network: str
    scale: int
    source: str
    """Where it can be had; ours lie inside the package."""
    licence: str
    """The licence of the repository that publishes it."""
    sha256: str = UNKNOWN
    trained_on: str = UNKNOWN
    """Images, and what these may be used for."""


def packaged() -> dict[str, Path]:
    """The weights inside the package: name -> file."""
    folder = Path(str(files("nlsr.weights"))) / "files"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def family(name: str) -> dict[int, str]:
    """The packaged weights of a family by scale, in rising order: `lcoan-light` is that of `lcoan-light-x2`, `-x3` and
    `-x4`. None if the name is no family's."""
    scales = {known: known.removeprefix(f"{name}-x") for known in packaged()}
    return {int(scale): known for known, scale in sorted(scales.items()) if scale != known and scale.isdigit()}


def known_files() -> list[KnownFile]:
    """Ours, then the published ones."""
    own = []
    for name, path in packaged().items():
        metadata = read_metadata(path)
        own.append(
            KnownFile(name, metadata["network"], int(metadata["scale"]), "in the package", "Apache-2.0", sha256(path))
        )
    return own + PUBLISHED_FILES


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recognised(digest: str) -> KnownFile | None:
    """The known file of this SHA-256."""
    return next((known for known in known_files() if known.sha256 == digest), None)


DF2K = "DIV2K and Flickr2K, whose images are for academic research"

SMFANET_FILES = {
    "SMFANet_DF2K_100w_x2SR.pth": "daea7fc72a6e4aff80163768209ea5e56fd9705db9e6323f31822f24cd03902e",
    "SMFANet_DF2K_100w_x3SR.pth": "ae9953d36b4afb25211a23b02499dc029dfe64a2549c3426b29aaca14f17baa1",
    "SMFANet_DF2K_100w_x4SR.pth": "3141324e9ef6ebdd2338566b30ad034a3bf0c3c34e8030d4086ce4330c319402",
    "SMFANet_plus_DF2K_100w_x2SR.pth": "a52ba55ccec8f08cc2c354fdccfe0f7647ea70cc5a47a096b70269370a4f5c5c",
    "SMFANet_plus_DF2K_100w_x3SR.pth": "509c2af8855e9424d5676956ff5f5911c4e6439c53064e7a4cdbe062ddf2a8d4",
    "SMFANet_plus_DF2K_100w_x4SR.pth": "28a807e1ee1f46a990458efd813654ea0ba023148a8423e49847d9b5c4f98ca3",
}
"""Name -> SHA-256. Those with "plus" are of the larger network."""


def _published() -> list[KnownFile]:
    drive = "drive.google.com/drive/folders/"
    lcoan = "github.com/YigangZhao/LCoAN: " + drive + "1oItCWGnYkxlT_ANpod4FLNtk8MQ3LFyM"
    nlsn = "github.com/HarukiYqM/Non-Local-Sparse-Attention: " + drive + "1zz2a1ih3euzuH3HvWDN-uSki3USym9Cq"
    enlcn = "github.com/Zj-BinXia/ENLCA: " + drive + "1jYdMA0ocnb-DAr71YhOduuCySOxhoAeX"
    csnln = "github.com/SHI-Labs/Cross-Scale-Non-Local-Attention: " + drive + "1C--KFcfAsvLM4K0J6td4TqNeiaGsTXd_"
    dlsn = "github.com/laoyangui/DLSN: drive.google.com/file/d/1uZRVWhQ-bo8c9eEjpdE5fLVDeIpTE1pn"
    asid = "github.com/saturnian77/ASID: train_logs/{}_X{}_DIV2K/checkpoints/epoch0_ASID.pth"
    pan = "github.com/zhaohengyuan1/PAN: experiments/pretrained_models/PANx{}_DF2K.pth"
    smfanet = "github.com/Zheng-MJ/SMFANet: pretrain/"
    return [
        *(KnownFile(f"LCoAN_x{s}.pt", "lcoan", s, lcoan, NONE_STATED) for s in (2, 4)),
        *(KnownFile(f"model_x{s}.pt", "nlsn", s, nlsn, NONE_STATED) for s in (2, 3, 4)),
        *(KnownFile(f"ENLCAx{s}.pt", "enlcn", s, enlcn, NONE_STATED) for s in (2, 4)),
        *(KnownFile(f"model_x{s}.pt", "csnln", s, csnln, "MIT") for s in (2, 3, 4)),
        KnownFile("DLSN_x3.pt", "dlsn", 3, dlsn, "MIT"),
        *(
            KnownFile("epoch0_ASID.pth", network, s, asid.format(folder, s), NONE_STATED)
            for network, folder in (("asid", "ASID"), ("asid-d8", "ASIDd8"))
            for s in (2, 3, 4)
        ),
        *(KnownFile(f"PANx{s}_DF2K.pth", "pan", s, pan.format(s), NONE_STATED) for s in (2, 3, 4)),
        *(
            KnownFile(name, "smfanet", int(name[-len("4SR.pth")]), smfanet + name, "Apache-2.0", digest, DF2K)
            for name, digest in SMFANET_FILES.items()
        ),
    ]


PUBLISHED_FILES = _published()
"""Names and places as the repositories' own descriptions give them. None of them publishes checksums; those here are of
the files as they were found."""
