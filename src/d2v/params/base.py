"""Base class, number types and error of all parameter groups."""

import json
from hashlib import sha256
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from d2v.util.errors import UserError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
BelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]  # for rates where 1 would drop everything
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # the largest that all generators take
Rate = Annotated[float, Field(gt=0.0)]


class ParamsError(UserError):
    """The parameter file is invalid; the message lists all errors, one per line."""


class Strict(BaseModel):
    """Base of all parameter groups: unknown keys and wrong types are errors, values are frozen.

    Infinity and NaN are rejected.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def hash_of(params: BaseModel) -> str:
    """SHA-256 of the parameters' canonical JSON, as hexadecimal digits."""
    text = json.dumps(params.model_dump(mode="json"), sort_keys=True)
    return sha256(text.encode()).hexdigest()
