"""What is said of the pictures."""

import base64
import json
import math
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nlsr.cli.upscale.standard import Standard

if TYPE_CHECKING:
    from nlsr.upscale import TilingDifference
    from nlsr.upscale.batch import Done


class Words:
    """Results on standard output, unless a picture goes there; what went wrong on standard error."""

    def __init__(self, model: str, num_pictures: int, standard: Standard, *, as_json: bool, here: bool) -> None:
        """`here`: this process computes them."""
        self.model, self.num_pictures, self.as_json, self.here = model, num_pictures, as_json, here
        self.standard = standard
        self.count: Counter[str] = Counter()
        self.failures: list[str] = []
        self.stopped_by = ""
        self.started = time.monotonic()

    def add(self, done: "Done", difference: "TilingDifference | None") -> None:
        """Raises: the error of a picture that is the only one."""
        from nlsr.images import one_line

        source = self.standard.said(one_line(done.task.source))
        self.count[done.status] += 1
        if self.as_json:
            self._result(self._as_json(done, difference))
        elif done.outcome is not None:
            self._result(f"{self.model}: {self.standard.said(self._in_words(done))}")
            if difference is not None:
                self._result(str(difference))
        for note in done.notes:
            print(f"upscale: {source}: {note}", file=sys.stderr)
        if done.error is None:
            return
        if self.num_pictures == 1:
            raise done.error
        self.stopped_by = self.stopped_by or done.ends_all
        self.failures.append(f"{source}: {self._reason(done)}")
        print(f"upscale: {self.failures[-1]}", file=sys.stderr)

    def end(self, *, can_resume: bool) -> None:
        """The sum, and all that failed once more, as it may have scrolled by. Raises: Exit with 1 if any did."""
        from nlsr.cli.progress import clock

        total, failed = self.num_pictures, len(self.failures)
        if total > 1 and not self.as_json:
            before = f", {self.count['skipped']} were finished before" if self.count["skipped"] else ""
            self._result(
                f"{self.count['done']} of {total} pictures in {clock(time.monotonic() - self.started)}{before}"
            )
        if not failed:
            return
        others = "the others are done"
        if self.stopped_by:
            rest = ", and the same command with --resume continues" if can_resume else ""
            others = f"stopped, as {self.stopped_by}{rest}"
        lines = [f"upscale: {failed} of {total} pictures failed, {others}", *(f"  {line}" for line in self.failures)]
        print("\n".join(lines), file=sys.stderr)
        raise typer.Exit(1)

    def _result(self, text: str) -> None:
        print(text, file=sys.stdout if self.standard.result is None else sys.stderr, flush=True)

    def _as_json(self, done: "Done", difference: "TilingDifference | None") -> str:
        plan = done.outcome.plan if done.outcome else None
        content: dict[str, Any] = {
            "status": done.status,
            **self._path("input", done.task.source),
            **self._path("output", done.task.target),
            "size": list(done.size[::-1]) if done.size else None,
            "new_size": [plan.new_width, plan.new_height] if plan else None,
            "plan": plan.as_dict() if plan else None,
            "seconds": round(done.outcome.seconds, 3) if done.outcome else None,
            "notes": list(done.notes),
            "error": self._reason(done) or None,
        }
        if difference is not None:
            psnr = round(difference.psnr, 3) if math.isfinite(difference.psnr) else None
            content["tiled_against_whole"] = {"psnr": psnr, "largest": difference.largest}
        return json.dumps(content)

    def _reason(self, done: "Done") -> str:
        """Why it failed, without its name in front, which a storage gives too."""
        from nlsr.images import one_line

        source, reason = map(self.standard.said, (one_line(done.task.source), done.reason))
        return reason.removeprefix(f"{source}: ")

    def _path(self, name: str, path: Path) -> dict[str, str]:
        """A path as text, and its bytes too where they are no text."""
        raw = os.fsencode(self.standard.said(os.fspath(path)))
        text = raw.decode("utf-8", "replace")
        return {name: text} if text.encode() == raw else {name: text, f"{name}_base64": base64.b64encode(raw).decode()}

    def _in_words(self, done: "Done") -> str:
        from nlsr.images import one_line
        from nlsr.memory import peak_memory

        assert done.outcome is not None
        plan, seconds = done.outcome.plan, done.outcome.seconds
        sizes = f"{plan.width}x{plan.height} -> {plan.new_width}x{plan.new_height}"
        peak = peak_memory() if self.here else 0  # of the whole process so far
        used = f"peak {peak / 2**20:.0f} MiB, " if peak else ""
        return f"{sizes}, {plan}, {seconds:.1f} s, {used}{one_line(done.task.target)}"
