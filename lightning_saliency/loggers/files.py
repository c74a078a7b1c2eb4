"""Files in the run's folder, for runs none of whose loggers takes pictures."""

import re
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.loggers.adapter import LogAdapter
from lightning_saliency.loggers.event_file import check_room
from lightning_saliency.loggers.pixels import png_file, to_pixels
from lightning_saliency.whole_file import write_whole

_ALARM_TEXT, _ALARM_PICTURE = "saliency_alarm/", "saliency/alarm/"
_ALARM_FILE = re.compile(r"step=(\d+)(?:-\w+)?\.(?:md|png)")
# Of each series; each alarm has a picture and a text.
_MOST_FILES_OF_ALARMS = 60
NUMBERS = "saliency/numbers.csv"
"""The numbers of a run without any logger."""


class FilesAdapter(LogAdapter):
    """Writes pictures as PNG, tables as Markdown and films as GIF, each under its tag.

    Each file is the newest of its tag and replaces the one before, so their number does not grow
    with the run. Of alarms the newest ones are kept. Numbers are written only for runs without a
    logger: all others take them.

    Args:
        folder: of the run.
        takes_numbers: whether there is no logger.
    """

    def __init__(self, folder: Path, takes_numbers: bool = False) -> None:
        super().__init__(None)
        self._folder = folder
        self._takes_numbers = takes_numbers

    @property
    @override
    def takes_images(self) -> bool:
        return True

    @override
    def lacks(self, what: str) -> bool:
        return False

    @override
    def scalars(self, values: Mapping[str, float | Tensor], step: int) -> bool:
        if not self._takes_numbers or not values:
            return False
        path = self._folder / NUMBERS
        lines = "".join(f"{step},{_quoted(tag)},{float(v):.9g}\n" for tag, v in values.items())
        # Also called outside of what is watched for failures.
        try:
            check_room(self._existing(), len(lines), self.reserve)
            path.parent.mkdir(parents=True, exist_ok=True)
            head = "" if path.exists() else "step,tag,value\n"
            with path.open("a", encoding="utf-8") as file:
                file.write(head + lines)
        except OSError as error:
            self._takes_numbers = False
            rank_zero_warn(
                f"The numbers of the saliency callbacks could not be written to {path}, and no "
                f"more are tried; training goes on. {type(error).__name__}: {error}",
                category=SaliencyWarning,
            )
        return True

    @override
    def image(self, tag: str, image: Tensor, step: int, *, palette: bool = False) -> bool:
        file = png_file(to_pixels(image))
        if _ALARM_PICTURE in tag:
            self._write(f"{tag}/{_dated(step)}.png", file)
            _drop_oldest(self._folder / tag)
        else:
            self._write(f"{tag}.png", file)
        return True

    @override
    def text(self, tag: str, text: str, step: int) -> bool:
        if _ALARM_TEXT not in tag:
            self._write(f"{tag.replace('saliency_', 'saliency/', 1)}.md", text.encode())
            return True
        prefix, _, series = tag.partition(_ALARM_TEXT)
        reference = "evidence"
        if not series.startswith("evidence/"):
            series, _, reference = series.rpartition("/")
        inside = f"{prefix}{_ALARM_PICTURE}{series}"
        self._write(f"{inside}/{_dated(step)}-{reference}.md", text.encode())
        _drop_oldest(self._folder / inside)
        return True

    @override
    def film(self, tag: str, file: bytes, step: int) -> bool:
        self._write(f"{tag}.gif", file)
        return True

    def forget_after(self, step: int) -> None:
        """Remove the alarms and numbers of another run, or of later than a checkpoint.

        Args:
            step: what was written before it stays.

        Raises:
            OSError: they cannot be removed.
        """
        # The folder can be any, so it is not searched at all depths.
        for place in (_ALARM_PICTURE, f"*/{_ALARM_PICTURE}"):
            for path in self._folder.glob(f"{place}**/step=*"):
                found = _ALARM_FILE.fullmatch(path.name)
                if found and int(found[1]) >= step:
                    path.unlink()
        numbers = self._folder / NUMBERS
        if self._takes_numbers and numbers.exists():
            lines = numbers.read_text("utf-8").splitlines(keepends=True)
            kept = [line for line in lines if not _is_of(line, step)]
            write_whole(numbers, "".join(kept).encode())

    def _write(self, name: str, file: bytes) -> None:
        check_room(self._existing(), len(file), self.reserve)
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, file)

    def _existing(self) -> Path:
        """Return the folder, or the one in which it will be made."""
        return next(each for each in (self._folder, *self._folder.parents) if each.exists())


def _dated(step: int) -> str:
    return f"step={step:09d}"


def _drop_oldest(folder: Path) -> None:
    """Leave the newest alarms; names sort as they follow each other."""
    ours = sorted(path for path in folder.iterdir() if _ALARM_FILE.fullmatch(path.name))
    for path in ours[:-_MOST_FILES_OF_ALARMS]:
        path.unlink(missing_ok=True)


def _is_of(line: str, step: int) -> bool:
    number = line.partition(",")[0]
    return number.isdigit() and int(number) >= step


def _quoted(tag: str) -> str:
    return f'"{tag}"' if any(each in tag for each in ',"\n') else tag
