"""Encodes the prompts of a batch to conditions on a model, caching texts between jobs."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from typing import cast

import torch

from modules.checkpoints.embeddings import BundledEmbedding, EmbeddingFile
from modules.checkpoints.model import LatentDiffusion
from modules.checkpoints.store import ModelStore
from modules.metadata.recipe import File
from modules.params.generation import GenerationParams
from modules.pipeline.conditioning import ScheduledCond, TextCache, TextConditioner, pad_parts
from modules.pipeline.plan import Batch
from modules.pipeline.provenance import EMBEDDING, Provenance
from modules.pipeline.texts import text_encoders, text_vector
from modules.pipeline.used_embeddings import used_embeddings
from modules.prompt.chunks import Emphasis
from modules.prompt.tokens import default_tokenizer


class PromptEncoder:
    """Encodes both prompts of a pass. One for all jobs, so that equal texts on equal models are encoded once."""

    def __init__(self, store: ModelStore):
        """``store`` knows the hashes of embeddings."""
        self._store = store
        self._tokenizer = default_tokenizer()
        self._cache = TextCache()

    def encode(
        self, model: LatentDiffusion, batch: Batch, patches: Hashable = None
    ) -> tuple[tuple[ScheduledCond, ...], ScheduledCond, GenerationParams]:
        """Encode a pass: the positive prompt's parts, the negative prompt, and the request without paddings that had
        no effect.

        ``patches``: what else than the model decides how it reads texts.
        """
        params, steps, conditioner = batch.params, batch.prompt_steps, self._conditioner(model, batch, patches)
        positive = conditioner.prompt(batch.prompts.positive, steps)
        negative = conditioner.negative(batch.prompts.negative, steps)
        padded = params.pad_cond_uncond or params.pad_cond_uncond_v0
        if padded:
            empty, v0 = conditioner.empty(), params.pad_cond_uncond_v0
            positive, negative, padded = pad_parts(positive, negative, empty, v0=v0)
        if not padded:
            params = params.changed(pad_cond_uncond=False, pad_cond_uncond_v0=False)
        return positive, negative, params

    def provenance(self, model: LatentDiffusion, batch: Batch) -> Provenance:
        """The embeddings that the prompts use, for recipe and infotext."""
        used = [(file, self._store.sha256(file.path)) for file in self._embeddings(model, batch)]
        hashes = ", ".join(f"{re.sub('[:,]', '', file.name)}: {sha256[:12]}" for file, sha256 in used)
        files = (File(EMBEDDING, file.path.name, sha256) for file, sha256 in used)
        return Provenance(tuple(files), {"TI hashes": hashes or None})

    def notes(self, model: LatentDiffusion, batch: Batch) -> Iterator[str]:
        """Notes on embeddings that the prompts name and the model cannot use."""
        skipped = model.own_embeddings.skipped
        for name in used_embeddings(batch, [(name, 1) for name in skipped], self._tokenizer):
            yield f"the embedding {name} was left out: {skipped[name]}"

    def _embeddings(self, model: LatentDiffusion, batch: Batch) -> list[EmbeddingFile]:
        own = {file.name: file for file in model.own_embeddings.files}
        names = used_embeddings(batch, [(file.name, file.count) for file in own.values()], self._tokenizer)
        return [own[name] for name in names if not isinstance(own[name], BundledEmbedding)]

    def _conditioner(self, model: LatentDiffusion, batch: Batch, patches: Hashable) -> TextConditioner:
        params = batch.params
        return TextConditioner(
            text_encoders(model, params),
            embeddings=model.own_embeddings.files,
            emphasis=cast(Emphasis, params.emphasis),
            profile=batch.profile,
            cache=self._cache,
            scope=(
                *(model.sha256, model.device, torch.get_num_threads()),
                *(params.clip_skip, params.sdxl_clip_l_skip, patches),
            ),
            vector=text_vector(model.config.family, params, batch.shown_size),
        )
