"""Weight files that are known: ours inside the package, and those that authors published, with source and licence.

Nothing is fetched here: what is said helps to find a file and to recognise it.
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from nlsr.cache import cache_folder
from nlsr.files import sha256
from nlsr.weights.checkpoint import read_card, read_metadata

UNKNOWN = "unknown"
NONE_STATED = "unknown (none stated)"
IN_PACKAGE = "in the package"


@dataclass(frozen=True)
class KnownFile:
    """A weight file that can be had somewhere."""

    name: str
    """What its authors call the file."""
    network: str
    """The preset of its network."""
    scale: int
    source: str
    """Where it can be had; ours lie inside the package."""
    licence: str
    """The licence of the repository that publishes it."""
    sha256: str = UNKNOWN
    address: str = ""
    """The file itself at a fixed commit, for `nlsr weights get`; empty where the authors have no such address."""
    trained_on: str = UNKNOWN
    """The images that it was trained on, and their terms."""

    @property
    def model(self) -> str:
        """What it is called here: `--model` takes this name once the file is on this machine."""
        return self.name if self.source == IN_PACKAGE else f"{self.network}-x{self.scale}"


def packaged() -> dict[str, Path]:
    """The weights inside the package: name -> file."""
    folder = Path(str(files("nlsr.weights"))) / "files"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def downloads() -> dict[str, KnownFile]:
    """What `nlsr weights get` can fetch: name -> file."""
    return {known.model: known for known in PUBLISHED_FILES if known.address}


def place(known: KnownFile) -> Path:
    """Where a file that is downloaded lies, or will lie, in the user's cache."""
    return cache_folder() / "weights" / f"{known.model}{Path(known.name).suffix}"


def available() -> dict[str, Path]:
    """The weights that are on this machine: those inside the package, then those that were downloaded."""
    places = {name: place(known) for name, known in downloads().items()}
    return packaged() | {name: path for name, path in places.items() if path.is_file()}


def family(name: str) -> dict[int, str]:
    """The weights of a family by scale, in rising order: `lcoan-light` is that of `lcoan-light-x2`, `-x3` and `-x4`.
    Only those that are on this machine; none if the name is no family's."""
    scales = {known: known.removeprefix(f"{name}-x") for known in available()}
    return {int(scale): known for known, scale in sorted(scales.items()) if scale != known and scale.isdigit()}


def known_files() -> list[KnownFile]:
    """Ours, then the published ones."""
    own = []
    for name, path in packaged().items():
        metadata, card = read_metadata(path), read_card(path)
        trained_on = ", ".join(card["data"]) if isinstance(card.get("data"), list) else str(card.get("data", UNKNOWN))
        own.append(
            KnownFile(
                name,
                metadata["network"],
                int(metadata["scale"]),
                IN_PACKAGE,
                "Apache-2.0",
                sha256(path),
                trained_on=trained_on,
            )
        )
    return own + PUBLISHED_FILES


def recognised(digest: str) -> KnownFile | None:
    """The known file of this SHA-256."""
    return next((known for known in known_files() if known.sha256 == digest), None)


SMFANET_FILES = {
    ("smfanet", 2): "daea7fc72a6e4aff80163768209ea5e56fd9705db9e6323f31822f24cd03902e",
    ("smfanet", 3): "ae9953d36b4afb25211a23b02499dc029dfe64a2549c3426b29aaca14f17baa1",
    ("smfanet", 4): "3141324e9ef6ebdd2338566b30ad034a3bf0c3c34e8030d4086ce4330c319402",
    ("smfanet-plus", 2): "a52ba55ccec8f08cc2c354fdccfe0f7647ea70cc5a47a096b70269370a4f5c5c",
    ("smfanet-plus", 3): "509c2af8855e9424d5676956ff5f5911c4e6439c53064e7a4cdbe062ddf2a8d4",
    ("smfanet-plus", 4): "28a807e1ee1f46a990458efd813654ea0ba023148a8423e49847d9b5c4f98ca3",
}
PAN_FILES = {
    2: "fcf8ed48656abbaae46309ee91745684b80235a9c8b37a2d8fb0715a3ad3f00f",
    3: "86491751d73645a8816a0d6ec62ccde6b22ce5da930e36b3b87f5437167fbc89",
    4: "739fab99ee7b7058dab4d1b84aa2869bb9fc3995a1c08789c20355bee943833c",
}
"""SHA-256 of the files at the commits below."""

RAW = "https://raw.githubusercontent.com/"
SMFANET_FOLDER = "Zheng-MJ/SMFANet/a05e0bb554bbbb80cd27d8fd2b78d4228c657170/pretrain/"
PAN_FOLDER = "zhaohengyuan1/PAN/4d045d18592c5771cd3990da88f292812774e538/experiments/pretrained_models/"
DF2K = "DIV2K and Flickr2K, whose images are for academic research only"


def _smfanet(network: str, scale: int, digest: str) -> KnownFile:
    name = f"{network.replace('smfanet', 'SMFANet').replace('-', '_')}_DF2K_100w_x{scale}SR.pth"
    source = f"github.com/Zheng-MJ/SMFANet: pretrain/{name}"
    return KnownFile(name, network, scale, source, "Apache-2.0", digest, RAW + SMFANET_FOLDER + name, DF2K)


def _pan(scale: int, digest: str) -> KnownFile:
    name = f"PANx{scale}_DF2K.pth"
    source = f"github.com/zhaohengyuan1/PAN: experiments/pretrained_models/{name}"
    return KnownFile(name, "pan", scale, source, NONE_STATED, digest, RAW + PAN_FOLDER + name, DF2K)


def _published() -> list[KnownFile]:
    drive = "drive.google.com/drive/folders/"
    lcoan = "github.com/YigangZhao/LCoAN: " + drive + "1oItCWGnYkxlT_ANpod4FLNtk8MQ3LFyM"
    nlsn = "github.com/HarukiYqM/Non-Local-Sparse-Attention: " + drive + "1zz2a1ih3euzuH3HvWDN-uSki3USym9Cq"
    enlcn = "github.com/Zj-BinXia/ENLCA: " + drive + "1jYdMA0ocnb-DAr71YhOduuCySOxhoAeX"
    pft = "github.com/LabShuHangGU/PFT-SR: {}.pth"
    atd = "github.com/LabShuHangGU/Adaptive-Token-Dictionary: {}.pth"
    catanet = "github.com/EquationWalker/CATANet, release v0.0: x{}.pth"
    csnln = "github.com/SHI-Labs/Cross-Scale-Non-Local-Attention: " + drive + "1C--KFcfAsvLM4K0J6td4TqNeiaGsTXd_"
    dlsn = "github.com/laoyangui/DLSN: drive.google.com/file/d/1uZRVWhQ-bo8c9eEjpdE5fLVDeIpTE1pn"
    asid = "github.com/saturnian77/ASID: train_logs/{}_X{}_DIV2K/checkpoints/epoch0_ASID.pth"
    return [
        *(KnownFile(f"LCoAN_x{s}.pt", "lcoan", s, lcoan, NONE_STATED) for s in (2, 4)),
        *(KnownFile(f"model_x{s}.pt", "nlsn", s, nlsn, NONE_STATED) for s in (2, 3, 4)),
        *(KnownFile(f"ENLCAx{s}.pt", "enlcn", s, enlcn, NONE_STATED) for s in (2, 4)),
        *(
            KnownFile(f"{name}.pth", "atd", s, atd.format(name), UNKNOWN)
            for s, name in (
                (2, "101_ATD_light_SRx2_scratch"),
                (3, "102_ATD_light_SRx3_finetune"),
                (4, "103_ATD_light_SRx4_finetune"),
            )
        ),
        *(
            KnownFile(f"{name}.pth", "pft", s, pft.format(name), UNKNOWN)
            for s, name in (
                (2, "101_PFT_light_SRx2_scratch"),
                (3, "102_PFT_light_SRx3_finetune"),
                (4, "103_PFT_light_SRx4_finetune"),
            )
        ),
        *(KnownFile(f"x{s}.pth", "catanet", s, catanet.format(s), "Apache-2.0") for s in (2, 3, 4)),
        *(KnownFile(f"model_x{s}.pt", "csnln", s, csnln, "MIT") for s in (2, 3, 4)),
        KnownFile("DLSN_x3.pt", "dlsn", 3, dlsn, "MIT"),
        *(
            KnownFile("epoch0_ASID.pth", network, s, asid.format(folder, s), NONE_STATED)
            for network, folder in (("asid", "ASID"), ("asid-d8", "ASIDd8"))
            for s in (2, 3, 4)
        ),
        *(_pan(scale, digest) for scale, digest in PAN_FILES.items()),
        *(_smfanet(network, scale, digest) for (network, scale), digest in SMFANET_FILES.items()),
    ]


PUBLISHED_FILES = _published()
"""Names and places as the repositories' own descriptions give them. None of them publishes checksums; those here are of
the files as they were found."""
