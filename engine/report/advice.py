"""What a person does about each kind of failure, flag and incident, with the command.

Paths are never shown (P10): ARCHIVE, OUTPUT and NEW stand for those of the user.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from .document import Problem

AGAIN = "mcdiff-batch run --input ARCHIVE"
RETRY = f"{AGAIN} --retry-failed"
ANEW = f"{AGAIN} --output NEW"
REPAIR = f"{AGAIN} --repair"
CHECK = "mcdiff-batch check ARCHIVE"
DOCTOR = "mcdiff-batch doctor"
ANOTHER = "Then enhance into a new output: this one belongs to the archive as it was."


@dataclass(frozen=True, slots=True)
class Advice:
    """What a kind of problem means, what to do, and the command for that."""

    means: str
    todo: str
    command: str


FAILURES = {  # by the reason in the ledger
    "missing": Advice(
        "A part of the images is not in the archive.",
        "Copy or export these cases again from their source, or do what is said beside the case. "
        "Then try them again.",
        RETRY,
    ),
    "corrupt": Advice(
        "The stored images are damaged.",
        "Copy these cases again from their source or a backup, then try them again.",
        RETRY,
    ),
    "link": Advice(
        "A file of the images is a link, and links are not followed.",
        "Put the files themselves in the place of the links, then try the cases again.",
        RETRY,
    ),
    "nan": Advice(
        "The images hold NaN or infinity.",
        "Export these cases again from their source, then try them again.",
        RETRY,
    ),
    "constant": Advice(
        "An image has one value everywhere, so it shows nothing.",
        "Export these cases again from their source, then try them again.",
        RETRY,
    ),
    "range": Advice(
        "A value is impossible, or outside what the archive declares.",
        f"Correct what is named beside the case. {ANOTHER}",
        ANEW,
    ),
    "shape": Advice(
        "The size of the scan does not fit the archive.",
        f"Correct `extent` of these cases. {ANOTHER}",
        ANEW,
    ),
    "no-depths": Advice(
        "No depth is marked as present.",
        f"Correct `depth_present` of these cases. {ANOTHER}",
        ANEW,
    ),
    "open": Advice(
        "The run ended before these cases were done, or could not do them that time.",
        "Run the same command again. The incidents below, if there are any, say why.",
        AGAIN,
    ),
}
FAILURE = Advice(
    "The data of these cases cannot be used.",
    "Let `check` say more, repair the archive, then try the cases again with --retry-failed.",
    CHECK,
)
FLAGS = {  # by the check that a case fails
    "agreement": Advice(
        "Enhancement changed what the label map shows.",
        "Compare the pictures before and after. Where they disagree, trust the one before.",
        "",
    ),
    "levels": Advice(
        "Vertebral levels were lost or invented.",
        "Count the levels in the picture before. Do not use the angles unless they agree.",
        "",
    ),
    "angle": Advice(
        "A curve angle changed.",
        "Measure the angle again by hand, in the picture before.",
        "",
    ),
    "coverage": Advice(
        "A depth shows only a part of the scan.",
        "Mark such a depth as absent in `depth_present`, or scan again. " + ANOTHER,
        ANEW,
    ),
    "spread": Advice(
        "The draws differ, so the model is unsure.",
        "Do not rely on the enhanced picture where the picture of the spread is bright.",
        "",
    ),
    "intensity": Advice(
        "The images use a small part of the intensities that the archive declares.",
        "Set the attribute mcdiff.intensity_range to the real range (`check` proposes one). "
        f"{ANOTHER}",
        ANEW,
    ),
    "anatomy": Advice(
        "No spine has this size or these angles.",
        f"Correct the pixel spacing or the extent. {ANOTHER}",
        ANEW,
    ),
    "bone": Advice(
        "The model found no bone in the scan.",
        "Look whether it shows a spine. If many scans do, the model is not fit for them.",
        "",
    ),
}
FLAG = Advice("Something is unusual.", "Look at the pictures before you use the result.", "")
INCIDENTS = {  # by the kind in incidents.jsonl; what is left to do is the advice on open cases
    "read": Advice(
        "A file could not be read at that moment.",
        "Check the disk or the network before the next run.",
        "",
    ),
    "killed": Advice(
        "A worker was ended from outside, often because memory ran out.",
        "Close other programs before the next run, or begin a new --output with a smaller "
        "--batch-size.",
        "",
    ),
    "memory": Advice(
        "Memory ran out.",
        "Close other programs before the next run, or begin a new --output with a smaller "
        "--batch-size.",
        "",
    ),
    "hang": Advice(
        "A worker showed no sign of life and was replaced.",
        "Check that the disk answers, and let `doctor` try the device.",
        DOCTOR,
    ),
    "device": Advice(
        "A device failed again and again and was given up.",
        "Let `doctor` try the device before the next run.",
        DOCTOR,
    ),
    "host": Advice(
        "A host left the cluster during the run. The others did its work again.",
        "See `ray status` why it left.",
        "",
    ),
    "refused": Advice(
        "A worker was not let into the run.",
        "Mend what is said beside it, or leave that machine out. The others did its work.",
        "",
    ),
    "model": Advice(
        "The model's result could not be used.",
        "Let `doctor` try the device before the next run.",
        DOCTOR,
    ),
    "kept": Advice(
        "The archive has lost a case that was enhanced before, so what was committed stays.",
        "Restore that case too, then try the failed ones again.",
        RETRY,
    ),
    "input": Advice(
        "The archive was changed during the run.",
        "Do not trust these results: enhance anew, and leave the archive alone meanwhile.",
        ANEW,
    ),
}
INCIDENT = Advice(
    "The data did not cause this.",
    "If it comes back, report it with the words beside it.",
    "",
)


def list_problems(
    kinds: Iterable[tuple[str, int]], advise: Callable[[str], Advice]
) -> list[Problem]:
    """A problem for each of `kinds`, which come with their numbers of cases or events."""
    return [Problem(kind=kind, total=total, **asdict(advise(kind))) for kind, total in kinds]


def advise_failure(reason: str) -> Advice:
    return FAILURES.get(reason, FAILURE)


def advise_flag(check: str) -> Advice:
    return FLAGS.get(check, FLAG)


def advise_incident(kind: str) -> Advice:
    return INCIDENTS.get(kind, INCIDENT)
