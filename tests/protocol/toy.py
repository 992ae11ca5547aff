"""Two special remotes to try the protocol with; run as a program, this file is one of them.

``toy.py`` keeps keys in the folder that its setting `directory` names; ``toy.py awkward`` misbehaves, as
the key says.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from annex_remote.errors import BadSetting, NotFound
from annex_remote.protocol.loop import Job, UrlContents, UrlFile, serve
from annex_remote.protocol.messages import Availability


class Toy:
    def __init__(self) -> None:
        self.directory = Path()

    def list_configs(self) -> Sequence[tuple[str, str]]:
        return [("directory", "where to keep things")]

    def initremote(self, job: Job) -> None:
        directory = job.get_config("directory")
        if not directory:
            raise BadSetting("directory= has to be given")
        Path(directory).mkdir(exist_ok=True)

    def prepare(self, job: Job) -> None:
        self.directory = Path(job.get_config("directory"))
        job.debug(f"remote {job.get_git_remote_name()} {job.get_uuid()} of {job.get_git_dir()}")

    def _place(self, job: Job, key: str) -> Path:
        return self.directory / job.dirhash_lower(key).rstrip("/").replace("/", "-") / key.replace("/", "%")

    def store(self, job: Job, key: str, path: str) -> None:
        place = self._place(job, key)
        place.parent.mkdir(exist_ok=True)
        partial = place.with_name(place.name + f".{job.number}")
        shutil.copyfile(path, partial)
        job.progress(partial.stat().st_size)
        partial.replace(place)

    def retrieve(self, job: Job, key: str, path: str) -> None:
        place = self._place(job, key)
        if not place.exists():
            raise NotFound(f"{key} is not here")
        with place.open("rb") as source, open(path, "ab") as target:
            source.seek(target.tell())
            shutil.copyfileobj(source, target)
            job.progress(target.tell())

    def check_present(self, job: Job, key: str) -> bool:
        return self._place(job, key).exists()

    def remove(self, job: Job, key: str) -> None:
        self._place(job, key).unlink(missing_ok=True)

    def cost(self, job: Job) -> int | None:
        return 150

    def ordered(self, job: Job) -> bool:
        return True

    def availability(self, job: Job) -> Availability:
        return Availability.LOCAL if self.directory.exists() else Availability.UNAVAILABLE

    def claim_url(self, job: Job, url: str) -> bool:
        return url.startswith("toy:")

    def check_url(self, job: Job, url: str) -> UrlContents | Sequence[UrlFile]:
        return UrlContents(None, url.removeprefix("toy:"))

    def whereis(self, job: Job, key: str) -> str | None:
        return str(self._place(job, key))

    def get_info(self, job: Job) -> Sequence[tuple[str, str]]:
        return [("directory", str(self.directory))]


class Awkward(Toy):
    def check_present(self, job: Job, key: str) -> bool:
        if key == "stray":
            print("a stray print")
            sys.stdout.flush()
            os.write(1, b"a stray write\n")
            os.system("echo a stray child; cat")
        if key == "hang":
            job.info("hanging")
            read, _write = os.pipe()
            os.read(read, 1)
        if key == "tidy":
            job.info("waiting")
            job.cancelled.wait()
            sys.stderr.write("tidied up\n")
        return True


if __name__ == "__main__":
    sys.exit(serve(Awkward() if sys.argv[1:] else Toy()))
