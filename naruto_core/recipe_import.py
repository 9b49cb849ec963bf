"""The section of a recorded recipe that an import has instead of a training: what is known of what was imported."""

from typing import Literal

from pydantic import Field

from naruto_core.recipe_training import Section


class ImportedSection(Section):
    """What `naruto import` recorded instead of a training. A recipe file has no such section."""

    kind: Literal["lora", "pictures"] = Field(description="A LoRA file, or pictures.")
    name: str = Field(min_length=1, max_length=300, description="Name of the file, or of the model that drew pictures.")
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="Of the file; of all names, prompts, seeds and pictures."
    )
    instance_prompt: str = Field(min_length=1, description="The phrase for the style in prompts and captions.")
    trigger: str | None = Field(None, min_length=1, max_length=200, description="The LoRA's trigger word, if given.")
    format: Literal["kohya", "diffusers", "peft"] | None = Field(None, description="Key names of the LoRA file.")
    rank: tuple[int, int] | None = Field(None, description="Smallest and largest rank in the LoRA file.")
    modules: int | None = Field(None, ge=1, description="Number of adapted modules in the LoRA file.")
    use_dora: bool = Field(False, description="Whether the file is a DoRA.")
    facts: dict[str, str] = Field({}, description="What the file's metadata says of its training (ss_*, modelspec.*).")

    @property
    def sentence(self) -> str:
        """What was imported, for people."""
        if self.kind == "pictures":
            return f"Pictures of {self.name}, imported: how they were drawn is unknown."
        low, high = self.rank or (0, 0)
        ranks = f"rank {low}" if low == high else f"ranks {low} to {high}"
        kind = "DoRA" if self.use_dora else "LoRA"
        return (
            f"Imported from {self.name} (sha256 {self.sha256[:12]}), a {kind} in {self.format} form, {ranks}, "
            f"{self.modules} modules: its training is unknown."
        )
