"""What is inferred from which table, and how far it is checked."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator


class InferConfig(BaseModel):
    """Settings of `goal=infer` and `goal=predict`; conf/infer says what each is."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    table: tuple[Path, ...] = ()
    admitted: bool = True
    learned: float = Field(default=0.5, ge=0, le=1)
    contexts: bool = False
    simulations: int = Field(ge=0)
    calibrations: int = Field(ge=0)
    seed: int = Field(ge=0)
    score: bool = True

    @field_validator("table", mode="before")
    @classmethod
    def _one_or_many(cls, given):
        return () if given is None else (given,) if isinstance(given, (str, Path)) else given
