"""The cases: files, and what is measured of each."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.models.settings import Settings

OTHERS = "made by others"


@dataclass(frozen=True)
class Case:
    """A measure of a file.

    Attributes:
        measure: "file" (size, contents, errors of tensors) or "kld".
        type: the file type.
        imatrix: name of the importance matrix it is made with; None: without. `OTHERS`: the file is not made here.
        text, precision, against: of "kld".
    """

    measure: str
    type: str
    imatrix: str | None
    text: str | None = None
    precision: str | None = None
    against: str | None = None

    def __str__(self) -> str:
        made = {None: "no imatrix", OTHERS: OTHERS}.get(self.imatrix, f"imatrix {self.imatrix}")
        parts = [self.type, made, self.text, self.precision, "against itself" if self.against == "itself" else None]
        return ", ".join(part for part in parts if part)

    @property
    def file(self) -> tuple[str, str | None]:
        """What is measured."""
        return self.type, self.imatrix


def cases(settings: Settings) -> list[Case]:
    """By importance matrix, then type: a file is made once, and so is an importance matrix. Files of others come last,
    when it is known what they could be equal to."""
    made = ([None] if settings.without_imatrix else []) + list(settings.imatrices)
    files = [(type, imatrix) for imatrix in made for type in settings.types]
    files += [(type, OTHERS) for type in settings.files]
    found = []
    for type, imatrix in files:
        found.append(Case("file", type, imatrix))
        for against in settings.bases:
            for text in settings.measured:
                for precision in settings.precisions:
                    if (against, precision) != ("itself", "exact"):
                        found.append(Case("kld", type, imatrix, text, precision, against))
    return found
