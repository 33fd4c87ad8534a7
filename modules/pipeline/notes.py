"""Notes for the user before a batch is generated: requested or available files that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator

from modules.checkpoints.model import LatentDiffusion
from modules.checkpoints.store import ModelStore
from modules.checkpoints.vaes import AUTOMATIC
from modules.extension.host import Host
from modules.pipeline.plan import Batch
from modules.pipeline.prompt_encoder import PromptEncoder
from modules.pipeline.used_embeddings import kept_networks, unapplied_networks
from modules.prompt.explain import kept_message

MOST_NAMED = 8
"""Networks named in one note at most."""


def notes_on(
    batch: Batch, model: LatentDiffusion, store: ModelStore, host: Host, encoder: PromptEncoder
) -> Iterator[str]:
    """Yield notes on a VAE that is pickled or gone, a refiner of another family, embeddings of another width, and
    networks of unsupported kinds.
    """
    if batch.params.vae == AUTOMATIC and (pickle := store.unconverted_vae(model)):
        yield f"{pickle} was not used: it is a pickle, and python3 app.py convert {pickle} makes a safe copy of it"
    if batch.params.vae == AUTOMATIC and (lost := store.lost_vae(model)):
        instead = model.vae_path.name if model.vae_path else "its own"
        yield f"the card of {model.name} prefers the VAE {lost[:80]}, which is not here, so {instead} was used"
    if batch.params.vae == AUTOMATIC and model.config.own_vae and (guessed := store.guessed_vae(model)):
        yield f"{guessed} was used as VAE, as its name begins like that of {model.name}: None takes the model's own"
    if not model.config.own_vae and model.vae_path is not None:
        yield f"{model.name} has no autoencoder of its own, so {model.vae_path.name} was used"
    if model.text_files:
        files = " and ".join(path.name for path in model.text_files)
        verb = "were" if len(model.text_files) > 1 else "was"
        yield f"{model.name} has no text encoder of its own, so {files} {verb} used"
        for path in store.text_encoders.named(batch.params.text_encoder):
            if path not in model.text_files:
                yield f"{path.name} was chosen, but is no text encoder for {model.name}"
    if (refiner := batch.params.refiner) and refiner.checkpoint:
        own, other = model.config.family, store.family(refiner.checkpoint)
        if other.latent.scale != own.latent.scale:
            yield (
                f"the refiner {refiner.checkpoint} is of the family {other.label} and {model.name} of {own.label}: it "
                "takes over latents that mean something else to it"
            )
    yield from encoder.notes(model, batch)
    kinds = [spec.name for spec in host.tags]
    yield from map(kept_message, kept_networks(batch, kinds)[:MOST_NAMED])
    if names := unapplied_networks(batch, kinds):
        listed = ", ".join(names[:MOST_NAMED]) + ", …" * (len(names) > MOST_NAMED)
        yield f"these networks of the prompt were not applied, as nothing here handles their kind: {listed}"
