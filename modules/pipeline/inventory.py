"""Checks which files and extensions of a recipe are available for a replay."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from modules.checkpoints.embeddings import EmbeddingFolder, Listing
from modules.checkpoints.store import ModelStore
from modules.extension.host import Host
from modules.extension.option_values import FILE
from modules.gallery.inputs import InputStore
from modules.metadata.recipe import File, Recipe
from modules.pipeline.provenance import EMBEDDING, IMAGE, MASK, VAE


@dataclass(frozen=True)
class Inventory:
    """Looks for files in the places where the engine would find them."""

    store: ModelStore
    host: Host
    inputs: InputStore | None = None
    embeddings: EmbeddingFolder | None = None
    absent: Collection[str] = ()
    """Modifiers that are not at work."""
    others: Mapping[str, Callable[[File], bool]] = field(default_factory=dict)
    """Whether a file is here, by roles that further users of files have."""

    def has(self, file: File) -> bool:
        """Whether a file of a recipe is available, judged by its content."""
        if file.role in self.others:
            return self.others[file.role](file)
        if file.role in (IMAGE, MASK):
            return self.inputs is not None and file.sha256 in self.inputs
        if file.role == EMBEDDING:
            return bool(self.recorded_embeddings((file,)).files)
        if file.role == VAE:
            return self.store.vae_with_sha256(file.sha256) is not None
        if file.role.startswith(FILE):
            paths = self.host.model_files(file.role.removeprefix(FILE)).values()
            return any(self.store.sha256(path) == file.sha256 for path in paths)
        faces = [path for spec in self.host.face_restorers for role, path in spec.files if role == file.role]
        if faces:
            return any(self.store.sha256(path) == file.sha256 for path in faces)
        return self.store.with_sha256(file.sha256) is not None

    def recorded_embeddings(self, files: Iterable[File]) -> Listing:
        """The available embeddings of a recipe, found by content, under their recorded names."""
        recorded = [file for file in files if file.role == EMBEDDING]
        here = self.embeddings.list().files if self.embeddings and recorded else ()
        by_content = {self.store.sha256(embedding.path): embedding for embedding in here}
        return Listing(tuple(by_content[f.sha256].named_after(f.name) for f in recorded if f.sha256 in by_content))

    def extensions(self) -> set[str]:
        """The names of the extensions that are available for a replay."""
        owners = {owner.name for owner in self.host.owners.values()}
        return owners | ({spec.name for spec in self.host.modifiers if not spec.by_tag} - set(self.absent))

    def carried(self, recipe: Recipe) -> list[bytes]:
        """The input files of ``recipe``, to be embedded in the result."""
        return [self.inputs.read(name) for name in recipe.inputs] if self.inputs else []
