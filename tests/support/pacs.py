"""A made-up DICOMweb server whose lists can be cut, repeated or wrong."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.dicom import make_image, scan
from tests.support.network import Reply, web_server

JSON = "application/dicom+json"
TAGS = ("0020000D", "0020000E", "00080018")  # UIDs of study, series and instance
ADDITIONAL = '299 pacs.example: "There are 3 additional results that can be requested."'


@dataclass
class Pacs:
    """Studies of one series each.  level: 0 for lists of studies, 1 of series, 2 of images."""

    studies: int = 3
    depths: int = 3
    cap: int | None = None  # results in an answer, whatever is asked for
    offset: bool = True  # it is honoured
    limit: bool = True
    warns: str = ""  # the text, where there are more results
    counts: bool = True  # it says how many parts there are
    hidden: dict[int, int] = field(default_factory=dict)  # level -> results that it never names
    lost: list[str] = field(default_factory=list)  # UIDs that it never names
    shift: int = 0  # further pages begin so much too early
    swaps: bool = False  # it sends the first image instead of any other

    def __post_init__(self) -> None:
        self._files: dict[tuple[str, str, str], bytes] = {}
        for study in range(1, self.studies + 1):
            for number, pixels in enumerate(scan(study, self.depths), 1):
                image = make_image(pixels, study, 1, number)
                out = BytesIO()
                image.save_as(out, enforce_file_format=True)
                key = (image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID)
                self._files[key] = out.getvalue()

    def __call__(self, _: str, path: str, __: Any) -> Reply:
        parts = urlsplit(path).path.split("/")[2:]
        uids = tuple(parts[1::2])
        if len(uids) == 3:
            key = next(iter(self._files)) if self.swaps else uids
            return 200, "application/dicom", self._files[key]  # type: ignore[index]
        level = len(uids)
        names = list(dict.fromkeys(x[level] for x in self._files if x[:level] == uids))
        names = names[: len(names) - self.hidden.get(level, 0)]
        names = [x for x in names if x not in self.lost]
        span = parse_qs(urlsplit(path).query).get("StudyDate", ["-"])[0].partition("-")
        if level == 0:
            names = [x for x in names if span[0] <= date(x) and not date(x) > (span[2] or "9")]
        words = {k: int(v[0]) for k, v in parse_qs(urlsplit(path).query).items() if v[0].isdigit()}
        first = words.get("offset", 0) if self.offset else 0
        first = max(0, first - self.shift) if first else 0
        most = min([words["limit"]] * self.limit + [self.cap or len(names)])
        page = names[first : first + most]
        more = self.warns and first + most < len(names)
        found = [self._result(level, x) for x in page]
        warning = (("Warning", self.warns),) if more else ()
        return 200 if page else 204, JSON, json.dumps(found).encode() if page else b"", *warning

    def _result(self, level: int, uid: str) -> dict[str, Any]:
        counts = [("00201206", 1), ("00201208", self.depths)] if level == 0 else []
        counts += [("00201209", self.depths)] if level == 1 else []
        shown = {TAGS[level]: uid, **(dict(counts) if self.counts else {})}
        if level == 0:
            shown["00080020"] = date(uid)
        if level == 2:
            shown["00080016"] = "1.2.840.10008.5.1.4.1.1.6.1"
        return {tag: {"vr": "UI", "Value": [value]} for tag, value in shown.items()}


def date(study: str) -> str:
    """StudyDate: one a day, in the order of their numbers."""
    return f"202601{int(study.rpartition('.')[2]):02d}"


@contextmanager
def serving(pacs: Pacs) -> Iterator[str]:
    """The address of the server."""
    with web_server(pacs) as url:
        yield url
