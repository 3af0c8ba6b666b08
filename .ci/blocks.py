"""Runs every fenced block of the documentation as it is written, and prints what it does not run, with the reason.

    python .ci/blocks.py [DOCUMENT...]

Each block runs in its own copy of the repository, in which the files that blocks name have been made before. A training
runs with `--check`, unless it is a smoke recipe. Needs `nlsr` with its extras `train` and `bench` on the path.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from safetensors.torch import load_file

from nlsr.train.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/*.md", "recipes/*.md")
COPIED = ("README.md", "LICENSE", "pyproject.toml", "constraints.txt", "src", "examples", "recipes", "benchmarks")
ELSEWHERE = {
    "docs/attention.md": "its blocks build on each other; tests/test_examples.py runs them in turn",
    "docs/engines.md": "its blocks need ONNX Runtime and OpenVINO; tests/extras/test_engines.py does what they show",
    "docs/serve.md": "its blocks need a server; tests/extras/test_serve.py runs those of clients",
}
"""Documents whose blocks are run by tests, and why."""
LIMIT = 1200
"""Seconds after which a block counts as hanging: on a busy machine each may take minutes."""

IN_CLONE = ".ci/run runs it in a fresh clone"
NEEDS_TORCH = "fetches torch once more, into an environment of its own"
NEEDS_INDEX = "needs PyTorch's own package index"
DOWNLOADS = "needs a file that the authors' repository has; tests download from a server of their own"
NEEDS_RAY = "tests/extras/test_ray.py runs it on a cluster of this machine"
NEEDS_STORAGE = "tests/extras/test_storage.py runs it on a storage of this machine"
MINUTES = "takes minutes"
LEFT_OUT = {
    "python3 -m venv .venv": IN_CLONE,
    ".venv/bin/pip install -q -c constraints.txt .": IN_CLONE,
    ".venv/bin/nlsr upscale examples/cat.png": IN_CLONE,
    ".venv/bin/pip install -q -c constraints.txt -e '.[dev]'": IN_CLONE,
    ".venv/bin/python -m pytest": IN_CLONE,
    ".venv/bin/pip install .": NEEDS_TORCH,
    "pipx install .": NEEDS_TORCH,
    "uv tool install .": NEEDS_TORCH,
    ".venv/bin/pip install torch --index-url https://download.pytorch.org/whl/cpu": NEEDS_INDEX,
    "pipx install . --pip-args='--extra-index-url https://download.pytorch.org/whl/cpu'": NEEDS_INDEX,
    "uv tool install . --torch-backend cpu": NEEDS_INDEX,
    "nlsr weights get smfanet-plus-x4": DOWNLOADS,
    "nlsr upscale photo.jpg --model smfanet-plus-x4": DOWNLOADS,
    "pip install '.[ray]'": NEEDS_RAY,
    "nlsr upscale pictures/ -o enlarged/ --ray local": NEEDS_RAY,
    "nlsr upscale pictures/ -o enlarged/ --ray": NEEDS_RAY,
    "nlsr upscale pictures/ -o enlarged/ --ray head:6379": NEEDS_RAY,
    "nlsr upscale s3://bucket/pictures -o s3://bucket/enlarged --ray": NEEDS_RAY,
    "pip install '.[s3]'": NEEDS_STORAGE,
    "nlsr upscale s3://bucket/pictures -o s3://bucket/enlarged --resume": NEEDS_STORAGE,
    "nlsr upscale s3://bucket/photo.jpg -o photo.png": NEEDS_STORAGE,
    "nlsr benchmark operators -o results": MINUTES,
    "nlsr benchmark operators --stack --channels 128 --size 160 -o stack": MINUTES,
    "torchrun --nproc-per-node 4 $(which nlsr) train recipes/published/nlsn-x2.toml --data DIR": "needs four GPUs",
}
"""Lines that do not run as they are written, without their comments, and why."""


@dataclass(frozen=True)
class Block:
    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


@dataclass(frozen=True)
class Outcome:
    block: Block
    seconds: float
    error: str = ""


def main() -> None:
    names = sys.argv[1:] or sorted(str(path.relative_to(ROOT)) for each in DOCUMENTS for path in ROOT.glob(each))
    names = [name for name in names if name not in ELSEWHERE]
    blocks = [block for name in names for block in blocks_of(name)]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        template = Path(folder, "template")
        make_files(template)
        outcomes = []
        for outcome in pool.map(lambda block: run(block, template), [b for b in blocks if b.language != "text"]):
            print(f"{outcome.seconds:6.1f} s  {outcome.block}  {'FAILED' if outcome.error else 'ok'}", flush=True)
            outcomes.append(outcome)
    stale = [] if sys.argv[1:] else sorted(LEFT_OUT.keys() - {line for block in blocks for line in commands(block)})
    tell(blocks, outcomes, stale, time.monotonic() - begun)
    sys.exit(any(outcome.error for outcome in outcomes) or bool(stale))


def blocks_of(document: str) -> list[Block]:
    """The fenced blocks of a document. Raises: SystemExit for code that is not fenced and for unknown languages."""
    found, language, begin, lines = [], None, 0, list[str]()
    previous = ""
    for number, line in enumerate((ROOT / document).read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```") and language is None:
            language, begin, lines = line[3:].strip(), number, []
            if language not in ("sh", "python", "toml", "text"):
                sys.exit(f"{document}:{number}: expected a block of sh, python, toml or text, got '{language}'")
        elif line.startswith("```"):
            found.append(Block(document, begin, str(language), "\n".join(lines) + "\n"))
            language = None
        elif language is not None:
            lines.append(line)
        elif line.startswith("    ") and not previous.strip():
            sys.exit(f"{document}:{number}: expected code between fences, got an indented line")
        previous = line
    if language is not None:
        sys.exit(f"{document}:{begin}: the block has no end")
    return found


def commands(block: Block) -> list[str]:
    """The lines of a shell block without their comments."""
    return [without_comment(line) for line in block.text.splitlines()] if block.language == "sh" else []


def without_comment(line: str) -> str:
    return re.split(r"(?:^|\s+)# ", line)[0].rstrip()


def make_files(folder: Path) -> None:
    """A copy of the repository, and what blocks name: pictures, folders of images, published weights."""
    folder.mkdir()
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    cat = Image.open(ROOT / "examples" / "cat.png").convert("RGB")
    cat.crop((120, 60, 280, 204)).save(folder / "photo.jpg", quality=95)
    small = cat.crop((100, 80, 164, 128))
    low_res = small.resize((16, 12), Image.Resampling.BICUBIC)
    large = cat.crop((50, 50, 306, 258))
    for name, picture in {
        "pictures/2024/one.jpg": small,
        "holiday/beach/two.jpg": small,
        "scans/three.tif": small,
        "photos/four.png": large,
        "buildings/five.png": large,
        "DIV2K_train_HR/0001.png": large,
        "DIV2K_train_LR_bicubic/X4/0001x4.png": large.resize((64, 52), Image.Resampling.BICUBIC),
        "DIR/eval/Set5/six.png": small,
        "DIR/eval/Set14/seven.png": small,
        "low_res/sixx4.png": low_res,
        **{f"DIR/train/{name}/eight.png": large for name in ("photos2k", "photos2k-b", "spb-facades", "gb82")},
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / name)
    for scale in (2, 4):
        published(f"pan-net-x{scale}", folder / f"PANx{scale}_DF2K.pth")


def published(case: str, path: Path) -> None:
    """A file as the authors of a network publish it: small, from their code, with random weights."""
    import torch

    tensors = load_file(ROOT / "tests" / "oracles" / f"{case}.safetensors")
    torch.save({name[8:]: tensor for name, tensor in tensors.items() if name.startswith("weights.")}, path)


def run(block: Block, template: Path) -> Outcome:
    """Run a block in a fresh copy of the template."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir=template.parent) as folder:
        place = Path(folder, "repository")
        shutil.copytree(template, place)
        try:
            if block.language == "toml":
                check_recipe(block.text)
            else:
                execute(block, place)
        except Exception as error:
            return Outcome(block, time.monotonic() - begun, str(error).strip() or repr(error))
    return Outcome(block, time.monotonic() - begun)


def check_recipe(text: str) -> None:
    """Sections of a recipe are right in place of those of a smoke recipe. Raises: ValueError."""
    smoke = tomllib.loads((ROOT / "recipes" / "smoke" / "lcoan-light.toml").read_text(encoding="utf-8"))
    Recipe.model_validate(smoke | tomllib.loads(text))


def execute(block: Block, place: Path) -> None:
    """Raises: RuntimeError with the end of what was printed."""
    environment = os.environ | {"XDG_CACHE_HOME": str(place.parent / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    path = [str(Path(sys.executable).parent), environment["PATH"]]
    if "pip install" in "".join(line for line in commands(block) if line not in LEFT_OUT):
        path.insert(0, environment_in(place.parent))
    script = place.parent / "script"
    script.write_text(as_run(block) if block.language == "sh" else block.text, encoding="utf-8")
    command = ["bash", "-euo", "pipefail", str(script)] if block.language == "sh" else [sys.executable, str(script)]
    done = subprocess.run(
        command,
        check=False,
        cwd=place,
        env=environment | {"PATH": os.pathsep.join(path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LIMIT,
        encoding="utf-8",
    )
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}\n{done.stdout[-3000:]}")


def as_run(block: Block) -> str:
    """A shell block without the lines that are left out, its trainings with `--check`."""
    lines = [line for line in commands(block) if line not in LEFT_OUT]
    return "\n".join(f"{line} --check" if is_long(line) else line for line in lines) + "\n"


def is_long(line: str) -> bool:
    """Whether a line would train for hours."""
    return line.startswith("nlsr train") and "recipes/smoke/" not in line and "--check" not in line


def environment_in(folder: Path) -> str:
    """The programs of a new virtual environment that sees the packages of this one: pip changes nothing here."""
    venv.create(folder / "environment")
    (packages,) = (folder / "environment").glob("lib/python*/site-packages")
    outer = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "outer.pth").write_text("\n".join(outer) + "\n")
    pip = folder / "environment" / "bin" / "pip"
    pip.write_text('exec "$(dirname "$0")/python" -m pip "$@"\n')
    pip.chmod(0o755)
    return str(pip.parent)


def tell(blocks: list[Block], outcomes: list[Outcome], stale: list[str], seconds: float) -> None:
    print("\nNot run as written:")
    for document, reason in ELSEWHERE.items():
        print(f"  {document}: {reason}")
    for block in blocks:
        if block.language == "text":
            print(f"  {block}: no code, but what a command prints or a drawing")
        for line in filter(None, commands(block)):
            if line in LEFT_OUT or is_long(line):
                print(f"  {block}: {line}: {LEFT_OUT.get(line, 'takes hours; ran with --check')}")
    for outcome in outcomes:
        if outcome.error:
            print(f"\nFAILED {outcome.block}\n{outcome.block.text}--- {outcome.error}")
    for line in stale:
        print(f"\nFAILED: no document has the line that is left out: {line}")
    failed = sum(bool(outcome.error) for outcome in outcomes) + len(stale)
    print(f"\nblocks: {len(outcomes)} run in {seconds:.0f} s, {failed} failed")


if __name__ == "__main__":
    main()
